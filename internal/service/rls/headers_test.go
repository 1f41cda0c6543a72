package rls

import (
	"strings"
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
)

// golden gives headers as one text.
func golden(response *ratelimitv3.RateLimitResponse) string {
	var lines []string
	for _, h := range response.GetResponseHeadersToAdd() {
		lines = append(lines, h.GetKey()+": "+h.GetValue())
	}
	return strings.Join(lines, "\n")
}

func answering(p policy.RateLimit, response policy.Response) policy.RateLimit {
	p.Response = &response
	return p.Sealed()
}

func TestHeadersAreThoseThatThePolicyAsksFor(t *testing.T) {
	allowed := limit.Row{Allowed: true, Limit: 100, Remaining: 57, Reset: 1500 * time.Millisecond, LimitName: "default"}
	denied := limit.Row{Limit: 100, Reset: time.Minute, RetryAfter: 1200 * time.Millisecond, LimitName: "default", Reason: limit.ReasonLimit}
	all := []string{policy.HeaderDraft, policy.HeaderLegacy, policy.HeaderRetryAfter}
	for name, test := range map[string]struct {
		headers []string
		row     limit.Row
		want    string
	}{
		"the default, allowed": {nil, allowed, "ratelimit-policy: \"user\";q=100;w=60\nratelimit: \"user\";r=57;t=2"},
		"the default, denied": {
			nil, denied, "ratelimit-policy: \"user\";q=100;w=60\nratelimit: \"user\";r=0;t=2\nretry-after: 2\ncontent-type: application/problem+json",
		},
		"Draft":  {all[:1], allowed, "ratelimit-policy: \"user\";q=100;w=60\nratelimit: \"user\";r=57;t=2"},
		"Legacy": {all[1:2], allowed, "x-ratelimit-limit: 100\nx-ratelimit-remaining: 57\nx-ratelimit-reset: 2"},
		"Legacy, denied": {
			all[1:2], denied, "x-ratelimit-limit: 100\nx-ratelimit-remaining: 0\nx-ratelimit-reset: 60\ncontent-type: application/problem+json",
		},
		"RetryAfter, allowed": {all[2:], allowed, ""},
		"RetryAfter, denied":  {all[2:], denied, "retry-after: 2\ncontent-type: application/problem+json"},
		"all, denied": {
			all, denied, "ratelimit-policy: \"user\";q=100;w=60\nratelimit: \"user\";r=0;t=2\nx-ratelimit-limit: 100\nx-ratelimit-remaining: 0\n" +
				"x-ratelimit-reset: 60\nretry-after: 2\ncontent-type: application/problem+json",
		},
		"none, allowed": {[]string{}, allowed, ""},
		"none, denied":  {[]string{}, denied, "content-type: application/problem+json"},
	} {
		t.Run(name, func(t *testing.T) {
			st := &store{rows: map[string]limit.Row{"shop/user": test.row}}
			p := answering(policyOf("user", "user", perMinute), policy.Response{Headers: test.headers})
			got, err := dial(t, st, p).ShouldRateLimit(t.Context(), request(descriptor("user", "bob")))
			if err != nil {
				t.Fatal(err)
			}
			if golden(got) != test.want {
				t.Errorf("got\n%s\nwant\n%s", golden(got), test.want)
			}
			if (got.GetRawBody() != nil) == test.row.Allowed {
				t.Errorf("the body is %q", got.GetRawBody())
			}
		})
	}
}

func TestTheBodyOfADenialIsThePolicys(t *testing.T) {
	st := &store{rows: map[string]limit.Row{"shop/user": {Limit: 100, RetryAfter: time.Second, LimitName: "default", Reason: limit.ReasonLimit}}}
	p := answering(policyOf("user", "user", perMinute), policy.Response{Status: 503, Title: "Too busy", Detail: "come back"})
	got, err := dial(t, st, p).ShouldRateLimit(t.Context(), request(descriptor("user", "bob")))
	want := `{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"Too busy","status":503,` +
		`"detail":"come back","policy":"shop/user","violated-policies":["user"],"retryAfter":1}` + "\n"
	if err != nil || string(got.GetRawBody()) != want {
		t.Errorf("got %s, %v; want %s", got.GetRawBody(), err, want)
	}
}

func TestTheHeadersAreAboutTheVerdictThatBinds(t *testing.T) {
	allowed := func(remaining int64) limit.Row {
		return limit.Row{Allowed: true, Limit: 100, Remaining: remaining, Reset: time.Minute, LimitName: "default"}
	}
	denied := func(after time.Duration) limit.Row {
		return limit.Row{Limit: 100, RetryAfter: after, LimitName: "default", Reason: limit.ReasonLimit}
	}
	for name, test := range map[string]struct {
		user, path   limit.Row
		want         string
		wantViolated string
	}{
		"the tightest":              {allowed(3), allowed(4), `"user";r=3;t=60`, ""},
		"the tightest is second":    {allowed(4), allowed(3), `"path";r=3;t=60`, ""},
		"the one that denies":       {allowed(0), denied(time.Second), `"path";r=0;t=1`, `["path"]`},
		"the one that takes longer": {denied(5 * time.Second), denied(time.Second), `"user";r=0;t=5`, `["user","path"]`},
		"unlimited is not tight":    {limit.Row{Allowed: true, Limit: -1}, allowed(50), `"path";r=50;t=60`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			st := &store{rows: map[string]limit.Row{"shop/user": test.user, "shop/path": test.path}}
			client := dial(t, st, policyOf("user", "user", perMinute), policyOf("path", "path", perMinute))
			got, err := client.ShouldRateLimit(t.Context(), request(descriptor("nobody", "cares"), descriptor("user", "bob"), descriptor("path", "/")))
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(golden(got), "ratelimit: "+test.want) {
				t.Errorf("got\n%s\nwant %s", golden(got), test.want)
			}
			if test.wantViolated != "" && !strings.Contains(string(got.GetRawBody()), `"violated-policies":`+test.wantViolated) {
				t.Errorf("body %s, want %s violated", got.GetRawBody(), test.wantViolated)
			}
		})
	}
}
