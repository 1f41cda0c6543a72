package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/library"
)

// accuracyRequests is the limit of all that is simulated.
const accuracyRequests = 100

// Names of what the bounds of judge are for.
const (
	nameSlidingLog  = "SlidingLog"
	nameFullBucket  = "TokenBucket, burst 100"
	nameSmallBucket = "TokenBucket, burst 10"
)

// The algorithms that count by a window, the one that others are compared with first.
var accuracyAlgorithms = []algorithm{
	{nameSlidingLog, slidingLog}, {"SlidingCounter", slidingCounter}, {"FixedWindow", fixedWindow},
	{nameFullBucket, fullBucket}, {nameSmallBucket, smallBucket},
}

// retrying is the client that asks again when it was told to.
const retrying = "retries as told by retryAfter"

// mostRetryWindows bounds the simulation of that client, whose requests cannot be sent many at a time.
const mostRetryWindows = 20

// accuracyFigure is what an algorithm did to an arrival.
type accuracyFigure struct {
	Algorithm string `json:"algorithm"`
	Arrival   string `json:"arrival"`
	// Offered requests came, of which Allowed passed; Capacity is the limit times the windows.
	Offered  int64 `json:"offered"`
	Allowed  int64 `json:"allowed"`
	Capacity int64 `json:"capacity"`
	// Most passed in any sliding window.
	Most int64 `json:"mostInAnyWindow"`
	// Of the same requests, those that SlidingLog let pass and this algorithm refused, and the reverse. They are not there
	// of a client that minds the answers, since then the requests are not the same.
	FalseDenials    *int64 `json:"falseDenials,omitempty"`
	FalseAllowances *int64 `json:"falseAllowances,omitempty"`
	// What an exact sliding window, over what this algorithm itself had let pass so far, would have decided otherwise. One
	// request less than the limit in the window makes every refusal of a flood a wrong one, so it tells whether an
	// algorithm is exact, and not by how much it is not.
	WronglyRefused int64 `json:"wronglyRefused"`
	WronglyAllowed int64 `json:"wronglyAllowed"`
	// RetriedInVain is how often a client waited for retryAfter and was refused again.
	RetriedInVain int64 `json:"retriedInVain"`
}

// heldFigure is what an algorithm without a window did.
type heldFigure struct {
	Algorithm string `json:"algorithm"`
	Arrival   string `json:"arrival"`
	Offered   int64  `json:"offered"`
	Allowed   int64  `json:"allowed"`
	// Most is of Capacity: slots held at once, or what was spent of all that was there to spend.
	Most     int64 `json:"most"`
	Capacity int64 `json:"capacity"`
	// Decisions that were not right.
	WronglyRefused int64 `json:"wronglyRefused"`
	WronglyAllowed int64 `json:"wronglyAllowed"`
}

// measureAccuracy simulates in steered time. The decisions are those of the real library.
func (r *runner) measureAccuracy(ctx context.Context) ([]accuracyFigure, []heldFigure, error) {
	if err := r.client.FlushAll(ctx).Err(); err != nil {
		return nil, nil, err
	}
	var policies []*policy.RateLimit
	for i, a := range accuracyAlgorithms {
		policies = append(policies, newPolicy(fmt.Sprintf("bench/accuracy-%d", i), a.limit(accuracyRequests)))
	}
	slots := concurrency(accuracyRequests)
	slots.SlotTTLMs = (window / 2).Milliseconds()
	slotPolicy, balancePolicy := newPolicy("bench/slots", slots), newPolicy("bench/balance", balance(accuracyRequests))
	if err := publish(ctx, r.client, steerable, append(policies, slotPolicy, balancePolicy)...); err != nil {
		return nil, nil, err
	}

	var result []accuracyFigure
	for _, a := range arrivals {
		times := a.times(accuracyRequests, r.plan.windows)
		var exact []bool
		for i, p := range policies {
			figure, allowed, err := r.simulate(ctx, newSubject(p, a.name), times)
			if err != nil {
				return nil, nil, fmt.Errorf("%s, %s: %w", accuracyAlgorithms[i].name, a.name, err)
			}
			figure.Algorithm, figure.Arrival = accuracyAlgorithms[i].name, a.name
			figure.Capacity = accuracyRequests * int64(r.plan.windows)
			if figure.Algorithm == nameSlidingLog {
				exact = allowed
			}
			denials, allowances := compare(allowed, exact)
			figure.FalseDenials, figure.FalseAllowances = &denials, &allowances
			result = append(result, figure)
		}
		fmt.Fprintf(r.progress, "accuracy  %s: %d requests to each algorithm\n", a.name, len(times))
	}
	for i, p := range policies {
		figure, err := r.simulateRetries(ctx, newSubject(p, retrying), min(r.plan.windows, mostRetryWindows))
		if err != nil {
			return nil, nil, fmt.Errorf("%s, %s: %w", accuracyAlgorithms[i].name, retrying, err)
		}
		figure.Algorithm = accuracyAlgorithms[i].name
		result = append(result, figure)
	}
	fmt.Fprintf(r.progress, "accuracy  %s\n", retrying)

	held, err := r.simulateSlots(ctx, newSubject(slotPolicy, "visitors"), slots.SlotTTLMs*1000)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", slotPolicy.Name, err)
	}
	spent, err := r.simulateBalance(ctx, newSubject(balancePolicy, "spender"))
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", balancePolicy.Name, err)
	}
	return result, []heldFigure{held, spent}, nil
}

