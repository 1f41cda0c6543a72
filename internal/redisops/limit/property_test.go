package limit_test

import (
	"context"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// Two subjects of two policies.
var (
	modelPolicies = []string{"shop/a", "shop/b"}
	modelSubjects = []string{"bob", "eve"}
	// calendar is a FixedWindow with one.
	modelAlgorithms = []string{
		policy.FixedWindow, "calendar", policy.SlidingLog, policy.SlidingCounter, policy.TokenBucket, policy.Balance,
	}
)

// history is a made-up history of policies and calls, which the model follows.
type history struct {
	*rapid.T
	w   *world
	m   *model
	now int64
	theme
}

// theme is what a history is about: of everything at once, each part would be met too seldom.
type theme struct {
	policies, subjects, algorithms []string
	limits                         []int
	// penalties and slots tell that all policies have one.
	penalties, slots bool
}

func drawTheme(rt *rapid.T) theme {
	th := theme{policies: modelPolicies, subjects: modelSubjects, algorithms: modelAlgorithms, limits: []int{1, 1, 2, 3}}
	if rapid.Bool().Draw(rt, "one subject") {
		th.policies, th.subjects = th.policies[:1], th.subjects[:1]
	}
	if about := rapid.IntRange(0, len(modelAlgorithms)+5).Draw(rt, "about"); about < len(modelAlgorithms) {
		th.algorithms, th.limits = modelAlgorithms[about:about+1], []int{1, 1, 1, 2}
	} else if about <= len(modelAlgorithms)+1 {
		th.slots = true
	}
	th.penalties = rapid.IntRange(0, 3).Draw(rt, "penalties") == 0
	return th
}

// TestAnyHistoryIsDecidedAsByTheModel makes up policies, calls and times, which jump forward and back, and compares each
// answer with an integer model.
//
// Faults 31 and 32: the steered TIME is the only clock, and goes where it likes. Faults 35 and 36: numbers at their
// bounds. Faults 39 and 40: policies change while they are used.
func TestAnyHistoryIsDecidedAsByTheModel(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		server := redistest.Start(t)
		rapid.Check(t, func(rt *rapid.T) {
			h := &history{T: rt, w: startOn(t, server, mode, true), m: newModel(), now: t0, theme: drawTheme(rt)}
			h.w.tb = rt
			for _, name := range h.policies {
				h.w.publish(h.drawPolicy(name))
			}
			for range rapid.IntRange(10, 40).Draw(rt, "steps") {
				h.jump()
				h.step()
			}
			h.checkTexts()
		})
	})
}

// earliest and latest bound what clocks jump to, within the offsets of the calendars.
var (
	earliest = time.Date(2017, 1, 1, 0, 0, 0, 0, time.UTC)
	latest   = time.Date(2039, 1, 1, 0, 0, 0, 0, time.UTC)
)

// jump moves time: often by a fraction of a window, at times by many, at times back.
func (h *history) jump() {
	p := h.drawOne()
	spans := []int64{minute}
	for _, l := range allLimits(p) {
		spans = append(spans, max(l.WindowMs, l.SlotTTLMs, 1)*1000)
	}
	if p.Penalty != nil {
		spans = append(spans, p.Penalty.WithinMs*1000, p.Penalty.ForMs*1000, p.Penalty.MaxMs*1000)
	}
	span := rapid.SampledFrom(spans).Draw(h.T, "span")
	h.now += rapid.OneOf(
		rapid.Int64Range(0, span/3), rapid.Int64Range(0, span/3), rapid.Int64Range(0, 3),
		rapid.Int64Range(0, span), rapid.SampledFrom([]int64{span - 1, span, span + 1, 0, -1, -span / 2, -span}),
		rapid.Int64Range(-3*span, 3*span),
	).Draw(h.T, "jump")
	h.now = min(max(h.now, earliest.UnixMicro()), latest.UnixMicro())
	h.w.steer(time.Duration(h.now-t0) * time.Microsecond)
}

func allLimits(p *policy.RateLimit) []policy.Limit {
	limits := slices.Clone(p.Limits)
	for _, o := range p.Overrides {
		limits = append(limits, o.Limits...)
	}
	return limits
}

