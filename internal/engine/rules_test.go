package engine

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
)

func TestConditionsDecideWhetherAPolicyApplies(t *testing.T) {
	user := rateLimit("user", "user", "")
	for name, test := range map[string]struct {
		policies []policy.RateLimit
		request  tuple
		want     []string
	}{
		"true":  {[]policy.RateLimit{when(user, "true")}, tuple{"user", "bob"}, []string{"shop/user"}},
		"false": {[]policy.RateLimit{when(user, "false")}, tuple{"user", "bob"}, nil},
		"all have to hold": {
			[]policy.RateLimit{when(user, `request.domain == "shop"`, `request.descriptors["user"] == "eve"`)}, tuple{"user", "bob"}, nil,
		},
		"of the descriptor's entries": {
			[]policy.RateLimit{when(user, `request.descriptors["user"].startsWith("b")`)}, tuple{"user", "bob"}, []string{"shop/user"},
		},
		"the first entry of a key counts": {
			[]policy.RateLimit{when(rateLimit("twice", "user", "", "user", ""), `request.descriptors["user"] == "bob"`)},
			tuple{"user", "bob", "user", "eve"}, []string{"shop/twice"},
		},
		"the less specific applies where the condition does not hold": {
			[]policy.RateLimit{user, when(rateLimit("wild", "user", "b*"), `request.descriptors["user"] != "bob"`), when(rateLimit("exact", "user", "bob"), "false")},
			tuple{"user", "bob"}, []string{"shop/user"},
		},
		"and does not where it holds": {
			[]policy.RateLimit{user, when(rateLimit("wild", "user", "b*"), "true"), when(rateLimit("exact", "user", "bob"), "false")},
			tuple{"user", "bob"}, []string{"shop/wild"},
		},
		"of equal ones, those apply whose conditions hold": {
			[]policy.RateLimit{when(rateLimit("a", "user", ""), "false"), when(rateLimit("b", "user", ""), "true"), user},
			tuple{"user", "bob"}, []string{"shop/b", "shop/user"},
		},
		"without descriptors": {[]policy.RateLimit{when(rateLimit("whole"), `request.descriptors["user"] == "bob"`)}, tuple{"user", "bob"}, []string{"shop/whole"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, test.policies...)
			w.decide(t, test.request)
			if got := w.store.lastPolicies(); !slices.Equal(got, test.want) {
				t.Errorf("charged %q, want %q", got, test.want)
			}
			if n := len(w.series(t, "penstock_expression_errors_total")); n != 0 {
				t.Errorf("%d series of errors, want none", n)
			}
		})
	}
}

func TestAPolicyOfTheWholeRequestSeesAllDescriptors(t *testing.T) {
	w := newWorld(t, when(rateLimit("whole"), `request.descriptors["user"] == "bob"`, `request.descriptors["path"] == "/a"`))
	w.decide(t, tuple{"path", "/a"}, tuple{"user", "bob"}, tuple{"user", "eve"})
	if got := w.store.lastPolicies(); !slices.Equal(got, []string{"shop/whole"}) {
		t.Errorf("charged %q, want shop/whole", got)
	}
}

func TestADescriptorsConditionSeesNoOtherDescriptor(t *testing.T) {
	w := newWorld(t, when(rateLimit("user", "user", ""), `!("path" in request.descriptors)`))
	w.decide(t, tuple{"path", "/a"}, tuple{"user", "bob"})
	if got := w.store.lastPolicies(); !slices.Equal(got, []string{"shop/user"}) {
		t.Errorf("charged %q, want shop/user", got)
	}
}

func TestWhatARequestCosts(t *testing.T) {
	user := rateLimit("user", "user", "")
	dear := with(user, func(r *policy.RateLimit) { r.Cost = 5 })
	expression := costing(user, `request.descriptors["user"] == "bob" ? 7 * request.cost : 1`)
	for name, test := range map[string]struct {
		policy policy.RateLimit
		said   int64
		want   int64
	}{
		"nobody says anything":                {user, PolicyCost, 1},
		"the policy's":                        {dear, PolicyCost, 5},
		"the expression's, of a cost of 1":    {expression, PolicyCost, 7},
		"the caller's before the policy's":    {dear, 2, 2},
		"only a look":                         {dear, 0, 0},
		"the caller's before the expression":  {expression, 2, 2},
		"the caller's before one that fails":  {costing(user, `int(request.path)`), 2, 2},
		"an expression of 0 only looks":       {costing(user, "0"), PolicyCost, 0},
		"the condition sees the caller's":     {when(dear, "request.cost == 3"), 3, 3},
		"the condition sees 1 without":        {when(dear, "request.cost == 1"), PolicyCost, 5},
		"a condition beside an expression":    {when(expression, `request.descriptors["user"] == "bob"`), PolicyCost, 7},
		"the largest that can be":             {costing(user, "9007199254740991"), PolicyCost, policy.MaxInteger},
		"the largest that a caller could say": {user, policy.MaxInteger, policy.MaxInteger},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, test.policy)
			w.decideAt(t, test.said, tuple{"user", "bob"})
			if got := w.store.last(); len(got) != 1 || got[0].Cost != test.want {
				t.Errorf("charged %+v, want %d", got, test.want)
			}
		})
	}
}

