//go:build !race

// Under the race detector sync.Pool forgets at random, so allocations cannot be counted.

package rls

import (
	"testing"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
)

// The key of each charge, the response, and the values of two headers; with several descriptors their statuses.
func TestAnAnswerAllocatesLittle(t *testing.T) {
	door := instantDoor()
	for name, test := range map[string]struct {
		request *ratelimitv3.RateLimitRequest
		most    float64
	}{"one descriptor": {oneDescriptor, 4}, "three descriptors": {threeDescriptors, 8}} {
		t.Run(name, func(t *testing.T) {
			got := testing.AllocsPerRun(1000, func() {
				if _, err := door.ShouldRateLimit(t.Context(), test.request); err != nil {
					t.Fatal(err)
				}
			})
			if got > test.most {
				t.Errorf("%v allocations, want at most %v", got, test.most)
			}
		})
	}
}
