package topdenied

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
)

var perUser = &policy.RateLimit{Name: "shop/per-user", Descriptors: []policy.Descriptor{{Key: "user"}}}

// clock is a clock that stands until it is moved.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func newCounter() (*Counter, *clock) {
	c := &clock{now: time.Unix(1_800_000_000, 0)}
	return New(c.Now), c
}

func key(p *policy.RateLimit, values ...string) string {
	var subject []redisops.Entry
	for i, v := range values {
		subject = append(subject, redisops.Entry{Key: p.Descriptors[i].Key, Value: v})
	}
	return redisops.CounterKey(p.Name, subject)
}

func (c *Counter) deny(user string, times int) {
	k := key(perUser, user)
	for range times {
		c.Denied(perUser, k, []string{user})
	}
}

// shown gives what a report says, as <policy> <key>=<value>… <at least>-<at most>.
func shown(r Report) string {
	var lines []string
	for _, s := range r.Subjects {
		line := s.Policy
		for _, e := range s.Entries {
			line += " " + e.Key + "=" + e.Value
		}
		lines = append(lines, fmt.Sprintf("%s %d-%d", line, s.AtLeast, s.AtMost))
	}
	return strings.Join(lines, "\n")
}

func TestSubjectsAreShownByHowOftenTheyWereDenied(t *testing.T) {
	c, clock := newCounter()
	both := &policy.RateLimit{Name: "shop/both", Descriptors: []policy.Descriptor{{Key: "path"}, {Key: "method"}}}
	whole := &policy.RateLimit{Name: "shop/whole"}
	c.deny("bob", 3)
	clock.now = clock.now.Add(time.Second)
	c.deny("eve", 7)
	for range 5 {
		c.Denied(both, key(both, "/a", "GET"), []string{"/a", "GET"})
	}
	c.Denied(whole, key(whole), nil)
	r := c.Top(3)
	if got, want := shown(r), "shop/per-user user=eve 7-7\nshop/both path=/a method=GET 5-5\nshop/per-user user=bob 3-3"; got != want {
		t.Errorf("shown\n%s, want\n%s", got, want)
	}
	if r.Denials != 16 {
		t.Errorf("%d denials, want those that are not shown, too: 16", r.Denials)
	}
	if got, want := r.Subjects[0].Since, clock.now; !got.Equal(want) {
		t.Errorf("since %v, want %v", got, want)
	}
	if got := shown(c.Top(MaxSubjects)); !strings.HasSuffix(got, "\nshop/whole 1-1") {
		t.Errorf("shown\n%s, want what has no descriptors, too", got)
	}
}

func TestNoMoreSubjectsAreShownThanAskedFor(t *testing.T) {
	c, _ := newCounter()
	c.deny("bob", 1)
	for n, want := range map[int]int{-1: 0, 0: 0, 1: 1, 1 << 30: 1} {
		if got := len(c.Top(n).Subjects); got != want {
			t.Errorf("%d for %d, want %d", got, n, want)
		}
	}
}

func TestASharedDescriptorIsShownByItsPattern(t *testing.T) {
	c, _ := newCounter()
	p := &policy.RateLimit{Name: "shop/paths", Descriptors: []policy.Descriptor{{Key: "path", Value: "/api/*", Shared: true}}}
	c.Denied(p, "k", []string{"/api/one"})
	c.Denied(p, "k", []string{"/api/two"})
	if got, want := shown(c.Top(9)), "shop/paths path=/api/* 2-2"; got != want {
		t.Errorf("shown %s, want %s", got, want)
	}
}

func TestAValueOutlivesTheMemoryItCameIn(t *testing.T) {
	c, _ := newCounter()
	values := []string{"bob"}
	c.Denied(perUser, "k", values)
	values[0] = "eve"
	if got, want := shown(c.Top(1)), "shop/per-user user=bob 1-1"; got != want {
		t.Errorf("shown %s, want %s", got, want)
	}
}

func TestAValueIsCutWhereTheEngineWouldRefuseIt(t *testing.T) {
	c, _ := newCounter()
	c.deny(strings.Repeat("x", 100_000), 1)
	if got := len(c.Top(1).Subjects[0].Entries[0].Value); got != longestValue {
		t.Errorf("%d bytes are kept, want %d", got, longestValue)
	}
}

func TestYesterdaysAttackerIsGone(t *testing.T) {
	c, clock := newCounter()
	begin := clock.now
	c.deny("bob", 5)
	for _, step := range []struct {
		after time.Duration
		want  string
		from  time.Duration
	}{
		{Window - 1, "shop/per-user user=bob 5-5", 0},
		{Window, "shop/per-user user=bob 5-5", 0},
		{2*Window - 1, "shop/per-user user=bob 5-5", 0},
		{2 * Window, "", Window},
		{24 * time.Hour, "", 24*time.Hour - Window},
	} {
		clock.now = begin.Add(step.after)
		r := c.Top(9)
		if got := shown(r); got != step.want {
			t.Errorf("after %s: %q, want %q", step.after, got, step.want)
		}
		if want := begin.Add(step.from); !r.From.Equal(want) || !r.To.Equal(clock.now) {
			t.Errorf("after %s: %s to %s, want from %s", step.after, r.From, r.To, want)
		}
	}
}