func TestThePolicysCostCountsAmongTheCostsOfDescriptors(t *testing.T) {
	dear := with(rateLimit("whole"), func(r *policy.RateLimit) { r.Cost = 5 })
	for name, test := range map[string]struct {
		policy policy.RateLimit
		costs  []int64
		want   int64
	}{
		"all leave it to the policy":  {dear, []int64{PolicyCost, PolicyCost}, 5},
		"one says less":               {dear, []int64{2, PolicyCost}, 5},
		"one says more":               {dear, []int64{PolicyCost, 7}, 7},
		"all say":                     {dear, []int64{2, 3}, 3},
		"the expression's is largest": {costing(rateLimit("whole"), "request.cost * 9"), []int64{2, PolicyCost}, 9},
		"a descriptor says more":      {costing(rateLimit("whole"), "request.cost * 9"), []int64{PolicyCost, 10}, 10},
		"the condition sees the most": {when(dear, "request.cost == 7"), []int64{PolicyCost, 7}, 7},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, test.policy)
			r := NewRequest("shop")
			defer r.Release()
			for _, cost := range test.costs {
				r.Descriptor(cost)
				r.Entry("nobody", "cares")
			}
			if _, err := w.Decide(t.Context(), DoorRLS, r); err != nil {
				t.Fatal(err)
			}
			if got := w.store.last(); len(got) != 1 || got[0].Cost != test.want {
				t.Errorf("charged %+v, want once %d", got, test.want)
			}
		})
	}
}

func TestAPolicyWhoseConditionFailsDoesNotApply(t *testing.T) {
	w := newWorld(t, rateLimit("any", "user", ""), when(rateLimit("exact", "user", "secret-user"), `request.path == "/"`))
	for range 3 {
		w.decideAt(t, PolicyCost, tuple{"user", "secret-user"})
		if got := w.store.lastPolicies(); !slices.Equal(got, []string{"shop/any"}) {
			t.Errorf("charged %q, want the less specific one", got)
		}
	}
	w.failedThrice(t)
}

// What a client sends may be no way around a limit, so what has no value is charged all the same.
func TestACostThatFailsIsOne(t *testing.T) {
	for name, expression := range map[string]string{
		"no number": `int(request.descriptors["user"])`, "out of range": "0 - request.cost", "absent": `int(request.header["x-size"])`,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rateLimit("any", "user", ""), costing(rateLimit("exact", "user", "secret-user"), expression))
			for range 3 {
				w.decideAt(t, PolicyCost, tuple{"user", "secret-user"})
				if got := w.store.last(); len(got) != 1 || got[0].Policy.Name != "shop/exact" || got[0].Cost != 1 {
					t.Errorf("charged %+v, want 1 of the policy", got)
				}
			}
			w.failedThrice(t)
		})
	}
}

// failedThrice checks what is told of an expression of shop/exact that failed three times.
func (w *world) failedThrice(t *testing.T) {
	t.Helper()
	if got := w.series(t, "penstock_expression_errors_total"); fmt.Sprint(got) != "map[namespace=shop,policy=exact:3]" {
		t.Errorf("counted %v, want 3", got)
	}
	text := w.log.String()
	if strings.Count(text, "\n") != 1 || !strings.Contains(text, "level=WARN") || !strings.Contains(text, "policy=shop/exact") {
		t.Errorf("logged\n%s\nwant one line that names the policy", text)
	}
	if strings.Contains(text, "secret-user") || strings.Contains(strings.Join(w.told, ""), "secret-user") {
		t.Errorf("the request's value is in the log or in what was told:\n%s\n%q", text, w.told)
	}
}

