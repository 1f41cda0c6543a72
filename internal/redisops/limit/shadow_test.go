package limit_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// shadowPolicy gives a policy of no requests for each user, of whom a share is in shadow.
func shadowPolicy(percent int64) policy.RateLimit {
	p := one("shop/api", fixedWindow(0, time.Minute))
	p.Descriptors = []policy.Descriptor{{Key: "user"}}
	p.ShadowPercent = percent
	return p
}

func TestTheShareOfSubjectsInShadowIsAlwaysTheSame(t *testing.T) {
	server := redistest.Start(t)
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		subjects := 2000
		if mode == library.ModeScripts {
			// The same Lua, and slower.
			subjects = 400
		}
		was := make([]bool, subjects)
		for _, percent := range []int64{0, 1, 10, 50, 90, 99, 100} {
			w := startOn(t, server, mode, true, shadowPolicy(percent))
			n := 0
			for i := range subjects {
				row, err := w.try("charge 1", fmt.Sprint("user-", i))
				if err != nil {
					t.Fatal(err)
				}
				if row.Allowed != (row.Reason == limit.ReasonShadow) || row.Allowed != (row.RetryAfter == 0) {
					t.Fatalf("%d %%: %+v", percent, row)
				}
				if was[i] && !row.Allowed {
					t.Errorf("user-%d is in shadow with less than %d %%, and then not", i, percent)
				}
				was[i] = row.Allowed
				if row.Allowed {
					n++
				}
			}
			// Six standard deviations at most, and exact at the ends.
			share, spread := float64(n)/float64(subjects)*100, 300/math.Sqrt(float64(subjects))
			if percent == 0 && n != 0 || percent == 100 && n != subjects || share < float64(percent)-spread || share > float64(percent)+spread {
				t.Errorf("%d of %d are in shadow, want %d %%", n, subjects, percent)
			}
		}
	})
}

func TestShadowDecidesAndCountsButNeverDenies(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		p := one("shop/api", fixedWindow(3, time.Minute))
		p.ShadowPercent = 100
		w := start(t, mode, true, p)
		w.playOne(t, []act{
			{do: "charge 2", want: "allow 1/3 reset 1m0s"},
			{do: "charge 2", want: "allow 1/3 reset 1m0s shadow"},
			{do: "peek 4", want: "allow 1/3 reset 1m0s shadow"},
			{do: "charge 2 #a", want: "allow 1/3 reset 1m0s shadow"},
			{do: "charge 2 #a", want: "allow 1/3 reset 1m0s shadow"},
			{do: "refund 2 #a", want: "allow 1/3 reset 1m0s absent"},
			{do: "charge 1", want: "allow 0/3 reset 1m0s"},
			{do: "charge 1", want: "allow 0/3 reset 1m0s shadow"},
		})
	})
}

func TestAShadowHoldsUpNoOtherCharges(t *testing.T) {
	shadow := one("shop/shadow", fixedWindow(1, time.Minute))
	shadow.ShadowPercent = 100
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		w := start(t, mode, true, shadow, one("shop/a", fixedWindow(3, time.Minute)))
		for i, s := range []struct{ charges, want string }{
			{"shadow=2 a=1", "shadow 1/1, ok 2/3"},
			{"shadow=1#x a=1", "ok 0/1, ok 1/3"},
			{"shadow=1#y a=1#y", "shadow 0/1, ok 0/3"},
			// What was not charged since it was in shadow is not charged by a repetition either.
			{"shadow=1#y a=1#y", "shadow 0/1, ok 0/3"},
			{"shadow=1 a=1", "shadow 0/1, limit 0/3"},
			{"shadow=1 shadow=0", "shadow 0/1, ok 0/1"},
		} {
			var got []string
			for _, row := range w.decide(w.charges(s.charges)...) {
				got = append(got, fmt.Sprintf("%s %d/%d", row.Reason, row.Remaining, row.Limit))
			}
			if got := strings.Join(got, ", "); got != s.want {
				t.Fatalf("step %d: %s, want %s", i, got, s.want)
			}
		}
		y := w.charges("shadow=1#y")[0]
		if row, err := w.limiter.Refund(t.Context(), y); err != nil || row.Reason != limit.ReasonAbsent {
			t.Errorf("refund of what was not charged: %+v, %v", row, err)
		}
	})
}
