package main

// ledger follows what a limit let pass, and judges each of its decisions by an exact sliding window over that: one that
// has room while fewer than limit requests passed in the window before. So a decision is judged by what the limit itself
// did before, not by what another one would have done.
type ledger struct {
	limit, window int64
	// passed are the times of what passed, oldest first, and from is the place of the first that still counts.
	passed []int64
	from   int

	offered, wronglyRefused, wronglyAllowed, most int64
}

// decided takes a decision about one request. Times never go back. What passed at a time counts until a window later,
// and then no more.
func (l *ledger) decided(at int64, allowed bool) {
	l.offered++
	for l.from < len(l.passed) && l.passed[l.from] <= at-l.window {
		l.from++
	}
	count := int64(len(l.passed) - l.from)
	switch hasRoom := count < l.limit; {
	case allowed && !hasRoom:
		l.wronglyAllowed++
	case !allowed && hasRoom:
		l.wronglyRefused++
	}
	if allowed {
		l.passed = append(l.passed, at)
		// The fullest window of all ends with a request that passed.
		l.most = max(l.most, count+1)
	}
}

// compare counts which requests were refused though the exact answer was to let them pass, and the reverse.
func compare(allowed, exact []bool) (denials, allowances int64) {
	for i := range allowed {
		switch {
		case exact[i] && !allowed[i]:
			denials++
		case !exact[i] && allowed[i]:
			allowances++
		}
	}
	return denials, allowances
}

// percent gives part of whole; 0 of nothing.
func percent(part, whole int64) float64 {
	if whole == 0 {
		return 0
	}
	return 100 * float64(part) / float64(whole)
}

// holders follows who holds a slot, and judges each decision by whether one was free.
type holders struct {
	slots, ttl int64
	// until is by visit: when it ends or its slot expires.
	until map[int]int64

	offered, allowed, wronglyRefused, wronglyAllowed, most int64
}

// acquired takes a decision about a slot for a visit that releases it at ends, if that is before it expires.
func (h *holders) acquired(at int64, visit int, ends int64, allowed bool) {
	h.offered++
	for v, until := range h.until {
		if until <= at {
			delete(h.until, v)
		}
	}
	held := int64(len(h.until))
	switch free := held < h.slots; {
	case allowed && !free:
		h.wronglyAllowed++
	case !allowed && free:
		h.wronglyRefused++
	}
	if allowed {
		h.allowed++
		h.until[visit] = min(ends, at+h.ttl)
		h.most = max(h.most, held+1)
	}
}