func TestTwoWindowsAreAddedUp(t *testing.T) {
	c, clock := newCounter()
	begin := clock.now
	c.deny("bob", 5)
	c.deny("eve", 6)
	clock.now = begin.Add(Window)
	c.deny("bob", 2)
	if got, want := shown(c.Top(9)), "shop/per-user user=bob 7-7\nshop/per-user user=eve 6-6"; got != want {
		t.Errorf("shown\n%s, want\n%s", got, want)
	}
	if got := c.Top(1).Subjects[0].Since; !got.Equal(begin) {
		t.Errorf("since %v, want %v", got, begin)
	}
	clock.now = begin.Add(2 * Window)
	if got, want := shown(c.Top(9)), "shop/per-user user=bob 2-2"; got != want {
		t.Errorf("shown\n%s, want\n%s", got, want)
	}
}

func TestAClockThatGoesBackForgetsNothing(t *testing.T) {
	c, clock := newCounter()
	clock.now = clock.now.Add(Window)
	c.deny("bob", 5)
	clock.now = clock.now.Add(-Window)
	c.deny("bob", 1)
	if got, want := shown(c.Top(9)), "shop/per-user user=bob 6-6"; got != want {
		t.Errorf("shown %s, want %s", got, want)
	}
}

// Whoever has more than its share is on top, with bounds that hold, among any number of others.
func TestAttackersStandOutOfAFlood(t *testing.T) {
	const others, attackers = 200_000, 12
	c, clock := newCounter()
	random := rand.New(rand.NewPCG(1, 2))
	truth := map[string]uint64{}
	deny := func(user string) {
		c.deny(user, 1)
		truth[user]++
	}
	for i := range others {
		if i == others/2 {
			clock.now = clock.now.Add(Window)
		}
		deny(fmt.Sprint("other-", i))
		// The first attacker has some 2 % of all denials, the last a sixth of that.
		if attacker := random.IntN(50 * attackers / 2); attacker < attackers*(attackers+1)/2 {
			for n := 0; attacker >= 0; n++ {
				attacker -= attackers - n
				if attacker < 0 {
					deny(fmt.Sprint("attacker-", n))
				}
			}
		}
	}
	r := c.Top(MaxSubjects)
	// The attackers have places in both windows.
	if len(r.Subjects) != MaxSubjects-attackers || r.Denials < others {
		t.Fatalf("%d subjects of %d denials, want %d of more than %d", len(r.Subjects), r.Denials, MaxSubjects-attackers, others)
	}
	var bound uint64 // of what a count can be above the truth, in any shard
	for i := range c.shards {
		of := uint64(0)
		for j := range c.shards[i].sketches {
			of += c.shards[i].sketches[j].total / places
		}
		bound = max(bound, of)
	}
	for at, s := range r.Subjects {
		user := s.Entries[0].Value
		if want := truth[user]; s.AtLeast > want || s.AtMost < want {
			t.Fatalf("%s was denied %d times, and shown as %d to %d", user, want, s.AtLeast, s.AtMost)
		}
		if s.AtMost-s.AtLeast > bound {
			t.Errorf("%s: an error of %d, want at most %d", user, s.AtMost-s.AtLeast, bound)
		}
		if (at < attackers) != strings.HasPrefix(user, "attacker-") {
			t.Errorf("%s is number %d (%d to %d), want the attackers to be the first %d", user, at+1, s.AtLeast, s.AtMost, attackers)
		}
	}
	if top := r.Subjects[0].Entries[0].Value; top != "attacker-0" && top != "attacker-1" {
		t.Errorf("%s is on top, want the one that was denied most often", top)
	}
}

// The longest names and values that there can be.
func TestMemoryIsBoundedHoweverManySubjectsThereAre(t *testing.T) {
	p := &policy.RateLimit{Name: strings.Repeat("n", 63) + "/" + strings.Repeat("p", 253)}
	for i := range policy.MaxDescriptors {
		p.Descriptors = append(p.Descriptors, policy.Descriptor{Key: fmt.Sprint(i, strings.Repeat("k", 250))})
	}
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	c, clock := newCounter()
	begin, values := clock.now, make([]string, policy.MaxDescriptors)
	for i := range 200_000 {
		clock.now = begin.Add(time.Duration(i) * 10 * time.Millisecond)
		value := fmt.Sprintf("%0256d", i)
		for j := range values {
			values[j] = value
		}
		c.Denied(p, value, values)
	}
	if grown := heap() - before; grown > 8<<20 {
		t.Errorf("%d KiB after 200,000 subjects, want at most 8 MiB", grown>>10)
	}
	runtime.KeepAlive(c)
}

func TestDenialsAndReportsAtTheSameTimeAddUp(t *testing.T) {
	c := New(nil)
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for i := range 2000 {
				c.deny(fmt.Sprint("user-", (worker+i)%50), 1)
				if i%100 == 0 {
					c.Top(10)
				}
			}
		})
	}
	all.Wait()
	if got := c.Top(1).Denials; got != 16_000 {
		t.Errorf("%d denials were counted, want 16,000", got)
	}
}

func BenchmarkDenied(b *testing.B) {
	const crowd = 1 << 16
	keys, values := make([]string, crowd), make([][]string, crowd)
	for i := range keys {
		user := fmt.Sprint("user-", i)
		keys[i], values[i] = key(perUser, user), []string{user}
	}
	for _, test := range []struct {
		name     string
		subjects uint64
	}{{"one subject", 1}, {"100 subjects", 100}, {"65536 subjects", crowd}} {
		b.Run(test.name, func(b *testing.B) {
			c := New(nil)
			for i := range keys[:test.subjects] {
				c.Denied(perUser, keys[i], values[i])
			}
			var workers atomic.Uint64
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := workers.Add(1) * 7919; pb.Next(); i++ {
					at := i % test.subjects
					c.Denied(perUser, keys[at], values[at])
				}
			})
		})
	}
}
