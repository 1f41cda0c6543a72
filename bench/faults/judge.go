package main

import (
	"slices"
	"time"
)

// settled is for how long all answers must be enforced to be taken for normal again. A single one that is degraded later is
// the machine's noise, and counted by itself.
const settled = time.Second

// span is a part of a load, in times since it began: from the first to before the second.
type span struct{ from, to time.Duration }

// between gives the answers that were sent in a span.
func between(answers []answer, s span) []answer {
	return where(answers, func(a answer) bool { return s.from <= a.sent && a.sent < s.to })
}

// where gives the answers for which keep is true.
func where(answers []answer, keep func(answer) bool) []answer {
	return slices.DeleteFunc(slices.Clone(answers), func(a answer) bool { return !keep(a) })
}

// count gives how many answers were of an outcome.
func count(answers []answer, of outcome) int {
	return len(where(answers, func(a answer) bool { return a.outcome == of }))
}

// longest gives the greatest latency; 0 of no answers.
func longest(answers []answer) time.Duration { return quantile(answers, 1) }

// quantile gives the least latency that so large a share of the answers (0 to 1) did not exceed; 0 of no answers.
func quantile(answers []answer, share float64) time.Duration {
	if len(answers) == 0 {
		return 0
	}
	latencies := make([]time.Duration, len(answers))
	for i, a := range answers {
		latencies[i] = a.latency
	}
	slices.Sort(latencies)
	// The rank that is rounded up, as 99 of 100 and the last of 3.
	rank := int(share*float64(len(latencies)) + 0.999999)
	return latencies[min(max(rank, 1), len(latencies))-1]
}

// normalAfter gives how long after an event answers were normal again: from then on all that were sent within settled were
// enforced, and there were some. It is false when that did not happen before the end of the answers.
func normalAfter(answers []answer, event time.Duration) (time.Duration, bool) {
	// The last answer that was not enforced, of those that are in the way of the moment that is looked for.
	since := event
	seen := false
	for _, a := range between(answers, span{event, 1<<63 - 1}) {
		switch {
		case a.outcome == enforced && a.sent >= since+settled && seen:
			return since - event, true
		case a.outcome == enforced:
			seen = true
		default:
			since, seen = max(since, a.at()), false
		}
	}
	return 0, false
}

// firstAfter gives how long after an event the first answer came that was enforced and sent after it; false when none did.
func firstAfter(answers []answer, event time.Duration) (time.Duration, bool) {
	for _, a := range between(answers, span{event, 1<<63 - 1}) {
		if a.outcome == enforced {
			return a.at() - event, true
		}
	}
	return 0, false
}
