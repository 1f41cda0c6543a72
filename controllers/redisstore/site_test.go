package redisstore

import (
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
