package client

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestASlotIsHeldWhileTheRequestIsWithTheHandler(t *testing.T) {
	for name, limiter := range both(t) {
		t.Run(name, func(t *testing.T) {
			entered, leave := make(chan struct{}), make(chan struct{})
			handler := ConcurrencyMiddleware(limiter, "shop/slots")(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
				entered <- struct{}{}
				<-leave
			}))
			done := make(chan struct{})
			go func() { defer close(done); get(handler) }()
			<-entered
			if w := get(handler); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
				t.Errorf("beside it: %d %v", w.Code, w.Header())
			}
			close(leave)
			<-done
			go func() { <-entered }()
			if w := get(handler); w.Code != http.StatusOK {
				t.Errorf("after it: %d", w.Code)
			}
		})
	}
}

// The slots live 300 ms, and the handler takes longer: it ends when a slot that nobody holds on to would be long free.
func TestASlotIsHeldLongerThanItLives(t *testing.T) {
	for name, limiter := range both(t) {
		t.Run(name, func(t *testing.T) {
			other := SlotRequest{Policy: "shop/short-slots", Subject: map[string]string{"remote_address": "192.0.2.1"}}
			handler := ConcurrencyMiddleware(limiter, "shop/short-slots")(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
				for end := time.Now().Add(time.Second); time.Now().Before(end); {
					if slot, err := limiter.AcquireSlot(t.Context(), other); err != nil || slot.Allowed {
						t.Errorf("%+v, %v, want the slot taken", slot, err)
						return
					}
				}
			}))
			get(handler)
			if slot, err := limiter.AcquireSlot(t.Context(), other); err != nil || !slot.Allowed {
				t.Errorf("%+v, %v, want it free at once", slot, err)
			} else if _, err := limiter.ReleaseSlot(t.Context(), SlotRequest{Policy: other.Policy, Subject: other.Subject, ID: slot.SlotID}); err != nil {
				t.Error(err)
			}
		})
	}
}

// A path of 300 bytes is not for a policy to count by, but this one does not look at it.
func TestALongPathKeepsNoSlot(t *testing.T) {
	for name, limiter := range both(t) {
		t.Run(name, func(t *testing.T) {
			log := &lines{}
			long := func(r *http.Request) { r.URL.Path = "/" + strings.Repeat("x", 300) }
			other := SlotRequest{Policy: "shop/short-slots", Subject: map[string]string{"remote_address": "192.0.2.1"}}
			handler := ConcurrencyMiddleware(limiter, "shop/short-slots", WithLogger(log.logger()))(http.HandlerFunc(
				func(http.ResponseWriter, *http.Request) {
					for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); {
						if slot, err := limiter.AcquireSlot(t.Context(), other); err != nil || slot.Allowed {
							t.Errorf("%+v, %v, want the slot taken", slot, err)
							return
						}
					}
				}))
			for range 2 {
				if w := get(handler, long); w.Code != http.StatusOK {
					t.Errorf("%d, want the slot free", w.Code)
				}
			}
			if log.String() != "" {
				t.Error(log)
			}
		})
	}
}

// The slot lives 900 ms, so an answer that tells no time to live must not have it wait for more than a third of that.
func TestASlotIsHeldOnToAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{verdict: Verdict{Allowed: true, Mode: Enforced}, ttl: 900 * time.Millisecond}
		quiet := WithLogger((&lines{}).logger())
		get(ConcurrencyMiddleware(f, "shop/slots", quiet)(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			f.mu.Lock()
			f.ttl, f.err = 0, ErrUnknownPolicy
			f.mu.Unlock()
			time.Sleep(910 * time.Millisecond)
		})))
		if len(f.slots) != 4 {
			t.Errorf("acquired %d times, want 4", len(f.slots))
		}
	})
}

