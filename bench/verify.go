package main

import (
	"context"
	"fmt"
	"sync"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
)

// verification tells whether a target really counted: one that answers from memory or drops counts would be faster.
type verification struct {
	// ProbeAllowed of ProbeAsked were allowed, asked by all callers at once, where the limit is ProbeLimit.
	ProbeAllowed int64 `json:"probeAllowed"`
	ProbeAsked   int64 `json:"probeAsked"`
	ProbeLimit   int64 `json:"probeLimit"`
	// Counted is what the counters of all subjects held in the end; Acknowledged is how many checks were answered OK, and
	// Unsure how many more failed or were denied, and may or may not have been counted.
	Counted      int64 `json:"counted"`
	Acknowledged int64 `json:"acknowledged"`
	Unsure       int64 `json:"unsure"`
	// KeysAdded is how many keys the target had in Redis after the first request about each subject.
	KeysAdded int64 `json:"keysAdded"`
	// Problems says what is wrong; empty when the target counts as it must.
	Problems []string `json:"problems,omitempty"`
}

// judge fills in Problems.
func (v *verification) judge(subjects int64) {
	if v.ProbeAllowed != v.ProbeLimit {
		v.Problems = append(v.Problems, fmt.Sprintf("of %d probes %d were allowed, the limit is %d", v.ProbeAsked, v.ProbeAllowed, v.ProbeLimit))
	}
	if v.Counted < v.Acknowledged || v.Counted > v.Acknowledged+v.Unsure {
		v.Problems = append(v.Problems, fmt.Sprintf("its counters hold %d, but %d checks were answered OK (and %d otherwise)", v.Counted, v.Acknowledged, v.Unsure))
	}
	if v.KeysAdded < subjects {
		v.Problems = append(v.Problems, fmt.Sprintf("it added %d keys to Redis for %d subjects", v.KeysAdded, subjects))
	}
}

// probe spends one small limit by all callers at once and counts how many were allowed.
func (t *target) probe(ctx context.Context, callers int) (allowed, asked int64, err error) {
	each := probeLimit/callers + 2 // together more than the limit
	request := requestFor(probeKey, "budget")
	got := make([]answers, callers)
	errs := make([]error, callers)
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			for range each {
				response, err := check(ctx, t.clients[i%len(t.clients)], request)
				if err != nil {
					errs[i] = err
					return
				}
				if response.GetOverallCode() == rlsv3.RateLimitResponse_OK {
					got[i].ok++
				} else {
					got[i].overLimit++
				}
			}
		})
	}
	all.Wait()
	var total answers
	for i := range got {
		if errs[i] != nil {
			return 0, 0, fmt.Errorf("probing %s: %w", t.name, errs[i])
		}
		total.add(got[i])
	}
	return total.ok, total.total(), nil
}

// sweep asks once about every subject and adds up what their counters hold, this request included.
func (t *target) sweep(ctx context.Context, callers int, requests []*rlsv3.RateLimitRequest) (counted int64, err error) {
	type part struct {
		answers answers
		counted int64
		err     error
	}
	parts := make([]part, callers)
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			p := &parts[i]
			for j := i; j < len(requests) && p.err == nil; j += callers {
				var spent int64
				spent, p.err = readCounter(ctx, t.clients[i%len(t.clients)], requests[j], &p.answers)
				p.counted += spent
			}
		})
	}
	all.Wait()
	for i := range parts {
		if parts[i].err != nil {
			return 0, fmt.Errorf("asking %s about every subject: %w", t.name, parts[i].err)
		}
		t.sent.add(parts[i].answers)
		counted += parts[i].counted
	}
	return counted, nil
}

// readCounter asks until it is answered OK, which on a machine that is busy with other things may take several
// attempts, and gives what the counter holds then. It adds all answers to sum.
func readCounter(ctx context.Context, client rlsv3.RateLimitServiceClient, request *rlsv3.RateLimitRequest, sum *answers) (int64, error) {
	const attempts = 20
	var last string
	for range attempts {
		response, err := check(ctx, client, request)
		switch {
		case err != nil:
			sum.failed++
			last = err.Error()
		case response.GetOverallCode() != rlsv3.RateLimitResponse_OK:
			sum.overLimit++
			last = response.String()
		default:
			sum.ok++
			return loadLimit - int64(response.GetStatuses()[0].GetLimitRemaining()), nil
		}
		if err := wait(ctx, failurePause); err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("a subject far below its limit was not allowed in %d attempts; the last answer: %s", attempts, last)
}
