package translate_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/translate"
)

var shopDefault = types.NamespacedName{Namespace: "shop", Name: "default"}

// object is RateLimit <namespace>/<name> of 100/1m, changed as told.
func object(namespace, name string, change func(*v1.RateLimit)) v1.RateLimit {
	return *perMinute(func(rl *v1.RateLimit) {
		rl.Namespace, rl.Name, rl.Generation, rl.UID = namespace, name, 1, types.UID("uid-"+name)
		if change != nil {
			change(rl)
		}
	})
}

func existing(names ...string) func(types.NamespacedName) bool {
	return func(n types.NamespacedName) bool { return slices.Contains(names, n.String()) }
}

func assemble(published *policy.Set, objects ...v1.RateLimit) translate.Assembly {
	return translate.Assemble(translate.Input{
		Store: shopDefault, StoreExists: existing("shop/default", "shop/big", "system/default"), OperatorNamespace: "system",
		RateLimits: objects, Published: published,
	})
}

func names(set *policy.Set) string {
	var out []string
	for _, rl := range set.RateLimits {
		out = append(out, rl.Name)
	}
	return strings.Join(out, " ")
}

func TestAssembleTakesTheObjectsOfItsStoreOnly(t *testing.T) {
	ref := func(name, namespace string) func(*v1.RateLimit) {
		return func(rl *v1.RateLimit) { rl.Spec.StoreRef = &v1.StoreReference{Name: name, Namespace: namespace} }
	}
	resolved := func(name, namespace string) func(*v1.RateLimit) {
		return func(rl *v1.RateLimit) { rl.Status.StoreRef = &v1.StoreReference{Name: name, Namespace: namespace} }
	}
	got := assemble(nil,
		object("shop", "z-by-default", nil),
		object("shop", "a-by-name", ref("default", "")),
		object("shop", "by-name-and-namespace", ref("default", "shop")),
		object("shop", "sticky", resolved("default", "shop")),
		object("shop", "of-another-store", ref("big", "")),
		object("shop", "sticky-elsewhere", resolved("big", "shop")),
		object("shop", "of-a-missing-store", ref("nope", "")),
		object("other", "of-the-operators-default", nil),
		object("shop", "being-deleted", func(rl *v1.RateLimit) { rl.DeletionTimestamp = new(metav1.Now()) }),
	)
	if want := "shop/a-by-name shop/by-name-and-namespace shop/sticky shop/z-by-default"; names(got.Set) != want {
		t.Errorf("got  %s\nwant %s", names(got.Set), want)
	}
	if len(got.Outcomes) != 4 {
		t.Errorf("outcomes of %d objects, want those of the 4", len(got.Outcomes))
	}
	outcome := got.Outcomes[types.NamespacedName{Namespace: "shop", Name: "sticky"}]
	if !outcome.Accepted || outcome.Store != shopDefault || outcome.UID != "uid-sticky" || outcome.Generation != 1 ||
		outcome.ContentHash != got.Set.RateLimit("shop/sticky").ContentHash || outcome.Summary != "100/1m sliding log" || outcome.Domain != "shop" {
		t.Errorf("got %+v", outcome)
	}
}

func TestAStoreForQuorumLocksTakesNoRateLimits(t *testing.T) {
	before := assemble(nil, object("shop", "a", nil)).Set
	got := translate.Assemble(translate.Input{
		Store: shopDefault, StoreExists: existing("shop/default"), Topology: policy.TopologyIndependent,
		RateLimits: []v1.RateLimit{object("shop", "a", nil)}, Published: before,
	})
	outcome := got.Outcomes[types.NamespacedName{Namespace: "shop", Name: "a"}]
	if len(got.Set.RateLimits) != 0 || outcome.Accepted || outcome.Reason != v1.ReasonInvalid || outcome.ContentHash != "" ||
		!strings.Contains(outcome.Message, "create a new RateLimit with spec.storeRef of a RedisStore with another topology") {
		t.Errorf("%d policies, %+v", len(got.Set.RateLimits), outcome)
	}
}

// A spec is immutable, a status is not: somebody who edits status.storeRef moves nothing.
func TestSpecStandsAboveStickyStore(t *testing.T) {
	got := assemble(nil, object("shop", "a", func(rl *v1.RateLimit) {
		rl.Spec.StoreRef = &v1.StoreReference{Name: "default"}
		rl.Status.StoreRef = &v1.StoreReference{Name: "big"}
	}))
	if names(got.Set) != "shop/a" {
		t.Errorf("got %q", names(got.Set))
	}
}

