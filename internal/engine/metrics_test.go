package engine

import (
	"fmt"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// families are the metrics as a scrape sees them.
func (w *world) families(t testing.TB) []*dto.MetricFamily {
	t.Helper()
	families, err := w.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// series gives what a counter or gauge shows, by its labels as "a=b,c=d" in order of their names.
func (w *world) series(t testing.TB, name string) map[string]float64 {
	t.Helper()
	found := map[string]float64{}
	for _, family := range w.families(t) {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			found[strings.Join(labels, ",")] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return found
}

// value gives what the only series of a metric shows.
func (w *world) value(t testing.TB, name string) float64 {
	t.Helper()
	series := w.series(t, name)
	if len(series) != 1 {
		t.Fatalf("%s has %d series, want 1", name, len(series))
	}
	for _, v := range series {
		return v
	}
	return 0
}

func TestTenThousandSubjectsMakeNoMoreSeries(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""), rateLimit("path", "path", "/api/*"),
		when(rateLimit("fails", "user", "*"), `int(request.descriptors["user"]) > 0`))
	w.store.rows["shop/path"] = limit.Row{Allowed: true, Limit: 10, LimitName: "default", Reason: limit.ReasonOK, New: true}
	count := func() int {
		n := 0
		for _, family := range w.families(t) {
			n += len(family.GetMetric())
		}
		return n
	}
	ask := func(i int) {
		w.decide(t, tuple{"user", fmt.Sprintf("subject-%d", i)}, tuple{"path", fmt.Sprintf("/api/%d", i)})
		if _, err := w.Decide(t.Context(), DoorRLS, request(fmt.Sprintf("domain-%d", i), tuple{"user", "bob"})); err != nil {
			t.Fatal(err)
		}
		id := fmt.Sprintf("subject-%d", i)
		if _, err := w.Refund(t.Context(), DoorAPI, Call{Policy: "shop/user", Lookup: lookupIn("user", id), Cost: 1, ID: id}); err != nil {
			t.Fatal(err)
		}
	}
	ask(0)
	first := count()
	for i := range 10_000 {
		ask(i)
	}
	if after := count(); after != first {
		t.Errorf("%d series after 10,000 subjects and domains, want %d as after one", after, first)
	}
	for _, family := range w.families(t) {
		if text := family.String(); strings.Contains(text, "subject-") || strings.Contains(text, "domain-") {
			t.Errorf("%s shows what requests carried", family.GetName())
		}
	}
}

func TestDecisionsAreCountedByPolicyOutcomeAndDoor(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""), rateLimit("path", "path", ""))
	w.store.rows["shop/path"] = denied(1, 1)
	w.decide(t, tuple{"user", "bob"})
	w.decide(t, tuple{"user", "bob"}, tuple{"path", "/"})
	w.clock.advance(time.Second)
	lookup := func(key string) (string, bool) { return "/", key == "path" }
	for _, name := range []string{"shop/path", "shop/user"} {
		if _, err := w.DecidePolicy(t.Context(), DoorForwardAuth, Call{Policy: name, Lookup: lookup, Cost: 1}); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]float64{
		"door=rls,namespace=shop,outcome=allowed,policy=user":           2,
		"door=rls,namespace=shop,outcome=denied,policy=path":            1,
		"door=forwardauth,namespace=shop,outcome=denied,policy=path":    1,
		"door=forwardauth,namespace=shop,outcome=unmatched,policy=user": 1,
	}
	if got := w.series(t, "penstock_decisions_total"); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("counted\n%v, want\n%v", got, want)
	}
}