func TestAnExpressionThatFailsIsToldOfOnceAMinute(t *testing.T) {
	w := newWorld(t, when(rateLimit("user", "user", ""), "true", `int(request.descriptors["user"]) > 0`),
		costing(rateLimit("tenant", "tenant", ""), "1 / (request.cost - 1)"))
	ask := func() {
		w.decide(t, tuple{"user", "secret"})
		w.decideAt(t, PolicyCost, tuple{"tenant", "x"})
		w.decide(t, tuple{"user", "7"})
	}
	for range 60 {
		ask()
		w.clock.advance(time.Second)
	}
	want := []string{"shop/user when[1]: 1:4: bad conversion", "shop/tenant cost: 1:3: division by zero"}
	if !slices.Equal(w.told, want) {
		t.Errorf("told %q within a minute, want %q", w.told, want)
	}
	ask()
	if !slices.Equal(w.told, append(want, want...)) {
		t.Errorf("told %q after it, want all again", w.told)
	}
}

func TestAnExpressionThatDoesNotCompileIsToldOf(t *testing.T) {
	w := newWorld(t, when(rateLimit("user", "user", ""), "request.nothing"))
	w.decide(t, tuple{"user", "bob"})
	if len(w.told) != 1 || !strings.HasPrefix(w.told[0], "shop/user ") || !strings.Contains(w.told[0], "nothing") {
		t.Errorf("told %q, want what is wrong", w.told)
	}
}

func TestAnExpressionThatFailsIsLoggedOnceForEachTransition(t *testing.T) {
	w := newWorld(t, when(rateLimit("user", "user", ""), `int(request.descriptors["user"]) > 0`))
	for range 3 {
		w.decide(t, tuple{"user", "bob"}) // no number
		w.decide(t, tuple{"user", "7"})
		w.clock.advance(time.Second)
	}
	if n := strings.Count(w.log.String(), "\n"); n != 1 {
		t.Errorf("%d lines while some requests fail, want 1:\n%s", n, w.log)
	}
	w.clock.advance(TransitionHold)
	w.decide(t, tuple{"user", "7"})
	w.decide(t, tuple{"user", "bob"})
	lines := strings.Split(strings.TrimSpace(w.log.String()), "\n")
	if len(lines) != 3 || !strings.Contains(lines[1], "level=INFO") || !strings.Contains(lines[2], "level=WARN") {
		t.Errorf("logged\n%s\nwant its end and the next beginning", w.log)
	}
}

// A value that an expression cannot look at must be no way around the policy.
func TestAValueTooLongForAnExpressionIsTheRequestsError(t *testing.T) {
	long := strings.Repeat("x", MaxValueBytes+1)
	condition := when(rateLimit("p", "user", ""), `request.path.startsWith("/api")`)
	cost := costing(rateLimit("p", "user", ""), `request.header["x-size"] == "big" ? 2 : 1`)
	for name, test := range map[string]struct {
		policy     policy.RateLimit
		attributes []string
		want       string
	}{
		"in a condition":            {condition, []string{"user", "bob", "path", long}, "path: 257 bytes, want at most 256"},
		"in a cost":                 {cost, []string{"user", "bob", "header.x-size", long}, "header.x-size: 257 bytes, want at most 256"},
		"where nothing looks at it": {condition, []string{"user", "bob", "path", "/api", "header.x-size", long}, ""},
		"where the answer is known": {when(condition, "false", condition.When[0]), []string{"user", "bob", "path", long}, ""},
		"where the descriptors do not fit": {
			with(condition, func(r *policy.RateLimit) { r.Descriptors = []policy.Descriptor{{Key: "user", Value: "eve"}} }),
			[]string{"user", "bob", "path", long}, "",
		},
	} {
		for via, decide := range map[string]func(*world) error{
			"policy": func(w *world) error {
				_, err := w.DecidePolicy(t.Context(), DoorForwardAuth, Call{Policy: "shop/p", Lookup: lookupIn(test.attributes...), Cost: PolicyCost})
				return err
			},
			"domain": func(w *world) error {
				_, err := w.DecideAttributes(t.Context(), DoorForwardAuth, "shop", lookupIn(test.attributes...), PolicyCost)
				return err
			},
		} {
			t.Run(name+", by "+via, func(t *testing.T) {
				w := newWorld(t, test.policy)
				err := decide(w)
				var tooLong *ValueTooLongError
				switch {
				case test.want == "" && err != nil:
					t.Errorf("%v, want a decision", err)
				case test.want != "" && (!errors.As(err, &tooLong) || err.Error() != test.want):
					t.Errorf("%v, want %s", err, test.want)
				}
				if test.want != "" && len(w.store.calls) > 0 {
					t.Error("redis was asked")
				}
			})
		}
	}
}