func TestObjectThatFailsDoesNotBlockOthers(t *testing.T) {
	invalid := func(rl *v1.RateLimit) { rl.Spec.Limits[0].Window = "1d" }
	paused := func(rl *v1.RateLimit) {
		rl.Annotations = map[string]string{v1.AnnotationPaused: "true"}
		rl.Spec.Limits[0].Requests = new(int64(7))
	}
	before := assemble(nil, object("shop", "a", nil), object("shop", "b", nil), object("shop", "c", nil)).Set

	for name, tt := range map[string]struct {
		published   *policy.Set
		change      func(*v1.RateLimit)
		wantSet     string
		wantReason  string
		wantMessage []string
		wantKept    bool
	}{
		"invalid, published before":     {before, invalid, "shop/a shop/b shop/c", v1.ReasonInvalid, []string{"spec.limits[0].window", "last valid content stays in force"}, true},
		"invalid, never published":      {nil, invalid, "shop/a shop/c", v1.ReasonInvalid, []string{"spec.limits[0].window"}, false},
		"paused, published before":      {before, paused, "shop/a shop/b shop/c", v1.ReasonPaused, []string{v1.AnnotationPaused}, true},
		"paused, never published":       {nil, paused, "shop/a shop/c", v1.ReasonPaused, []string{v1.AnnotationPaused}, false},
		"paused and invalid keeps, too": {before, func(rl *v1.RateLimit) { paused(rl); invalid(rl) }, "shop/a shop/b shop/c", v1.ReasonPaused, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			got := assemble(tt.published, object("shop", "a", nil), object("shop", "b", tt.change), object("shop", "c", nil))
			if names(got.Set) != tt.wantSet {
				t.Errorf("set is %q, want %q", names(got.Set), tt.wantSet)
			}
			if err := got.Set.Validate(); err != nil {
				t.Error(err)
			}
			outcome := got.Outcomes[types.NamespacedName{Namespace: "shop", Name: "b"}]
			if outcome.Accepted || outcome.Reason != tt.wantReason {
				t.Errorf("got %+v", outcome)
			}
			for _, part := range tt.wantMessage {
				if !strings.Contains(outcome.Message, part) {
					t.Errorf("message %q lacks %q", outcome.Message, part)
				}
			}
			wantHash := ""
			if tt.wantKept {
				wantHash = before.RateLimit("shop/b").ContentHash
				if got.Set.RateLimit("shop/b").ContentHash != wantHash {
					t.Error("the entry is not the one that was published")
				}
			}
			if outcome.ContentHash != wantHash {
				t.Errorf("contentHash %q, want %q", outcome.ContentHash, wantHash)
			}
			if ok := got.Outcomes[types.NamespacedName{Namespace: "shop", Name: "c"}]; !ok.Accepted {
				t.Errorf("the object beside it is not accepted: %+v", ok)
			}
		})
	}
}

func TestStoreOfAnotherNamespaceIsNotPermittedAndItsEntryRemoved(t *testing.T) {
	mine := object("shop", "a", nil)
	foreign := object("tenant", "b", func(rl *v1.RateLimit) {
		rl.Spec.StoreRef = &v1.StoreReference{Name: "default", Namespace: "shop"}
	})
	compiled, _ := translate.RateLimit(&foreign)
	got := assemble(policy.NewSet([]policy.RateLimit{compiled}), mine, foreign)
	if names(got.Set) != "shop/a" {
		t.Errorf("got %q", names(got.Set))
	}
	outcome := got.Outcomes[types.NamespacedName{Namespace: "tenant", Name: "b"}]
	if outcome.Accepted || outcome.Permitted || outcome.Reason != v1.ReasonRefNotPermitted || outcome.ContentHash != "" ||
		!strings.Contains(outcome.Message, "create a RedisStore in namespace tenant") {
		t.Errorf("got %+v", outcome)
	}
}

func TestOneStoreServesEveryObjectForTheQuickStart(t *testing.T) {
	got := translate.Assemble(translate.Input{SingleStore: true, RateLimits: []v1.RateLimit{
		object("shop", "a", func(rl *v1.RateLimit) { rl.Spec.StoreRef = &v1.StoreReference{Name: "x", Namespace: "y"} }),
		object("other", "b", nil),
		object("other", "c", func(rl *v1.RateLimit) { rl.Spec.Limits = nil }),
	}})
	if want := "other/b shop/a"; names(got.Set) != want {
		t.Errorf("got %q, want %q", names(got.Set), want)
	}
	if got := got.Outcomes[types.NamespacedName{Namespace: "other", Name: "c"}]; got.Reason != v1.ReasonInvalid {
		t.Errorf("got %+v", got)
	}
}

