package limit_test

import (
	"encoding/base64"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// model is what the Lua has to do, in integers of any size. Times are microseconds since 1970. What single limits do is
// in model_limits_test.go, their calendars in model_calendar_test.go, and slots in model_slots_test.go.
type model struct {
	// By key of the counter.
	counters map[string]*modelCounter
	// By key of the record.
	records map[string]modelRecord
	// By key of the counter: when it was reset.
	resets map[string]int64
	// written are the keys of the counters that were written; who wants to know forgets them before a call.
	written map[string]bool
}

func newModel() *model {
	return &model{
		counters: map[string]*modelCounter{}, records: map[string]modelRecord{}, resets: map[string]int64{}, written: map[string]bool{},
	}
}

// modelCounter is what was written of one subject.
type modelCounter struct {
	// By name of the limit.
	fields  map[string]modelField
	penalty modelPenalty
}

// modelField is the state of one limit, and what it is the state of.
type modelField struct {
	signature string
	tally     tally
}

// modelRecord is a decision or a credit that has an id.
type modelRecord struct {
	time, until, cost int64
	row               limit.Row
	// By name of the limits that were charged: what each was the state of, and the number of its last entry.
	signatures map[string]string
	last       map[string]int64
}

// minute is how long records are kept.
const minute = 60_000_000

// modelBudget is the limits that hold for a subject.
type modelBudget struct {
	limits    []policy.Limit
	unlimited bool
	override  int
}

func budgetOf(p *policy.RateLimit, values []string) modelBudget {
	for i, o := range p.Overrides {
		matches := true
		for v, pattern := range o.Values {
			matches = matches && (pattern == "" || matchesPattern(pattern, values[v]))
		}
		if matches {
			return modelBudget{limits: o.Limits, unlimited: o.Unlimited, override: i + 1}
		}
	}
	return modelBudget{limits: p.Limits}
}

func matchesPattern(pattern, value string) bool {
	return regexp.MustCompile(`(?s)^` + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, `.*`) + `$`).MatchString(value)
}

// modelView is a subject's state as it counts at one time: copies, which nobody sees before they are stored.
type modelView struct {
	charge  limit.Charge
	budget  modelBudget
	now     int64
	tallies []tally
	// fresh tells that the subject had no state.
	fresh   bool
	penalty modelPenalty
	// stale tells that even a denial has to write the state: a part of it lies in the future. Else a later call counts from
	// what is stored, and comes to the same, unless the clock goes back in between.
	stale bool
}

func (m *model) view(c limit.Charge, now int64) *modelView {
	v := &modelView{charge: c, budget: budgetOf(c.Policy, c.Values), now: now, fresh: true}
	counter := m.counters[c.Key]
	if counter == nil {
		counter = &modelCounter{}
	}
	for _, l := range v.budget.limits {
		field, found := counter.fields[l.Name]
		v.fresh = v.fresh && !found
		t, stale := newTally(l, now), false
		if found && field.signature == signatureOf(l) {
			t, stale = field.tally.at(l, now)
		}
		v.tallies = append(v.tallies, t)
		v.stale = v.stale || stale
	}
	if c.Policy.Penalty != nil {
		v.penalty = counter.penalty.at(c.Policy.Penalty, now)
		v.stale = v.stale || v.penalty.redated
	}
	return v
}

// write gives the counter of a key to write to, which it makes when there is none.
func (m *model) write(key string) *modelCounter {
	m.written[key] = true
	if m.counters[key] == nil {
		m.counters[key] = &modelCounter{fields: map[string]modelField{}}
	}
	return m.counters[key]
}

// store writes the view, charged with a cost that may be 0.
func (m *model) store(v *modelView, cost int64) {
	counter := m.write(v.charge.Key)
	for i, l := range v.budget.limits {
		v.tallies[i].charge(l, v.now, cost)
		counter.fields[l.Name] = modelField{signatureOf(l), v.tallies[i]}
	}
	if v.charge.Policy.Penalty != nil && v.penalty.matters() {
		counter.penalty = v.penalty
	}
}

