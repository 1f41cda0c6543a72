package store_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// secret is what a request carries and nobody may find anywhere: with line breaks and all else that could forge a line
// of a log or of metrics.
const secret = "tok3n-of-bob"

var hostile = secret + "\r\nlevel=INFO msg=forged\x00\u202e}{:" + secret

// Faults 43 and 46: of what a request carries only a digest is kept, and nothing is told.
func TestNothingOfARequestIsKeptOrTold(t *testing.T) {
	server := redistest.Start(t, "--rdbcompression", "no") // so that DUMP shows what there is
	plain := rateLimit("plain", "user", policy.FailureDeny, policy.SlidingLog)
	plain.Limits[0].Requests = 2
	conditional := rateLimit("conditional", "path", policy.FailureDeny, policy.FixedWindow)
	conditional.When = []string{`int(request.descriptors["path"]) > 0`}
	slots := rateLimit("slots", "user", policy.FailureDeny, policy.Concurrency)
	slots.Limits[0] = policy.Limit{Name: "default", Algorithm: policy.Concurrency, Requests: 1, SlotTTLMs: 60_000}
	balance := rateLimit("balance", "user", policy.FailureDeny, policy.Balance)
	balance.Limits[0].WindowMs = 0
	broken := rateLimit("broken", "broken", policy.FailureDeny, policy.TokenBucket)
	broken.Limits[0].Burst, broken.Limits[0].TickUs = 1, policy.TickFor(broken.Limits[0].WindowMs)
	publish(t, server, balance.Sealed(), broken.Sealed(), conditional.Sealed(), plain.Sealed(), slots.Sealed())
	p := start(t, server.Addr, nil)
	p.ready(t)
	// A key of another type, for whatever is said of it.
	server.Do("SET", redisops.CounterKey("shop/broken", []redisops.Entry{{Key: "broken", Value: hostile}}), "x")

	for range 4 {
		p.mustAsk(t, "user", hostile, "path", hostile, "broken", hostile)
	}
	if got, err := p.ask(t, "user", secret+strings.Repeat("x", 300)); err != nil || got.GetOverallCode() != ratelimitv3.RateLimitResponse_OVER_LIMIT ||
		!strings.Contains(string(got.GetRawBody()), "the value of user: ") || strings.Contains(got.String(), secret) {
		t.Errorf("a long value: %v, %v, want a denial without it", got, err)
	}
	quoted := fmt.Sprintf("%q", "tok3n-of-bob\u202e")
	for method, fields := range map[string]string{
		"Check": `,"cost":3`, "Peek": "", "Refund": `,"cost":1`, "Reset": "", "AcquireSlot": `,"slotId":"s-` + secret + `"`,
		"ReleaseSlot": `,"slotId":"s-` + secret + `"`, "Credit": `,"amount":1`,
	} {
		for _, name := range []string{"plain", "conditional", "slots", "balance", "broken", "none"} {
			body := fmt.Sprintf(`{"namespace":"shop","policy":%q,"subject":{"user":%s,"path":%s,"broken":%s}%s}`, name, quoted, quoted, quoted, fields)
			if answer := p.post(t, "/penstock.v1.LimiterService/"+method, body); method != "AcquireSlot" && method != "ReleaseSlot" && strings.Contains(answer, secret) {
				t.Errorf("%s of %s answers %s", method, name, answer)
			}
		}
	}
	for _, header := range []string{hostileHeader, secret} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.http+"/auth/shop/plain/"+secret, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X-Penstock-Domain", header)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
	}

	for _, told := range []string{"policy=shop/broken", "policy=shop/conditional"} {
		if !strings.Contains(p.log.String(), told) {
			t.Errorf("the log does not hold %s: nothing was tried", told)
		}
	}
	if log := p.log.String(); strings.Contains(log, secret) || strings.Contains(log, "msg=forged") {
		t.Errorf("the log holds what a request carried:\n%s", log)
	}
	families, err := p.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprint(families); strings.Contains(text, secret) || len(families) == 0 {
		t.Errorf("metrics hold what a request carried: %s", text)
	}
	counters := 0
	for _, key := range server.Do("KEYS", "*").([]any) {
		key, dump := key.(string), server.Do("DUMP", key).(string)
		if strings.HasPrefix(key, "rl:") {
			counters++
		}
		// The id of a slot is made up by the caller, and has to be kept to know it again.
		if strings.Contains(key, secret) || !strings.HasSuffix(key, "shop/slots:default") && strings.Contains(dump, secret) {
			t.Errorf("key %q holds what a request carried", key)
		}
	}
	if counters < 3 {
		t.Errorf("%d counters were looked at", counters)
	}
}

// hostileHeader is what a header can carry.
const hostileHeader = secret + "\t{}:" + secret

// post gives the body of an answer to JSON.
func (p *penstockd) post(t *testing.T, path, body string) string {
	t.Helper()
	response, err := http.Post(p.http+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var text strings.Builder
	if err := response.Write(&text); err != nil {
		t.Fatal(err)
	}
	return text.String()
}
