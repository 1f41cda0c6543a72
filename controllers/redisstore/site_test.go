package redisstore

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/redisops"
)

func TestPausesOfAnOutageDoubleUpToTheLongest(t *testing.T) {
	s := &site{config: redisops.Config{MinBackoff: 50 * time.Millisecond, MaxBackoff: 300 * time.Millisecond}}
	for i, want := range []time.Duration{50, 100, 200, 300, 300} {
		want *= time.Millisecond
		if got := s.backoff(); got < want*8/10 || got > want*12/10 {
			t.Errorf("pause %d is %v, want %v ± 20 %%", i, got, want)
		}
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

// A status with the port of this attempt in it would be written with every attempt.
func TestWordsOfAnErrorAreTheSameForEveryAttempt(t *testing.T) {
	attempt := func(port int) error {
		return fmt.Errorf("ping: %w", &net.OpError{Op: "read", Net: "tcp",
			Source: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: port}, Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 6379},
			Err: os.NewSyscallError("read", syscall.ECONNRESET)})
	}
	if got, want := words(attempt(40000)), "read 10.0.0.2:6379: read: connection reset by peer"; got != want || words(attempt(40001)) != want {
		t.Errorf("got %q and %q, want %q", got, words(attempt(40001)), want)
	}
	if got := words(errors.New("plain")); got != "plain" {
		t.Errorf("got %q", got)
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
