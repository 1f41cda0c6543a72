package translate_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

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

// daily is 100 requests a day of a time zone.
func daily(zone string) func(*v1.RateLimit) {
	return func(rl *v1.RateLimit) {
		rl.Spec.Limits = []v1.Limit{{Requests: new(int64(100)), Algorithm: v1.AlgorithmFixedWindow, Calendar: v1.CalendarDay, TimeZone: zone}}
	}
}

// override gives descriptors (path, user, path), and overrides of them.
func override(overrides ...v1.Override) func(*v1.RateLimit) {
	return func(rl *v1.RateLimit) {
		rl.Spec.Descriptors = []v1.Descriptor{{Key: "path", Value: "/a/*"}, {Key: "user"}, {Key: "path"}}
		rl.Spec.Overrides = overrides
	}
}

func matching(key, value string) []v1.DescriptorMatch {
	return []v1.DescriptorMatch{{Key: key, Value: value}}
}

func costing(cost intstr.IntOrString) func(*v1.RateLimit) {
	return func(rl *v1.RateLimit) { rl.Spec.Cost = &cost }
}

func penalizing(penalty v1.Penalty) func(*v1.RateLimit) {
	return func(rl *v1.RateLimit) { rl.Spec.Penalty = &penalty }
}

func answering(response v1.Response) func(*v1.RateLimit) {
	return func(rl *v1.RateLimit) { rl.Spec.Response = &response }
}

// compiled is what a RateLimit shop/api of 100/1m becomes, changed as told.
func compiled(t *testing.T, change func(*v1.RateLimit)) policy.RateLimit {
	t.Helper()
	got, errs := translate.RateLimit(perMinute(change))
	if len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	return got
}

