package redisops

import (
	"sync"
	"time"
)

// gate paces the batches of a Caller. One holder of the turn at a time gathers a batch; when it departs, the turn goes
// on at once while fewer than base batches are on the wire, and else after linger, or when one arrives, so long as
// there are fewer than most.
//
// So a near server is asked in few, full batches over base connections; and for one that is far, or slow for a moment, no
// call waits longer than linger for a batch to leave, where with a fixed few connections it would wait a round trip
// for its turn and then a second one for its reply.
type gate struct {
	turn       chan struct{}
	base, most int
	linger     time.Duration

	mu       sync.Mutex
	onWire   int
	withheld bool // nobody has the turn, and it is not in the channel either
	due      bool // linger passed while withheld
	timer    *time.Timer
}

func newGate(base, most int, linger time.Duration) *gate {
	g := &gate{turn: make(chan struct{}, 1), base: base, most: most, linger: linger}
	g.timer = time.AfterFunc(time.Hour, g.lingered)
	g.timer.Stop()
	g.turn <- struct{}{}
	return g
}

// depart is called by the holder of the turn, which it gives up.
func (g *gate) depart() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.onWire++
	if g.onWire < g.base {
		g.turn <- struct{}{}
		return
	}
	g.withheld, g.due = true, false
	g.timer.Reset(g.linger)
}

// arrive is called when a batch has its replies. It tells whether the caller has the turn again, which saves handing it to
// another goroutine.
func (g *gate) arrive() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.onWire--
	if !g.withheld || (g.onWire >= g.base && !g.due) {
		return false
	}
	g.withheld = false
	g.timer.Stop()
	return true
}

func (g *gate) lingered() {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !g.withheld:
	case g.onWire >= g.most:
		g.due = true
	default:
		g.withheld = false
		g.turn <- struct{}{}
	}
}
