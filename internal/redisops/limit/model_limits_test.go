package limit_test

import (
	"cmp"
	"fmt"
	"math/big"
	"slices"
	"sort"
	"strconv"

	"github.com/penstock-dev/penstock/internal/policy"
)

// tally is what one limit has counted.
type tally interface {
	// at gives what of it counts at now, as a copy, and whether even a denial has to write that.
	at(l policy.Limit, now int64) (tally, bool)
	// check tells what the limit says to a cost.
	check(l policy.Limit, now int64, cost *big.Int) verdict
	// charge adds a cost, or (0) notes the time.
	charge(l policy.Limit, now, cost int64)
	// give takes back a cost, of the charge in the record when there is one. What is not certain is kept.
	give(l policy.Limit, now, cost int64, charged *modelRecord)
}

// verdict is what one limit says: how many requests are left, and how many microseconds until it is whole again and until
// there is room (0: there is).
type verdict struct {
	remaining, reset, retry int64
}

// signatureOf tells states of one limit apart: another algorithm, window or calendar starts it anew.
func signatureOf(l policy.Limit) string {
	switch l.Algorithm {
	case policy.Concurrency, policy.Balance:
		return l.Algorithm
	default:
		return fmt.Sprint(l.Algorithm, l.WindowMs, l.Calendar, l.TimeZone)
	}
}

func capacityOf(l policy.Limit) int64 {
	if l.Algorithm == policy.TokenBucket && l.Requests > 0 {
		return l.Burst
	}
	return l.Requests
}

func newTally(l policy.Limit, now int64) tally {
	var t tally
	switch l.Algorithm {
	case policy.FixedWindow:
		t = &windowTally{}
	case policy.SlidingCounter:
		t = &counterTally{}
	case policy.SlidingLog:
		t = &logTally{}
	case policy.TokenBucket:
		t = &bucketTally{units: new(big.Int)}
	case policy.Balance:
		t = &balanceTally{}
	default:
		return &slotsTally{}
	}
	t, _ = t.at(l, now)
	return t
}

// windowTally is of a FixedWindow.
type windowTally struct {
	begin, used int64
}

// windowOf gives begin and end of the window that now lies in.
func windowOf(l policy.Limit, now int64) (begin, end int64) {
	if l.Calendar != "" {
		return calendarWindow(l, now)
	}
	begin = now - now%(l.WindowMs*1000)
	return begin, begin + l.WindowMs*1000
}

func (t *windowTally) at(l policy.Limit, now int64) (tally, bool) {
	begin, _ := windowOf(l, now)
	if t.begin < begin {
		return &windowTally{begin: begin}, false
	}
	return &windowTally{begin: begin, used: t.used}, t.begin > begin
}

func (t *windowTally) check(l policy.Limit, now int64, cost *big.Int) verdict {
	_, end := windowOf(l, now)
	v := verdict{remaining: max(l.Requests-t.used, 0)}
	fits := fitsInto(l.Requests-t.used, cost)
	if fits {
		v.remaining -= cost.Int64()
	} else if v.retry = end - now; !fitsInto(l.Requests, cost) {
		v.retry = l.WindowMs * 1000
	}
	if t.used > 0 || fits && cost.Sign() > 0 {
		v.reset = end - now
	}
	return v
}

func fitsInto(room int64, cost *big.Int) bool { return cost.Cmp(big.NewInt(room)) <= 0 }

func (t *windowTally) charge(_ policy.Limit, _, cost int64) { t.used += cost }

func (t *windowTally) give(_ policy.Limit, _, cost int64, charged *modelRecord) {
	if charged == nil || charged.time >= t.begin {
		t.used = max(t.used-cost, 0)
	}
}

// counterTally is of a SlidingCounter: the begin of a window in milliseconds, what was used in it and in the one before.
type counterTally struct {
	begin, used, before int64
}

func (t *counterTally) at(l policy.Limit, now int64) (tally, bool) {
	begin := now / 1000 / l.WindowMs * l.WindowMs
	switch {
	case t.begin >= begin:
		return &counterTally{begin, t.used, t.before}, t.begin > begin
	case t.begin == begin-l.WindowMs:
		return &counterTally{begin, 0, t.used}, false
	default:
		return &counterTally{begin: begin}, false
	}
}