func TestEachAlgorithmIsCompiled(t *testing.T) {
	for name, tt := range map[string]struct {
		limit v1.Limit
		want  policy.Limit
	}{
		"sliding counter": {v1.Limit{Requests: new(int64(1 << 33)), Window: "744h", Algorithm: v1.AlgorithmSlidingCounter},
			policy.Limit{Algorithm: policy.SlidingCounter, Requests: 1 << 33, WindowMs: 2_678_400_000}},
		"concurrency": {v1.Limit{Requests: new(int64(3)), Algorithm: v1.AlgorithmConcurrency, SlotTTL: "10m"},
			policy.Limit{Algorithm: policy.Concurrency, Requests: 3, SlotTTLMs: 600_000}},
		"concurrency for a minute": {v1.Limit{Requests: new(int64(3)), Algorithm: v1.AlgorithmConcurrency},
			policy.Limit{Algorithm: policy.Concurrency, Requests: 3, SlotTTLMs: 60_000}},
		"balance": {v1.Limit{Requests: new(int64(100)), Algorithm: v1.AlgorithmBalance}, policy.Limit{Algorithm: policy.Balance, Requests: 100}},
		"days of UTC": {v1.Limit{Requests: new(int64(5)), Algorithm: v1.AlgorithmFixedWindow, Calendar: v1.CalendarDay},
			policy.Limit{Algorithm: policy.FixedWindow, Requests: 5, WindowMs: 86_400_000, Calendar: "Day", TimeZone: "UTC"}},
		"months of India": {v1.Limit{Requests: new(int64(5)), Algorithm: v1.AlgorithmFixedWindow, Calendar: v1.CalendarMonth, TimeZone: "Asia/Kolkata"},
			policy.Limit{Algorithm: policy.FixedWindow, Requests: 5, WindowMs: 2_678_400_000, Calendar: "Month", TimeZone: "Asia/Kolkata"}},
	} {
		t.Run(name, func(t *testing.T) {
			tt.want.Name = "default"
			got := compiled(t, func(rl *v1.RateLimit) { rl.Spec.Limits = []v1.Limit{tt.limit} }).Limits[0]
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestOffsetsAreThoseOfTheZone(t *testing.T) {
	for name, tt := range map[string]struct {
		zone string
		want [][2]int64 // the first of them
	}{
		"north of the equator":    {"Europe/Berlin", [][2]int64{{0, 3600}, {unix("2026-03-29T01:00:00Z"), 7200}, {unix("2026-10-25T01:00:00Z"), 3600}}},
		"south of the equator":    {"Australia/Sydney", [][2]int64{{0, 39_600}, {unix("2026-04-04T16:00:00Z"), 36_000}, {unix("2026-10-03T16:00:00Z"), 39_600}}},
		"half an hour":            {"Australia/Lord_Howe", [][2]int64{{0, 39_600}, {unix("2026-04-04T15:00:00Z"), 37_800}}},
		"negative":                {"America/New_York", [][2]int64{{0, -18_000}, {unix("2026-03-08T07:00:00Z"), -14_400}}},
		"an older name":           {"US/Eastern", [][2]int64{{0, -18_000}, {unix("2026-03-08T07:00:00Z"), -14_400}}},
		"on a Friday":             {"Africa/Cairo", [][2]int64{{0, 7200}, {unix("2026-04-23T22:00:00Z"), 10_800}}},
		"no daylight saving time": {"Asia/Tokyo", [][2]int64{{0, 32_400}}},
	} {
		t.Run(name, func(t *testing.T) {
			got := compiled(t, daily(tt.zone)).TimeZones[tt.zone]
			if len(got) < len(tt.want) || !slices.Equal(got[:len(tt.want)], tt.want) {
				t.Errorf("got %v, want %v first", got, tt.want)
			}
			if last := got[len(got)-1][0]; len(got) > 1 && (last < unix("2045-01-01T00:00:00Z") || last >= unix("2046-01-01T00:00:00Z")) {
				t.Errorf("the last offset is since %d, want one in 2045", last)
			}
		})
	}
}

// hundredOverrides gives overrides with as many limits by the day of New York as there may be, changed as told.
func hundredOverrides(change func(n int, l *v1.Limit)) func(*v1.RateLimit) {
	return func(rl *v1.RateLimit) {
		rl.Spec.Descriptors = []v1.Descriptor{{Key: "user"}}
		for n := range policy.MaxOverrides {
			o := v1.Override{Match: matching("user", fmt.Sprintf("user-%03d", n))}
			for i := range policy.MaxLimits {
				l := v1.Limit{
					Name: fmt.Sprintf("limit-%d", i), Requests: new(int64(1_000_000)), Algorithm: v1.AlgorithmFixedWindow,
					Calendar: v1.CalendarDay, TimeZone: "America/New_York",
				}
				if change != nil {
					change(n*policy.MaxLimits+i, &l)
				}
				o.Limits = append(o.Limits, l)
			}
			rl.Spec.Overrides = append(rl.Spec.Overrides, o)
		}
	}
}

// Redis stands still while it reads a document, so what limits have in common is there once.
func TestAZoneIsCompiledOnceForAllLimits(t *testing.T) {
	got := compiled(t, hundredOverrides(nil))
	if zone := got.TimeZones["America/New_York"]; len(got.TimeZones) != 1 || len(zone) < 40 {
		t.Errorf("got %v", got.TimeZones)
	}
	document, err := json.Marshal(got)
	if err != nil || len(document) > 150<<10 {
		t.Errorf("the document has %d bytes, %v", len(document), err)
	}
	again, err := json.Marshal(compiled(t, hundredOverrides(nil)))
	if err != nil || !bytes.Equal(again, document) {
		t.Errorf("another document of the same object, %v", err)
	}
}

func TestEveryZoneOfLimitsAndOverridesIsCompiled(t *testing.T) {
	var zones []string
	got := compiled(t, func(rl *v1.RateLimit) {
		hundredOverrides(func(n int, l *v1.Limit) {
			l.TimeZone = fmt.Sprintf("Etc/GMT+%d", n%12+1)
			if n < 15 {
				l.TimeZone = fmt.Sprintf("Etc/GMT-%d", n)
			}
		})(rl)
		daily("Europe/Berlin")(rl)
	})
	for zone, offsets := range got.TimeZones {
		zones = append(zones, zone)
		if len(offsets) == 0 {
			t.Errorf("%s has no offsets", zone)
		}
	}
	slices.Sort(zones)
	if want := got.CalendarZones(); len(zones) != 28 || !slices.Equal(zones, want) {
		t.Errorf("got %q, want %q", zones, want)
	}
	if none := compiled(t, nil); none.TimeZones != nil {
		t.Errorf("got %v for no calendar", none.TimeZones)
	}
}

func unix(text string) int64 {
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return at.Unix()
}

// The database of the machine is not asked, so that all machines compile the same bytes.
func TestTimeZonesAreNotThoseOfTheMachine(t *testing.T) {
	want := compiled(t, daily("Europe/Berlin"))
	t.Setenv("ZONEINFO", t.TempDir())
	t.Setenv("TZ", "Asia/Tokyo")
	if got := compiled(t, daily("Europe/Berlin")); got.ContentHash != want.ContentHash {
		t.Errorf("got %+v", got)
	}
}

func TestTheMostSpecificOverrideStandsFirst(t *testing.T) {
	more := []v1.Limit{{Requests: new(int64(1000)), Window: "1m"}}
	got := compiled(t, func(rl *v1.RateLimit) {
		rl.Spec.Descriptors = []v1.Descriptor{{Key: "path", Value: "/a/*"}, {Key: "user"}, {Key: "host", Value: "*.shop.example", Shared: new(true)}}
		rl.Spec.Overrides = []v1.Override{
			{Match: matching("user", "*"), Limits: more},
			{Match: matching("user", "team-*"), Limits: more},
			{Match: matching("user", "alice"), Unlimited: new(true)},
			{Match: append(matching("user", "alice"), matching("path", "/a/b")...), Limits: more},
		}
	})
	var values [][]string
	for _, o := range got.Overrides {
		values = append(values, o.Values)
	}
	if want := [][]string{{"/a/b", "alice", ""}, {"", "alice", ""}, {"", "team-*", ""}, {"", "*", ""}}; !reflect.DeepEqual(values, want) {
		t.Errorf("got %q, want %q", values, want)
	}
	limits := []policy.Limit{{Name: "default", Algorithm: policy.SlidingLog, Requests: 1000, WindowMs: 60_000}}
	if first := got.Overrides[0]; first.Unlimited || !reflect.DeepEqual(first.Limits, limits) {
		t.Errorf("got %+v", first)
	}
	if second := got.Overrides[1]; !second.Unlimited || second.Limits != nil {
		t.Errorf("got %+v", second)
	}
	if got.Descriptors[0].Shared || !got.Descriptors[2].Shared {
		t.Errorf("got %+v", got.Descriptors)
	}
}

func TestWhatDecidesWhetherAndHowIsCompiled(t *testing.T) {
	got := compiled(t, func(rl *v1.RateLimit) {
		rl.Spec.When = []string{"has(request.method)", "request.method == 'POST'"}
		rl.Spec.Mode = v1.ModeEnforce
		rl.Spec.EnforcePercent = new(int32(30))
		rl.Spec.Penalty = &v1.Penalty{Denials: 5, Within: "1m", For: "1h", Max: "24h"}
		rl.Spec.Response = &v1.Response{
			Status: 503, Headers: &[]v1.ResponseHeader{v1.ResponseHeaderRetryAfter, v1.ResponseHeaderLegacy},
			Problem: &v1.Problem{Type: "/problems/1", Title: "Later", Detail: "Try again."},
		}
	})
	want := policy.RateLimit{
		Name: "shop/api", Domain: "shop", OnStoreFailure: policy.FailureAllow,
		Limits:        []policy.Limit{{Name: "default", Algorithm: policy.SlidingLog, Requests: 100, WindowMs: 60_000}},
		When:          []string{"has(request.method)", "request.method == 'POST'"},
		ShadowPercent: 70,
		Penalty:       &policy.Penalty{Denials: 5, WithinMs: 60_000, ForMs: 3_600_000, MaxMs: 86_400_000},
		Response: &policy.Response{
			Status: 503, Headers: []string{policy.HeaderLegacy, policy.HeaderRetryAfter}, Type: "/problems/1", Title: "Later", Detail: "Try again.",
		},
	}.Sealed()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// boundedCost is the example of api/v1 and of the samples.
const boundedCost = "'x-items' in request.header ? math.greatest(1, math.least(int(request.header['x-items']), 100)) : 1"

func TestCost(t *testing.T) {
	for name, tt := range map[string]struct {
		cost           intstr.IntOrString
		wantCost       int64
		wantExpression string
	}{
		"1 is not said":                    {intstr.FromInt32(1), 0, ""},
		"an integer":                       {intstr.FromInt32(5), 5, ""},
		"1 as text is not said":            {intstr.FromString("1"), 0, ""},
		"an integer as text":               {intstr.FromString(" 5 "), 5, ""},
		"an integer that only fits a text": {intstr.FromString("9007199254740991"), policy.MaxInteger, ""},
		"an expression":                    {intstr.FromString("size(request.path)"), 0, "size(request.path)"},
		"a sum":                            {intstr.FromString("1 + 1"), 0, "1 + 1"},
		"what the rule proposes":           {intstr.FromString(boundedCost), 0, boundedCost},
	} {
		t.Run(name, func(t *testing.T) {
			got := compiled(t, costing(tt.cost))
			if got.Cost != tt.wantCost || got.CostExpression != tt.wantExpression {
				t.Errorf("got %d, %q", got.Cost, got.CostExpression)
			}
		})
	}
}

func TestShadow(t *testing.T) {
	for name, tt := range map[string]struct {
		mode    v1.Mode
		percent *int32
		want    int64
	}{
		"nothing said":             {"", nil, 0},
		"enforced":                 {v1.ModeEnforce, new(int32(100)), 0},
		"enforced for nobody":      {v1.ModeEnforce, new(int32(0)), 100},
		"enforced for some":        {v1.ModeEnforce, new(int32(1)), 99},
		"shadow":                   {v1.ModeShadow, nil, 100},
		"shadow, whatever percent": {v1.ModeShadow, new(int32(60)), 100},
	} {
		t.Run(name, func(t *testing.T) {
			got := compiled(t, func(rl *v1.RateLimit) { rl.Spec.Mode, rl.Spec.EnforcePercent = tt.mode, tt.percent })
			if got.ShadowPercent != tt.want {
				t.Errorf("got %d, want %d", got.ShadowPercent, tt.want)
			}
		})
	}
}

func TestBlocksDoNotDoubleWithoutMax(t *testing.T) {
	got := compiled(t, penalizing(v1.Penalty{Denials: 1, Within: "100ms", For: "10m"})).Penalty
	if want := (policy.Penalty{Denials: 1, WithinMs: 100, ForMs: 600_000, MaxMs: 600_000}); *got != want {
		t.Errorf("got %+v, want %+v", *got, want)
	}
}

// The API server writes the defaults into objects. Files do not have them, and mean the same.
func TestDefaultsThatAreWrittenChangeNoHash(t *testing.T) {
	want := compiled(t, nil).ContentHash
	for name, change := range map[string]func(*v1.RateLimit){
		"cost":           costing(intstr.FromInt32(1)),
		"mode":           func(rl *v1.RateLimit) { rl.Spec.Mode = v1.ModeEnforce },
		"enforcePercent": func(rl *v1.RateLimit) { rl.Spec.EnforcePercent = new(int32(100)) },
		"response":       answering(v1.Response{}),
		"all of response": answering(v1.Response{
			Status: 429, Headers: &[]v1.ResponseHeader{v1.ResponseHeaderRetryAfter, v1.ResponseHeaderDraft}, Problem: &v1.Problem{},
		}),
		"no overrides, no conditions": func(rl *v1.RateLimit) { rl.Spec.Overrides, rl.Spec.When = []v1.Override{}, []string{} },
		"onStoreFailure":              func(rl *v1.RateLimit) { rl.Spec.OnStoreFailure = v1.FailureModeAllow },
	} {
		t.Run(name, func(t *testing.T) {
			if got := compiled(t, change); got.ContentHash != want {
				t.Errorf("got %+v", got)
			}
		})
	}
	if none := compiled(t, answering(v1.Response{Headers: &[]v1.ResponseHeader{}})); none.ContentHash == want || none.Response.Headers == nil {
		t.Errorf("no headers are taken for the default: %+v", none.Response)
	}
}

// manyZones is one more than a policy may have.
var manyZones = strings.Fields(`UTC Africa/Cairo Africa/Lagos Africa/Nairobi America/Bogota America/Chicago America/Denver
	America/Halifax America/Havana America/Lima America/Los_Angeles America/New_York America/Nuuk America/Phoenix
	America/Santiago America/Sao_Paulo Asia/Beirut Asia/Dhaka Asia/Dubai Asia/Karachi Asia/Kathmandu Asia/Kolkata
	Asia/Seoul Asia/Shanghai Asia/Tehran Asia/Tokyo Australia/Lord_Howe Australia/Sydney Europe/Berlin Europe/Istanbul
	Europe/London Pacific/Auckland Pacific/Honolulu`)

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
			[]string{"spec.limits[0].requests", "at most 1000", "use algorithm SlidingCounter, FixedWindow or TokenBucket"}},
		"window missing":       {limit(func(l *v1.Limit) { l.Window = "" }), []string{"spec.limits[0].window: Required", "such as 1m"}},
		"window in days":       {limit(func(l *v1.Limit) { l.Window = "1d" }), []string{"spec.limits[0].window", "no unit for days"}},
		"window with fraction": {limit(func(l *v1.Limit) { l.Window = "1.5h" }), []string{"spec.limits[0].window", "such as 250ms"}},
		"window negative":      {limit(func(l *v1.Limit) { l.Window = "-1m" }), []string{"spec.limits[0].window", "such as 250ms"}},
		"window 0s":            {limit(func(l *v1.Limit) { l.Window = "0s" }), []string{"spec.limits[0].window", "from 100ms to 744h"}},
		"window of ten years":  {limit(func(l *v1.Limit) { l.Window = "87600h" }), []string{"spec.limits[0].window", "from 100ms to 744h"}},
		"unknown algorithm": {limit(func(l *v1.Limit) { l.Algorithm = "GCRA" }),
			[]string{"spec.limits[0].algorithm", `"SlidingLog", "SlidingCounter", "FixedWindow", "TokenBucket", "Concurrency", "Balance"`}},
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
		"unknown failure mode": {func(rl *v1.RateLimit) { rl.Spec.OnStoreFailure = "Maybe" }, []string{"spec.onStoreFailure", `"Allow", "Deny", "LocalShare"`}},
		"a share of a balance": {func(rl *v1.RateLimit) {
			rl.Spec.OnStoreFailure = v1.FailureModeLocalShare
			rl.Spec.Limits = []v1.Limit{{Requests: new(int64(1)), Algorithm: v1.AlgorithmBalance}}
		}, []string{"spec.onStoreFailure", "use Allow or Deny"}},
		"a share of slots": {func(rl *v1.RateLimit) {
			rl.Spec.OnStoreFailure = v1.FailureModeLocalShare
			rl.Spec.Limits = []v1.Limit{{Requests: new(int64(1)), Algorithm: v1.AlgorithmConcurrency}}
		}, []string{"spec.onStoreFailure", "use Allow or Deny"}},
		"a share of an override's balance": {func(rl *v1.RateLimit) {
			rl.Spec.OnStoreFailure = v1.FailureModeLocalShare
			rl.Spec.Descriptors = []v1.Descriptor{{Key: "user"}}
			rl.Spec.Overrides = []v1.Override{{
				Match:  []v1.DescriptorMatch{{Key: "user", Value: "a"}},
				Limits: []v1.Limit{{Requests: new(int64(1)), Algorithm: v1.AlgorithmBalance}},
			}}
		}, []string{"spec.onStoreFailure", "use Allow or Deny"}},
		"storeRef without name": {func(rl *v1.RateLimit) { rl.Spec.StoreRef = &v1.StoreReference{} },
			[]string{"spec.storeRef.name", "remove storeRef to use the RedisStore default"}},
		"storeRef with a strange namespace": {func(rl *v1.RateLimit) { rl.Spec.StoreRef = &v1.StoreReference{Name: "a", Namespace: "A/B"} },
			[]string{"spec.storeRef.namespace", "name of a namespace"}},
		"large sliding counter": {limit(func(l *v1.Limit) { l.Algorithm, l.Requests = v1.AlgorithmSlidingCounter, new(int64(1<<33+1)) }),
			[]string{"spec.limits[0].requests", "exactly up to 8589934592", "use algorithm FixedWindow or TokenBucket"}},
		"many slots": {limit(func(l *v1.Limit) {
			l.Algorithm, l.Requests, l.Window = v1.AlgorithmConcurrency, new(int64(100_001)), ""
		}), []string{"spec.limits[0].requests", "at most 100000"}},
		"window of a concurrency": {limit(func(l *v1.Limit) { l.Algorithm = v1.AlgorithmConcurrency }), []string{"spec.limits[0].window: Forbidden", "remove window"}},
		"window of a balance":     {limit(func(l *v1.Limit) { l.Algorithm = v1.AlgorithmBalance }), []string{"spec.limits[0].window: Forbidden", "remove window"}},
		"window of a calendar": {limit(func(l *v1.Limit) { l.Algorithm, l.Calendar = v1.AlgorithmFixedWindow, v1.CalendarDay }),
			[]string{"spec.limits[0].window: Forbidden", "remove window, or remove calendar"}},
		"calendar of a log": {limit(func(l *v1.Limit) { l.Window, l.Calendar = "", v1.CalendarDay }),
			[]string{"spec.limits[0].calendar: Forbidden", "set algorithm: FixedWindow"}},
		"calendar of a concurrency": {limit(func(l *v1.Limit) { l.Algorithm, l.Window, l.Calendar = v1.AlgorithmConcurrency, "", v1.CalendarDay }),
			[]string{"spec.limits[0].calendar: Forbidden", "set algorithm: FixedWindow"}},
		"unknown calendar": {limit(func(l *v1.Limit) { l.Algorithm, l.Window, l.Calendar = v1.AlgorithmFixedWindow, "", "Year" }),
			[]string{"spec.limits[0].calendar", `"Minute", "Hour", "Day", "Week", "Month"`}},
		"time zone of a window": {limit(func(l *v1.Limit) { l.Algorithm, l.TimeZone = v1.AlgorithmFixedWindow, "Europe/Berlin" }),
			[]string{"spec.limits[0].timeZone: Forbidden", "set calendar in the place of window"}},
		"unknown time zone":        {daily("Europe/Hamburg"), []string{"spec.limits[0].timeZone", "such as Europe/Berlin"}},
		"time zone of the machine": {daily("Local"), []string{"spec.limits[0].timeZone", "such as Europe/Berlin"}},
		"time zone that is a path": {daily("../etc/localtime"), []string{"spec.limits[0].timeZone", "such as Europe/Berlin"}},
		"slotTTL of a log":         {limit(func(l *v1.Limit) { l.SlotTTL = "1m" }), []string{"spec.limits[0].slotTTL: Forbidden", "set algorithm: Concurrency"}},
		"long slotTTL": {limit(func(l *v1.Limit) { l.Algorithm, l.Window, l.SlotTTL = v1.AlgorithmConcurrency, "", "745h" }),
			[]string{"spec.limits[0].slotTTL", "from 100ms to 744h"}},
		"concurrency and another": {func(rl *v1.RateLimit) {
			rl.Spec.Limits = append(rl.Spec.Limits, v1.Limit{Name: "slots", Algorithm: v1.AlgorithmConcurrency, Requests: new(int64(1))})
		}, []string{"spec.limits: Invalid", "a RateLimit of their own"}},
		"shared without wildcard": {func(rl *v1.RateLimit) {
			rl.Spec.Descriptors = []v1.Descriptor{{Key: "k", Value: "v", Shared: new(true)}}
		},
			[]string{"spec.descriptors[0].shared", "put a * into value"}},
		"101 overrides":           {func(rl *v1.RateLimit) { rl.Spec.Overrides = make([]v1.Override, 101) }, []string{"spec.overrides: Too many", "at most 100"}},
		"override without match":  {override(v1.Override{Unlimited: new(true)}), []string{"spec.overrides[0].match: Required"}},
		"override without limits": {override(v1.Override{Match: matching("user", "a")}), []string{"spec.overrides[0]: Invalid", "either limits, or unlimited: true"}},
		"override with limits, unlimited": {override(v1.Override{Match: matching("user", "a"), Unlimited: new(true), Limits: []v1.Limit{{Requests: new(int64(1)), Window: "1m"}}}),
			[]string{"spec.overrides[0]: Invalid", "either limits, or unlimited: true"}},
		"override of an unknown key": {override(v1.Override{Match: matching("tenant", "a"), Unlimited: new(true)}),
			[]string{"spec.overrides[0].match[0].key", "none of spec.descriptors"}},
		"override of a key that is there twice": {override(v1.Override{Match: matching("path", "a"), Unlimited: new(true)}),
			[]string{"spec.overrides[0].match[0].key", "has twice"}},
		"override of a shared descriptor": {func(rl *v1.RateLimit) {
			override(v1.Override{Match: append(matching("user", "a"), matching("host", "a.shop.example")...), Unlimited: new(true)})(rl)
			rl.Spec.Descriptors = append(rl.Spec.Descriptors, v1.Descriptor{Key: "host", Value: "*.shop.example", Shared: new(true)})
		}, []string{"spec.overrides[0].match[1].key", "match another descriptor, or remove shared"}},
		"calendars of many zones": {hundredOverrides(func(n int, l *v1.Limit) {
			l.TimeZone = manyZones[n%len(manyZones)]
		}), []string{"spec.overrides", "have 33 time zones together, and may have 32", "a RateLimit of their own"}},
		"override of one key twice": {override(v1.Override{Match: append(matching("user", "a"), matching("user", "b")...), Unlimited: new(true)}),
			[]string{"spec.overrides[0].match[1].key: Duplicate"}},
		"override of any value": {override(v1.Override{Match: matching("user", ""), Unlimited: new(true)}), []string{"spec.overrides[0].match[0].value: Required"}},
		"override of nine wildcards": {override(v1.Override{Match: matching("user", "*********"), Unlimited: new(true)}),
			[]string{"spec.overrides[0].match[0].value", "at most 8 wildcards"}},
		"override with a limit that is none": {override(v1.Override{Match: matching("user", "a"), Limits: []v1.Limit{{Requests: new(int64(1))}}}),
			[]string{"spec.overrides[0].limits[0].window: Required"}},
		"override with concurrency": {override(v1.Override{Match: matching("user", "a"), Limits: []v1.Limit{{Requests: new(int64(1)), Algorithm: v1.AlgorithmConcurrency}}}),
			[]string{"spec.overrides[0].limits", "set the algorithm that spec.limits has"}},
		"two overrides of the same": {override(v1.Override{Match: matching("user", "a"), Unlimited: new(true)}, v1.Override{Match: matching("user", "a"), Unlimited: new(true)}),
			[]string{"spec.overrides[1].match: Duplicate"}},
		"nine conditions":         {func(rl *v1.RateLimit) { rl.Spec.When = make([]string, 9) }, []string{"spec.when: Too many", "at most 8"}},
		"empty condition":         {func(rl *v1.RateLimit) { rl.Spec.When = []string{""} }, []string{"spec.when[0]: Required"}},
		"long condition":          {func(rl *v1.RateLimit) { rl.Spec.When = []string{strings.Repeat("ü", 600)} }, []string{"spec.when[0]: Too long", "1024 bytes"}},
		"condition that is none":  {func(rl *v1.RateLimit) { rl.Spec.When = []string{"true", "request.path"} }, []string{"spec.when[1]", "line 1, column "}},
		"condition on two lines":  {func(rl *v1.RateLimit) { rl.Spec.When = []string{"true &&\n  request.methud == 'GET'"} }, []string{"spec.when[0]", "line 2, column "}},
		"cost 0":                  {costing(intstr.FromInt32(0)), []string{"spec.cost", "from 1 to 2147483647"}},
		"cost below 0":            {costing(intstr.FromInt32(-1)), []string{"spec.cost", "from 1 to 2147483647"}},
		"cost 0 as text":          {costing(intstr.FromString("0")), []string{"spec.cost", "from 1 to 9007199254740991"}},
		"cost beyond all":         {costing(intstr.FromString("99999999999999999999")), []string{"spec.cost", "from 1 to 9007199254740991"}},
		"empty cost":              {costing(intstr.FromString("")), []string{"spec.cost: Required"}},
		"long cost":               {costing(intstr.FromString("1" + strings.Repeat("+1", 512))), []string{"spec.cost: Too long", "1024 bytes"}},
		"cost that is none":       {costing(intstr.FromString("request.path")), []string{"spec.cost", "line 1, column "}},
		"unknown mode":            {func(rl *v1.RateLimit) { rl.Spec.Mode = "DryRun" }, []string{"spec.mode", `"Enforce", "Shadow"`}},
		"101 percent":             {func(rl *v1.RateLimit) { rl.Spec.EnforcePercent = new(int32(101)) }, []string{"spec.enforcePercent", "from 0 to 100"}},
		"-1 percent":              {func(rl *v1.RateLimit) { rl.Spec.EnforcePercent = new(int32(-1)) }, []string{"spec.enforcePercent", "from 0 to 100"}},
		"penalty of no denials":   {penalizing(v1.Penalty{Within: "1m", For: "1m"}), []string{"spec.penalty.denials", "from 1 to 1000000"}},
		"penalty of many denials": {penalizing(v1.Penalty{Denials: 1_000_001, Within: "1m", For: "1m"}), []string{"spec.penalty.denials", "from 1 to 1000000"}},
		"penalty without within":  {penalizing(v1.Penalty{Denials: 1, For: "1m"}), []string{"spec.penalty.within"}},
		"penalty without for":     {penalizing(v1.Penalty{Denials: 1, Within: "1m"}), []string{"spec.penalty.for"}},
		"penalty of a long max":   {penalizing(v1.Penalty{Denials: 1, Within: "1m", For: "1m", Max: "745h"}), []string{"spec.penalty.max", "from 100ms to 744h"}},
		"penalty of a short max":  {penalizing(v1.Penalty{Denials: 1, Within: "1m", For: "1m", Max: "59s"}), []string{"spec.penalty.max", "raise max"}},
		"penalty of a concurrency": {func(rl *v1.RateLimit) {
			rl.Spec.Limits = []v1.Limit{{Algorithm: v1.AlgorithmConcurrency, Requests: new(int64(1))}}
			rl.Spec.Penalty = &v1.Penalty{Denials: 1, Within: "1m", For: "1m"}
		}, []string{"spec.penalty: Forbidden", "remove penalty"}},
		"status 200":     {answering(v1.Response{Status: 200}), []string{"spec.response.status", "from 400 to 599"}},
		"unknown header": {answering(v1.Response{Headers: &[]v1.ResponseHeader{"Standard"}}), []string{"spec.response.headers[0]", `"Draft", "Legacy", "RetryAfter"`}},
		"header twice": {answering(v1.Response{Headers: &[]v1.ResponseHeader{v1.ResponseHeaderDraft, v1.ResponseHeaderDraft}}),
			[]string{"spec.response.headers[1]: Duplicate"}},
		"long type":                     {answering(v1.Response{Problem: &v1.Problem{Type: strings.Repeat("t", 257)}}), []string{"spec.response.problem.type: Too long", "256 bytes"}},
		"broken type":                   {answering(v1.Response{Problem: &v1.Problem{Type: "/%"}}), []string{"spec.response.problem.type", "want a URI reference"}},
		"long title":                    {answering(v1.Response{Problem: &v1.Problem{Title: strings.Repeat("ü", 200)}}), []string{"spec.response.problem.title: Too long", "256 bytes"}},
		"long detail":                   {answering(v1.Response{Problem: &v1.Problem{Detail: strings.Repeat("ü", 600)}}), []string{"spec.response.problem.detail: Too long", "1024 bytes"}},
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
		"sliding counter":                    {[]v1.Limit{{Requests: new(int64(5000)), Window: "1m", Algorithm: v1.AlgorithmSlidingCounter}}, "5000/1m sliding counter"},
		"calendar": {[]v1.Limit{{Requests: new(int64(5)), Algorithm: v1.AlgorithmFixedWindow, Calendar: v1.CalendarDay, TimeZone: "Europe/Berlin"}},
			"5/day Europe/Berlin fixed window"},
		"calendar of UTC": {[]v1.Limit{{Requests: new(int64(5)), Algorithm: v1.AlgorithmFixedWindow, Calendar: v1.CalendarMonth}}, "5/month UTC fixed window"},
		"concurrency":     {[]v1.Limit{{Requests: new(int64(10)), Algorithm: v1.AlgorithmConcurrency}}, "10 slots of 1m"},
		"balance":         {[]v1.Limit{{Requests: new(int64(100)), Algorithm: v1.AlgorithmBalance}}, "balance 100"},
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

func TestSummaryCountsOverrides(t *testing.T) {
	one := policy.RateLimit{Limits: []policy.Limit{{Algorithm: policy.Balance, Requests: 5}}, Overrides: make([]policy.Override, 1)}
	if got := translate.Summary(&one); got != "balance 5, and 1 override" {
		t.Errorf("got %q", got)
	}
	one.Overrides = make([]policy.Override, 100)
	if got := translate.Summary(&one); got != "balance 5, and 100 overrides" {
		t.Errorf("got %q", got)
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
	compiled.Overrides = make([]policy.Override, 100)
	got = translate.Summary(&compiled)
	if len(got) > 256 || !strings.HasSuffix(got, " more, and 100 overrides") {
		t.Errorf("%d characters: %q", len(got), got)
	}
}
