package translate_test

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/translate"
)

// perMinute is a valid RateLimit shop/api of 100/1m, changed as told.
func perMinute(change func(*v1.RateLimit)) *v1.RateLimit {
	rl := &v1.RateLimit{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "api"},
		Spec:       v1.RateLimitSpec{Limits: []v1.Limit{{Requests: new(int64(100)), Window: "1m"}}},
	}
	if change != nil {
		change(rl)
	}
	return rl
}

func TestRateLimitIsCompiled(t *testing.T) {
	rl := perMinute(func(rl *v1.RateLimit) {
		rl.Spec.Domain = "edge"
		rl.Spec.Descriptors = []v1.Descriptor{{Key: "path", Value: "/api/*"}, {Key: "user"}}
		rl.Spec.OnStoreFailure = v1.FailureModeDeny
		rl.Spec.Limits = []v1.Limit{
			{Name: "burst", Requests: new(int64(10)), Window: "1s", Algorithm: v1.AlgorithmTokenBucket, Burst: new(int64(20))},
			{Name: "day", Requests: new(int64(1_000_000)), Window: "24h", Algorithm: v1.AlgorithmFixedWindow},
		}
	})
	got, errs := translate.RateLimit(rl)
	if len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	want := policy.RateLimit{
		Name: "shop/api", Domain: "edge", OnStoreFailure: policy.FailureDeny,
		Descriptors: []policy.Descriptor{{Key: "path", Value: "/api/*"}, {Key: "user"}},
		Limits: []policy.Limit{
			{Name: "burst", Algorithm: policy.TokenBucket, Requests: 10, WindowMs: 1000, Burst: 20, TickUs: 1},
			{Name: "day", Algorithm: policy.FixedWindow, Requests: 1_000_000, WindowMs: 86_400_000},
		},
	}.Sealed()
	if got.ContentHash != want.ContentHash {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// What never passed the API server (a file, an object of an older CRD) lacks the defaults of the schema.
func TestRateLimitDefaultsAreDerived(t *testing.T) {
	got, errs := translate.RateLimit(perMinute(nil))
	if len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	l := got.Limits[0]
	if got.Domain != "shop" || got.OnStoreFailure != policy.FailureAllow || l.Name != "default" || l.Algorithm != policy.SlidingLog {
		t.Errorf("got %+v", got)
	}

	for name, tt := range map[string]struct {
		requests  int64
		wantBurst int64
	}{"as many as requests": {50, 50}, "requests 0 is a bucket all the same": {0, 1}} {
		t.Run(name, func(t *testing.T) {
			got, errs := translate.RateLimit(perMinute(func(rl *v1.RateLimit) {
				rl.Spec.Limits[0].Algorithm = v1.AlgorithmTokenBucket
				rl.Spec.Limits[0].Requests = &tt.requests
			}))
			if len(errs) > 0 || got.Limits[0].Burst != tt.wantBurst || got.Limits[0].Requests != tt.requests {
				t.Errorf("got %+v, %v", got, errs)
			}
		})
	}
}

// Every rule that the schema or CEL holds, broken by an object that bypassed them.
func TestRateLimitThatBypassedValidationIsRefusedWithFieldAndRemedy(t *testing.T) {
	limit := func(change func(*v1.Limit)) func(*v1.RateLimit) {
		return func(rl *v1.RateLimit) { change(&rl.Spec.Limits[0]) }
	}
	for name, tt := range map[string]struct {
		change func(*v1.RateLimit)
		want   []string
	}{
		"no limits":        {func(rl *v1.RateLimit) { rl.Spec.Limits = nil }, []string{"spec.limits: Required", "at least one limit"}},
		"nine limits":      {func(rl *v1.RateLimit) { rl.Spec.Limits = make([]v1.Limit, 9) }, []string{"spec.limits: Too many", "at most 8"}},
		"requests missing": {limit(func(l *v1.Limit) { l.Requests = nil }), []string{"spec.limits[0].requests: Required", "0 denies all"}},
		"requests below 0": {limit(func(l *v1.Limit) { l.Requests = new(int64(-1)) }), []string{"spec.limits[0].requests", "from 0 to 9007199254740991"}},
		"requests above 2^53-1": {limit(func(l *v1.Limit) { l.Requests, l.Algorithm = new(int64(1<<53)), v1.AlgorithmFixedWindow }),
			[]string{"spec.limits[0].requests", "from 0 to 9007199254740991"}},
		"long sliding log": {limit(func(l *v1.Limit) { l.Requests = new(int64(1001)) }),
			[]string{"spec.limits[0].requests", "at most 1000", "use algorithm FixedWindow or TokenBucket"}},
		"window missing":       {limit(func(l *v1.Limit) { l.Window = "" }), []string{"spec.limits[0].window", "such as 250ms"}},
		"window in days":       {limit(func(l *v1.Limit) { l.Window = "1d" }), []string{"spec.limits[0].window", "no unit for days"}},
		"window with fraction": {limit(func(l *v1.Limit) { l.Window = "1.5h" }), []string{"spec.limits[0].window", "such as 250ms"}},
		"window negative":      {limit(func(l *v1.Limit) { l.Window = "-1m" }), []string{"spec.limits[0].window", "such as 250ms"}},
		"window 0s":            {limit(func(l *v1.Limit) { l.Window = "0s" }), []string{"spec.limits[0].window", "from 100ms to 744h"}},
		"window of ten years":  {limit(func(l *v1.Limit) { l.Window = "87600h" }), []string{"spec.limits[0].window", "from 100ms to 744h"}},
		"unknown algorithm": {limit(func(l *v1.Limit) { l.Algorithm = "GCRA" }),
			[]string{"spec.limits[0].algorithm", `"SlidingLog", "FixedWindow", "TokenBucket"`}},
		"burst of a log": {limit(func(l *v1.Limit) { l.Burst = new(int64(5)) }),
			[]string{"spec.limits[0].burst", "remove burst or set algorithm: TokenBucket"}},
		"burst 0": {limit(func(l *v1.Limit) { l.Algorithm, l.Burst = v1.AlgorithmTokenBucket, new(int64(0)) }),
			[]string{"spec.limits[0].burst", "from 1 to 9007199254740991"}},
		"burst larger than a bucket counts": {limit(func(l *v1.Limit) {
			l.Algorithm, l.Window, l.Burst = v1.AlgorithmTokenBucket, "1m", new(int64(1_000_000_000))
		}), []string{"spec.limits[0].burst", "exactly up to 150119987", "a shorter window, or algorithm FixedWindow"}},
		"requests larger than a bucket counts": {limit(func(l *v1.Limit) {
			l.Algorithm, l.Window, l.Requests = v1.AlgorithmTokenBucket, "1m", new(int64(1_000_000_000))
		}), []string{"spec.limits[0].requests", "exactly up to 150119987"}},
		"limit name with a capital": {limit(func(l *v1.Limit) { l.Name = "Day" }), []string{"spec.limits[0].name", "lower-case letters"}},
		"limit name twice": {func(rl *v1.RateLimit) { rl.Spec.Limits = append(rl.Spec.Limits, rl.Spec.Limits[0]) },
			[]string{"spec.limits[1].name", `Duplicate value: "default"`}},
		"nine descriptors": {func(rl *v1.RateLimit) { rl.Spec.Descriptors = make([]v1.Descriptor, 9) }, []string{"spec.descriptors: Too many", "at most 8"}},
		"descriptor without key": {func(rl *v1.RateLimit) { rl.Spec.Descriptors = []v1.Descriptor{{Value: "x"}} },
			[]string{"spec.descriptors[0].key: Required"}},
		"descriptor of many bytes": {func(rl *v1.RateLimit) { rl.Spec.Descriptors = []v1.Descriptor{{Key: strings.Repeat("ü", 200)}} },
			[]string{"spec.descriptors[0].key: Too long", "256 bytes"}},
		"nine wildcards": {func(rl *v1.RateLimit) { rl.Spec.Descriptors = []v1.Descriptor{{Key: "k", Value: "*********"}} },
			[]string{"spec.descriptors[0].value", "at most 8 wildcards", "shorter pattern"}},
		// 256 characters pass the schema, which counts characters.
		"domain of many bytes": {func(rl *v1.RateLimit) { rl.Spec.Domain = strings.Repeat("ü", 200) }, []string{"spec.domain: Too long", "256 bytes"}},
		"unknown failure mode": {func(rl *v1.RateLimit) { rl.Spec.OnStoreFailure = "Maybe" }, []string{"spec.onStoreFailure", `"Allow", "Deny"`}},
		"storeRef without name": {func(rl *v1.RateLimit) { rl.Spec.StoreRef = &v1.StoreReference{} },
			[]string{"spec.storeRef.name", "remove storeRef to use the RedisStore default"}},
		"storeRef with a strange namespace": {func(rl *v1.RateLimit) { rl.Spec.StoreRef = &v1.StoreReference{Name: "a", Namespace: "A/B"} },
			[]string{"spec.storeRef.namespace", "name of a namespace"}},
		"object name that no set holds": {func(rl *v1.RateLimit) { rl.Name = "UPPER" }, []string{"spec: Invalid", "name: want <namespace>/<name>"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, errs := translate.RateLimit(perMinute(tt.change))
			if len(errs) == 0 {
				t.Fatal("accepted")
			}
			got := errs.ToAggregate().Error()
			for _, part := range tt.want {
				if !strings.Contains(got, part) {
					t.Errorf("%q\nlacks %q", got, part)
				}
			}
		})
	}
}

func TestEveryErrorIsTold(t *testing.T) {
	_, errs := translate.RateLimit(perMinute(func(rl *v1.RateLimit) {
		rl.Spec.OnStoreFailure = "Maybe"
		rl.Spec.Limits[0].Window = "1d"
	}))
	if len(errs) != 2 {
		t.Errorf("got %v", errs)
	}
}

func TestSummary(t *testing.T) {
	for name, tt := range map[string]struct {
		limits []v1.Limit
		want   string
	}{
		"sliding log":  {[]v1.Limit{{Requests: new(int64(100)), Window: "1m"}}, "100/1m sliding log"},
		"fixed window": {[]v1.Limit{{Requests: new(int64(5)), Window: "90s", Algorithm: v1.AlgorithmFixedWindow}}, "5/1m30s fixed window"},
		"bucket with burst": {[]v1.Limit{{Requests: new(int64(10)), Window: "1000ms", Algorithm: v1.AlgorithmTokenBucket, Burst: new(int64(20))}},
			"10/1s token bucket burst 20"},
		"bucket whose burst is its requests": {[]v1.Limit{{Requests: new(int64(10)), Window: "744h", Algorithm: v1.AlgorithmTokenBucket}}, "10/744h token bucket"},
		"two": {[]v1.Limit{
			{Name: "a", Requests: new(int64(10)), Window: "250ms"}, {Name: "b", Requests: new(int64(0)), Window: "24h"},
		}, "10/250ms sliding log, 0/24h sliding log"},
	} {
		t.Run(name, func(t *testing.T) {
			compiled, errs := translate.RateLimit(perMinute(func(rl *v1.RateLimit) { rl.Spec.Limits = tt.limits }))
			if len(errs) > 0 {
				t.Fatal(errs.ToAggregate())
			}
			if got := translate.Summary(&compiled); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestLongSummaryFitsTheStatus(t *testing.T) {
	compiled := policy.RateLimit{}
	for range 8 {
		compiled.Limits = append(compiled.Limits, policy.Limit{
			Algorithm: policy.TokenBucket, Requests: 88_888_888, WindowMs: 2_678_399_999, Burst: 99_999_999,
		})
	}
	got := translate.Summary(&compiled)
	if len(got) > 256 || !strings.HasSuffix(got, ", and 4 more") {
		t.Errorf("%d characters: %q", len(got), got)
	}
}