func TestEachOutcomeIsCountedByItsName(t *testing.T) {
	row := func(allowed bool, reason string) limit.Row {
		r := limit.Row{Allowed: allowed, Limit: 10, LimitName: "default", Reason: reason}
		if !allowed {
			r.RetryAfter = time.Minute
		}
		return r
	}
	for want, test := range map[string]struct {
		row    limit.Row
		err    error
		strict bool
		// times is how often it is asked; the last of them counts.
		times int
	}{
		"allowed":          {row(true, limit.ReasonOK), nil, false, 1},
		"denied":           {row(false, limit.ReasonLimit), nil, false, 1},
		"cached":           {row(false, limit.ReasonLimit), nil, false, 2},
		"shadow":           {row(true, limit.ReasonShadow), nil, false, 1},
		"penalty":          {row(false, limit.ReasonPenalty), nil, false, 2},
		"degraded_allowed": {limit.Row{}, errNotSent, false, 1},
		"degraded_denied":  {limit.Row{}, errNotSent, true, 2},
		"error":            {limit.Row{}, reply("NOPERM no rights"), false, 1},
	} {
		t.Run(want, func(t *testing.T) {
			p := rateLimit("p", "user", "")
			if test.strict {
				p = denying(p)
			}
			w := newWorld(t, p)
			w.store.rows["shop/p"], w.store.fail = test.row, func([]limit.Charge) error { return test.err }
			for range test.times {
				_, _ = w.Decide(t.Context(), DoorRLS, request("shop", tuple{"user", "bob"})) // an error is one of the outcomes
			}
			if got := w.series(t, "penstock_decisions_total")["door=rls,namespace=shop,outcome="+want+",policy=p"]; got < 1 {
				t.Errorf("counted %v, want %s", w.series(t, "penstock_decisions_total"), want)
			}
		})
	}
}

// Fault 45: whoever makes up subjects is seen.
func TestNewSubjectsAreCounted(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""), rateLimit("path", "path", ""), of(rateLimit("slots", "user", ""), policy.Concurrency))
	fresh := allowed(10, 9)
	fresh.New = true
	w.store.rows["shop/user"], w.store.rows["shop/slots"] = fresh, fresh
	w.decide(t, tuple{"user", "bob"}, tuple{"path", "/"})
	w.decide(t, tuple{"user", "eve"})
	call := Call{Policy: "shop/user", Lookup: lookupIn("user", "mallory"), Cost: 1}
	if _, err := w.Peek(t.Context(), DoorAPI, call); err != nil {
		t.Fatal(err)
	}
	if _, err := w.AcquireSlot(t.Context(), DoorAPI, SlotCall{Policy: "shop/slots", Lookup: call.Lookup, ID: "a"}); err != nil {
		t.Fatal(err)
	}
	want := map[string]float64{"namespace=shop,policy=user": 2, "namespace=shop,policy=slots": 1}
	if got := w.series(t, "penstock_new_subjects_total"); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("counted %v, want %v", got, want)
	}
	w.Use(validSet(t, rateLimit("user", "user", "*")))
	w.decide(t, tuple{"user", "bob"})
	if got := w.series(t, "penstock_new_subjects_total"); fmt.Sprint(got) != "map[namespace=shop,policy=user:3]" {
		t.Errorf("counted %v in the next set, want the series of what stays to go on", got)
	}
}

// Fault 59: somebody writes our keys.
func TestStatesThatAreNotOursAreCounted(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""))
	garbled := allowed(10, 9)
	garbled.Garbled = true
	w.store.rows["shop/user"] = garbled
	w.decide(t, tuple{"user", "bob"})
	if got := w.series(t, "penstock_garbled_states_total"); fmt.Sprint(got) != "map[namespace=shop,policy=user:1]" {
		t.Errorf("counted %v, want one", got)
	}
	w.Use(validSet(t, rateLimit("other", "user", "")))
	if got := w.series(t, "penstock_garbled_states_total"); len(got) != 0 {
		t.Errorf("%v is left of a policy that is gone", got)
	}
}

func TestALookIsNotCountedAsADecision(t *testing.T) {
	w := newWorld(t, rateLimit("user", "user", ""))
	for _, user := range []string{"bob", "eve"} {
		lookup := lookupIn("user", user)
		if user == "eve" {
			lookup = lookupIn()
		}
		if _, err := w.Peek(t.Context(), DoorAPI, Call{Policy: "shop/user", Lookup: lookup, Cost: 1}); err != nil {
			t.Fatal(err)
		}
	}
	w.store.fail = failing(reply("NOPERM no rights"))
	if _, err := w.Peek(t.Context(), DoorAPI, Call{Policy: "shop/user", Lookup: lookupIn("user", "bob"), Cost: 1}); err == nil {
		t.Fatal("no error")
	}
	if got := w.series(t, "penstock_decisions_total"); len(got) != 0 {
		t.Errorf("counted %v, want none", got)
	}
}

func TestSeriesOfExpressionsGoWithTheirPolicy(t *testing.T) {
	w := newWorld(t, when(rateLimit("fails", "user", ""), `request.path == "/"`), rateLimit("stays", "path", ""))
	w.decide(t, tuple{"user", "bob"})
	if got := w.series(t, "penstock_expression_errors_total"); len(got) != 1 {
		t.Fatalf("counted %v, want one series", got)
	}
	w.Use(validSet(t, rateLimit("stays", "path", "")))
	if got := w.series(t, "penstock_expression_errors_total"); len(got) != 0 {
		t.Errorf("%v of a policy that is gone, want none", got)
	}
}