func (h *history) step() {
	clear(h.m.written)
	switch rapid.SampledFrom([]string{
		"one", "one", "one", "one", "one", "one", "one", "one", "one", "one", "many", "many", "many", "peek", "refund", "refund",
		"refund", "credit", "reset", "requests", "requests", "rules", "remake",
	}).Draw(h.T, "action") {
	case "one":
		h.decide(h.drawCharge())
	case "many":
		h.many()
	case "peek":
		h.peek(h.drawCharge())
	case "refund":
		h.refund(h.drawRefund())
	case "credit":
		h.credit(h.drawCharge())
	case "reset":
		h.reset(h.drawCharge())
	case "requests":
		p := *h.drawOne()
		p.Limits, p.Overrides = otherRequests(h.T, p.Limits), slices.Clone(p.Overrides)
		for i := range p.Overrides {
			p.Overrides[i].Limits = otherRequests(h.T, p.Overrides[i].Limits)
		}
		h.w.publish(p)
	case "rules":
		p := *h.drawOne()
		h.drawRules(&p)
		h.w.publish(p)
	case "remake":
		h.w.publish(h.drawPolicy(h.drawOne().Name))
	}
}

func (h *history) drawOne() *policy.RateLimit {
	return h.w.policies[rapid.SampledFrom(h.policies).Draw(h.T, "policy")]
}

// drawCharge gives a charge with a cost that is mostly small, at times at a bound, and at times has an id.
func (h *history) drawCharge() limit.Charge {
	p := h.drawOne()
	bounds := []int64{0, 1, policy.MaxInteger}
	for _, l := range allLimits(p) {
		bounds = append(bounds, l.Requests, max(0, l.Requests-1), l.Burst)
	}
	c := h.w.charge(p.Name, rapid.OneOf(
		rapid.Int64Range(0, 5), rapid.Int64Range(1, 2), rapid.Int64Range(1, 1), rapid.SampledFrom(bounds),
	).Draw(h.T, "cost"), rapid.SampledFrom(h.subjects).Draw(h.T, "subject"))
	c.ID = rapid.SampledFrom([]string{"", "", "", "x", "y", "z"}).Draw(h.T, "id")
	return c
}

// drawRefund gives what to refund: at times all of a decision that there was.
func (h *history) drawRefund() limit.Charge {
	c := h.drawCharge()
	decided := sortedKeys(h.m.records)
	if len(decided) == 0 || rapid.IntRange(0, 2).Draw(h.T, "any") == 0 {
		return c
	}
	key, id, _ := strings.Cut(rapid.SampledFrom(decided).Draw(h.T, "of"), "#")
	for _, name := range h.policies {
		for _, subject := range h.subjects {
			if h.w.key(name, subject) == key {
				c = h.w.charge(name, policy.MaxInteger, subject)
				c.ID = id
			}
		}
	}
	return c
}

// many decides up to four charges. A Concurrency is not charged, and an id stands once in a call.
func (h *history) many() {
	var charges []limit.Charge
	seen := map[string]bool{}
	for range rapid.IntRange(2, 4).Draw(h.T, "charges") {
		c := h.drawCharge()
		if seen[c.Key+c.ID] {
			c.ID = ""
		}
		seen[c.Key+c.ID] = true
		if !c.Policy.IsConcurrency() {
			charges = append(charges, c)
		}
	}
	if len(charges) > 0 {
		h.decide(charges...)
	}
}

// decide makes one call and compares rows, and that what is to be remembered lives long enough.
func (h *history) decide(charges ...limit.Charge) {
	if charges[0].Policy.IsConcurrency() {
		h.slot(charges[0])
		return
	}
	rows, want := h.w.decide(charges...), h.m.decide(h.now, charges...)
	for i, c := range charges {
		if rows[i] != want[i] {
			h.Fatalf("charge %d of %d, %s: %+v, want %+v", i, len(charges), describe(c), rows[i], want[i])
		}
	}
	for _, c := range charges {
		h.checkTTLs(c)
	}
}

func (h *history) peek(c limit.Charge) {
	if c.Policy.IsConcurrency() {
		return
	}
	before := h.w.dump()
	h.compare("a peek", c, h.w.peek(c), h.m.one(h.now, c, true))
	if after := h.w.dump(); after != before {
		h.Fatalf("a peek wrote %s, before %s", after, before)
	}
}

func (h *history) refund(c limit.Charge) {
	if c.Policy.IsConcurrency() {
		return
	}
	row, err := h.w.limiter.Refund(context.Background(), c)
	if err != nil {
		h.Fatal(err)
	}
	h.compare("a refund", c, row, h.m.refund(h.now, c))
}

