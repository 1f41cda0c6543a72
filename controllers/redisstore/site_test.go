package redisstore

import (
	"fmt"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/redisops"
)

func TestPausesOfAnOutageDoubleUpToTheLongest(t *testing.T) {
	for name, tt := range map[string]struct {
		shortest, longest time.Duration
		want              []time.Duration // in seconds
	}{
		"those of decisions are too short": {time.Millisecond, 2 * time.Second, []time.Duration{1, 2, 4, 4, 4}},
		"longer ones count":                {20 * time.Second, time.Minute, []time.Duration{20, 40, 60, 60}},
	} {
		t.Run(name, func(t *testing.T) {
			s := &site{config: redisops.Config{MinBackoff: tt.shortest, MaxBackoff: tt.longest}}
			for i, want := range tt.want {
				want *= time.Second
				if got := s.backoff(); got < want*8/10 || got > want*12/10 {
					t.Errorf("pause %d is %v, want %v ± 20 %%", i, got, want)
				}
			}
		})
	}
}

func TestPublicationsOfLargeSetsAreSpaced(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for name, tt := range map[string]struct {
		bytes int
		want  time.Duration
	}{"small: the debounce is enough": {60 << 10, 0}, "2 MiB take 34 ms": {2 << 20, 3355 * time.Millisecond}} {
		t.Run(name, func(t *testing.T) {
			s := &site{notBefore: now}
			s.spaced(now, tt.bytes)
			if got := s.notBefore.Sub(now).Round(time.Millisecond); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestServersAreTold(t *testing.T) {
	for name, tt := range map[string]struct {
		info string
		want Facts
	}{
		"redis": {"# Server\r\nredis_version:7.0.15\r\nmaster_replid:abc\r\nmaxmemory_policy:noeviction\r\naof_enabled:0\r\n",
			Facts{Engine: "redis", Version: "7.0.15", Identity: "abc", MaxmemoryPolicy: "noeviction", Persistence: "None"}},
		"valkey": {"redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.0\r\naof_enabled:1\r\n",
			Facts{Engine: "valkey", Version: "8.1.0", Persistence: "AOF"}},
		"something that tells nothing": {"hello\r\n", Facts{Engine: "redis"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got Facts
			got.describe(parseInfo(tt.info))
			if fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}
