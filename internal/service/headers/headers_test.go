package headers

import (
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

var (
	perMinute = policy.Limit{Name: "default", Algorithm: policy.FixedWindow, Requests: 100, WindowMs: 60_000}
	defaults  = &policy.RateLimit{Name: "shop/api-per-ip", Limits: []policy.Limit{perMinute}}
)

func asking(headers ...string) *policy.RateLimit {
	return &policy.RateLimit{Name: "shop/api-per-ip", Limits: []policy.Limit{perMinute}, Response: &policy.Response{Headers: headers}}
}

// verdict is one of that policy, which half is left of.
func verdict(p *policy.RateLimit) engine.Verdict {
	return engine.Verdict{
		Allowed: true, Mode: engine.Enforced, Known: true, Reason: limit.ReasonOK, Limit: 100, Remaining: 50,
		ResetAfter: 29_001 * time.Millisecond, Policy: p, Binding: &perMinute, Name: p.Name,
	}
}

func denial(p *policy.RateLimit) engine.Verdict {
	v := verdict(p)
	v.Allowed, v.Reason, v.Remaining, v.RetryAfter = false, limit.ReasonLimit, 0, 1500*time.Millisecond
	return v
}

func changed(v engine.Verdict, change func(*engine.Verdict)) engine.Verdict {
	change(&v)
	return v
}

// told are the headers as text.
func told(v *engine.Verdict) string {
	header := http.Header{}
	Add(header, v)
	var lines []string
	for name, values := range header {
		lines = append(lines, name+": "+strings.Join(values, "|"))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestHeadersToTheLetter(t *testing.T) {
	for name, test := range map[string]struct {
		verdict engine.Verdict
		want    string
	}{
		"by default": {verdict(defaults), `Ratelimit-Policy: "api-per-ip";q=100;w=60
Ratelimit: "api-per-ip";r=50;t=30`},
		"by default, denied": {denial(defaults), `Ratelimit-Policy: "api-per-ip";q=100;w=60
Ratelimit: "api-per-ip";r=0;t=2
Retry-After: 2`},
		"a response that says nothing of headers": {
			denial(&policy.RateLimit{Name: "shop/api-per-ip", Response: &policy.Response{Status: 503}}),
			`Ratelimit-Policy: "api-per-ip";q=100;w=60
Ratelimit: "api-per-ip";r=0;t=2
Retry-After: 2`,
		},
		"Draft alone": {denial(asking(policy.HeaderDraft)), `Ratelimit-Policy: "api-per-ip";q=100;w=60
Ratelimit: "api-per-ip";r=0;t=2`},
		"Legacy": {verdict(asking(policy.HeaderLegacy)), `X-Ratelimit-Limit: 100
X-Ratelimit-Remaining: 50
X-Ratelimit-Reset: 30`},
		"Legacy, denied": {denial(asking(policy.HeaderLegacy)), `X-Ratelimit-Limit: 100
X-Ratelimit-Remaining: 0
X-Ratelimit-Reset: 30`},
		"RetryAfter, allowed": {verdict(asking(policy.HeaderRetryAfter)), ``},
		"RetryAfter, denied":  {denial(asking(policy.HeaderRetryAfter)), `Retry-After: 2`},
		"all": {denial(asking(policy.HeaderLegacy, policy.HeaderRetryAfter, policy.HeaderDraft)), `Ratelimit-Policy: "api-per-ip";q=100;w=60
Ratelimit: "api-per-ip";r=0;t=2
Retry-After: 2
X-Ratelimit-Limit: 100
X-Ratelimit-Remaining: 0
X-Ratelimit-Reset: 30`},
		"none": {denial(asking([]string{}...)), ``},
		"one of several limits": {
			changed(verdict(defaults), func(v *engine.Verdict) { v.Name = "shop/api-per-ip/day" }),
			`Ratelimit-Policy: "api-per-ip/day";q=100;w=60
Ratelimit: "api-per-ip/day";r=50;t=30`,
		},
		"denied from the cache": {
			changed(denial(defaults), func(v *engine.Verdict) { v.Mode = engine.Cached }),
			`Ratelimit-Policy: "api-per-ip";q=100;w=60
Ratelimit: "api-per-ip";r=0;t=2
Retry-After: 2`,
		},
		"more than an Integer holds": {
			changed(verdict(defaults), func(v *engine.Verdict) { v.Limit, v.Remaining = policy.MaxInteger, policy.MaxInteger-1 }),
			`Ratelimit-Policy: "api-per-ip";q=999999999999999;w=60
Ratelimit: "api-per-ip";r=999999999999999;t=30`,
		},
		"no policy applies": {engine.Verdict{Allowed: true}, ``},
		"unlimited": {
			changed(verdict(asking(policy.HeaderDraft, policy.HeaderLegacy)), func(v *engine.Verdict) {
				v.Limit, v.Remaining, v.Binding = -1, policy.MaxInteger, nil
			}),
			``,
		},
		"without figures, denied": {
			engine.Verdict{Mode: engine.Degraded, RetryAfter: time.Second, Policy: defaults, Name: defaults.Name}, `Retry-After: 1`,
		},
		"not asked": {engine.Verdict{Allowed: true, Mode: engine.Cached, Policy: defaults, Name: defaults.Name}, ``},
		"in shadow": {
			changed(denial(defaults), func(v *engine.Verdict) {
				v.Allowed, v.Mode, v.Reason, v.RetryAfter = true, engine.Shadow, limit.ReasonShadow, 0
			}),
			``,
		},
		"of a policy in shadow, with room": {
			verdict(&policy.RateLimit{Name: "shop/api-per-ip", Limits: []policy.Limit{perMinute}, ShadowPercent: 100}), ``,
		},
		"enforced, beside another in shadow": {
			changed(verdict(defaults), func(v *engine.Verdict) { v.Mode = engine.Shadow }),
			`Ratelimit-Policy: "api-per-ip";q=100;w=60
Ratelimit: "api-per-ip";r=50;t=30`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			want := strings.Split(test.want, "\n")
			slices.Sort(want)
			if got := told(&test.verdict); got != strings.Join(want, "\n") {
				t.Errorf("told\n%s\nwant\n%s", got, strings.Join(want, "\n"))
			}
		})
	}
}

func TestTheDraftHasWholeSecondsOnly(t *testing.T) {
	bucket := func(requests, burst, windowMs int64) *policy.Limit {
		return &policy.Limit{Algorithm: policy.TokenBucket, Requests: requests, Burst: burst, WindowMs: windowMs, TickUs: policy.TickFor(windowMs)}
	}
	day := policy.CalendarWindow(policy.CalendarDay).Milliseconds()
	for name, test := range map[string]struct {
		binding *policy.Limit
		limit   int64
		want    string
	}{
		"a window of a second":              {&policy.Limit{Algorithm: policy.SlidingLog, WindowMs: 1000}, 100, `"api-per-ip";q=100;w=1`},
		"a part of a second has no window":  {&policy.Limit{Algorithm: policy.SlidingLog, WindowMs: 250}, 100, `"api-per-ip";q=100`},
		"nor has a second and a half":       {&policy.Limit{Algorithm: policy.SlidingCounter, WindowMs: 1500}, 100, `"api-per-ip";q=100`},
		"a calendar's longest":              {&policy.Limit{Algorithm: policy.FixedWindow, WindowMs: day, Calendar: policy.CalendarDay}, 5, `"api-per-ip";q=5;w=86400`},
		"a bucket: until its burst is back": {bucket(5, 50, 1000), 50, `"api-per-ip";q=50;w=10`},
		"a bucket: rounded up":              {bucket(5, 12, 1000), 12, `"api-per-ip";q=12;w=3`},
		"a bucket of a part of a second":    {bucket(10, 1, 100), 1, `"api-per-ip";q=1;w=1`},
		"a bucket that never refills":       {bucket(0, 50, 1000), 50, `"api-per-ip";q=50`},
		"the largest bucket":                {bucket(1, policy.MaxBurst(100), 100), policy.MaxBurst(100), `"api-per-ip";q=90071992547;w=9007199255`},
		"a balance has no window":           {&policy.Limit{Algorithm: policy.Balance}, 5, `"api-per-ip";q=5`},
		"a limit that only Redis knows":     {nil, 100, `"api-per-ip";q=100`},
	} {
		t.Run(name, func(t *testing.T) {
			v := verdict(defaults)
			v.Binding, v.Limit = test.binding, test.limit
			header := http.Header{}
			Add(header, &v)
			if got := header.Get("RateLimit-Policy"); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

// What a client may spend in t seconds is r: no time gives a balance more.
func TestABalanceIsToldWithoutATime(t *testing.T) {
	v := verdict(defaults)
	v.Binding, v.ResetAfter = &policy.Limit{Algorithm: policy.Balance}, 0
	header := http.Header{}
	Add(header, &v)
	if got, want := header.Get("RateLimit"), `"api-per-ip";r=50`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// The draft: Retry-After should not be earlier than the end of t.
func TestAClientThatWaitsForEitherHeaderWaitsAsLong(t *testing.T) {
	for _, retry := range []time.Duration{time.Millisecond, time.Second, time.Second + 1, time.Hour} {
		v := denial(defaults)
		v.RetryAfter = retry
		header := http.Header{}
		Add(header, &v)
		if after := header.Get("Retry-After"); !strings.HasSuffix(header.Get("RateLimit"), ";t="+after) {
			t.Errorf("Retry-After: %s, and RateLimit: %s", after, header.Get("RateLimit"))
		}
	}
}

func TestNamesAreCanonical(t *testing.T) {
	header := http.Header{}
	v := denial(asking(policy.HeaderDraft, policy.HeaderLegacy, policy.HeaderRetryAfter))
	Add(header, &v)
	for name := range header {
		if name != textproto.CanonicalMIMEHeaderKey(name) {
			t.Errorf("header %q is not in its canonical form, so nobody finds it", name)
		}
	}
	if len(header) != 6 {
		t.Errorf("%d headers, want 6", len(header))
	}
}
