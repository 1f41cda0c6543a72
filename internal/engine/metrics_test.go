package engine

import (
	"fmt"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
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
	w := newWorld(t, rateLimit("user", "user", ""), rateLimit("path", "path", "/api/*"))
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
	lookup := func(key string) (string, bool) { return "/", key == "path" }
	for _, name := range []string{"shop/path", "shop/user"} {
		if _, err := w.DecidePolicy(t.Context(), DoorForwardAuth, name, lookup, 1); err != nil {
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