func TestAnExpressionThatDoesNotCompileAppliesToNothing(t *testing.T) {
	for name, foreign := range map[string]policy.RateLimit{
		"condition": when(rateLimit("exact", "user", "bob"), "true", "request.nonsense == 1"),
		"cost":      costing(rateLimit("exact", "user", "bob"), `"three"`),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.Use(validSet(t, foreign, rateLimit("any", "user", "")))
			if text := w.log.String(); strings.Count(text, "level=ERROR") != 1 || !strings.Contains(text, "policy=shop/exact") {
				t.Errorf("logged\n%s\nwant one error that names the policy", text)
			}
			w.decide(t, tuple{"user", "bob"})
			if got := w.store.lastPolicies(); !slices.Equal(got, []string{"shop/any"}) {
				t.Errorf("charged %q, want the less specific one", got)
			}
			if got := w.series(t, "penstock_expression_errors_total")["namespace=shop,policy=exact"]; got != 2 {
				t.Errorf("counted %v, want the set's and the request's", got)
			}
			w.log.Reset()
			w.Use(validSet(t, foreign, rateLimit("other", "user", "")))
			if text := w.log.String(); strings.Contains(text, "level=ERROR") {
				t.Errorf("the next set with the same policy logged\n%s\nwant nothing of it", text)
			}
			w.decide(t, tuple{"user", "bob"})
			if got := w.store.lastPolicies(); !slices.Equal(got, []string{"shop/other"}) {
				t.Errorf("charged %q in the next set, want the less specific one", got)
			}
			w.Use(validSet(t, rateLimit("exact", "user", "bob")))
			w.decide(t, tuple{"user", "bob"})
			if got := w.store.lastPolicies(); !slices.Equal(got, []string{"shop/exact"}) {
				t.Errorf("charged %q, want the policy that was mended", got)
			}
		})
	}
}

func TestExpressionsThatDidNotChangeAreNotCompiledAgain(t *testing.T) {
	same, changed := when(rateLimit("same", "user", ""), "true"), when(rateLimit("changed", "user", ""), "true")
	first := compile(policy.NewSet([]policy.RateLimit{same, changed}), nil)
	changed.Limits = []policy.Limit{limitOf(policy.SlidingLog)}
	second := compile(policy.NewSet([]policy.RateLimit{same, changed.Sealed()}), first)
	if first.names["shop/same"].rules != second.names["shop/same"].rules {
		t.Error("the expressions of the same policy were compiled again")
	}
	if first.names["shop/changed"].rules == second.names["shop/changed"].rules {
		t.Error("the expressions of a changed policy were taken over")
	}
}

func TestValuesThatShareABudgetAreOneSubject(t *testing.T) {
	pooled := with(rateLimit("pool", "tenant", "t-*", "user", ""), func(r *policy.RateLimit) { r.Descriptors[0].Shared = true })
	w := newWorld(t, pooled)
	w.decide(t, tuple{"tenant", "t-1", "user", "bob"}, tuple{"tenant", "t-2", "user", "bob"}, tuple{"tenant", "t-1", "user", "eve"})
	charges := w.store.last()
	if len(charges) != 2 {
		t.Fatalf("%d charges, want one for each user", len(charges))
	}
	key := redisops.CounterKey("shop/pool", []redisops.Entry{{Key: "tenant", Value: "t-*"}, {Key: "user", Value: "bob"}})
	if charges[0].Key != key {
		t.Errorf("key %s, want that of the pattern, %s", charges[0].Key, key)
	}
	if charges[0].Cost != 2 || charges[1].Cost != 1 {
		t.Errorf("costs %d and %d, want both of bob's together", charges[0].Cost, charges[1].Cost)
	}
	if !slices.Equal(charges[0].Values, []string{"t-1", "bob"}) {
		t.Errorf("values %q, want the real ones of the first", charges[0].Values)
	}
}

func TestABudgetIsSharedAtEveryDoor(t *testing.T) {
	w := newWorld(t, with(rateLimit("pool", "tenant", "t-*"), func(r *policy.RateLimit) { r.Descriptors[0].Shared = true }))
	w.decide(t, tuple{"tenant", "t-1"})
	if _, err := w.DecidePolicy(t.Context(), DoorAPI, Call{Policy: "shop/pool", Lookup: lookupIn("tenant", "t-2"), Cost: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.DecideAttributes(t.Context(), DoorForwardAuth, "shop", lookupIn("tenant", "t-3"), 1); err != nil {
		t.Fatal(err)
	}
	for i, call := range w.store.calls {
		if call[0].Key != w.store.calls[0][0].Key {
			t.Errorf("call %d spends from %s, want %s", i, call[0].Key, w.store.calls[0][0].Key)
		}
	}
}