func TestNewestPoliciesAreLeftOutOfAFullStore(t *testing.T) {
	created := func(minute int) func(*v1.RateLimit) {
		return func(rl *v1.RateLimit) {
			rl.CreationTimestamp = metav1.NewTime(time.Date(2026, 1, 1, 0, minute, 0, 0, time.UTC))
		}
	}
	objects := []v1.RateLimit{
		object("shop", "newest", created(3)), object("shop", "oldest", created(1)),
		object("shop", "b-same-age", created(2)), object("shop", "a-same-age", created(2)),
	}
	three := policy.NewSet([]policy.RateLimit{compiledOf(t, objects[1]), compiledOf(t, objects[2]), compiledOf(t, objects[3])})
	got := translate.Assemble(translate.Input{SingleStore: true, RateLimits: objects, MaxBytes: len(three.Marshal())})
	if want := "shop/a-same-age shop/b-same-age shop/oldest"; names(got.Set) != want {
		t.Errorf("got %q, want %q", names(got.Set), want)
	}
	outcome := got.Outcomes[types.NamespacedName{Namespace: "shop", Name: "newest"}]
	if outcome.Accepted || outcome.Reason != v1.ReasonStoreFull || outcome.ContentHash != "" || !strings.Contains(outcome.Message, "use a further RedisStore") {
		t.Errorf("got %+v", outcome)
	}
}

func TestPausedEntryIsNotPushedOutOfAFullStore(t *testing.T) {
	paused := object("shop", "paused", func(rl *v1.RateLimit) {
		rl.Annotations = map[string]string{v1.AnnotationPaused: "true"}
		rl.CreationTimestamp = metav1.Now()
	})
	published := policy.NewSet([]policy.RateLimit{compiledOf(t, paused)})
	got := translate.Assemble(translate.Input{
		SingleStore: true, RateLimits: []v1.RateLimit{object("shop", "old", nil), paused}, Published: published, MaxBytes: 300,
	})
	if names(got.Set) != "shop/paused" {
		t.Errorf("got %q", names(got.Set))
	}
}

func compiledOf(t *testing.T, rl v1.RateLimit) policy.RateLimit {
	t.Helper()
	compiled, errs := translate.RateLimit(&rl)
	if len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	return compiled
}

func TestLimitsThatStartAnewAreNamed(t *testing.T) {
	two := func(algorithm v1.Algorithm, window v1.Duration, requests int64) v1.RateLimit {
		return object("shop", "a", func(rl *v1.RateLimit) {
			rl.Spec.Limits = []v1.Limit{
				{Name: "kept", Requests: &requests, Window: "1h"},
				{Name: "other", Requests: &requests, Window: window, Algorithm: algorithm},
			}
		})
	}
	published := policy.NewSet([]policy.RateLimit{compiledOf(t, two(v1.AlgorithmSlidingLog, "1m", 5))})
	for name, tt := range map[string]struct {
		object v1.RateLimit
		want   string
	}{
		"requests only": {two(v1.AlgorithmSlidingLog, "1m", 50), ""},
		"window":        {two(v1.AlgorithmSlidingLog, "2m", 5), "other"},
		"algorithm":     {two(v1.AlgorithmFixedWindow, "1m", 5), "other"},
	} {
		t.Run(name, func(t *testing.T) {
			got := assemble(published, tt.object).Outcomes[types.NamespacedName{Namespace: "shop", Name: "a"}]
			if strings.Join(got.Restarts, " ") != tt.want {
				t.Errorf("got %q, want %q", got.Restarts, tt.want)
			}
		})
	}
}

func TestCalendarsAndOverridesThatStartAnewAreNamed(t *testing.T) {
	of := func(calendar v1.Calendar, zone string, window v1.Duration, unlimited string) v1.RateLimit {
		return object("shop", "a", func(rl *v1.RateLimit) {
			rl.Spec.Descriptors = []v1.Descriptor{{Key: "user"}}
			rl.Spec.Limits = []v1.Limit{{Requests: new(int64(1)), Algorithm: v1.AlgorithmFixedWindow, Calendar: calendar, TimeZone: zone}}
			rl.Spec.Overrides = []v1.Override{
				{Match: matching("user", unlimited), Unlimited: new(true)},
				{Match: matching("user", "a"), Limits: []v1.Limit{{Requests: new(int64(5)), Window: window}}},
			}
		})
	}
	published := policy.NewSet([]policy.RateLimit{compiledOf(t, of(v1.CalendarMonth, "UTC", "1m", "x"))})
	for name, tt := range map[string]struct {
		object v1.RateLimit
		want   string
	}{
		"nothing":               {of(v1.CalendarMonth, "UTC", "1m", "x"), ""},
		"another override":      {of(v1.CalendarMonth, "UTC", "1m", "y"), ""},
		"calendar":              {of(v1.CalendarWeek, "UTC", "1m", "x"), "default"},
		"time zone":             {of(v1.CalendarMonth, "Europe/Berlin", "1m", "x"), "default"},
		"window of an override": {of(v1.CalendarMonth, "UTC", "2m", "x"), "default of an override"},
		"both":                  {of(v1.CalendarDay, "UTC", "2m", "x"), "default, default of an override"},
	} {
		t.Run(name, func(t *testing.T) {
			got := assemble(published, tt.object).Outcomes[types.NamespacedName{Namespace: "shop", Name: "a"}]
			if strings.Join(got.Restarts, ", ") != tt.want {
				t.Errorf("got %q, want %q", got.Restarts, tt.want)
			}
		})
	}
}