func TestSeriesOfAThousandPoliciesGoWithThem(t *testing.T) {
	w := newWorld(t, rateLimit("stays", "user", ""))
	w.decide(t, tuple{"user", "bob"})
	count := func() int {
		n := 0
		for _, family := range w.families(t) {
			n += len(family.GetMetric())
		}
		return n
	}
	before := count()
	for round := range 10 {
		policies := []policy.RateLimit{rateLimit("stays", "user", "")}
		for i := range 100 {
			name := fmt.Sprintf("p-%d-%d", round, i)
			row := denied(10, time.Minute)
			row.New, row.Garbled = true, true
			w.store.rows["shop/"+name] = row
			policies = append(policies, when(rateLimit(name, "user", "", "number", fmt.Sprint(i)), `int(request.descriptors["user"]) > 0`))
		}
		w.Use(validSet(t, policies...))
		for i := range 100 {
			number := fmt.Sprint(i)
			w.decide(t, tuple{"user", "bob", "number", number})
			w.decide(t, tuple{"user", "1", "number", number})
			call := Call{Policy: fmt.Sprintf("shop/p-%d-%d", round, i), Lookup: lookupIn("user", "1", "number", number), Cost: 1}
			if _, err := w.Refund(t.Context(), DoorAPI, call); err != nil {
				t.Fatal(err)
			}
		}
	}
	if during := count(); during < before+500 {
		t.Fatalf("%d series of 100 policies, want 5 and more of each", during-before)
	}
	w.Use(validSet(t, rateLimit("stays", "user", "")))
	if after := count(); after != before {
		t.Errorf("%d series after 1,000 policies have come and gone, want %d as before", after, before)
	}
}

func TestADecisionUnderWayBringsNoSeriesBack(t *testing.T) {
	w := newWorld(t, rateLimit("goes", "user", ""))
	row := allowed(10, 9)
	row.New, row.Garbled = true, true
	w.store.rows["shop/goes"] = row
	w.store.fail = func([]limit.Charge) error {
		w.Use(validSet(t, rateLimit("stays", "path", "")))
		return nil
	}
	w.decide(t, tuple{"user", "bob"})
	w.Use(validSet(t, rateLimit("goes", "user", "")))
	if _, err := w.Refund(t.Context(), DoorAPI, Call{Policy: "shop/goes", Lookup: lookupIn("user", "bob"), Cost: 1}); err != nil {
		t.Fatal(err)
	}
	for _, family := range w.families(t) {
		if strings.Contains(family.String(), `"goes"`) {
			t.Errorf("%s shows a policy that is gone", family.GetName())
		}
	}
}

func TestSeriesOfAPolicyStayWhileItDoes(t *testing.T) {
	w := newWorld(t, rateLimit("stays", "user", ""), rateLimit("goes", "path", ""))
	w.decide(t, tuple{"user", "bob"}, tuple{"path", "/"})
	changed := rateLimit("stays", "user", "")
	changed.Limits[0].Requests = 5
	w.Use(validSet(t, changed.Sealed()))
	w.decide(t, tuple{"user", "bob"})
	want := map[string]float64{"door=rls,namespace=shop,outcome=allowed,policy=stays": 2}
	if got := w.series(t, "penstock_decisions_total"); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("counted %v, want %v", got, want)
	}
}

func TestTheSetInForceIsShown(t *testing.T) {
	w := newWorld(t, rateLimit("a", "user", ""), rateLimit("b", "path", ""))
	next := validSet(t, rateLimit("a", "user", ""))
	w.clock.advance(90e9)
	w.Use(next)
	w.clock.advance(90e9)
	w.Use(next)
	if got, want := w.series(t, "penstock_policy_set_info"), map[string]float64{"hash=" + next.Hash: 1}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("info %v, want %v", got, want)
	}
	if got := w.value(t, "penstock_policies"); got != 1 {
		t.Errorf("%v policies, want 1", got)
	}
	if got := w.value(t, "penstock_policy_set_timestamp_seconds"); got != 1_800_000_090 {
		t.Errorf("in force since %v, want when it first was", got)
	}
}
