package redisstore

import (
	"slices"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
)

func TestDroppedPoliciesAreRememberedForTenMinutesOrUntilTheyReturn(t *testing.T) {
	begin := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	var d drops
	want := func(after time.Duration, names ...string) {
		t.Helper()
		if got := d.lately(begin.Add(after)); !slices.Equal(got, names) {
			t.Errorf("after %v: got %v, want %v", after, got, names)
		}
	}
	want(0)
	d.returned(policy.NewSet(nil))
	d.add(begin, []string{"shop/c", "shop/a"})
	d.add(begin.Add(5*time.Minute), []string{"shop/b"})
	want(10*time.Minute, "shop/a", "shop/b", "shop/c")
	d.returned(policy.NewSet([]policy.RateLimit{{Name: "shop/c"}, {Name: "shop/other"}}))
	want(10*time.Minute, "shop/a", "shop/b")
	want(10*time.Minute+time.Nanosecond, "shop/b")
	d.add(begin.Add(12*time.Minute), []string{"shop/b"})
	d.held = true
	want(time.Hour, "shop/b")
	d.held = false
	want(22*time.Minute, "shop/b")
	want(23 * time.Minute)
}
