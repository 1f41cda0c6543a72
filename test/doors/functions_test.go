package doors

import (
	"strings"
	"testing"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
)

// askFunctions calls the function library, as whoever cooperates may: for all policies of the sequence that the subject has
// the values of. Which these are is for the caller to know, and so is the counter's key.
func askFunctions(t *testing.T, w *world, q *question) told {
	var keys, args []any
	var names []string
	for i := range q.policies {
		p := &q.policies[i]
		entries, found := q.entries(p)
		if !found || len(q.policies) > 1 && (p.IsConcurrency() || !fits(p, entries)) {
			continue
		}
		names = append(names, p.Name)
		keys = append(keys, redisops.CounterKey(p.Name, counted(p, entries)))
		cost := any(q.cost)
		switch {
		case q.cost != unsaid:
		case p.CostExpression != "":
			cost = 1 // such a policy has none of its own that could be left out
		default:
			cost = ""
		}
		args = append(args, p.Name, cost, "")
		for _, e := range entries {
			args = append(args, e.Value)
		}
	}
	if len(names) == 0 {
		return told{allowed: true} // there is nobody to ask
	}
	call := append([]any{"FCALL", "penstock_limit_many", len(keys)}, append(keys, args...)...)
	if len(names) == 1 {
		call[1] = "penstock_limit"
	}
	reply, err := w.redis.Do(t.Context(), call...).Slice()
	if err != nil {
		return refusal(err)
	}
	if len(names) == 1 {
		reply = []any{reply}
	}
	return ofRows(reply, names)
}

// fits tells whether the values are those that the policy is for; wildcards stand at the end of these only.
func fits(p *policy.RateLimit, entries []redisops.Entry) bool {
	for i, e := range entries {
		of, prefix := strings.CutSuffix(p.Descriptors[i].Value, "*")
		if of != "" && e.Value != of && !(prefix && strings.HasPrefix(e.Value, of)) {
			return false
		}
	}
	return true
}

// counted gives the entries that the policy counts by: of a shared descriptor the pattern.
func counted(p *policy.RateLimit, entries []redisops.Entry) []redisops.Entry {
	subject := make([]redisops.Entry, len(entries))
	for i, e := range entries {
		if p.Descriptors[i].Shared {
			e.Value = p.Descriptors[i].Value
		}
		subject[i] = e
	}
	return subject
}

// refusal gives what an error of a function tells. A function is not asked about who does not fit the policy, and says so.
func refusal(err error) told {
	text := err.Error()
	switch {
	case strings.HasPrefix(text, "PENSTOCK_BADARG") && strings.Contains(text, " is for "):
		return told{allowed: true, mode: "unmatched"}
	case strings.HasPrefix(text, "PENSTOCK_BADARG") && strings.Contains(text, "want at most 256"):
		return told{refused: true}
	}
	code, _, _ := strings.Cut(text, " ")
	return told{failure: code}
}

// ofRows gives what the rows of those policies tell together. The reasons are told when there is only one.
func ofRows(rows []any, names []string) told {
	got := told{allowed: true, known: true, timed: true}
	for i := range rows {
		row := rows[i].([]any)
		f := figure{reported(names[i], row[5].(string)), row[1].(int64), row[2].(int64)}
		got.figures = append(got.figures, f)
		if row[0].(int64) == 0 {
			got.allowed = false
			got.retry = max(got.retry, milliseconds(row[4].(int64)))
		}
		if len(rows) == 1 {
			got.reason = row[6].(string)
		}
	}
	return got
}