func newLedger() *ledger { return &ledger{limit: accuracyRequests, window: windowUs} }

func (l *ledger) figure() accuracyFigure {
	return accuracyFigure{
		Offered: l.offered, Allowed: int64(len(l.passed)), Most: l.most, WronglyRefused: l.wronglyRefused, WronglyAllowed: l.wronglyAllowed,
	}
}

// simulate asks at each of these times, and gives also what was allowed.
func (r *runner) simulate(ctx context.Context, s subject, times []int64) (accuracyFigure, []bool, error) {
	l := newLedger()
	allowed := make([]bool, len(times))
	err := r.askAt(ctx, len(times),
		func(n int) (int64, []any) { return times[n], s.charge(1) },
		func(n int, a answer) {
			allowed[n] = a.allowed
			l.decided(times[n], a.allowed)
		})
	return l.figure(), allowed, err
}

// askAt makes n calls at times that do not depend on the answers, and hands over the answers in order.
func (r *runner) askAt(ctx context.Context, n int, call func(n int) (at int64, command []any), answered func(n int, a answer)) error {
	const atOnce = 20 * pipelined
	for from := 0; from < n; from += atOnce {
		till := min(from+atOnce, n)
		var commands [][]any
		for i := from; i < till; i++ {
			at, command := call(i)
			commands = append(commands, setTime(at), command)
		}
		replies, err := send(ctx, r.client, commands)
		if err != nil {
			return err
		}
		for i := from; i < till; i++ {
			a, err := parseAnswer(replies[2*(i-from)+1])
			if err != nil {
				return err
			}
			answered(i, a)
		}
	}
	return nil
}

// simulateRetries is a client that has always something to send: after an answer that allows it asks again soon, at ten
// times the limit, and after a refusal when it was told to.
func (r *runner) simulateRetries(ctx context.Context, s subject, windows int) (accuracyFigure, error) {
	l := newLedger()
	var inVain int64
	waited := false
	for at := int64(0); at < int64(windows)*windowUs; {
		replies, err := send(ctx, r.client, [][]any{setTime(at), s.charge(1)})
		if err != nil {
			return accuracyFigure{}, err
		}
		a, err := parseAnswer(replies[1])
		if err != nil {
			return accuracyFigure{}, err
		}
		l.decided(at, a.allowed)
		if a.allowed {
			at += windowUs / (10 * accuracyRequests)
		} else {
			if waited {
				inVain++
			}
			at += max(a.retryAfter.Microseconds(), 1)
		}
		waited = !a.allowed
	}
	figure := l.figure()
	figure.Arrival, figure.Capacity, figure.RetriedInVain = retrying, accuracyRequests*int64(windows), inVain
	return figure, nil
}

// simulateSlots lets visits acquire slots and release them, whether they got them or not. ttl is that of the slots, in
// microseconds.
func (r *runner) simulateSlots(ctx context.Context, s subject, ttl int64) (heldFigure, error) {
	all := visits(accuracyRequests, r.plan.windows)
	order := steps(all)
	h := &holders{slots: accuracyRequests, ttl: ttl, until: map[int]int64{}}
	err := r.askAt(ctx, len(order),
		func(n int) (int64, []any) {
			id := "visit-" + strconv.Itoa(order[n].visit)
			if order[n].acquire {
				return order[n].at, s.fcall(library.SlotAcquireScript, id, "")
			}
			return order[n].at, s.fcall(library.SlotReleaseScript, id)
		},
		func(n int, a answer) {
			if order[n].acquire {
				h.acquired(order[n].at, order[n].visit, all[order[n].visit].ends, a.allowed)
			}
		})
	return heldFigure{
		Algorithm: policy.Concurrency, Arrival: "twice as many wanted as there are slots, one in ten never released",
		Offered: h.offered, Allowed: h.allowed, Most: h.most, Capacity: accuracyRequests,
		WronglyRefused: h.wronglyRefused, WronglyAllowed: h.wronglyAllowed,
	}, err
}

// simulateBalance spends more than there is, in costs of 1 to 5, and is credited now and then.
func (r *runner) simulateBalance(ctx context.Context, s subject) (heldFigure, error) {
	const creditEvery, credit = 50, 75 // half of what is asked for
	n := r.plan.windows * accuracyRequests
	random := rand.New(rand.NewPCG(seed, 0))
	amounts := make([]int64, n)
	for i := range amounts {
		amounts[i] = 1 + random.Int64N(5)
	}
	f := heldFigure{Algorithm: policy.Balance, Arrival: "costs of 1 to 5, twice what is there, credited now and then", Capacity: accuracyRequests}
	err := r.askAt(ctx, n,
		func(n int) (int64, []any) {
			if n%creditEvery == creditEvery-1 {
				return 0, s.fcall(library.LimitCreditScript, credit, "")
			}
			return 0, s.charge(amounts[n])
		},
		func(n int, a answer) {
			if n%creditEvery == creditEvery-1 {
				f.Capacity += credit
				return
			}
			f.Offered++
			enough := f.Most+amounts[n] <= f.Capacity
			switch {
			case a.allowed && !enough:
				f.WronglyAllowed++
			case !a.allowed && enough:
				f.WronglyRefused++
			}
			if a.allowed {
				f.Allowed++
				f.Most += amounts[n]
			}
		})
	return f, err
}
