package limit_test

import (
	"math/big"
	"slices"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// model is what the Lua has to do, in integers of any size, for one counter. Times are microseconds.
type model struct {
	states map[string]*modelState
}

// modelState is that of one limit.
type modelState struct {
	algorithm string
	windowMs  int64
	// window: its begin, and what is used.
	begin, used int64
	// log: the times of the entries.
	entries []int64
	// bucket: units that are used, since which tick.
	units *big.Int
	tick  int64
}

// verdict is what one limit says.
type verdict struct {
	capacity, remaining int64
	reset, retry        int64
}

// state gives the state of a limit at now: anew when there is none for it, without what time has taken.
func (m *model) state(l policy.Limit, now int64) *modelState {
	s := m.states[l.Name]
	if s == nil || s.algorithm != l.Algorithm || s.windowMs != l.WindowMs {
		s = &modelState{algorithm: l.Algorithm, windowMs: l.WindowMs, units: new(big.Int), begin: -1, tick: -1}
	} else {
		// A copy: looking changes nothing.
		s = &modelState{
			algorithm: s.algorithm, windowMs: s.windowMs, begin: s.begin, used: s.used,
			entries: slices.Clone(s.entries), units: new(big.Int).Set(s.units), tick: s.tick,
		}
	}
	window := l.WindowMs * 1000
	switch l.Algorithm {
	case policy.FixedWindow:
		begin := now / window * window
		if s.begin < begin {
			s.used = 0
		}
		s.begin = begin
	case policy.SlidingLog:
		kept := s.entries[:0]
		for _, at := range s.entries {
			if at = min(at, now); at > now-window {
				kept = append(kept, at)
			}
		}
		s.entries = kept
	case policy.TokenBucket:
		tick := now / l.TickUs
		if elapsed := tick - s.tick; s.tick >= 0 && elapsed > 0 {
			refill := new(big.Int).Mul(big.NewInt(elapsed), big.NewInt(l.Requests))
			if s.units.Sub(s.units, refill); s.units.Sign() < 0 {
				s.units.SetInt64(0)
			}
		}
		if full := units(l, l.Burst); l.Requests > 0 && s.units.Cmp(full) > 0 {
			s.units = full
		}
		s.tick = tick
	}
	return s
}

// units gives tokens in units of a token for a tick.
func units(l policy.Limit, tokens int64) *big.Int {
	return new(big.Int).Mul(big.NewInt(tokens), big.NewInt(l.WindowMs*1000/l.TickUs))
}

// ticksFor gives how many ticks refill that many units, rounded up, as a time from now that is at most 2^53-1.
func (s *modelState) untilRefilled(l policy.Limit, u *big.Int, now int64) int64 {
	if l.Requests == 0 {
		return l.WindowMs * 1000
	}
	ticks := new(big.Int).Add(u, big.NewInt(l.Requests-1))
	ticks.Quo(ticks, big.NewInt(l.Requests))
	at := ticks.Mul(ticks.Add(ticks, big.NewInt(s.tick)), big.NewInt(l.TickUs))
	at.Sub(at, big.NewInt(now))
	if at.Cmp(big.NewInt(policy.MaxInteger)) > 0 {
		return policy.MaxInteger
	}
	return at.Int64()
}

// check tells what the limit says to a cost.
func (s *modelState) check(l policy.Limit, now int64, cost *big.Int) verdict {
	window := l.WindowMs * 1000
	v := verdict{capacity: l.Requests}
	if l.Algorithm == policy.TokenBucket && l.Requests > 0 {
		v.capacity = l.Burst
	}
	never := cost.Cmp(big.NewInt(v.capacity)) > 0

	if l.Algorithm == policy.TokenBucket {
		full := units(l, v.capacity)
		unit := units(l, 1)
		after := new(big.Int).Add(s.units, new(big.Int).Mul(cost, unit))
		over := new(big.Int).Sub(after, full)
		if over.Sign() > 0 {
			after = s.units
			v.retry = window
			if !never {
				v.retry = s.untilRefilled(l, over, now)
			}
		}
		if left := new(big.Int).Sub(full, after); left.Sign() > 0 {
			v.remaining = left.Quo(left, unit).Int64()
		}
		if after.Sign() > 0 {
			v.reset = s.untilRefilled(l, after, now)
		}
		return v
	}

	used := s.used
	if l.Algorithm == policy.SlidingLog {
		used = int64(len(s.entries))
	}
	after := new(big.Int).Add(big.NewInt(used), cost)
	fits := after.Cmp(big.NewInt(v.capacity)) <= 0
	charged := fits && cost.Sign() > 0
	v.remaining = max(v.capacity-used, 0)
	if charged {
		v.remaining = v.capacity - after.Int64()
	}
	if l.Algorithm == policy.FixedWindow {
		if used > 0 || charged {
			v.reset = s.begin + window - now
		}
		if !fits {
			v.retry = s.begin + window - now
		}
	} else {
		if charged {
			v.reset = window
		} else if used > 0 {
			v.reset = slices.Max(s.entries) + window - now
		}
		if !fits && !never {
			sorted := slices.Sorted(slices.Values(s.entries))
			v.retry = sorted[after.Int64()-v.capacity-1] + window - now
		}
	}
	if !fits && never {
		v.retry = window
	}
	return v
}

// charge puts a cost into the state.
func (s *modelState) charge(l policy.Limit, now, cost int64) {
	switch l.Algorithm {
	case policy.FixedWindow:
		s.used += cost
	case policy.SlidingLog:
		for range cost {
			s.entries = append(s.entries, now)
		}
	case policy.TokenBucket:
		s.units.Add(s.units, units(l, cost))
	}
}

// whole tells how long, in microseconds, the state has to be remembered.
func (s *modelState) whole(l policy.Limit, now int64) int64 {
	return s.check(l, now, new(big.Int)).reset
}

// row gives the row for a cost.
func (m *model) row(p *policy.RateLimit, now int64, cost *big.Int) limit.Row {
	var binding verdict
	var name string
	for i, l := range p.Limits {
		v := m.state(l, now).check(l, now, cost)
		if i == 0 || v.retry > binding.retry || binding.retry == 0 &&
			(v.remaining < binding.remaining || v.remaining == binding.remaining && v.reset > binding.reset) {
			binding, name = v, l.Name
		}
	}
	row := limit.Row{
		Allowed: binding.retry == 0, Limit: binding.capacity, Remaining: binding.remaining, LimitName: name,
		Reset: milliseconds(binding.reset), RetryAfter: milliseconds(binding.retry), Reason: limit.ReasonOK,
	}
	if !row.Allowed {
		row.Reason = limit.ReasonLimit
	}
	return row
}

func milliseconds(us int64) time.Duration {
	return time.Duration((us+999)/1000) * time.Millisecond
}

// settle charges the cost, or (0) notes the time, as a denial does when stale.
func (m *model) settle(p *policy.RateLimit, now, cost int64) {
	for _, l := range p.Limits {
		s := m.state(l, now)
		s.charge(l, now, cost)
		m.states[l.Name] = s
	}
}

// stale tells whether even a denial has to write the states: where one of them lies in the future, and for a bucket that
// is in debt since its burst was lowered. Else a later call counts from what is stored, and comes to the same, unless the
// clock goes back in between.
func (m *model) stale(p *policy.RateLimit, now int64) bool {
	for _, l := range p.Limits {
		s := m.states[l.Name]
		if s == nil || s.algorithm != l.Algorithm || s.windowMs != l.WindowMs {
			continue
		}
		window := l.WindowMs * 1000
		switch l.Algorithm {
		case policy.FixedWindow:
			if s.begin > now/window*window {
				return true
			}
		case policy.SlidingLog:
			if len(s.entries) > 0 && slices.Max(s.entries) > now {
				return true
			}
		case policy.TokenBucket:
			if s.tick > now/l.TickUs {
				return true
			}
			refill := new(big.Int).Mul(big.NewInt(now/l.TickUs-s.tick), big.NewInt(l.Requests))
			if l.Requests > 0 && new(big.Int).Sub(s.units, refill).Cmp(units(l, l.Burst)) > 0 {
				return true
			}
		}
	}
	return false
}
