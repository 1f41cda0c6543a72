package client

import (
	"cmp"
	"context"
	"crypto/rand"
	"sync"
	"time"
)

const (
	// renewals is how often a slot is acquired again within its time to live: two of them may fail.
	renewals = 3
	// unknownTTL is taken for the time to live of a slot of which nobody knows it: while nobody can decide, a request that
	// goes on is to be counted soon after somebody can again.
	unknownTTL = 10 * time.Second
	// minRenewal bounds how often one request asks.
	minRenewal = 10 * time.Millisecond
)

// held is a slot that a request holds; nil is none.
type held struct {
	guard   *guard
	ctx     context.Context // of the request, but for its end
	request SlotRequest
	ttl     time.Duration // as it was last told; 0 is not known

	mu       sync.Mutex // also while the slot is acquired again, so that it is released after that
	timer    *time.Timer
	released bool
}

// acquire takes a slot for a request. The slot is held until its release, whatever becomes of the context.
func (g *guard) acquire(ctx context.Context, request SlotRequest) (Slot, *held, error) {
	request.ID = rand.Text()
	slot, err := g.limiter.AcquireSlot(ctx, request)
	h := &held{guard: g, ctx: context.WithoutCancel(ctx), request: request, ttl: slot.TTL}
	switch {
	case err != nil && ctx.Err() != nil, err == nil && !slot.Allowed && slot.Mode == Degraded:
		// It may have been taken, and there is nobody to use it.
		h.release()
		return slot, nil, err
	case err != nil, !slot.Allowed, slot.Mode == Unmatched:
		return slot, nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.timer = time.AfterFunc(h.pause(slot), h.renew)
	return slot, h, nil
}

// pause is how long to wait after an answer until the slot is acquired again. After one that tells no time to live, that
// is no longer than what was told before needs.
func (h *held) pause(slot Slot) time.Duration {
	ttl := slot.TTL
	if ttl == 0 {
		ttl = min(cmp.Or(h.ttl, unknownTTL), unknownTTL)
	}
	return max(ttl/renewals, minRenewal)
}

// renew holds the slot for another time to live. A slot that was lost, since nobody could be asked for as long as it lives,
// is taken again as soon as there is one: the request goes on all the same.
func (h *held) renew() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.released {
		return
	}
	// What goes wrong here the next request meets too, which tells of it.
	slot, _ := h.guard.limiter.AcquireSlot(h.ctx, h.request)
	h.ttl = cmp.Or(slot.TTL, h.ttl)
	h.timer.Reset(h.pause(slot))
}

// release gives the slot back.
func (h *held) release() {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.released = true
	if h.timer != nil {
		h.timer.Stop()
	}
	_, err := h.guard.limiter.ReleaseSlot(h.ctx, h.request)
	h.guard.noteGivenBack(err)
}