func (h *history) credit(c limit.Charge) {
	c.Cost = max(c.Cost, 1)
	if c.Policy.IsConcurrency() {
		return
	}
	row, err := h.w.limiter.Credit(context.Background(), c)
	want, taken := h.m.credit(h.now, c)
	if (err == nil) != taken {
		h.Fatalf("a credit, %s: %v, want it taken: %v", describe(c), err, taken)
	}
	if taken {
		h.compare("a credit", c, row, want)
	}
}

func (h *history) reset(c limit.Charge) {
	row, err := h.w.limiter.Reset(context.Background(), c)
	if err != nil {
		h.Fatal(err)
	}
	h.compare("a reset", c, row, h.m.reset(h.now, c))
}

// slot acquires or releases the slot of the charge's id.
func (h *history) slot(c limit.Charge) {
	if c.ID == "" {
		c.ID = "w"
	}
	s := limit.Slot{Policy: c.Policy, Key: c.Key, Values: c.Values, ID: c.ID}
	if rapid.IntRange(0, 3).Draw(h.T, "release") == 0 {
		row, err := h.w.limiter.ReleaseSlot(context.Background(), s)
		if err != nil {
			h.Fatal(err)
		}
		h.compare("a release", c, row, h.m.release(h.now, c))
		return
	}
	ttls := []time.Duration{0, time.Microsecond, 50 * time.Millisecond, time.Second, time.Hour, 10000 * time.Hour}
	s.TTL = rapid.SampledFrom(ttls).Draw(h.T, "ttl")
	row, err := h.w.limiter.AcquireSlot(context.Background(), s)
	if err != nil {
		h.Fatal(err)
	}
	h.compare(fmt.Sprintf("a slot for %v", s.TTL), c, row, h.m.acquire(h.now, c, s.TTL))
	h.checkTTLs(c)
}

func (h *history) compare(what string, c limit.Charge, got, want limit.Row) {
	if got != want {
		h.Fatalf("%s, %s: %+v, want %+v", what, describe(c), got, want)
	}
}

// describe gives a charge in short, without the offsets of its policy's calendars.
func describe(c limit.Charge) string {
	p := c.Policy
	penalty := policy.Penalty{}
	if p.Penalty != nil {
		penalty = *p.Penalty
	}
	return fmt.Sprintf("%d with id %q of %q on %s: limits %+v, overrides %+v, shadow %d, penalty %+v",
		c.Cost, c.ID, c.Values, p.Name, p.Limits, p.Overrides, p.ShadowPercent, penalty)
}

// checkTTLs tells whether the subject's keys live for as long as the model needs them.
func (h *history) checkTTLs(c limit.Charge) {
	known := h.m.counters[c.Key]
	budget := budgetOf(c.Policy, c.Values)
	if !h.m.written[c.Key] {
		return
	}
	lasts := slices.ContainsFunc(budget.limits, func(l policy.Limit) bool { return l.Algorithm == policy.Balance })
	// See steering. Real time goes on between the call and this.
	counter := h.w.ttl(c.Key) - time.Hour + time.Minute/2
	for _, l := range budget.limits {
		field, found := known.fields[l.Name]
		if !found || field.signature != signatureOf(l) {
			continue
		}
		need := h.need(c, l, field.tally)
		if !lasts && counter < need {
			h.Fatalf("the counter lives for %v, limit %s needs %v: %s", counter, l.Name, need, describe(c))
		}
		keepsLog := l.Algorithm == policy.SlidingLog || l.Algorithm == policy.Concurrency
		if log := h.w.ttl(redisops.LogKey(c.Key, l.Name)) - time.Hour + time.Minute/2; keepsLog && need > 0 && log < need {
			h.Fatalf("the log lives for %v, limit %s needs %v: %s", log, l.Name, need, describe(c))
		}
	}
}

// need tells how long a state matters, of slots the one that was acquired last.
func (h *history) need(c limit.Charge, l policy.Limit, t tally) time.Duration {
	if slots, is := t.(*slotsTally); is {
		return time.Duration(slots.slots[c.ID]-h.now) * time.Microsecond
	}
	now, _ := t.at(l, h.now)
	return min(time.Duration(now.check(l, h.now, new(big.Int)).reset), policy.MaxInteger/1000) * time.Microsecond
}

