package topdenied

import (
	"cmp"
	"encoding/binary"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
)

const (
	// Window is the shortest time that the figures are about; the longest is twice as long.
	Window = 5 * time.Minute
	// MaxSubjects is how many subjects are kept at most.
	MaxSubjects = shards * windows * places

	// shards are told apart by a subject's hash, so that those who count seldom wait for each other.
	shards = 8
	// windows are the one that is being counted and the one before.
	windows = 2
	// places bounds the error: a count is above the truth by at most one in places of what its shard denied in its window.
	places = 64
	// longestValue is as long as a value is kept. Longer ones the engine refuses.
	longestValue = 256
)

// Counter counts denials by subject. All methods may be called concurrently.
type Counter struct {
	now    func() time.Time
	begin  time.Time
	seed   maphash.Seed
	shards [shards]shard
}

// shard counts the subjects of a part of all hashes. A lock is held for some hundred nanoseconds.
type shard struct {
	mu sync.Mutex
	// window is the number of the one that is being counted, from 0 at the begin of the Counter; sketches are that one and
	// the one before, in turns.
	window   int64
	sketches [windows]sketch
	_        [64]byte // keeps the next one's lock out of this one's cache line
}

// sketch is the denials of one shard and window.
type sketch struct {
	used  int
	total uint64
	// hashes and counts stand apart from the rest, since they are what is searched.
	hashes [places]uint64
	counts [places]uint64
	places [places]place
}

// place is what else is known of a subject.
type place struct {
	// excess is how much of the count may be other subjects'.
	excess uint64
	// since is when it took the place, in time since the begin of the Counter.
	since time.Duration
	// text is the policy's name and the keys and values of the subject, each behind its length. The memory is used again
	// by the next subject. Nothing of the policy itself is kept, or it would keep its whole set.
	text []byte
}

// New makes a Counter. The clock says what is forgotten; nil is time.Now.
func New(now func() time.Time) *Counter {
	if now == nil {
		now = time.Now
	}
	return &Counter{now: now, begin: now(), seed: maphash.MakeSeed()}
}