// counted gives what counts that many milliseconds after the begin of the window: what was used in it, and of the window
// before the share that lies in the last window, which is rounded up to 2^-20.
func (t *counterTally) counted(l policy.Limit, elapsed int64) int64 {
	share := func(requests, elapsed int64) int64 {
		steps := ceilQuo((l.WindowMs-elapsed)<<20, l.WindowMs)
		return ceilQuo(requests*steps, 1<<20)
	}
	if elapsed < l.WindowMs {
		return t.used + share(t.before, elapsed)
	}
	return share(t.used, elapsed-l.WindowMs)
}

func ceilQuo(a, b int64) int64 { return (a + b - 1) / b }

func (t *counterTally) check(l policy.Limit, now int64, cost *big.Int) verdict {
	// Until so many milliseconds after the begin.
	until := func(ms int64) int64 { return (t.begin+ms)*1000 - now }
	elapsed := now/1000 - t.begin
	room := l.Requests - t.counted(l, elapsed)
	v := verdict{remaining: max(room, 0)}
	fits := fitsInto(room, cost)
	switch {
	case fits:
		v.remaining = room - cost.Int64()
	case !fitsInto(l.Requests, cost):
		v.retry = l.WindowMs * 1000
	default:
		v.retry = until(int64(sort.Search(int(2*l.WindowMs), func(ms int) bool {
			return t.counted(l, int64(ms)) <= l.Requests-cost.Int64()
		})))
	}
	if t.used > 0 || fits && cost.Sign() > 0 {
		v.reset = until(2 * l.WindowMs)
	} else if t.before > 0 {
		v.reset = until(l.WindowMs)
	}
	return v
}

func (t *counterTally) charge(_ policy.Limit, _, cost int64) { t.used += cost }

// give relieves, when nothing is known, the current window first.
func (t *counterTally) give(l policy.Limit, _, cost int64, charged *modelRecord) {
	here, before := min(cost, t.used), cost-min(cost, t.used)
	if charged != nil {
		here, before = 0, 0
		if charged.time >= t.begin*1000 {
			here = cost
		} else if charged.time >= (t.begin-l.WindowMs)*1000 {
			before = cost
		}
	}
	t.used, t.before = max(t.used-here, 0), max(t.before-before, 0)
}

// logTally is of a SlidingLog.
type logTally struct {
	sequence int64
	entries  []logEntry
}

type logEntry struct {
	number, time int64
}

func (t *logTally) at(l policy.Limit, now int64) (tally, bool) {
	kept := &logTally{sequence: t.sequence}
	for _, e := range t.entries {
		if e.time > now-l.WindowMs*1000 {
			kept.entries = append(kept.entries, e)
		}
	}
	return kept, slices.ContainsFunc(kept.entries, func(e logEntry) bool { return e.time > now })
}

// times gives when the entries were made, the oldest first: those of the future now.
func (t *logTally) times(now int64) []int64 {
	var times []int64
	for _, e := range t.entries {
		times = append(times, min(e.time, now))
	}
	slices.Sort(times)
	return times
}

func (t *logTally) check(l policy.Limit, now int64, cost *big.Int) verdict {
	window, times := l.WindowMs*1000, t.times(now)
	room := l.Requests - int64(len(times))
	v := verdict{remaining: max(room, 0)}
	if len(times) > 0 {
		v.reset = times[len(times)-1] + window - now
	}
	switch {
	case fitsInto(room, cost):
		v.remaining = room - cost.Int64()
		if cost.Sign() > 0 {
			v.reset = window
		}
	case !fitsInto(l.Requests, cost):
		v.retry = window
	default:
		v.retry = times[cost.Int64()-room-1] + window - now
	}
	return v
}

func (t *logTally) charge(_ policy.Limit, now, cost int64) {
	for i := range t.entries {
		t.entries[i].time = min(t.entries[i].time, now)
	}
	for range cost {
		t.sequence++
		t.entries = append(t.entries, logEntry{t.sequence, now})
	}
}

// give takes the entries that the charge made, when it is known and its last one is still there: a number that was given
// anew has a newer entry. Else it takes the oldest, in Redis' order.
func (t *logTally) give(l policy.Limit, _, cost int64, charged *modelRecord) {
	if charged != nil {
		last, found := charged.last[l.Name]
		found = found && slices.ContainsFunc(t.entries, func(e logEntry) bool { return e.number == last && e.time <= charged.time })
		t.entries = slices.DeleteFunc(t.entries, func(e logEntry) bool { return found && e.number > last-cost && e.number <= last })
		return
	}
	slices.SortFunc(t.entries, func(a, b logEntry) int {
		return cmp.Or(cmp.Compare(a.time, b.time), cmp.Compare(strconv.FormatInt(a.number, 10), strconv.FormatInt(b.number, 10)))
	})
	t.entries = t.entries[min(cost, int64(len(t.entries))):]
}