// row gives the row for a cost: it binds the limit that takes longest to have room, else the one with the fewest
// requests left, of those the one that is whole again last.
func (v *modelView) row(cost *big.Int) limit.Row {
	row := limit.Row{Allowed: true, Limit: -1, Remaining: policy.MaxInteger, Reason: limit.ReasonOK, ID: v.charge.ID, Override: v.budget.override}
	if v.budget.unlimited {
		return row
	}
	var bound verdict
	var binding policy.Limit
	for i, l := range v.budget.limits {
		says := v.tallies[i].check(l, v.now, cost)
		if i == 0 || says.retry > bound.retry || bound.retry == 0 &&
			(says.remaining < bound.remaining || says.remaining == bound.remaining && says.reset > bound.reset) {
			bound, binding = says, l
		}
	}
	row.Limit, row.Remaining, row.LimitName = capacityOf(binding), bound.remaining, binding.Name
	row.Reset, row.RetryAfter = milliseconds(bound.reset), milliseconds(bound.retry)
	if bound.retry > 0 {
		row.Allowed, row.Reason = false, limit.ReasonLimit
		if row.Limit == 0 && binding.Algorithm != policy.Balance {
			row.Reason = limit.ReasonBlocked
		}
	}
	if rest := v.penalty.until - v.now; rest > 0 {
		row.Allowed, row.Remaining, row.Reason = false, 0, limit.ReasonPenalty
		row.RetryAfter = milliseconds(max(bound.retry, rest))
	}
	return row
}

func milliseconds(us int64) time.Duration {
	return time.Duration((us+999)/1000) * time.Millisecond
}

// shadowed gives the row as the caller gets it: a share of the subjects is never denied.
func shadowed(p *policy.RateLimit, key string, row limit.Row) limit.Row {
	if !row.Allowed && percentile(key)+p.ShadowPercent >= 100 {
		row.Allowed, row.RetryAfter, row.Reason = true, 0, limit.ReasonShadow
	}
	return row
}

// percentile gives the place of a subject among a hundred: by the first 24 bits of the digest in its key.
func percentile(key string) int64 {
	first, err := base64.RawURLEncoding.DecodeString(key[len("rl:{"):][:4])
	if err != nil {
		panic(err)
	}
	return new(big.Int).SetBytes(first).Int64() % 100
}

// decide is penstock_limit and penstock_limit_many.
func (m *model) decide(now int64, charges ...limit.Charge) []limit.Row {
	if len(charges) == 1 {
		return []limit.Row{m.one(now, charges[0], false)}
	}
	return m.many(now, charges)
}

func (m *model) one(now int64, c limit.Charge, peek bool) limit.Row {
	if record, found := m.recall(c.Key, "#", c.ID, now); found {
		return record.row
	}
	v := m.view(c, now)
	row := v.row(big.NewInt(c.Cost))
	if c.Cost == 0 || peek || v.budget.unlimited {
		return shadowed(c.Policy, c.Key, row)
	}
	record := modelRecord{time: now}
	if row.Allowed {
		row.New = v.fresh
		m.store(v, c.Cost)
		record.cost, record.signatures, record.last = c.Cost, v.signatures(), v.lastEntries()
	} else {
		m.denied(v, &row)
	}
	row = shadowed(c.Policy, c.Key, row)
	if c.ID != "" {
		m.remember(c.Policy, c.Key+"#"+c.ID, record, row)
	}
	return row
}

// many decides several charges: all are made, or none.
func (m *model) many(now int64, charges []limit.Charge) []limit.Row {
	rows := make([]limit.Row, len(charges))
	again, over := make([]bool, len(charges)), make([]bool, len(charges))
	views, sums := map[string]*modelView{}, map[string]*big.Int{}
	allowed := true
	for i, c := range charges {
		if views[c.Key] == nil {
			views[c.Key], sums[c.Key] = m.view(c, now), new(big.Int)
		}
		if record, found := m.recall(c.Key, "#", c.ID, now); found {
			rows[i], again[i] = record.row, true
		} else {
			v := views[c.Key]
			v.charge.ID = c.ID
			sum := new(big.Int).Add(sums[c.Key], big.NewInt(c.Cost))
			row := v.row(sum)
			over[i] = !row.Allowed
			if row.Allowed {
				sums[c.Key] = sum
			}
			rows[i] = shadowed(c.Policy, c.Key, row)
		}
		allowed = allowed && rows[i].Allowed
	}
	for key, v := range views {
		m.settle(v, charges, rows, over, allowed, sums[key])
	}
	m.note(now, charges, rows, again, over, allowed, views, sums)
	return rows
}