func TestHowOftenASlotIsHeldOnTo(t *testing.T) {
	minute := Verdict{Allowed: true, Mode: Enforced}
	for name, test := range map[string]struct {
		verdict Verdict
		ttl     time.Duration
		runs    time.Duration
		want    int // beyond the first
	}{
		"a short request":                  {minute, time.Minute, 19 * time.Second, 0},
		"a third of its time":              {minute, time.Minute, 21 * time.Second, 1},
		"an hour":                          {minute, time.Minute, time.Hour - 1, 179},
		"while nobody can decide":          {Verdict{Allowed: true, Mode: Degraded}, 0, 11 * time.Second, 3},
		"no less than the smallest pause":  {minute, time.Millisecond, 10*minRenewal + 1, 10},
		"where the policy does not apply":  {Verdict{Allowed: true, Mode: Unmatched}, 0, time.Hour, 0},
		"a policy whose slot is not known": {minute, 0, 11 * time.Second, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{verdict: test.verdict, ttl: test.ttl}
				get(ConcurrencyMiddleware(f, "shop/slots", WithSlotTTL(time.Hour))(
					http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(test.runs) })))
				time.Sleep(time.Hour) // nothing goes on after it
				if len(f.slots)-1 != test.want {
					t.Errorf("held on %d times, want %d", len(f.slots)-1, test.want)
				}
				wantReleased := 1
				if test.verdict.Mode == Unmatched {
					wantReleased = 0
				}
				if len(f.released) != wantReleased {
					t.Errorf("released %d times, want %d", len(f.released), wantReleased)
				}
				for _, r := range f.slots {
					if r.ID == "" || r.ID != f.slots[0].ID || r.TTL != time.Hour || r.Policy != "shop/slots" {
						t.Errorf("asked %+v", r)
					}
				}
			})
		})
	}
}

func TestASlotIsReleasedHoweverItsRequestEnds(t *testing.T) {
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		verdict Verdict
		err     error
		want    int
	}{
		"served":                      {func(http.ResponseWriter, *http.Request) {}, admitted, nil, 1},
		"panicked":                    {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, admitted, nil, 1},
		"its client is gone":          {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, admitted, nil, 1},
		"denied":                      {nil, refused, nil, 0},
		"denied, and maybe taken":     {nil, Verdict{Mode: Degraded, RetryAfter: time.Second}, nil, 1},
		"failed":                      {nil, Verdict{}, ErrUnknownPolicy, 0},
		"its client left too early":   {nil, Verdict{}, context.Canceled, 1},
		"taken while nobody decides":  {func(http.ResponseWriter, *http.Request) {}, Verdict{Allowed: true, Mode: Degraded}, nil, 1},
		"the header was changed then": {func(_ http.ResponseWriter, r *http.Request) { r.Header.Del("X-Api-Key") }, admitted, nil, 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{verdict: test.verdict, ttl: time.Minute, err: test.err}
			func() {
				defer func() { _ = recover() }()
				get(ConcurrencyMiddleware(f, "shop/slots", WithLogger((&lines{}).logger()))(test.handler), func(r *http.Request) {
					ctx, cancel := context.WithCancel(r.Context())
					t.Cleanup(cancel)
					if name == "its client is gone" || errors.Is(test.err, context.Canceled) {
						cancel()
					}
					r.Header.Set("X-Api-Key", "k")
					*r = *r.WithContext(ctx)
				})
			}()
			if len(f.released) != test.want {
				t.Fatalf("released %d times, want %d", len(f.released), test.want)
			}
			if test.want == 0 {
				return
			}
			key, _ := f.released[0].Lookup("header.x-api-key")
			if f.released[0].ID != f.slots[0].ID || f.done[0] != nil || key != "k" {
				t.Errorf("released %+v (key %q, context %v)", f.released[0], key, f.done[0])
			}
		})
	}
}

func TestASlotIsNotTakenAgainAfterItsRelease(t *testing.T) {
	h := &holding{fake: fake{verdict: admitted, ttl: 30 * time.Millisecond}, again: make(chan struct{}), end: make(chan struct{})}
	get(ConcurrencyMiddleware(h, "shop/slots")(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		<-h.again // ends while the slot is acquired again
		time.AfterFunc(50*time.Millisecond, func() { close(h.end) })
	})))
	if want := []string{"acquired", "acquired", "released"}; !slices.Equal(h.order, want) {
		t.Errorf("%v, want %v", h.order, want)
	}
}

// holding tells when a slot is acquired again, and answers that call at the end.
type holding struct {
	fake
	order      []string
	again, end chan struct{}
}

func (h *holding) AcquireSlot(ctx context.Context, r SlotRequest) (Slot, error) {
	if len(h.order) == 1 {
		close(h.again)
		<-h.end
	}
	h.order = append(h.order, "acquired")
	return h.fake.AcquireSlot(ctx, r)
}

func (h *holding) ReleaseSlot(ctx context.Context, r SlotRequest) (bool, error) {
	h.order = append(h.order, "released")
	return h.fake.ReleaseSlot(ctx, r)
}