// bucketTally is of a TokenBucket: what is used, in units of a token for a tick, since which tick.
type bucketTally struct {
	units *big.Int
	tick  int64
}

// units gives tokens in units of a token for a tick.
func units(l policy.Limit, tokens int64) *big.Int {
	return new(big.Int).Mul(big.NewInt(tokens), big.NewInt(l.WindowMs*1000/l.TickUs))
}

// refilled gives what is left of used units after so many ticks.
func refilled(l policy.Limit, used *big.Int, ticks int64) *big.Int {
	left := new(big.Int).Sub(used, new(big.Int).Mul(big.NewInt(max(ticks, 0)), big.NewInt(l.Requests)))
	if left.Sign() < 0 {
		left.SetInt64(0)
	}
	return left
}

func (t *bucketTally) at(l policy.Limit, now int64) (tally, bool) {
	tick := now / l.TickUs
	left, stale := refilled(l, t.units, tick-t.tick), t.tick > tick
	if full := units(l, l.Burst); l.Requests > 0 && left.Cmp(full) > 0 {
		// The burst was lowered.
		left, stale = full, true
	}
	return &bucketTally{left, tick}, stale
}

// until gives how long until that many units are refilled, at most 2^53-1.
func (t *bucketTally) until(l policy.Limit, u *big.Int, now int64) int64 {
	if l.Requests == 0 {
		return l.WindowMs * 1000
	}
	ticks := new(big.Int).Add(u, big.NewInt(l.Requests-1))
	ticks.Quo(ticks, big.NewInt(l.Requests))
	at := ticks.Mul(ticks.Add(ticks, big.NewInt(t.tick)), big.NewInt(l.TickUs))
	at.Sub(at, big.NewInt(now))
	if !fitsInto(policy.MaxInteger, at) {
		return policy.MaxInteger
	}
	return at.Int64()
}

func (t *bucketTally) check(l policy.Limit, now int64, cost *big.Int) verdict {
	var v verdict
	capacity := capacityOf(l)
	full, unit := units(l, capacity), units(l, 1)
	after := new(big.Int).Add(t.units, new(big.Int).Mul(cost, unit))
	if over := new(big.Int).Sub(after, full); over.Sign() > 0 {
		after = t.units
		v.retry = t.until(l, over, now)
		if !fitsInto(capacity, cost) {
			v.retry = l.WindowMs * 1000
		}
	}
	if left := new(big.Int).Sub(full, after); left.Sign() > 0 {
		v.remaining = left.Quo(left, unit).Int64()
	}
	if after.Sign() > 0 {
		v.reset = t.until(l, after, now)
	}
	return v
}

func (t *bucketTally) charge(l policy.Limit, _, cost int64) { t.units.Add(t.units, units(l, cost)) }

// give gives back what of the charge was not refilled since.
func (t *bucketTally) give(l policy.Limit, now, cost int64, charged *modelRecord) {
	back := units(l, cost)
	if charged != nil {
		back = refilled(l, back, now/l.TickUs-charged.time/l.TickUs)
	}
	if t.units.Sub(t.units, back); t.units.Sign() < 0 {
		t.units.SetInt64(0)
	}
}

// balanceTally is of a Balance: what was spent less what was credited.
type balanceTally struct {
	spent int64
}

func (t *balanceTally) at(policy.Limit, int64) (tally, bool) { return &balanceTally{t.spent}, false }

func (t *balanceTally) check(l policy.Limit, _ int64, cost *big.Int) verdict {
	has := min(max(l.Requests-t.spent, 0), policy.MaxInteger)
	if fitsInto(has, cost) {
		return verdict{remaining: has - cost.Int64()}
	}
	return verdict{remaining: has, retry: minute}
}

func (t *balanceTally) charge(_ policy.Limit, _, cost int64) { t.spent += cost }

func (t *balanceTally) give(l policy.Limit, _, cost int64, charged *modelRecord) {
	if charged == nil {
		// Nobody knows that it was ever spent.
		t.spent -= min(cost, max(t.spent, 0))
		return
	}
	t.spent = max(t.spent-cost, min(t.spent, l.Requests-policy.MaxInteger))
}