// Denied counts a denial by the policy of the subject with these values, one for each descriptor, and the key that is its
// own (redisops.CounterKey). It keeps neither of them, and allocates nothing once its memory is as large as subjects are.
func (c *Counter) Denied(p *policy.RateLimit, key string, values []string) {
	// The seed is random, so nobody can make up two keys of one hash.
	hash := maphash.String(c.seed, key)
	passed := c.now().Sub(c.begin)
	s := &c.shards[hash%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turn(int64(passed / Window))
	counting := &s.sketches[s.window%windows]
	counting.total++
	if at := slices.Index(counting.hashes[:counting.used], hash); at >= 0 {
		counting.counts[at]++
		return
	}
	at := counting.take(hash)
	counting.places[at].since = passed
	counting.places[at].describe(p, values)
}

// turn forgets what is older than the window before.
func (s *shard) turn(window int64) {
	if window <= s.window {
		return // the clock went back
	}
	for passed := min(window-s.window, windows); passed > 0; passed-- {
		s.sketches[(window-passed+1)%windows].clear()
	}
	s.window = window
}

func (s *sketch) clear() { s.used, s.total = 0, 0 }

// take gives the subject a place and counts it: a free one, or that of the smallest count.
func (s *sketch) take(hash uint64) int {
	at := s.used
	if at < places {
		s.used++
		s.counts[at], s.places[at].excess = 0, 0
	} else {
		at = s.smallest()
		s.places[at].excess = s.counts[at]
	}
	s.hashes[at] = hash
	s.counts[at]++
	return at
}

func (s *sketch) smallest() int {
	at := 0
	for i := range s.counts {
		if s.counts[i] < s.counts[at] {
			at = i
		}
	}
	return at
}

// unseen is how often a subject without a place may have been denied.
func (s *sketch) unseen() uint64 {
	if s.used < places {
		return 0
	}
	return s.counts[s.smallest()]
}

// describe keeps what the subject is. A shared descriptor counts all values together, by its pattern.
func (p *place) describe(policy *policy.RateLimit, values []string) {
	p.text = appendText(p.text[:0], policy.Name)
	for i := range min(len(values), len(policy.Descriptors)) {
		d := &policy.Descriptors[i]
		value := values[i]
		if d.Shared {
			value = d.Value
		}
		p.text = appendText(p.text, d.Key)
		p.text = appendText(p.text, value[:min(len(value), longestValue)])
	}
}

func appendText(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func cutText(from []byte) (text string, rest []byte) {
	length, n := binary.Uvarint(from)
	from = from[n:]
	return string(from[:length]), from[length:]
}

// Entry is a part of a subject: a descriptor's key and value. The value may hold any bytes.
type Entry struct {
	Key, Value string
}

// Subject is one that was denied.
type Subject struct {
	// Policy is "<namespace>/<name>".
	Policy string
	// Entries are in the order of the policy's descriptors. Without descriptors there are none: all requests are one
	// subject.
	Entries []Entry
	// AtLeast and AtMost bound how often it was denied within the time of the Report.
	AtLeast, AtMost uint64
	// Since is when it was first denied within that time, as far as is known.
	Since time.Time
}

// Report is who was denied most often within a time.
type Report struct {
	// From and To are that time: between Window and twice that long, less since the Counter was made.
	From, To time.Time
	// Denials are all that were counted.
	Denials uint64
	// Subjects are the most often denied ones first, by AtLeast.
	Subjects []Subject
}

// Top gives the n subjects that were denied most often, or fewer. n is bounded by MaxSubjects.
func (c *Counter) Top(n int) Report {
	now := c.now()
	window := int64(now.Sub(c.begin) / Window)
	r := Report{From: c.begin.Add(time.Duration(max(window-1, 0)) * Window), To: now}
	for i := range c.shards {
		c.shards[i].report(&r, c.begin, window)
	}
	slices.SortFunc(r.Subjects, func(a, b Subject) int {
		return cmp.Or(cmp.Compare(b.AtLeast, a.AtLeast), cmp.Compare(b.AtMost, a.AtMost),
			cmp.Compare(a.Policy, b.Policy), a.Since.Compare(b.Since))
	})
	r.Subjects = r.Subjects[:max(min(n, len(r.Subjects)), 0)]
	return r
}

// report adds what the shard knows. A subject that has a place in one window only may have been denied in the other.
func (s *shard) report(r *Report, begin time.Time, window int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turn(window)
	counting, before := &s.sketches[s.window%windows], &s.sketches[(s.window+1)%windows]
	r.Denials += counting.total + before.total
	unseenNow, unseenBefore := counting.unseen(), before.unseen()
	for i := range before.used {
		subject := before.subject(i, begin)
		if at := slices.Index(counting.hashes[:counting.used], before.hashes[i]); at >= 0 {
			subject.AtLeast += counting.counts[at] - counting.places[at].excess
			subject.AtMost += counting.counts[at]
		} else {
			subject.AtMost += unseenNow
		}
		r.Subjects = append(r.Subjects, subject)
	}
	for i := range counting.used {
		if slices.Contains(before.hashes[:before.used], counting.hashes[i]) {
			continue
		}
		subject := counting.subject(i, begin)
		subject.AtMost += unseenBefore
		r.Subjects = append(r.Subjects, subject)
	}
}

// subject is the one at a place, with its figures of the window.
func (s *sketch) subject(at int, begin time.Time) Subject {
	p := &s.places[at]
	subject := Subject{AtLeast: s.counts[at] - p.excess, AtMost: s.counts[at], Since: begin.Add(p.since)}
	var rest []byte
	subject.Policy, rest = cutText(p.text)
	for len(rest) > 0 {
		var e Entry
		e.Key, rest = cutText(rest)
		e.Value, rest = cutText(rest)
		subject.Entries = append(subject.Entries, e)
	}
	return subject
}
