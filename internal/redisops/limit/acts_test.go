package limit_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// act is one operation in steered time, and what it must answer.
type act struct {
	at time.Duration
	// change, when it has a name, is published first.
	change policy.RateLimit
	// do is: charge, peek, refund or credit, and how much; reset; acquire or release. "#a" behind it is the id a, of a slot
	// "#a 10s" with its TTL.
	do string
	// want is as of showAll, or how the error begins.
	want string
}

// playOne makes the acts, one after the other, on the policy shop/api for the subject that is the values.
func (w *world) playOne(t *testing.T, acts []act, values ...string) {
	t.Helper()
	for i, a := range acts {
		if a.change.Name != "" {
			w.publish(a.change)
		}
		if w.steered {
			w.steer(a.at)
		}
		if got := w.act(a.do, values...); got != a.want && !(strings.HasPrefix(a.want, "PENSTOCK_") && strings.HasPrefix(got, a.want)) {
			t.Fatalf("act %d, %s: %s, want %s", i, a.do, got, a.want)
		}
	}
}

// act makes an act and shows its row, or its error from "PENSTOCK_" on.
func (w *world) act(do string, values ...string) string {
	w.tb.Helper()
	row, err := w.try(do, values...)
	if err != nil {
		_, refusal, found := strings.Cut(err.Error(), "PENSTOCK_")
		if !found {
			w.tb.Fatalf("%s: %v", do, err)
		}
		return "PENSTOCK_" + refusal
	}
	return showAll(row)
}

func (w *world) try(do string, values ...string) (limit.Row, error) {
	w.tb.Helper()
	ctx := context.Background()
	words := strings.Fields(do)
	charge := w.charge("shop/api", 0, values...)
	slot := limit.Slot{Policy: charge.Policy, Key: charge.Key, Values: values}
	for _, word := range words[1:] {
		if id, is := strings.CutPrefix(word, "#"); is {
			charge.ID, slot.ID = id, id
		} else if ttl, err := time.ParseDuration(word); err == nil && words[0] == "acquire" {
			slot.TTL = ttl
		} else if charge.Cost, err = strconv.ParseInt(word, 10, 64); err != nil {
			w.tb.Fatalf("%s: %v", do, err)
		}
	}
	switch words[0] {
	case "charge", "peek":
		ask := w.limiter.Decide
		if words[0] == "peek" {
			ask = w.limiter.Peek
		}
		rows, err := ask(ctx, []limit.Charge{charge})
		if err != nil {
			return limit.Row{}, err
		}
		return rows[0], nil
	case "refund":
		return w.limiter.Refund(ctx, charge)
	case "credit":
		return w.limiter.Credit(ctx, charge)
	case "reset":
		return w.limiter.Reset(ctx, charge)
	case "acquire":
		return w.limiter.AcquireSlot(ctx, slot)
	case "release":
		return w.limiter.ReleaseSlot(ctx, slot)
	}
	w.tb.Fatalf("no act is called %s", words[0])
	return limit.Row{}, nil
}

// showAll gives a row as show does, and what of reason and override says more than that.
func showAll(r limit.Row) string {
	text := show(r)
	if r.Reason != limit.ReasonOK && r.Reason != limit.ReasonLimit {
		text += " " + r.Reason
	}
	if r.Override != 0 {
		text += fmt.Sprintf(" override %d", r.Override)
	}
	return text
}