// Fault 37: a state holds integers only, never what is left of them in a float.
var (
	stateText   = regexp.MustCompile(`^([FTSC][0-9]+|K[A-Za-z]+/[A-Za-z_/]+|B) -?[0-9]+( [0-9]+){0,2}$|^N$`)
	penaltyText = regexp.MustCompile(`^[0-9]+ [0-9]+ [0-9]+ [0-9]+$`)
)

func (h *history) checkTexts() {
	for key := range h.m.counters {
		fields, err := h.w.client.HGetAll(context.Background(), key).Result()
		if err != nil {
			h.Fatal(err)
		}
		for name, text := range fields {
			want := stateText
			if name == "!penalty" {
				want = penaltyText
			}
			if !want.MatchString(text) {
				h.Fatalf("%s of %s is %q", name, key, text)
			}
		}
	}
}

// drawPolicy gives a policy for users.
func (h *history) drawPolicy(name string) policy.RateLimit {
	p := one(name)
	p.Descriptors = []policy.Descriptor{{Key: "user"}}
	p.Limits = h.drawLimits(h.slots || rapid.IntRange(0, 9).Draw(h.T, "slots") == 0)
	h.drawRules(&p)
	return p
}

// drawRules gives a policy its overrides, its penalty and its shadow anew.
func (h *history) drawRules(p *policy.RateLimit) {
	p.Overrides, p.Penalty = nil, nil
	for _, value := range []string{"bob", "*b*", "e*"} {
		switch rapid.IntRange(0, 11).Draw(h.T, "override") {
		case 0:
			p.Overrides = append(p.Overrides, policy.Override{Values: []string{value}, Unlimited: true})
		case 1, 2:
			p.Overrides = append(p.Overrides, policy.Override{Values: []string{value}, Limits: h.drawLimits(p.IsConcurrency())})
		}
	}
	policy.SortOverrides(p.Overrides)
	place := percentile(redisops.CounterKey(p.Name, []redisops.Entry{{Key: "user", Value: "bob"}}))
	p.ShadowPercent = rapid.SampledFrom([]int64{0, 0, 0, 0, 0, 100, 99 - place, 100 - place}).Draw(h.T, "shadow")
	if !p.IsConcurrency() && h.penalties {
		blocks := rapid.SampledFrom([]int64{100, 1000, 60_000})
		p.Penalty = &policy.Penalty{
			Denials: rapid.Int64Range(1, 3).Draw(h.T, "denials"), WithinMs: blocks.Draw(h.T, "within"), ForMs: blocks.Draw(h.T, "for"),
		}
		p.Penalty.MaxMs = p.Penalty.ForMs * rapid.Int64Range(1, 5).Draw(h.T, "max")
	}
}

// drawLimits gives one to three limits, named a, b, c, or one of slots, named a.
func (h *history) drawLimits(slots bool) []policy.Limit {
	if slots {
		ttl := rapid.SampledFrom([]time.Duration{100 * time.Millisecond, time.Second, time.Minute, 744 * time.Hour}).Draw(h.T, "ttl")
		return []policy.Limit{named("a", concurrency(drawRequests(h.T, 2), ttl))}
	}
	var limits []policy.Limit
	for _, name := range []string{"a", "b", "c"}[:rapid.SampledFrom(h.limits).Draw(h.T, "limits")] {
		window := rapid.SampledFrom([]time.Duration{
			100 * time.Millisecond, 333 * time.Millisecond, time.Second, time.Minute, 61 * time.Second, time.Hour, 24 * time.Hour, 25 * time.Hour, 744 * time.Hour,
		}).Draw(h.T, "window")
		limits = append(limits, named(name, drawLimit(h.T, rapid.SampledFrom(h.algorithms).Draw(h.T, "algorithm"), window)))
	}
	return limits
}

func drawLimit(rt *rapid.T, algorithm string, window time.Duration) policy.Limit {
	switch algorithm {
	case policy.FixedWindow:
		return fixedWindow(drawRequests(rt, policy.MaxInteger), window)
	case policy.SlidingLog:
		return slidingLog(drawRequests(rt, policy.MaxSlidingLogRequests), window)
	case policy.SlidingCounter:
		return slidingCounter(drawRequests(rt, policy.MaxSlidingCounterRequests), window)
	case policy.Balance:
		return balance(drawRequests(rt, policy.MaxInteger))
	case policy.TokenBucket:
		most := policy.MaxBurst(window.Milliseconds())
		return tokenBucket(drawRequests(rt, most), window, max(1, drawRequests(rt, most)))
	default:
		unit := rapid.SampledFrom([]string{
			policy.CalendarMinute, policy.CalendarHour, policy.CalendarDay, policy.CalendarWeek, policy.CalendarMonth,
		}).Draw(rt, "calendar")
		return byCalendar(drawRequests(rt, policy.MaxInteger), unit, rapid.SampledFrom(modelZones).Draw(rt, "zone"))
	}
}

