package engine

import (
	"hash/maphash"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

const (
	// mostShared bounds the subjects of which is known what they were let pass by a local share: beyond it the one that was
	// asked about longest ago (of a part of them) is forgotten, and begins anew. Full of policies of one limit they take some
	// 20 MiB, with eight limits and the longest names four times as much.
	mostShared  = 1 << 16
	shareParts  = 64
	mostOfAPart = mostShared / shareParts
	// shareCells is in how many parts a sliding window is counted. What was let pass counts until its whole part is older than
	// the window: at most an eighth too long, and never too short.
	shareCells = 8
)

// shares counts in memory what this replica lets pass by LocalShare, by subject and limit: its share of each limit, so that
// all replicas together let no more pass than the limit (but one request each, where there are more replicas than requests).
// A sliding limit holds in any window; the others have the edges that they have in Redis.
type shares struct {
	replicas func() int
	began    time.Time
	seed     maphash.Seed
	parts    [shareParts]sharePart
	// known is how many subjects there are.
	known atomic.Int64
}

// sharePart is the subjects whose keys have one hash.
type sharePart struct {
	mu       sync.Mutex
	subjects map[string]*shared
	// ring holds them in the order in which they were asked about: behind it the latest, before it the one of longest ago.
	ring shared
}

// shared is what is known of one subject of one policy.
type shared struct {
	next, previous *shared
	key            string
	// contentHash and override tell whose limits the counts are of.
	contentHash string
	override    int
	counts      []shareCount
	// taken is when it was let pass last.
	taken time.Time
}

// shareCount is what one limit has let pass.
type shareCount struct {
	// at is: of a sliding limit the number of the latest cell, of a FixedWindow when its window began (Unix milliseconds), of a
	// TokenBucket when debt was reckoned (nanoseconds since the shares began).
	at int64
	// cells are requests in the latest parts of a sliding window, each at its number modulo their number; of a FixedWindow the
	// first.
	cells [shareCells + 1]int64
	// debt is how long a TokenBucket needs until it is full, in nanoseconds.
	debt float64
}

func newShares(replicas func() int, now time.Time) *shares {
	if replicas == nil {
		replicas = func() int { return 1 }
	}
	s := &shares{replicas: replicas, began: now, seed: maphash.MakeSeed()}
	for i := range s.parts {
		p := &s.parts[i]
		p.subjects = map[string]*shared{}
		p.ring.next, p.ring.previous = &p.ring, &p.ring
	}
	return s
}

func (s *shares) part(key string) *sharePart {
	return &s.parts[maphash.String(s.seed, key)%shareParts]
}

// decided notes that Redis decided for the subject of that key: what it was let pass meanwhile is forgotten, once
// TransitionHold has passed, so that a server that comes and goes does not give a new share each time. Of other subjects it
// says nothing, whose server may be another one.
func (s *shares) decided(key string, now time.Time) {
	if s.known.Load() == 0 {
		return
	}
	p := s.part(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.subjects[key]; known != nil && now.Sub(known.taken) >= TransitionHold {
		s.remove(p, known)
	}
}

// take lets the charge pass where all limits of its policy have room for it, and counts it unless it is only a look. Where
// they have not, it gives how long that lasts, in whole milliseconds; for a cost that never fits the window.
func (s *shares) take(c *compiled, charge *limit.Charge, now time.Time, look bool) (passes bool, retry time.Duration) {
	override := c.override(charge.Values)
	limits := c.bindings[override]
	if len(limits) == 0 {
		return true, 0 // unlimited
	}
	p := s.part(charge.Key)
	p.mu.Lock()
	defer p.mu.Unlock()
	var fresh [policy.MaxLimits]shareCount
	counts := fresh[:len(limits)]
	known := s.find(p, c, charge.Key, override)
	if known != nil {
		counts = known.counts
	}
	at := s.moment(now)
	for i := range limits {
		retry = max(retry, counts[i].wait(limits[i].limit, c.policy, charge.Cost, at))
	}
	if retry > 0 {
		return false, upToMillisecond(retry)
	}
	if look || charge.Cost == 0 {
		return true, 0
	}
	if known == nil {
		known = s.add(p, c, charge.Key, override, counts)
	}
	known.taken = now
	for i := range limits {
		known.counts[i].add(limits[i].limit, charge.Cost, at)
	}
	return true, 0
}

// giveBack takes back what take counted at that time.
func (s *shares) giveBack(c *compiled, charge *limit.Charge, taken time.Time) {
	override := c.override(charge.Values)
	limits := c.bindings[override]
	p := s.part(charge.Key)
	p.mu.Lock()
	defer p.mu.Unlock()
	known := s.find(p, c, charge.Key, override)
	if known == nil {
		return
	}
	at := s.moment(taken)
	for i := range limits {
		known.counts[i].giveBack(limits[i].limit, c.policy, charge.Cost, at)
	}
}

// find gives what is known of the subject, by these limits, and notes that it was asked about; nil for nothing.
func (s *shares) find(p *sharePart, c *compiled, key string, override int) *shared {
	known := p.subjects[key]
	if known == nil {
		return nil
	}
	if known.contentHash != c.policy.ContentHash || known.override != override {
		s.remove(p, known)
		return nil
	}
	known.unlink()
	p.link(known)
	return known
}

// add makes the subject known, in the place of another where there is no room.
func (s *shares) add(p *sharePart, c *compiled, key string, override int, counts []shareCount) *shared {
	if len(p.subjects) >= mostOfAPart {
		s.remove(p, p.ring.previous)
	}
	known := &shared{key: key, contentHash: c.policy.ContentHash, override: override, counts: append([]shareCount(nil), counts...)}
	p.subjects[key] = known
	p.link(known)
	s.known.Add(1)
	return known
}

func (s *shares) remove(p *sharePart, known *shared) {
	known.unlink()
	delete(p.subjects, known.key)
	s.known.Add(-1)
}

func (p *sharePart) link(known *shared) {
	known.previous, known.next = &p.ring, p.ring.next
	known.next.previous, p.ring.next = known, known
}

func (known *shared) unlink() {
	known.previous.next, known.next.previous = known.next, known.previous
}

// moment is a point in time for counting.
type moment struct {
	// passed is since the shares began, which no correction of the clock disturbs.
	passed time.Duration
	wall   time.Time
	// replicas share the limits.
	replicas int64
}

func (s *shares) moment(now time.Time) moment {
	return moment{passed: max(now.Sub(s.began), 0), wall: now, replicas: int64(max(s.replicas(), 1))}
}

// share gives this replica's part of a number of requests: rounded down, but at least one unless there are none.
func (m *moment) share(requests int64) int64 {
	return min(max(requests/m.replicas, 1), requests)
}

// wait brings the count to that moment, and gives how long until it has room for the cost: 0 when it has.
func (n *shareCount) wait(l *policy.Limit, of *policy.RateLimit, cost int64, m moment) time.Duration {
	window := time.Duration(l.WindowMs) * time.Millisecond
	capacity := l.Requests
	if l.Algorithm == policy.TokenBucket && capacity > 0 {
		capacity = l.Burst
	}
	capacity = m.share(capacity)
	if cost > capacity {
		return window
	}
	switch l.Algorithm {
	case policy.TokenBucket:
		return n.waitForTokens(m.tokenTime(l), cost, capacity, m.passed)
	case policy.FixedWindow:
		began, finish := windowOf(l, of, m.wall)
		// Where the clock was set back into the window before, the count of this one goes on, as in Redis.
		if at := began.UnixMilli(); n.at != at && n.at != finish.UnixMilli() {
			n.at, n.cells[0] = at, 0
		}
		if cost <= capacity-n.cells[0] {
			return 0
		}
		return max(finish.Sub(m.wall), 1)
	default:
		return n.waitForCells(cellOf(window), cost, capacity, m.passed)
	}
}

// waitForTokens gives how long until a bucket of that capacity has so many tokens, each of which takes that long to come
// back.
func (n *shareCount) waitForTokens(each float64, cost, capacity int64, passed time.Duration) time.Duration {
	n.debt = max(n.debt-float64(int64(passed)-n.at), 0)
	n.at = int64(passed)
	// A nanosecond too much is what floating point may be wrong by: who waited as long as was told is let pass.
	over := n.debt + each*float64(cost) - each*float64(capacity) - 1
	if over <= 0 {
		return 0
	}
	return time.Duration(min(math.Ceil(over), float64(policy.MaxWindow)))
}

// tokenTime is how long a token takes to come back, in nanoseconds.
func (m *moment) tokenTime(l *policy.Limit) float64 {
	return float64(l.WindowMs) * float64(time.Millisecond) / float64(max(m.share(l.Requests), 1))
}

// cellOf is how long a cell of a sliding window is.
func cellOf(window time.Duration) time.Duration { return (window + shareCells - 1) / shareCells }

// waitForCells drops the cells that are out of the window, and gives how long until so many of the others are that the cost
// has room.
func (n *shareCount) waitForCells(cell time.Duration, cost, capacity int64, passed time.Duration) time.Duration {
	latest := int64(passed / cell)
	if latest > n.at+shareCells {
		clear(n.cells[:])
	} else {
		for number := n.at + 1; number <= latest; number++ {
			n.cells[number%(shareCells+1)] = 0
		}
	}
	n.at = max(n.at, latest)
	over := cost - capacity
	for _, counted := range n.cells {
		over += counted
	}
	if over <= 0 {
		return 0
	}
	number := n.at - shareCells
	for ; ; number++ {
		if over -= n.cells[(number+shareCells+1)%(shareCells+1)]; over <= 0 {
			return time.Duration(number+shareCells+1)*cell - passed
		}
	}
}

// add counts what passes, once wait gave 0 for that moment.
func (n *shareCount) add(l *policy.Limit, cost int64, m moment) {
	switch l.Algorithm {
	case policy.TokenBucket:
		n.debt += m.tokenTime(l) * float64(cost)
	case policy.FixedWindow:
		n.cells[0] += cost
	default:
		n.cells[n.at%(shareCells+1)] += cost
	}
}

// giveBack takes back what was added at that moment.
func (n *shareCount) giveBack(l *policy.Limit, of *policy.RateLimit, cost int64, m moment) {
	switch l.Algorithm {
	case policy.TokenBucket:
		n.debt = max(n.debt-m.tokenTime(l)*float64(cost), 0)
	case policy.FixedWindow:
		if began, _ := windowOf(l, of, m.wall); began.UnixMilli() == n.at {
			n.cells[0] = max(n.cells[0]-cost, 0)
		}
	default:
		number := int64(m.passed / cellOf(time.Duration(l.WindowMs)*time.Millisecond))
		if number >= n.at-shareCells && number <= n.at {
			counted := &n.cells[number%(shareCells+1)]
			*counted = max(*counted-cost, 0)
		}
	}
}