// settle writes what a call of many charges leaves behind at one counter.
func (m *model) settle(v *modelView, charges []limit.Charge, rows []limit.Row, over []bool, allowed bool, sum *big.Int) {
	asked, last := false, -1
	for i, c := range charges {
		if c.Key == v.charge.Key && c.Cost > 0 {
			asked = true
			if over[i] {
				last = i
			}
		}
	}
	switch {
	case !asked || v.budget.unlimited:
	case allowed && sum.Sign() > 0:
		m.store(v, sum.Int64())
	case last >= 0 && rows[last].Allowed:
		m.denied(v, &limit.Row{})
	case last >= 0:
		m.denied(v, &rows[last])
	case v.stale:
		m.store(v, 0)
	}
}

// note fills in who was new, and keeps the decisions that have an id.
func (m *model) note(
	now int64, charges []limit.Charge, rows []limit.Row, again, over []bool, allowed bool,
	views map[string]*modelView, sums map[string]*big.Int,
) {
	taken := map[string]int64{}
	for i, c := range charges {
		v := views[c.Key]
		if again[i] || c.Cost == 0 || v.budget.unlimited {
			continue
		}
		record := modelRecord{time: now}
		if takes := allowed && !over[i]; takes {
			rows[i].New = v.fresh && taken[c.Key] == 0
			taken[c.Key] += c.Cost
			record.cost, record.signatures, record.last = c.Cost, v.signatures(), v.lastEntries()
			for name := range record.last {
				// The view was charged with all of them at once.
				record.last[name] -= sums[c.Key].Int64() - taken[c.Key]
			}
		} else if !over[i] {
			continue
		}
		if c.ID != "" {
			m.remember(c.Policy, c.Key+"#"+c.ID, record, rows[i])
		}
	}
}

// signatures gives what the limits are the states of.
func (v *modelView) signatures() map[string]string {
	signatures := map[string]string{}
	for _, l := range v.budget.limits {
		signatures[l.Name] = signatureOf(l)
	}
	return signatures
}

// lastEntries gives the numbers of the last entries of the logs.
func (v *modelView) lastEntries() map[string]int64 {
	last := map[string]int64{}
	for i, l := range v.budget.limits {
		if log, is := v.tallies[i].(*logTally); is {
			last[l.Name] = log.sequence
		}
	}
	return last
}

// recall gives a record that still counts: it is not older than a minute, nor than a reset.
func (m *model) recall(counter, sign, id string, now int64) (modelRecord, bool) {
	record, found := m.records[counter+sign+id]
	reset, was := m.resets[counter]
	gone := was && now < reset+minute && reset >= record.time
	if reset > now {
		// The clock went back behind it: what seems to be of the future was made before.
		gone = was && record.time > now
	}
	return record, id != "" && found && !gone && now < record.until
}

// remember keeps a record for a minute. A denial leaves one only where a penalty counts it, until the same can succeed.
func (m *model) remember(p *policy.RateLimit, key string, record modelRecord, row limit.Row) {
	if record.cost == 0 && p.Penalty == nil {
		return
	}
	row.New = false
	record.row, record.until = row, record.time+minute
	if !row.Allowed {
		record.until = record.time + min(minute, row.RetryAfter.Microseconds())
	}
	m.records[key] = record
}

