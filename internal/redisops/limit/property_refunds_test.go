package limit_test

import (
	"context"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// What a decision charged is gone; what others charged since must not be given back in its place.
func TestARefundOfWhatIsGoneTakesNothingFromOthers(t *testing.T) {
	second := slidingLog(2, time.Second)
	tests := map[string]struct {
		was  policy.Limit
		gone func(w *world)
		is   policy.Limit
	}{
		"the entries have left the window": {second, func(w *world) { w.steer(1500 * time.Millisecond) }, second},
		"the clock went on and back": {second, func(w *world) {
			w.steer(2 * time.Second)
			w.decide(w.charge("shop/api", 1))
			w.steer(500 * time.Millisecond)
		}, second},
		"the subject was reset": {second, func(w *world) {
			w.steer(time.Millisecond)
			if _, err := w.limiter.Reset(context.Background(), w.charge("shop/api", 0)); err != nil {
				w.tb.Fatal(err)
			}
		}, second},
		"the window is another": {second, func(w *world) { w.steer(time.Millisecond) }, slidingLog(2, time.Minute)},
		"the limit is new":      {fixedWindow(2, time.Minute), func(w *world) { w.steer(time.Millisecond) }, second},
	}
	server := redistest.Start(t)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				w := startOn(t, server, mode, true, one("shop/api", test.was))
				c := w.charge("shop/api", 1)
				c.ID = "first"
				w.decide(c)
				test.gone(w)
				w.publish(one("shop/api", test.is))
				c.Policy = w.policies["shop/api"]
				w.decide(w.charge("shop/api", 1))
				before := w.peek(w.charge("shop/api", 0))
				row, err := w.limiter.Refund(context.Background(), c)
				if err != nil || row.Remaining != before.Remaining {
					t.Errorf("the refund left %+v, %v; before %+v", row, err, before)
				}
			})
		})
	}
}

// Entries of a log are numbered through a call, whether its charges have ids or not.
func TestARefundOfOneOfManyChargesTakesItsOwnEntries(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		w := start(t, mode, true, one("shop/api", slidingLog(9, time.Minute)))
		c := w.charge("shop/api", 2)
		c.ID = "mine"
		w.decide(w.charge("shop/api", 2), c)
		for _, back := range []limit.Charge{w.charge("shop/api", 2), c} {
			if _, err := w.limiter.Refund(context.Background(), back); err != nil {
				t.Fatal(err)
			}
		}
		if row := w.peek(w.charge("shop/api", 0)); row.Remaining != 9 {
			t.Errorf("both gave theirs back: %+v, want 9 left", row)
		}
	})
}

// Who holds a slot for another, shorter time, gives the longer one up.
func TestASlotThatIsHeldForLessResetsEarlier(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		w := start(t, mode, true, one("shop/jobs", concurrency(2, time.Minute)))
		slot := limit.Slot{Policy: w.policies["shop/jobs"], Key: w.key("shop/jobs"), ID: "job"}
		for _, ttl := range []time.Duration{time.Minute, time.Second, 2 * time.Second} {
			slot.TTL = ttl
			row, err := w.limiter.AcquireSlot(context.Background(), slot)
			if err != nil || row.Reset != ttl || row.Remaining != 1 {
				t.Errorf("held for %v: %+v, %v", ttl, row, err)
			}
		}
	})
}
