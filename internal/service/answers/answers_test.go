package answers

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

var update = flag.Bool("update", false, "write the golden files")

var (
	perMinute = policy.Limit{Name: "default", Algorithm: policy.FixedWindow, Requests: 100, WindowMs: 60_000}
	bucket    = policy.Limit{
		Name: "default", Algorithm: policy.TokenBucket, Requests: 5, Burst: 50, WindowMs: 1000, TickUs: policy.TickFor(1000),
	}
	perMonth = policy.Limit{
		Name: "default", Algorithm: policy.FixedWindow, Requests: 5000, Calendar: policy.CalendarMonth, TimeZone: "Etc/UTC",
		WindowMs: policy.CalendarWindow(policy.CalendarMonth).Milliseconds(),
	}
	balance  = policy.Limit{Name: "default", Algorithm: policy.Balance, Requests: 5}
	subSec   = policy.Limit{Name: "default", Algorithm: policy.SlidingLog, Requests: 10, WindowMs: 250}
	defaults = asking(policy.DefaultHeaders...)
)

func asking(headers ...string) *policy.RateLimit {
	return &policy.RateLimit{Name: "shop/api-per-ip", Limits: []policy.Limit{perMinute}, Response: &policy.Response{Headers: headers}}
}

// allowed is a verdict of the limit, of which half is left.
func allowed(binding *policy.Limit, of, remaining int64) engine.Verdict {
	return engine.Verdict{
		Allowed: true, Mode: engine.Enforced, Known: true, Reason: limit.ReasonOK, Limit: of, Remaining: remaining,
		ResetAfter: 29_001 * time.Millisecond, Policy: defaults, Binding: binding, Name: defaults.Name,
	}
}

func denied(binding *policy.Limit, of int64, retry time.Duration) engine.Verdict {
	v := allowed(binding, of, 0)
	v.Allowed, v.Reason, v.RetryAfter = false, limit.ReasonLimit, retry
	return v
}

func changed(v engine.Verdict, change func(*engine.Verdict)) engine.Verdict {
	change(&v)
	return v
}

// verdicts are what there is to tell, all of one policy.
func verdicts() map[string]engine.Verdict {
	second := time.Second
	degraded := engine.Verdict{Mode: engine.Degraded, Policy: defaults, Name: defaults.Name}
	return map[string]engine.Verdict{
		"single limit":         allowed(&perMinute, 100, 50),
		"single limit, denied": denied(&perMinute, 100, 1500*time.Millisecond),
		"several limits": changed(allowed(&perMinute, 100, 50), func(v *engine.Verdict) {
			v.Name = "shop/api-per-ip/day"
		}),
		"several limits, denied": changed(denied(&perMinute, 100, 1500*time.Millisecond), func(v *engine.Verdict) {
			v.Name = "shop/api-per-ip/day"
		}),
		"token bucket":              allowed(&bucket, 50, 49),
		"token bucket, denied":      denied(&bucket, 50, 200*time.Millisecond),
		"calendar month":            changed(allowed(&perMonth, 5000, 4999), func(v *engine.Verdict) { v.ResetAfter = 700 * time.Hour }),
		"calendar month, denied":    denied(&perMonth, 5000, 700*time.Hour),
		"balance":                   changed(allowed(&balance, 5, 4), func(v *engine.Verdict) { v.ResetAfter = 0 }),
		"balance, denied":           changed(denied(&balance, 5, time.Minute), func(v *engine.Verdict) { v.ResetAfter = 0 }),
		"sub-second window":         changed(allowed(&subSec, 10, 9), func(v *engine.Verdict) { v.ResetAfter = 250 * time.Millisecond }),
		"sub-second window, denied": changed(denied(&subSec, 10, time.Millisecond), func(v *engine.Verdict) { v.ResetAfter = 250 * time.Millisecond }),
		"unlimited":                 changed(allowed(nil, -1, policy.MaxInteger), func(v *engine.Verdict) { v.ResetAfter = 0 }),
		"shadow": changed(denied(&perMinute, 100, 0), func(v *engine.Verdict) {
			v.Allowed, v.Mode, v.Reason = true, engine.Shadow, limit.ReasonShadow
		}),
		"enforced beside shadow": changed(allowed(&perMinute, 100, 50), func(v *engine.Verdict) { v.Mode = engine.Shadow }),
		"degraded, allowed":      changed(degraded, func(v *engine.Verdict) { v.Allowed = true }),
		"degraded, denied":       changed(degraded, func(v *engine.Verdict) { v.RetryAfter = second }),
		"denied beside degraded": changed(denied(&perMinute, 100, second), func(v *engine.Verdict) { v.Mode = engine.Degraded }),
		"cached":                 changed(denied(&perMinute, 100, second), func(v *engine.Verdict) { v.Mode = engine.Cached }),
		"not asked":              {Allowed: true, Mode: engine.Cached, Policy: defaults, Name: defaults.Name},
		"penalty":                changed(denied(&perMinute, 100, 10*time.Minute), func(v *engine.Verdict) { v.Reason = limit.ReasonPenalty }),
		"limit of 0": changed(denied(&policy.Limit{Name: "default", Algorithm: policy.FixedWindow, WindowMs: 60_000}, 0, time.Minute), func(v *engine.Verdict) {
			v.Reason = limit.ReasonBlocked
		}),
		"denied by override": changed(denied(&policy.Limit{Name: "guest", Algorithm: policy.SlidingLog, Requests: 3, WindowMs: 1000}, 3, second), func(v *engine.Verdict) {
			v.Name = "shop/api-per-ip/guest"
		}),
		"largest figures": changed(allowed(&perMinute, policy.MaxInteger, policy.MaxInteger-1), func(v *engine.Verdict) {
			v.ResetAfter = policy.MaxWindow
		}),
		"largest bucket": allowed(&policy.Limit{
			Algorithm: policy.TokenBucket, Requests: 1, Burst: policy.MaxBurst(100), WindowMs: 100, TickUs: policy.TickFor(100),
		}, policy.MaxBurst(100), 1),
		"a newer policy than ours": allowed(nil, 100, 50),
		"no policy applies":        {Allowed: true},
	}
}