// refund gives back the cost, of a decision with an id what it was charged at most.
func (m *model) refund(now int64, c limit.Charge) limit.Row {
	v := m.view(c, now)
	if v.budget.unlimited {
		return v.row(new(big.Int))
	}
	var record *modelRecord
	cost := c.Cost
	if c.ID != "" {
		known, found := m.recall(c.Key, "#", c.ID, now)
		if !found || known.cost == 0 {
			row := m.lookAt(now, c)
			row.Reason = limit.ReasonAbsent
			return row
		}
		record, cost = &known, min(cost, known.cost)
		m.useUp(c.Key+"#"+c.ID, known, cost)
	}
	if cost > 0 && !v.fresh {
		for i, l := range v.budget.limits {
			if record == nil || record.signatures[l.Name] == signatureOf(l) {
				v.tallies[i].give(l, now, cost, record)
			}
		}
		m.store(v, 0)
	}
	return m.lookAt(now, c)
}

// useUp has a record refunded no more. A decision that was given back in part stays decided.
func (m *model) useUp(key string, record modelRecord, cost int64) {
	switch cost {
	case 0:
	case record.cost:
		delete(m.records, key)
	default:
		record.cost = 0
		m.records[key] = record
	}
}

// credit adds to each Balance, with an id once a minute. It is false when that is refused.
func (m *model) credit(now int64, c limit.Charge) (limit.Row, bool) {
	key := c.Key + "+" + c.ID
	if record, found := m.recall(c.Key, "+", c.ID, now); found {
		return record.row, true
	}
	v := m.view(c, now)
	credited := v.budget.unlimited
	for i, l := range v.budget.limits {
		if t, is := v.tallies[i].(*balanceTally); is {
			credited = true
			t.spent -= c.Cost
			if l.Requests-t.spent > policy.MaxInteger {
				return limit.Row{}, false
			}
		}
	}
	if !credited || v.budget.unlimited {
		return v.row(new(big.Int)), credited
	}
	m.store(v, 0)
	row := m.lookAt(now, c)
	if c.ID != "" {
		m.records[key] = modelRecord{time: now, until: now + minute, row: row}
	}
	return row, true
}

// reset forgets the subject, its decisions and its credits.
func (m *model) reset(now int64, c limit.Charge) limit.Row {
	if !c.Policy.IsConcurrency() {
		m.resets[c.Key] = now
	}
	delete(m.counters, c.Key)
	c.ID = ""
	if c.Policy.IsConcurrency() {
		return m.slots(now, c).row
	}
	return m.lookAt(now, c)
}

// lookAt gives what a cost of 0 would get, whatever is known of the id.
func (m *model) lookAt(now int64, c limit.Charge) limit.Row {
	return shadowed(c.Policy, c.Key, m.view(c, now).row(new(big.Int)))
}

// modelPenalty is what was counted of a subject's denials: how many since when, the end of the last block and its length.
type modelPenalty struct {
	denials, since, until, length int64
	// redated tells that times lay further in the future than they can.
	redated bool
}

// at gives what of it counts still.
func (s modelPenalty) at(p *policy.Penalty, now int64) modelPenalty {
	within, longest := p.WithinMs*1000, p.MaxMs*1000
	seen := modelPenalty{since: now, redated: s.since > now || s.until > now+longest}
	if seen.redated {
		s.since, s.until = min(s.since, now), min(s.until, now+longest)
	}
	if now-s.since < within {
		seen.denials, seen.since = s.denials, s.since
	}
	if now-s.until < longest {
		seen.until, seen.length = s.until, min(s.length, longest)
	}
	return seen
}

func (s modelPenalty) matters() bool { return s.denials > 0 || s.until > 0 || s.redated }

// denied counts a denial, unless a block refused it; the last that is waited for begins a block, and its row says so.
func (m *model) denied(v *modelView, row *limit.Row) {
	p := v.charge.Policy.Penalty
	if p == nil || v.penalty.until > v.now {
		if v.stale {
			m.store(v, 0)
		}
		return
	}
	s := &v.penalty
	if s.denials == 0 {
		s.since = v.now
	}
	if s.denials++; s.denials >= p.Denials {
		s.length = min(2*s.length, p.MaxMs*1000)
		if s.length == 0 {
			s.length = p.ForMs * 1000
		}
		s.denials, s.until = 0, v.now+s.length
		row.Remaining, row.Reason = 0, limit.ReasonPenalty
		row.RetryAfter = max(row.RetryAfter, milliseconds(s.length))
	}
	m.store(v, 0)
}

// sortedKeys makes failures the same each time.
func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