// Subjects that come under an override, or out of it, go on with limits that count otherwise.
func TestAnOverrideThatComesOrGoesStartsItsSubjectsAnew(t *testing.T) {
	of := func(overrides ...v1.Override) v1.RateLimit {
		return object("shop", "a", func(rl *v1.RateLimit) {
			rl.Spec.Descriptors = []v1.Descriptor{{Key: "user"}}
			rl.Spec.Limits = []v1.Limit{{Requests: new(int64(1)), Window: "1m"}}
			rl.Spec.Overrides = overrides
		})
	}
	alike := v1.Override{Match: matching("user", "a"), Limits: []v1.Limit{{Requests: new(int64(5)), Window: "1m"}}}
	other := v1.Override{Match: matching("user", "b"), Limits: []v1.Limit{{Requests: new(int64(5)), Window: "2m"}}}
	pattern := v1.Override{Match: matching("user", "team.*"), Limits: []v1.Limit{{Requests: new(int64(5)), Window: "2m"}}}
	long := v1.Override{Match: matching("user", "team.a"), Limits: pattern.Limits}
	short := v1.Override{Match: matching("user", "team.a"), Limits: alike.Limits}
	for name, tt := range map[string]struct {
		before, after v1.RateLimit
		want          string
	}{
		"comes, and counts alike": {of(), of(alike), ""},
		"goes, and counted alike": {of(alike), of(), ""},
		"comes":                   {of(alike), of(alike, other), "default of an override"},
		"goes":                    {of(alike, other), of(alike), "default of an override"},
		"stays":                   {of(alike, other), of(alike, other), ""},
		"comes under a pattern that counts like it":     {of(pattern), of(pattern, long), ""},
		"comes under a pattern that counts otherwise":   {of(pattern), of(pattern, short), "default of an override"},
		"goes back to a pattern that counts otherwise":  {of(pattern, short), of(pattern), "default of an override"},
		"comes beside a pattern that does not match it": {of(pattern), of(pattern, alike), ""},
	} {
		t.Run(name, func(t *testing.T) {
			published := policy.NewSet([]policy.RateLimit{compiledOf(t, tt.before)})
			got := assemble(published, tt.after).Outcomes[types.NamespacedName{Namespace: "shop", Name: "a"}]
			if strings.Join(got.Restarts, ", ") != tt.want {
				t.Errorf("got %q, want %q", got.Restarts, tt.want)
			}
		})
	}
}

func TestAssembleIsDeterministic(t *testing.T) {
	var objects []v1.RateLimit
	for i := range 200 {
		objects = append(objects, object("shop", fmt.Sprintf("p%03d", i), nil))
	}
	first := assemble(nil, objects...)
	slices.Reverse(objects)
	if second := assemble(nil, objects...); second.Set.Hash != first.Set.Hash {
		t.Errorf("the order of objects changes the set: %s, %s", first.Set.Hash, second.Set.Hash)
	}
}

func TestResolveStore(t *testing.T) {
	ref := func(name string) *v1.StoreReference { return &v1.StoreReference{Name: name} }
	for name, tt := range map[string]struct {
		spec, resolved *v1.StoreReference
		stores         []string
		want           string
		wantError      string
	}{
		"named":                          {spec: ref("big"), stores: []string{"shop/big"}, want: "shop/big"},
		"named in another namespace":     {spec: &v1.StoreReference{Name: "big", Namespace: "infra"}, stores: []string{"infra/big"}, want: "infra/big"},
		"named, missing":                 {spec: ref("big"), stores: []string{"shop/default"}, wantError: "there is no RedisStore shop/big; create it"},
		"default of the namespace":       {stores: []string{"shop/default", "system/default"}, want: "shop/default"},
		"default of the operator":        {stores: []string{"system/default"}, want: "system/default"},
		"sticky":                         {resolved: &v1.StoreReference{Name: "default", Namespace: "system"}, stores: []string{"shop/default", "system/default"}, want: "system/default"},
		"sticky, gone: no other instead": {resolved: ref("default"), stores: []string{"system/default"}, wantError: "RedisStore shop/default, which this object uses, is gone"},
		"none":                           {wantError: "there is no RedisStore shop/default; create it"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := translate.ResolveStore("shop", tt.spec, tt.resolved, "system", existing(tt.stores...))
			if tt.wantError != "" {
				if err == nil || !strings.HasPrefix(err.Error(), tt.wantError) {
					t.Errorf("got %v, %v", got, err)
				}
				return
			}
			if err != nil || got.String() != tt.want {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}