func byCalendar(requests int64, unit, zone string) policy.Limit {
	l := fixedWindow(requests, policy.CalendarWindow(unit))
	l.Calendar, l.TimeZone = unit, zone
	return l
}

// drawRequests gives mostly small numbers, and those at the edges.
func drawRequests(rt *rapid.T, most int64) int64 {
	return rapid.OneOf(
		rapid.Int64Range(0, min(most, 12)), rapid.Int64Range(1, min(most, 12)), rapid.SampledFrom([]int64{0, 1, most - 1, most}),
	).Draw(rt, "requests")
}

// otherRequests changes numbers of requests and nothing else.
func otherRequests(rt *rapid.T, limits []policy.Limit) []policy.Limit {
	limits = slices.Clone(limits)
	for i := range limits {
		l := &limits[i]
		switch l.Algorithm {
		case policy.SlidingLog:
			l.Requests = drawRequests(rt, policy.MaxSlidingLogRequests)
		case policy.SlidingCounter:
			l.Requests = drawRequests(rt, policy.MaxSlidingCounterRequests)
		case policy.Concurrency:
			l.Requests = drawRequests(rt, 4)
		case policy.TokenBucket:
			l.Requests = drawRequests(rt, policy.MaxBurst(l.WindowMs))
			l.Burst = max(1, drawRequests(rt, policy.MaxBurst(l.WindowMs)))
		default:
			l.Requests = drawRequests(rt, policy.MaxInteger)
		}
	}
	return limits
}

// TestRealTimeIsDecidedAsByTheModel lets Redis' own clock run. The model gets the time before and after each call, from
// the same clock: the answer must be right for one of the moments between.
func TestRealTimeIsDecidedAsByTheModel(t *testing.T) {
	tests := map[string]policy.Limit{
		"window":  fixedWindow(20, 100*time.Millisecond),
		"log":     slidingLog(20, 100*time.Millisecond),
		"counter": slidingCounter(20, 100*time.Millisecond),
		"bucket":  tokenBucket(50, 100*time.Millisecond, 5),
	}
	server := redistest.Start(t)
	for name, l := range tests {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				w := startOn(t, server, mode, false, one("shop/api", l))
				m := newModel()
				denials := 0
				for i := 0; i < 500 || denials == 0; i++ {
					c := w.charge("shop/api", int64(i%3))
					row, before, after := w.decideTimed(c)
					// A peek of the model, since a time that does not fit must leave nothing behind.
					row.New = false
					at := before
					for at <= after && m.one(at, c, true) != row {
						at++
					}
					if at > after {
						t.Fatalf("call %d: %+v fits no time between %d and %d: %+v … %+v", i, row, before, after,
							m.one(before, c, true), m.one(after, c, true))
					}
					if row.Allowed {
						m.one(w.chargedAt(l, c.Cost, at), c, false)
					} else {
						denials++
					}
				}
			})
		})
	}
}

// decideTimed decides between two readings of Redis' clock.
func (w *world) decideTimed(c limit.Charge) (row limit.Row, before, after int64) {
	w.tb.Helper()
	before = w.now()
	row = w.decide(c)[0]
	return row, before, w.now()
}

func (w *world) now() int64 {
	w.tb.Helper()
	now, err := w.client.Time(context.Background()).Result()
	if err != nil {
		w.tb.Fatal(err)
	}
	return now.UnixMicro()
}

// chargedAt reads back from the counter when the charge was made; windows keep only their begin.
func (w *world) chargedAt(l policy.Limit, cost, fitting int64) int64 {
	w.tb.Helper()
	if cost == 0 || l.Algorithm == policy.FixedWindow || l.Algorithm == policy.SlidingCounter {
		return fitting
	}
	state, _ := w.do("HGET", w.key("shop/api"), "default").(string)
	var signature string
	var used, at int64
	if _, err := fmt.Sscan(state, &signature, &used, &at); err != nil {
		w.tb.Fatalf("state %q: %v", state, err)
	}
	return at
}
