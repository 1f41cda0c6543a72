package main

import (
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
)

func TestASampleAddsTheBreakersOfAllServers(t *testing.T) {
	const metrics = "# HELP go_goroutines Number\ngo_goroutines 42\nprocess_open_fds 17\nprocess_max_fds 1024\n" +
		"penstock_redis_breaker_opened_total{shard=\"a b:1\"} 2\npenstock_redis_breaker_opened_total{shard=\"c:2\"} 1\n" +
		"penstock_decision_duration_seconds_bucket{door=\"rls\",le=\"0.01\"} 80\npenstock_decision_duration_seconds_bucket{door=\"rls\",le=\"0.02\"} 90\n" +
		"penstock_decision_duration_seconds_count{door=\"rls\"} 100\n"
	got, err := parseMetrics(strings.NewReader(metrics))
	if want := (sample{goroutines: 42, files: 17, opened: 3, decided: 100, soon: 90}); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	for _, bad := range []string{"", "go_goroutines 42\n", "go_goroutines many\nprocess_open_fds 1\n"} {
		if _, err := parseMetrics(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestTheMostOfASpanLeavesOutOtherSamples(t *testing.T) {
	samples := []sample{{at: 0, files: 9}, {at: time.Second, files: 3}, {at: 2 * time.Second, files: 5}, {at: 3 * time.Second, files: 9}}
	if got := mostOf(samples, span{time.Second, 3 * time.Second}, files); got != 5 {
		t.Errorf("got %d, want 5", got)
	}
}

func TestAnAnswerIsEnforcedDegradedOrFailed(t *testing.T) {
	without := []*corev3.HeaderValue{{Key: degradedHeader, Value: "store"}}
	for name, test := range map[string]struct {
		response  *rlsv3.RateLimitResponse
		want      outcome
		wantError bool
	}{
		"by Redis":         {&rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OK}, enforced, false},
		"without Redis":    {&rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OK, ResponseHeadersToAdd: without}, degraded, false},
		"denied by nobody": {&rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OVER_LIMIT}, failed, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := outcomeOf(test.response)
			if got != test.want || (err != nil) != test.wantError {
				t.Errorf("got %v, %v; want %v, error %v", got, err, test.want, test.wantError)
			}
		})
	}
}