// told are the headers as text.
func told(v *engine.Verdict) string {
	var lines []string
	Headers(func(name, value string) { lines = append(lines, name+": "+value+"\n") }, v)
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// of gives the verdict as that of a policy which asks for the headers.
func of(v engine.Verdict, headers []string) engine.Verdict {
	if v.Policy != nil {
		v.Policy = asking(headers...)
	}
	return v
}

func compare(t *testing.T, file, got string) {
	t.Helper()
	path := filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got == string(want) {
		return
	}
	gotLines, wantLines := strings.Split(got, "\n"), strings.Split(string(want), "\n")
	for i := range min(len(gotLines), len(wantLines)) {
		if gotLines[i] != wantLines[i] {
			t.Fatalf("%s:%d: %q, want %q", path, i+1, gotLines[i], wantLines[i])
		}
	}
	t.Errorf("%s has %d lines, want %d", path, len(gotLines), len(wantLines))
}

// Each file of testdata is a dialect: all verdicts with the headers that they have in it.
func TestHeadersToTheLetter(t *testing.T) {
	for file, headers := range map[string][]string{
		"draft.golden":       {policy.HeaderDraft},
		"legacy.golden":      {policy.HeaderLegacy},
		"retry-after.golden": {policy.HeaderRetryAfter},
		"all.golden":         {policy.HeaderLegacy, policy.HeaderRetryAfter, policy.HeaderDraft},
		"none.golden":        {},
	} {
		t.Run(file, func(t *testing.T) {
			all := verdicts()
			var text strings.Builder
			for _, name := range slices.Sorted(maps.Keys(all)) {
				v := of(all[name], headers)
				fmt.Fprintf(&text, "# %s\n%s", name, told(&v))
			}
			compare(t, file, text.String())
		})
	}
}

func TestAPolicyThatSaysNothingOfHeadersHasTheDefault(t *testing.T) {
	v := denied(&perMinute, 100, time.Second)
	want := told(&v)
	for name, response := range map[string]*policy.Response{"no response": nil, "a response": {Status: http.StatusServiceUnavailable}} {
		t.Run(name, func(t *testing.T) {
			v.Policy = &policy.RateLimit{Name: defaults.Name, Response: response}
			if got := told(&v); got != want || want == "" {
				t.Errorf("told\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestAPolicyInShadowHasNoFigures(t *testing.T) {
	v := allowed(&perMinute, 100, 50)
	v.Policy = &policy.RateLimit{Name: defaults.Name, ShadowPercent: 100}
	if got := told(&v); got != "" {
		t.Errorf("told\n%s\nwant nothing", got)
	}
}

func TestDenialsToTheLetter(t *testing.T) {
	all := verdicts()
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		v := all[name]
		if v.Allowed {
			if got := Status(&v); got != http.StatusOK {
				t.Errorf("%s: status %d, want 200", name, got)
			}
			continue
		}
		fmt.Fprintf(&text, "# %s\n%d %s", name, Status(&v), Denial(&v, nil).JSON())
	}
	compare(t, "denials.golden", text.String())
}

func TestThePolicysOwnWordsReplaceOurs(t *testing.T) {
	for name, test := range map[string]struct {
		own  policy.Response
		want string
	}{
		"all": {
			policy.Response{Status: 503, Type: "https://shop.example/limits?a=1&b=2", Title: "Slow down", Detail: "See <our> terms."},
			`{"type":"https://shop.example/limits?a=1&b=2","title":"Slow down","status":503,"detail":"See <our> terms.","policy":"shop/api-per-ip","violated-policies":["api-per-ip"],"retryAfter":2}`,
		},
		"a type alone has the title of the status": {
			policy.Response{Type: "https://shop.example/limits"},
			`{"type":"https://shop.example/limits","title":"Too Many Requests","status":429,"detail":"rate limit shop/api-per-ip is exhausted; retry after 2 s","policy":"shop/api-per-ip","violated-policies":["api-per-ip"],"retryAfter":2}`,
		},
		"or another where that has no text": {
			policy.Response{Status: 499, Type: "https://shop.example/limits"},
			`{"type":"https://shop.example/limits","title":"Denied","status":499,"detail":"rate limit shop/api-per-ip is exhausted; retry after 2 s","policy":"shop/api-per-ip","violated-policies":["api-per-ip"],"retryAfter":2}`,
		},
		"a title alone": {
			policy.Response{Title: "Slow down"},
			`{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"Slow down","status":429,"detail":"rate limit shop/api-per-ip is exhausted; retry after 2 s","policy":"shop/api-per-ip","violated-policies":["api-per-ip"],"retryAfter":2}`,
		},
		"text that would end a line or a string": {
			policy.Response{Title: "a\r\nb\"", Detail: "\x00\xff"},
			`{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"a\r\nb\"","status":429,"detail":"\u0000\ufffd","policy":"shop/api-per-ip","violated-policies":["api-per-ip"],"retryAfter":2}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := denied(&perMinute, 100, 1500*time.Millisecond)
			v.Policy = &policy.RateLimit{Name: defaults.Name, Response: &test.own}
			if got := strings.TrimSuffix(string(Denial(&v, nil).JSON()), "\n"); got != test.want {
				t.Errorf("body\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}

func TestADenialNamesAllThatDeniedAsTheHeaderDoes(t *testing.T) {
	v := denied(&perMinute, 100, time.Second)
	got := Denial(&v, []string{"shop/api-per-ip", "shop/per-key/day", "other/per-key/day"}).ViolatedPolicies
	if want := []string{"api-per-ip", "per-key/day"}; !slices.Equal(got, want) {
		t.Errorf("violated %q, want %q", got, want)
	}
}

func TestAProblemIsWrittenWithItsStatusAndLength(t *testing.T) {
	p := Problem{Status: http.StatusNotFound, Detail: "no such thing"}
	for name, test := range map[string]struct {
		write      func(http.ResponseWriter)
		wantStatus int
	}{
		"as it is":      {p.Write, http.StatusNotFound},
		"under another": {func(w http.ResponseWriter) { p.WriteAs(w, http.StatusForbidden) }, http.StatusForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			test.write(w)
			if w.Code != test.wantStatus || w.Header().Get("Content-Type") != ProblemContentType || w.Header().Get("Content-Length") != strconv.Itoa(w.Body.Len()) {
				t.Errorf("%d with %v for %d bytes", w.Code, w.Header(), w.Body.Len())
			}
			if want := `{"title":"Not Found","status":404,"detail":"no such thing"}` + "\n"; w.Body.String() != want {
				t.Errorf("body %s, want %s", w.Body, want)
			}
		})
	}
}

func TestTheDraftHasWholeSecondsOnly(t *testing.T) {
	refilling := func(requests, burst, windowMs int64) *policy.Limit {
		return &policy.Limit{Algorithm: policy.TokenBucket, Requests: requests, Burst: burst, WindowMs: windowMs, TickUs: policy.TickFor(windowMs)}
	}
	for name, test := range map[string]struct {
		binding *policy.Limit
		want    string
	}{
		"a window of a second":              {&policy.Limit{Algorithm: policy.SlidingLog, WindowMs: 1000}, `"api-per-ip";q=100;w=1`},
		"a second and a half has no window": {&policy.Limit{Algorithm: policy.SlidingCounter, WindowMs: 1500}, `"api-per-ip";q=100`},
		"a bucket: rounded up":              {refilling(5, 12, 1000), `"api-per-ip";q=100;w=3`},
		"a bucket of a part of a second":    {refilling(10, 1, 100), `"api-per-ip";q=100;w=1`},
		"a bucket that never refills":       {refilling(0, 50, 1000), `"api-per-ip";q=100`},
	} {
		t.Run(name, func(t *testing.T) {
			v := allowed(test.binding, 100, 50)
			header := http.Header{}
			Set(header, &v)
			if got := header.Get("RateLimit-Policy"); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

// The draft: Retry-After should not be earlier than the end of t.
func TestAClientThatWaitsForEitherHeaderWaitsAsLong(t *testing.T) {
	for _, retry := range []time.Duration{time.Millisecond, time.Second, time.Second + 1, time.Hour} {
		v := denied(&perMinute, 100, retry)
		header := http.Header{}
		Set(header, &v)
		if after := header.Get("Retry-After"); !strings.HasSuffix(header.Get("RateLimit"), ";t="+after) {
			t.Errorf("Retry-After: %s, and RateLimit: %s", after, header.Get("RateLimit"))
		}
	}
}

func TestNamesAreCanonicalAndThereInLowerCase(t *testing.T) {
	names := map[string]bool{}
	for _, v := range verdicts() {
		v = of(v, []string{policy.HeaderDraft, policy.HeaderLegacy, policy.HeaderRetryAfter})
		Headers(func(name, _ string) { names[name] = true }, &v)
	}
	var lowered string
	for name := range names {
		if name != textproto.CanonicalMIMEHeaderKey(name) {
			t.Errorf("header %q is not in its canonical form, so nobody finds it", name)
		}
		if got := testing.AllocsPerRun(10, func() { lowered = LowerName(name) }); got != 0 {
			t.Errorf("%v allocations for %q in lower case, want none", got, name)
		}
		if lowered != strings.ToLower(name) {
			t.Errorf("%q in lower case is %q", name, lowered)
		}
	}
	if len(names) != 7 {
		t.Errorf("%d headers, want 7", len(names))
	}
	if got := LowerName("Content-Type"); got != "content-type" {
		t.Errorf("the name of another is %q", got)
	}
}

func TestHeadersCostNoMoreThanTheirValues(t *testing.T) {
	for name, test := range map[string]struct {
		headers []string
		want    float64
	}{
		"Draft":  {[]string{policy.HeaderDraft}, 2},
		"Legacy": {[]string{policy.HeaderLegacy}, 1}, // small numbers are there already
		"none":   {[]string{}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			v := of(allowed(&perMinute, 100, 50), test.headers)
			var last string
			if got := testing.AllocsPerRun(100, func() { Headers(func(_, value string) { last = value }, &v) }); got > test.want {
				t.Errorf("%v allocations until %q, want %v", got, last, test.want)
			}
		})
	}
}

func TestBodiesAreJSON(t *testing.T) {
	for name, v := range verdicts() {
		if v.Allowed {
			continue
		}
		var got Problem
		if err := json.Unmarshal(Denial(&v, nil).JSON(), &got); err != nil || got.Status != Status(&v) || got.Policy != v.Policy.Name || got.RetryAfter != v.RetryAfterSeconds() {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}
