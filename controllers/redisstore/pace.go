package redisstore

import (
	"sync"
	"time"
)

const (
	// loadTime is how long Redis stands still per byte of policies that it loads (10,000 small policies, 2 MiB: 32 ms), and
	// loadShare which part of its time publications may take over a minute: 1 in so many.
	loadTime  = 16 * time.Nanosecond
	loadShare = 100
	// quiet is how long after the last of many changes a large set is published.
	quiet = 200 * time.Millisecond
)

// pace keeps publications under 1 % of Redis' time. It saves up what was not used for a minute, so that what changes now and
// then is published at once, however large the set is.
type pace struct {
	// spent is how much of the minute's worth is used up, as of when.
	spent time.Duration
	as    time.Time
	// load is how long the last publication held up Redis.
	load time.Duration
}

// published takes note of a publication of so many bytes.
func (p *pace) published(now time.Time, bytes int) {
	p.settle(now)
	p.load = loadTime * time.Duration(bytes)
	p.spent += p.load
}

func (p *pace) settle(now time.Time) {
	p.spent = max(0, p.spent-max(0, now.Sub(p.as))/loadShare)
	p.as = now
}

// spacing is how long changes that go on and on are collected before they are published.
func (p *pace) spacing() time.Duration { return max(debounce, loadShare*p.load) }

// pause is how long a publication has to wait for its share of Redis' time.
func (p *pace) pause(now time.Time) time.Duration {
	p.settle(now)
	return max(0, p.spent+p.load-time.Minute/loadShare) * loadShare
}

// edits are the changes of policies that wait to be published. Event handlers note them, whatever is going on at the site.
type edits struct {
	mu          sync.Mutex
	first, last time.Time
}

// note takes note of a change.
func (e *edits) note(now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.first.IsZero() {
		e.first = now
	}
	e.last = now
}

// begin is called when all changes so far are about to be looked at.
func (e *edits) begin() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.first, e.last = time.Time{}, time.Time{}
}

// collect gives for how much longer to collect changes: until they end, and no longer than spacing since the first. Zero
// when there are none.
func (e *edits) collect(now time.Time, spacing time.Duration) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.first.IsZero() {
		return 0
	}
	due := e.last.Add(min(quiet, spacing))
	if latest := e.first.Add(spacing); latest.Before(due) {
		due = latest
	}
	return max(0, due.Sub(now))
}
