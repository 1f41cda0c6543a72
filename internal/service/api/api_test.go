package api

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/service/callers"
	penstockv1 "github.com/penstock-dev/penstock/proto/penstock/v1"
	"github.com/penstock-dev/penstock/proto/penstock/v1/penstockv1connect"
)

// fake answers as it is told, and keeps what it was asked. From the subject it takes what a policy with its keys would.
type fake struct {
	verdict engine.Verdict
	err     error

	asked string
	call  engine.Call
	slot  engine.SlotCall
	found map[string]string
}

var keys = []string{"remote_address", "header.x-team", "method"}

func (f *fake) look(door engine.Door, lookup func(string) (string, bool)) {
	if door != engine.DoorAPI {
		panic("another door")
	}
	f.found = map[string]string{}
	for _, key := range keys {
		if value, found := lookup(key); found {
			f.found[key] = value
		}
	}
}

func (f *fake) ask(what string, door engine.Door, call engine.Call) (engine.Verdict, error) {
	f.look(door, call.Lookup)
	call.Lookup = nil
	f.asked, f.call = what, call
	return f.verdict, f.err
}

func (f *fake) askSlot(what string, door engine.Door, call engine.SlotCall) (engine.Verdict, error) {
	f.look(door, call.Lookup)
	call.Lookup = nil
	f.asked, f.slot = what, call
	return f.verdict, f.err
}

func (f *fake) DecidePolicy(_ context.Context, door engine.Door, call engine.Call) (engine.Verdict, error) {
	return f.ask("DecidePolicy", door, call)
}

func (f *fake) Peek(_ context.Context, door engine.Door, call engine.Call) (engine.Verdict, error) {
	return f.ask("Peek", door, call)
}

func (f *fake) Refund(_ context.Context, door engine.Door, call engine.Call) (engine.Verdict, error) {
	return f.ask("Refund", door, call)
}

func (f *fake) Credit(_ context.Context, door engine.Door, call engine.Call) (engine.Verdict, error) {
	return f.ask("Credit", door, call)
}

func (f *fake) Reset(_ context.Context, door engine.Door, call engine.Call) (engine.Verdict, error) {
	return f.ask("Reset", door, call)
}

func (f *fake) AcquireSlot(_ context.Context, door engine.Door, call engine.SlotCall) (engine.Verdict, error) {
	return f.askSlot("AcquireSlot", door, call)
}

func (f *fake) ReleaseSlot(_ context.Context, door engine.Door, call engine.SlotCall) (engine.Verdict, error) {
	return f.askSlot("ReleaseSlot", door, call)
}

var (
	perMinute = policy.Limit{Name: "minute", Algorithm: policy.FixedWindow, Requests: 100, WindowMs: 60_000}
	api       = &policy.RateLimit{Name: "shop/api-per-ip", Limits: []policy.Limit{perMinute}}
	allowed   = engine.Verdict{
		Allowed: true, Mode: engine.Enforced, Known: true, Limit: 100, Remaining: 42, ResetAfter: 1500 * time.Millisecond,
		Reason: limit.ReasonOK, Policy: api, Binding: &perMinute, Name: api.Name,
	}
	denied = engine.Verdict{
		Mode: engine.Enforced, Known: true, Limit: 100, ResetAfter: time.Minute, RetryAfter: time.Millisecond,
		Reason: limit.ReasonLimit, Policy: api, Binding: &perMinute, Name: api.Name,
	}
)

// door is the one that everybody may use, behind the handler that is in front of it.
func door(eng Engine) http.Handler {
	everybody := callers.Everybody()
	return everybody.DirectHandler(New(eng, everybody))
}

const loopback, elsewhere = "127.0.0.1:4711", "192.0.2.7:4711"

// post asks by a body of JSON and gives the status and the body of the answer.
func post(eng Engine, method, body string, change ...func(*http.Request)) (int, string) {
	r := httptest.NewRequest(http.MethodPost, Prefix+method, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.RemoteAddr, r.Host = loopback, "localhost:8080"
	for _, c := range change {
		c(r)
	}
	w := httptest.NewRecorder()
	door(eng).ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

// compact takes out the spaces that protojson adds now and then, so that nobody relies on the text.
func compact(t *testing.T, text string) string {
	t.Helper()
	var out bytes.Buffer
	if err := json.Compact(&out, []byte(text)); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return out.String()
}

// of is the JSON of a request about shop/api-per-ip, with more fields.
func of(more string) string {
	return `{"namespace":"shop","policy":"api-per-ip","subject":{"remote_address":"192.0.2.1","header.x-team":"a"}` + more + `}`
}

// What was charged for a request over HTTP is given back with the same subject.
func TestWhatIsGivenBackMayHaveValuesOfAnyLength(t *testing.T) {
	request := `{"namespace":"shop","policy":"api-per-ip","slotId":"s-1","subject":{"path":"` + strings.Repeat("x", 300) + `"}}`
	for method, body := range map[string]string{"Refund": strings.Replace(request, "slotId", "id", 1), "ReleaseSlot": request} {
		f := &fake{verdict: allowed}
		if code, answer := post(f, method, body); code != http.StatusOK || f.asked != method {
			t.Errorf("%s: %d %s", method, code, answer)
		}
	}
}

func TestAnswersToTheLetter(t *testing.T) {
	slots := policy.Limit{Name: "default", Algorithm: policy.Concurrency, Requests: 10, SlotTTLMs: 60_000}
	exports := &policy.RateLimit{Name: "shop/exports", Limits: []policy.Limit{slots}}
	absent := allowed
	absent.Reason = limit.ReasonAbsent
	for name, test := range map[string]struct {
		method, body string
		verdict      engine.Verdict
		want         string
	}{
		"allowed": {
			"Check", of(""), allowed,
			`{"allowed":true,"limit":"100","remaining":"42","resetAfter":"1.500s","mode":"MODE_ENFORCED","reason":"REASON_OK",` +
				`"policy":"shop/api-per-ip","limitName":"minute","id":"","onStoreFailure":"FAILURE_MODE_ALLOW"}`,
		},
		"denied": {
			"Check", of(`,"id":"order-1"`), denied,
			`{"allowed":false,"limit":"100","remaining":"0","resetAfter":"60s","retryAfter":"0.001s","mode":"MODE_ENFORCED",` +
				`"reason":"REASON_LIMIT","policy":"shop/api-per-ip","limitName":"minute","id":"order-1","onStoreFailure":"FAILURE_MODE_ALLOW"}`,
		},
		"no policy applies": {
			"Check", of(""), engine.Verdict{Allowed: true},
			`{"allowed":true,"mode":"MODE_UNMATCHED","reason":"REASON_UNSPECIFIED","policy":"","limitName":"","id":"","onStoreFailure":"FAILURE_MODE_UNSPECIFIED"}`,
		},
		"unlimited": {
			"Check", of(""), engine.Verdict{
				Allowed: true, Mode: engine.Enforced, Known: true, Limit: -1, Remaining: policy.MaxInteger, Reason: limit.ReasonOK,
				Policy: api,
			},
			`{"allowed":true,"limit":"-1","remaining":"9007199254740991","resetAfter":"0s","mode":"MODE_ENFORCED",` +
				`"reason":"REASON_OK","policy":"shop/api-per-ip","limitName":"","id":"","onStoreFailure":"FAILURE_MODE_ALLOW"}`,
		},
		"degraded and denied": {
			"Check", of(""), engine.Verdict{Mode: engine.Degraded, RetryAfter: time.Second, Policy: api, Name: api.Name},
			`{"allowed":false,"retryAfter":"1s","mode":"MODE_DEGRADED","reason":"REASON_UNSPECIFIED","policy":"shop/api-per-ip",` +
				`"limitName":"","id":"","onStoreFailure":"FAILURE_MODE_ALLOW"}`,
		},
		"what to tell an HTTP client": {
			"Check", of(`,"http":true`), allowed,
			`{"allowed":true,"limit":"100","remaining":"42","resetAfter":"1.500s","mode":"MODE_ENFORCED","reason":"REASON_OK",` +
				`"policy":"shop/api-per-ip","limitName":"minute","id":"","http":{"status":200,"headers":[` +
				`{"name":"Ratelimit-Policy","value":"\"api-per-ip\";q=100;w=60"},{"name":"Ratelimit","value":"\"api-per-ip\";r=42;t=2"}],` +
				`"body":""},"onStoreFailure":"FAILURE_MODE_ALLOW"}`,
		},
		"peeked": {
			"Peek", of(""), denied,
			`{"allowed":false,"limit":"100","remaining":"0","resetAfter":"60s","retryAfter":"0.001s","mode":"MODE_ENFORCED",` +
				`"reason":"REASON_LIMIT","policy":"shop/api-per-ip","limitName":"minute"}`,
		},
		"refunded": {
			"Refund", of(`,"id":"order-1"`), allowed,
			`{"refunded":true,"limit":"100","remaining":"42","resetAfter":"1.500s","policy":"shop/api-per-ip","limitName":"minute",` +
				`"id":"order-1"}`,
		},
		"nothing to refund": {
			"Refund", of(`,"id":"order-1"`), absent,
			`{"refunded":false,"limit":"100","remaining":"42","resetAfter":"1.500s","policy":"shop/api-per-ip",` +
				`"limitName":"minute","id":"order-1"}`,
		},
		"credited": {
			"Credit", of(`,"amount":"5"`), allowed,
			`{"limit":"100","remaining":"42","policy":"shop/api-per-ip","limitName":"minute","id":""}`,
		},
		"reset": {
			"Reset", of(""), allowed,
			`{"limit":"100","remaining":"42","policy":"shop/api-per-ip","limitName":"minute"}`,
		},
		"a slot": {
			"AcquireSlot", of(`,"slotId":"export-7"`), engine.Verdict{
				Allowed: true, Mode: engine.Enforced, Known: true, Limit: 10, Remaining: 9, ResetAfter: time.Minute,
				Reason: limit.ReasonOK, Policy: exports, Binding: &slots,
			},
			`{"allowed":true,"limit":"10","remaining":"9","resetAfter":"60s","mode":"MODE_ENFORCED","reason":"REASON_OK",` +
				`"policy":"shop/exports","limitName":"default","slotId":"export-7","onStoreFailure":"FAILURE_MODE_ALLOW","ttl":"60s"}`,
		},
		"no slot needed": {
			"AcquireSlot", of(`,"slotId":"export-7"`), engine.Verdict{Allowed: true},
			`{"allowed":true,"mode":"MODE_UNMATCHED","reason":"REASON_UNSPECIFIED","policy":"","limitName":"","slotId":"","onStoreFailure":"FAILURE_MODE_UNSPECIFIED"}`,
		},
		"released": {
			"ReleaseSlot", of(`,"slotId":"export-7"`), allowed,
			`{"released":true,"limit":"100","remaining":"42","policy":"shop/api-per-ip","limitName":"minute","slotId":"export-7"}`,
		},
		"released before": {
			"ReleaseSlot", of(`,"slot_id":"export-7"`), absent,
			`{"released":false,"limit":"100","remaining":"42","policy":"shop/api-per-ip","limitName":"minute","slotId":"export-7"}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			code, body := post(&fake{verdict: test.verdict}, test.method, test.body)
			if got := compact(t, body); code != http.StatusOK || got != test.want {
				t.Errorf("got %d\n%s\nwant\n%s", code, got, test.want)
			}
		})
	}
}

func TestModesAndReasonsAreThoseOfTheEngine(t *testing.T) {
	for from, want := range map[engine.Mode]string{
		engine.Unmatched: "MODE_UNMATCHED", engine.Enforced: "MODE_ENFORCED", engine.Shadow: "MODE_SHADOW",
		engine.Cached: "MODE_CACHED", engine.Degraded: "MODE_DEGRADED",
	} {
		if got := mode(from).String(); got != want {
			t.Errorf("mode %v is %s, want %s", from, got, want)
		}
	}
	for from, want := range map[string]string{
		"": "REASON_UNSPECIFIED", limit.ReasonOK: "REASON_OK", limit.ReasonLimit: "REASON_LIMIT", limit.ReasonPenalty: "REASON_PENALTY",
		limit.ReasonBlocked: "REASON_BLOCKED", limit.ReasonShadow: "REASON_SHADOW", limit.ReasonAbsent: "REASON_ABSENT",
		"of a newer library": "REASON_UNSPECIFIED",
	} {
		if got := reason(from).String(); got != want {
			t.Errorf("reason %q is %s, want %s", from, got, want)
		}
	}
}

func TestACallReachesTheEngineAsItWasMeant(t *testing.T) {
	const named = "shop/api-per-ip"
	for name, test := range map[string]struct {
		method, more string
		wantAsked    string
		wantCall     engine.Call
		wantSlot     engine.SlotCall
	}{
		"the policy's cost":        {"Check", ``, "DecidePolicy", engine.Call{Policy: named, Cost: engine.PolicyCost}, engine.SlotCall{}},
		"a cost and an id":         {"Check", `,"cost":3,"id":"order-1"`, "DecidePolicy", engine.Call{Policy: named, Cost: 3, ID: "order-1"}, engine.SlotCall{}},
		"a cost of 0":              {"Check", `,"cost":0`, "DecidePolicy", engine.Call{Policy: named}, engine.SlotCall{}},
		"the largest cost":         {"Check", `,"cost":"9007199254740991"`, "DecidePolicy", engine.Call{Policy: named, Cost: policy.MaxInteger}, engine.SlotCall{}},
		"the longest id":           {"Check", `,"id":"` + strings.Repeat("~", 128) + `"`, "DecidePolicy", engine.Call{Policy: named, Cost: engine.PolicyCost, ID: strings.Repeat("~", 128)}, engine.SlotCall{}},
		"a look":                   {"Peek", `,"cost":"3"`, "Peek", engine.Call{Policy: named, Cost: 3}, engine.SlotCall{}},
		"a refund by id":           {"Refund", `,"id":"order-1"`, "Refund", engine.Call{Policy: named, Cost: engine.PolicyCost, ID: "order-1"}, engine.SlotCall{}},
		"a refund by cost":         {"Refund", `,"cost":2`, "Refund", engine.Call{Policy: named, Cost: 2}, engine.SlotCall{}},
		"a credit":                 {"Credit", `,"amount":500,"id":"pay-1"`, "Credit", engine.Call{Policy: named, Cost: 500, ID: "pay-1"}, engine.SlotCall{}},
		"a reset":                  {"Reset", ``, "Reset", engine.Call{Policy: named, Cost: engine.PolicyCost}, engine.SlotCall{}},
		"a slot":                   {"AcquireSlot", `,"slotId":"s-1"`, "AcquireSlot", engine.Call{}, engine.SlotCall{Policy: named, ID: "s-1"}},
		"a slot for so long":       {"AcquireSlot", `,"slotId":"s-1","ttl":"2.5s"`, "AcquireSlot", engine.Call{}, engine.SlotCall{Policy: named, ID: "s-1", TTL: 2500 * time.Millisecond}},
		"a slot for a millisecond": {"AcquireSlot", `,"slotId":"s-1","ttl":"0.001s"`, "AcquireSlot", engine.Call{}, engine.SlotCall{Policy: named, ID: "s-1", TTL: time.Millisecond}},
		"a release":                {"ReleaseSlot", `,"slotId":"s-1"`, "ReleaseSlot", engine.Call{}, engine.SlotCall{Policy: named, ID: "s-1"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{verdict: allowed}
			if code, body := post(f, test.method, of(test.more)); code != http.StatusOK {
				t.Fatalf("%d %s", code, body)
			}
			if f.asked != test.wantAsked || !reflect.DeepEqual(f.call, test.wantCall) || f.slot.ID != test.wantSlot.ID ||
				f.slot.Policy != test.wantSlot.Policy || f.slot.TTL != test.wantSlot.TTL {
				t.Errorf("asked %s %+v %+v, want %s %+v %+v", f.asked, f.call, f.slot, test.wantAsked, test.wantCall, test.wantSlot)
			}
			if want := map[string]string{"remote_address": "192.0.2.1", "header.x-team": "a"}; !reflect.DeepEqual(f.found, want) {
				t.Errorf("looked up %v, want %v", f.found, want)
			}
		})
	}
}

func TestASlotWithoutANameGetsOneThatCanBeReleased(t *testing.T) {
	made := map[string]bool{}
	for range 10 {
		f := &fake{verdict: allowed}
		_, body := post(f, "AcquireSlot", of(""))
		var answer struct{ SlotID string }
		if err := json.Unmarshal([]byte(body), &answer); err != nil {
			t.Fatal(err)
		}
		if answer.SlotID != f.slot.ID || !limit.ValidID(answer.SlotID) {
			t.Fatalf("answered %q for slot %q", answer.SlotID, f.slot.ID)
		}
		made[answer.SlotID] = true
	}
	if len(made) != 10 {
		t.Errorf("%d names for 10 slots", len(made))
	}
}

func TestWhatIsOutOfBoundsIsRefusedByFieldAndBound(t *testing.T) {
	entries := func(n int) string {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprintf(`"k%d":"v"`, i))
		}
		return "{" + strings.Join(all, ",") + "}"
	}
	const evil = "evil"
	request := func(namespace, policy, subject string) string {
		return fmt.Sprintf(`{"namespace":%q,"policy":%q,"subject":%s}`, namespace, policy, subject)
	}
	const (
		namespaceBound = "namespace: want the namespace of a RateLimit: 1 to 63 lower-case letters, digits and hyphens"
		policyBound    = "policy: want the name of a RateLimit: 1 to 253 lower-case letters, digits, dots and hyphens"
		idBound        = "id: want 1 to 128 visible ASCII characters without spaces"
		costBound      = "cost: want 0 to 9007199254740991"
		amountBound    = "amount: want 1 to 9007199254740991"
		ttlBound       = "ttl: want at least 1 ms, or leave it out for the slotTTL of the policy"
	)
	for name, test := range map[string]struct{ method, body, want string }{
		"no namespace":                {"Check", request("", "a", "{}"), namespaceBound},
		"a long namespace":            {"Check", request(strings.Repeat("a", 64), "a", "{}"), namespaceBound},
		"a namespace with a slash":    {"Check", request("evil/evil", "a", "{}"), namespaceBound},
		"a namespace with a dot":      {"Check", request("e.vil", "a", "{}"), namespaceBound},
		"a namespace in upper case":   {"Check", request("Evil", "a", "{}"), namespaceBound},
		"a namespace ends in -":       {"Check", request("evil-", "a", "{}"), namespaceBound},
		"no policy":                   {"Peek", request("a", "", "{}"), policyBound},
		"a long policy":               {"Check", request("a", strings.Repeat("a", 254), "{}"), policyBound},
		"a policy with a slash":       {"Check", request("a", "evil/evil", "{}"), policyBound},
		"a policy begins with a dot":  {"Check", request("a", ".evil", "{}"), policyBound},
		"17 entries":                  {"Check", request("a", "a", entries(17)), "subject: 17 entries, want at most 16"},
		"an empty key":                {"Check", request("a", "a", `{"":"evil"}`), "subject: a key of 0 bytes, want 1 to 256"},
		"a long key":                  {"Check", request("a", "a", `{"`+strings.Repeat("k", 257)+`":"evil"}`), "subject: a key of 257 bytes, want 1 to 256"},
		"a long value":                {"Check", request("a", "a", `{"k":"`+strings.Repeat("v", 257)+`"}`), "subject: a value of 257 bytes, want at most 256"},
		"a long value for a slot":     {"AcquireSlot", request("a", "a", `{"k":"`+strings.Repeat("v", 257)+`"}`), "subject: a value of 257 bytes, want at most 256"},
		"a negative cost":             {"Check", of(`,"cost":-1`), costBound},
		"a cost above 2^53":           {"Peek", of(`,"cost":"9007199254740992"`), costBound},
		"a refund below 0":            {"Refund", of(`,"cost":-1`), costBound},
		"no amount":                   {"Credit", of(``), amountBound},
		"a negative amount":           {"Credit", of(`,"amount":-5`), amountBound},
		"an amount above 2^53":        {"Credit", of(`,"amount":"9007199254740992"`), amountBound},
		"an id with a space":          {"Check", of(`,"id":"evil evil"`), idBound},
		"an id that is no ASCII":      {"Refund", of(`,"id":"évil"`), idBound},
		"an id of 129":                {"Credit", of(`,"amount":1,"id":"` + strings.Repeat("e", 129) + `"`), idBound},
		"a slot's id with a newline":  {"AcquireSlot", of(`,"slotId":"evil\n"`), "slot_id: want 1 to 128 visible ASCII characters without spaces"},
		"no slot to release":          {"ReleaseSlot", of(``), "slot_id: want 1 to 128 visible ASCII characters without spaces"},
		"a ttl of 0":                  {"AcquireSlot", of(`,"ttl":"0s"`), ttlBound},
		"a negative ttl":              {"AcquireSlot", of(`,"ttl":"-1s"`), ttlBound},
		"a ttl below a millisecond":   {"AcquireSlot", of(`,"ttl":"0.0009s"`), ttlBound},
		"a reset without a namespace": {"Reset", request("", "a", "{}"), namespaceBound},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{verdict: allowed}
			code, body := post(f, test.method, test.body)
			var answer struct {
				Code, Message string
				Details       []struct {
					Type  string
					Debug struct {
						FieldViolations []struct{ Field, Description string }
					}
				}
			}
			if err := json.Unmarshal([]byte(body), &answer); err != nil {
				t.Fatalf("%v in %s", err, body)
			}
			if code != http.StatusBadRequest || answer.Code != "invalid_argument" || answer.Message != test.want {
				t.Fatalf("%d %s, want 400 and %q", code, body, test.want)
			}
			field, problem, _ := strings.Cut(test.want, ": ")
			if len(answer.Details) != 1 || answer.Details[0].Type != "google.rpc.BadRequest" ||
				len(answer.Details[0].Debug.FieldViolations) != 1 ||
				answer.Details[0].Debug.FieldViolations[0] != struct{ Field, Description string }{field, problem} {
				t.Errorf("details of %s, want the violation of %s", body, field)
			}
			if f.asked != "" || strings.Contains(body, evil) {
				t.Errorf("asked the engine for %q, answered %s; want nothing asked or repeated", f.asked, body)
			}
		})
	}
}

func TestAnErrorToTheLetter(t *testing.T) {
	code, body := post(&fake{err: engine.ErrUnknownPolicy}, "Check", of(""))
	const want = `{"code":"not_found",` +
		`"message":"no RateLimit of that namespace and name is in force; check namespace, policy and the RateLimit's Ready condition",` +
		`"details":[{"type":"google.rpc.ErrorInfo","value":"Cg5VTktOT1dOX1BPTElDWRIMcGVuc3RvY2suZGV2",` +
		`"debug":{"reason":"UNKNOWN_POLICY","domain":"penstock.dev"}}]}`
	if got := compact(t, body); code != http.StatusNotFound || got != want {
		t.Errorf("got %d\n%s\nwant\n%s", code, got, want)
	}
}

func TestErrorsOfTheEngineHaveACodeAReasonAndARemedy(t *testing.T) {
	methods := []string{"Check", "Peek", "Refund", "Credit", "Reset", "AcquireSlot", "ReleaseSlot"}
	for name, test := range map[string]struct {
		err        error
		wantCode   connect.Code
		wantReason string
		wantText   string
	}{
		"no set":            {engine.ErrNoSet, connect.CodeUnavailable, "NO_POLICIES", "no policy set is loaded yet"},
		"unknown policy":    {engine.ErrUnknownPolicy, connect.CodeNotFound, "UNKNOWN_POLICY", "check namespace, policy"},
		"a long value":      {&engine.ValueTooLongError{Key: "user", Bytes: 257}, connect.CodeInvalidArgument, "subject", "subject: the value of user: 257 bytes, want at most 256"},
		"a lacking value":   {&engine.MissingAttributeError{Key: "user"}, connect.CodeInvalidArgument, "subject", "subject: lacks user, a descriptor of the policy"},
		"a bad argument":    {&engine.ArgumentError{Field: "cost", Problem: "want less"}, connect.CodeInvalidArgument, "cost", "cost: want less"},
		"wrong operation":   {fmt.Errorf("%w: use AcquireSlot", engine.ErrWrongOperation), connect.CodeFailedPrecondition, "WRONG_OPERATION", "use AcquireSlot"},
		"redis refuses us":  {fmt.Errorf("deciding: %w", engine.ErrConfiguration), connect.CodeInternal, "STORE_REFUSES", "check its user, password and ACL"},
		"did not run":       {fmt.Errorf("%w (down)", engine.ErrStoreUnavailable), connect.CodeUnavailable, "STORE_UNAVAILABLE", "nothing was changed; try again"},
		"may have run":      {fmt.Errorf("%w (timeout)", engine.ErrUnknownOutcome), connect.CodeDeadlineExceeded, "UNKNOWN_OUTCOME", "with an id the same call again is safe"},
		"the caller left":   {context.Canceled, connect.CodeCanceled, "", "the caller has gone"},
		"the deadline":      {context.DeadlineExceeded, connect.CodeDeadlineExceeded, "", "the caller's deadline has passed"},
		"something else":    {errors.New("secret of the inside"), connect.CodeInternal, "", "deciding failed"},
		"a wrapped unknown": {fmt.Errorf("shop: %w", engine.ErrUnknownPolicy), connect.CodeNotFound, "UNKNOWN_POLICY", "in force"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(door(&fake{err: test.err}))
			defer server.Close()
			for _, method := range methods {
				err := ask(t.Context(), penstockv1connect.NewLimiterServiceClient(server.Client(), server.URL), method)
				var failure *connect.Error
				if !errors.As(err, &failure) || failure.Code() != test.wantCode || !strings.Contains(failure.Message(), test.wantText) ||
					strings.Contains(failure.Message(), "secret") {
					t.Errorf("%s: %v, want %s with %q", method, err, test.wantCode, test.wantText)
					continue
				}
				if got := detail(t, failure); got != test.wantReason {
					t.Errorf("%s: detail %q, want %q", method, got, test.wantReason)
				}
			}
		})
	}
}

// ask calls a method with what it requires.
func ask(ctx context.Context, client penstockv1connect.LimiterServiceClient, method string) (err error) {
	const namespace, policy = "shop", "api-per-ip"
	switch method {
	case "Check":
		_, err = client.Check(ctx, &penstockv1.CheckRequest{Namespace: namespace, Policy: policy})
	case "Peek":
		_, err = client.Peek(ctx, &penstockv1.PeekRequest{Namespace: namespace, Policy: policy})
	case "Refund":
		_, err = client.Refund(ctx, &penstockv1.RefundRequest{Namespace: namespace, Policy: policy})
	case "Credit":
		_, err = client.Credit(ctx, &penstockv1.CreditRequest{Namespace: namespace, Policy: policy, Amount: 1})
	case "Reset":
		_, err = client.Reset(ctx, &penstockv1.ResetRequest{Namespace: namespace, Policy: policy})
	case "AcquireSlot":
		_, err = client.AcquireSlot(ctx, &penstockv1.AcquireSlotRequest{Namespace: namespace, Policy: policy, Ttl: durationpb.New(time.Second)})
	case "ReleaseSlot":
		_, err = client.ReleaseSlot(ctx, &penstockv1.ReleaseSlotRequest{Namespace: namespace, Policy: policy, SlotId: "s-1"})
	default:
		err = errors.New("no such method")
	}
	return err
}

// detail is the reason or the field in the one detail of an error, or "".
func detail(t *testing.T, failure *connect.Error) string {
	t.Helper()
	if len(failure.Details()) == 0 {
		return ""
	}
	value, err := failure.Details()[0].Value()
	if err != nil || len(failure.Details()) != 1 {
		t.Fatalf("%d details, %v", len(failure.Details()), err)
	}
	switch value := value.(type) {
	case *errdetails.ErrorInfo:
		if value.GetDomain() != "penstock.dev" {
			t.Errorf("domain %q", value.GetDomain())
		}
		return value.GetReason()
	case *errdetails.BadRequest:
		return value.GetFieldViolations()[0].GetField()
	default:
		t.Fatalf("detail %T", value)
		return ""
	}
}

func TestResetAnswersOnlyTheSameHost(t *testing.T) {
	for name, test := range map[string]struct {
		peer, forwarded string
		want            int
	}{
		"loopback":                       {"127.0.0.1:4711", "", http.StatusOK},
		"what a sidecar delivers":        {"127.0.0.6:4711", "", http.StatusForbidden},
		"loopback of IPv6":               {"[::1]:4711", "", http.StatusOK},
		"loopback of IPv4 in IPv6":       {"[::ffff:127.0.0.1]:4711", "", http.StatusOK},
		"another host":                   {elsewhere, "", http.StatusForbidden},
		"another host of IPv6":           {"[2001:db8::1]:4711", "", http.StatusForbidden},
		"another that claims to be here": {elsewhere, "127.0.0.1", http.StatusForbidden},
		"a proxy here for another":       {"127.0.0.1:4711", "192.0.2.7", http.StatusForbidden},
		"no address":                     {"", "", http.StatusForbidden},
		"a unix socket":                  {"@", "", http.StatusForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{verdict: allowed}
			code, body := post(f, "Reset", of(""), func(r *http.Request) {
				r.RemoteAddr = test.peer
				if test.forwarded != "" {
					r.Header.Set("X-Forwarded-For", test.forwarded)
					r.Header.Set("X-Real-Ip", test.forwarded)
					r.Header.Set("Forwarded", "for="+test.forwarded)
				}
			})
			if code != test.want || (f.asked != "") != (test.want == http.StatusOK) {
				t.Errorf("%d %s, want %d", code, body, test.want)
			}
			if code != http.StatusOK && (!strings.Contains(body, `"ADMINISTRATIVE_ONLY"`) || !strings.Contains(body, "kubectl port-forward")) {
				t.Errorf("%s, want the remedy", body)
			}
		})
	}
	t.Run("the other calls answer everybody", func(t *testing.T) {
		for method, more := range map[string]string{"Check": "", "Peek": "", "Refund": "", "Credit": `,"amount":1`, "AcquireSlot": "", "ReleaseSlot": `,"slotId":"s"`} {
			if code, body := post(&fake{verdict: allowed}, method, of(more), func(r *http.Request) { r.RemoteAddr = elsewhere }); code != http.StatusOK {
				t.Errorf("%s: %d %s", method, code, body)
			}
		}
	})
}

func TestWhatCannotBeReadIsRefusedByItsPlaceAndNotRepeated(t *testing.T) {
	const fields = "; the fields are namespace, policy, subject, cost, id, http"
	for name, test := range map[string]struct{ body, want string }{
		"a mistyped field":      {`{"namespace":"shop","evil":{}}`, "line 1:21: unknown field" + fields},
		"a field twice":         {`{"namespace":"shop","namespace":"evil"}`, "line 1:21: duplicate field"},
		"a key twice":           {`{"subject":{"evil":"a","evil":"b"}}`, "line 1:24: duplicate map key"},
		"a number for a string": {"{\n\"namespace\": 66}", "line 2:14: invalid value for string field namespace"},
		"a word for a number":   {`{"cost":"evil"}`, "line 1:9: invalid value for int64 field cost"},
		"a fraction":            {`{"cost":1.5}`, "line 1:9: invalid value for int64 field cost"},
		"too large for 64 bits": {`{"cost":1e300}`, "line 1:9: invalid value for int64 field cost"},
		"a value that is none":  {`{"subject":{"k":evil}}`, "line 1:17: not the JSON of a penstock.v1.CheckRequest"},
		"a list":                {`[]`, "line 1:1: not the JSON of a penstock.v1.CheckRequest"},
		"half":                  {`{"namespace":"evil`, "not the JSON of a penstock.v1.CheckRequest"},
		"nothing":               {``, "not the JSON of a penstock.v1.CheckRequest"},
		"more behind it":        {`{} evil`, "not the JSON of a penstock.v1.CheckRequest"},
		"text that is no UTF-8": {"{\"namespace\":\"evil\xff\"}", "not the JSON of a penstock.v1.CheckRequest"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{verdict: allowed}
			code, body := post(f, "Check", test.body)
			if code != http.StatusBadRequest || !strings.Contains(body, `"invalid_argument"`) || !strings.Contains(body, test.want+`"`) {
				t.Errorf("%d %s, want 400 and %q", code, body, test.want)
			}
			if f.asked != "" || strings.Contains(body, "evil") {
				t.Errorf("asked the engine for %q, answered %s; want nothing asked or repeated", f.asked, body)
			}
		})
	}
	t.Run("a mistyped ttl", func(t *testing.T) {
		code, body := post(&fake{}, "AcquireSlot", of(`,"ttl":"evil"`))
		if code != http.StatusBadRequest || !strings.Contains(body, `: invalid google.protobuf.Duration value"`) {
			t.Errorf("%d %s", code, body)
		}
	})
	t.Run("a charset in the content type", func(t *testing.T) {
		code, body := post(&fake{verdict: allowed}, "Check", of(`,"evil":1`), func(r *http.Request) {
			r.Header.Set("Content-Type", "application/json; charset=utf-8")
		})
		if code != http.StatusBadRequest || !strings.Contains(body, fields) {
			t.Errorf("%d %s, want the unknown field refused", code, body)
		}
	})
}

func TestLargeRequestsAreRefused(t *testing.T) {
	// Blanks, which JSON allows.
	large := of("") + strings.Repeat(" ", 10<<20)
	for name, test := range map[string]struct {
		body string
		want int
	}{
		"just 64 KiB": {large[:64<<10], http.StatusOK},
		"a byte more": {large[:64<<10+1], http.StatusTooManyRequests},
		"10 MiB":      {large, http.StatusTooManyRequests},
	} {
		t.Run(name, func(t *testing.T) {
			if code, body := post(&fake{verdict: allowed}, "Check", test.body); code != test.want {
				t.Errorf("%d %s, want %d", code, body, test.want)
			}
		})
	}
}

// unread fails the test when anybody reads it.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, io.EOF
}

func TestACompressedRequestIsRefusedUnread(t *testing.T) {
	for name, test := range map[string]struct{ contentType, header, encoding string }{
		"JSON":                    {"application/json", "Content-Encoding", "gzip"},
		"Connect":                 {"application/proto", "Content-Encoding", "gzip"},
		"by who knows":            {"application/json", "Content-Encoding", "evil"},
		"gRPC":                    {"application/grpc", "Grpc-Encoding", "gzip"},
		"gRPC with JSON":          {"application/grpc+json", "Grpc-Encoding", "gzip"},
		"gRPC-Web":                {"application/grpc-web+proto", "Grpc-Encoding", "gzip"},
		"gRPC by who knows":       {"application/grpc", "Grpc-Encoding", "evil"},
		"gRPC as HTTP compresses": {"application/grpc", "Content-Encoding", "gzip"},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, Prefix+"Check", unread{t})
			r.Header.Set("Content-Type", test.contentType)
			r.Header.Set(test.header, test.encoding)
			w := httptest.NewRecorder()
			f := &fake{verdict: allowed}
			door(f).ServeHTTP(w, r)
			const unimplemented, remedy = "12", "leave out Content-Encoding and Grpc-Encoding"
			if strings.Contains(test.contentType, "grpc") {
				if got := w.Header(); w.Code != http.StatusOK || got.Get("Grpc-Status") != unimplemented || !strings.Contains(got.Get("Grpc-Message"), remedy) {
					t.Errorf("%d %v, want the status %s with the remedy", w.Code, got, unimplemented)
				}
			} else if body := w.Body.String(); w.Code != http.StatusNotImplemented || !strings.Contains(body, `"unimplemented"`) || !strings.Contains(body, remedy) {
				t.Errorf("%d %s, want 501 with the remedy", w.Code, body)
			}
			if f.asked != "" || strings.Contains(fmt.Sprint(w.Header(), w.Body), "evil") {
				t.Errorf("asked the engine for %q, answered %v %s; want nothing asked or repeated", f.asked, w.Header(), w.Body)
			}
		})
	}
}

// A little of gzip is very much unpacked: it must not be unpacked because the message itself says that it is compressed.
func TestAMessageThatIsMarkedCompressedIsNotUnpacked(t *testing.T) {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, _ = io.WriteString(w, of(""))
	_ = w.Close()
	const compressedFlag = 1
	message := append([]byte{compressedFlag, 0, 0, 0, byte(packed.Len())}, packed.Bytes()...)
	for _, contentType := range []string{"application/grpc+json", "application/grpc-web+json"} {
		for _, encoding := range []string{"", identity} {
			t.Run(contentType+" "+encoding, func(t *testing.T) {
				f := &fake{verdict: allowed}
				server := httptest.NewServer(door(f))
				defer server.Close()
				r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+Prefix+"Check", bytes.NewReader(message))
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set("Content-Type", contentType)
				r.Header.Set("Grpc-Encoding", encoding)
				response, err := server.Client().Do(r)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = response.Body.Close() }()
				body, _ := io.ReadAll(response.Body)
				status := fmt.Sprint(response.Header, response.Trailer, string(body))
				if f.asked != "" || !strings.Contains(strings.ToLower(status), "without compression support") {
					t.Errorf("asked the engine for %q, answered %s; want it refused", f.asked, status)
				}
			})
		}
	}
}

func TestIdentityIsNoCompression(t *testing.T) {
	code, body := post(&fake{verdict: allowed}, "Check", of(""), func(r *http.Request) { r.Header.Set("Content-Encoding", identity) })
	if code != http.StatusOK {
		t.Errorf("%d %s", code, body)
	}
}

func TestAnswersAreNotCompressed(t *testing.T) {
	for contentType, accept := range map[string]string{
		"application/json": "Accept-Encoding", "application/grpc+json": "Grpc-Accept-Encoding", "application/grpc-web+json": "Grpc-Accept-Encoding",
	} {
		t.Run(contentType, func(t *testing.T) {
			body := of("")
			if contentType != "application/json" {
				body = string([]byte{0, 0, 0, 0, byte(len(body))}) + body
			}
			r := httptest.NewRequest(http.MethodPost, Prefix+"Check", strings.NewReader(body))
			r.Header.Set("Content-Type", contentType)
			r.Header.Set(accept, "gzip")
			w := httptest.NewRecorder()
			door(&fake{verdict: allowed}).ServeHTTP(w, r)
			if got := w.Header().Get("Content-Encoding") + w.Header().Get("Grpc-Encoding"); got != "" || !strings.Contains(w.Body.String(), `"MODE_ENFORCED"`) {
				t.Errorf("%d, compressed by %q: %q; want plain JSON", w.Code, got, w.Body)
			}
		})
	}
}

func TestOnlyPostsAndOnlyTheMethodsThereAre(t *testing.T) {
	for name, test := range map[string]struct {
		method, path, contentType string
		want                      int
	}{
		"GET":                   {http.MethodGet, Prefix + "Peek?encoding=json&message={}", "", http.StatusMethodNotAllowed},
		"another method":        {http.MethodPost, Prefix + "Steal", "application/json", http.StatusNotFound},
		"no method":             {http.MethodPost, Prefix, "application/json", http.StatusNotFound},
		"a form":                {http.MethodPost, Prefix + "Check", "application/x-www-form-urlencoded", http.StatusUnsupportedMediaType},
		"a simple CORS request": {http.MethodPost, Prefix + "Check", "text/plain", http.StatusUnsupportedMediaType},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(test.method, test.path, strings.NewReader(of("")))
			r.Header.Set("Content-Type", test.contentType)
			w := httptest.NewRecorder()
			f := &fake{verdict: allowed}
			door(f).ServeHTTP(w, r)
			if w.Code != test.want || f.asked != "" {
				t.Errorf("%d, want %d", w.Code, test.want)
			}
		})
	}
}

func TestGRPCAndGRPCWebAndConnectGetTheSameAnswers(t *testing.T) {
	f := &fake{verdict: denied}
	server := httptest.NewUnstartedServer(door(f))
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	defer server.Close()
	over := func(set func(*http.Protocols, bool)) *http.Client {
		protocols := new(http.Protocols)
		set(protocols, true)
		return &http.Client{Transport: &http.Transport{Protocols: protocols}}
	}
	one, two := over((*http.Protocols).SetHTTP1), over((*http.Protocols).SetUnencryptedHTTP2)
	for name, client := range map[string]penstockv1connect.LimiterServiceClient{
		"JSON over HTTP/1.1":     penstockv1connect.NewLimiterServiceClient(one, server.URL, connect.WithProtoJSON()),
		"Connect over HTTP/1.1":  penstockv1connect.NewLimiterServiceClient(one, server.URL),
		"Connect over HTTP/2":    penstockv1connect.NewLimiterServiceClient(two, server.URL),
		"gRPC":                   penstockv1connect.NewLimiterServiceClient(two, server.URL, connect.WithGRPC()),
		"gRPC with JSON":         penstockv1connect.NewLimiterServiceClient(two, server.URL, connect.WithGRPC(), connect.WithProtoJSON()),
		"gRPC-Web over HTTP/1.1": penstockv1connect.NewLimiterServiceClient(one, server.URL, connect.WithGRPCWeb()),
		"gRPC-Web over HTTP/2":   penstockv1connect.NewLimiterServiceClient(two, server.URL, connect.WithGRPCWeb()),
	} {
		t.Run(name, func(t *testing.T) {
			f.verdict, f.err = denied, nil
			got, err := client.Check(t.Context(), &penstockv1.CheckRequest{
				Namespace: "shop", Policy: "api-per-ip", Subject: map[string]string{"method": "GET"}, Id: "order-1",
			})
			if err != nil {
				t.Fatal(err)
			}
			if got.GetAllowed() || got.GetLimit() != 100 || got.Remaining == nil || got.GetRemaining() != 0 ||
				got.GetResetAfter().AsDuration() != time.Minute || got.GetRetryAfter().AsDuration() != time.Millisecond ||
				got.GetMode() != penstockv1.Mode_MODE_ENFORCED || got.GetReason() != penstockv1.Reason_REASON_LIMIT ||
				got.GetPolicy() != "shop/api-per-ip" || got.GetLimitName() != "minute" || got.GetId() != "order-1" {
				t.Errorf("%v", got)
			}
			if f.call.Policy != "shop/api-per-ip" || f.found["method"] != "GET" {
				t.Errorf("asked %+v of %v", f.call, f.found)
			}
			if _, err := client.Reset(t.Context(), &penstockv1.ResetRequest{Namespace: "shop", Policy: "api-per-ip"}); err != nil {
				t.Errorf("Reset from the same host: %v", err)
			}

			f.err = engine.ErrUnknownPolicy
			_, err = client.Check(t.Context(), &penstockv1.CheckRequest{Namespace: "shop", Policy: "api"})
			var failure *connect.Error
			if !errors.As(err, &failure) || failure.Code() != connect.CodeNotFound || detail(t, failure) != "UNKNOWN_POLICY" {
				t.Errorf("%v, want NotFound with its reason", err)
			}
			_, err = client.Check(t.Context(), &penstockv1.CheckRequest{Namespace: "shop"})
			if !errors.As(err, &failure) || failure.Code() != connect.CodeInvalidArgument || detail(t, failure) != "policy" {
				t.Errorf("%v, want InvalidArgument with the field", err)
			}
			_, err = client.Check(t.Context(), &penstockv1.CheckRequest{Namespace: strings.Repeat("a", 70_000)})
			if connect.CodeOf(err) != connect.CodeResourceExhausted {
				t.Errorf("%v, want ResourceExhausted", err)
			}
		})
	}
}

func TestAClientThatCompressesIsToldNotTo(t *testing.T) {
	server := httptest.NewUnstartedServer(door(&fake{verdict: allowed}))
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	defer server.Close()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	two := &http.Client{Transport: &http.Transport{Protocols: protocols}}
	for name, client := range map[string]penstockv1connect.LimiterServiceClient{
		"JSON over HTTP/1.1":     penstockv1connect.NewLimiterServiceClient(server.Client(), server.URL, connect.WithSendGzip(), connect.WithProtoJSON()),
		"Connect over HTTP/1.1":  penstockv1connect.NewLimiterServiceClient(server.Client(), server.URL, connect.WithSendGzip()),
		"Connect over HTTP/2":    penstockv1connect.NewLimiterServiceClient(two, server.URL, connect.WithSendGzip()),
		"gRPC":                   penstockv1connect.NewLimiterServiceClient(two, server.URL, connect.WithSendGzip(), connect.WithGRPC()),
		"gRPC-Web over HTTP/1.1": penstockv1connect.NewLimiterServiceClient(server.Client(), server.URL, connect.WithSendGzip(), connect.WithGRPCWeb()),
		"gRPC-Web over HTTP/2":   penstockv1connect.NewLimiterServiceClient(two, server.URL, connect.WithSendGzip(), connect.WithGRPCWeb()),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := client.Check(t.Context(), &penstockv1.CheckRequest{Namespace: "shop", Policy: "api-per-ip"})
			var failure *connect.Error
			if !errors.As(err, &failure) || failure.Code() != connect.CodeUnimplemented || !strings.Contains(failure.Message(), "taken uncompressed only") {
				t.Errorf("%v, want Unimplemented with the remedy", err)
			}
		})
	}
}

func TestTheCallersDeadlineReachesTheEngine(t *testing.T) {
	deadline := &deadlines{}
	code, body := post(deadline, "Check", of(""), func(r *http.Request) { r.Header.Set("Connect-Timeout-Ms", "50") })
	if code != http.StatusOK {
		t.Fatalf("%d %s", code, body)
	}
	if left := deadline.left; left <= 0 || left > 50*time.Millisecond {
		t.Errorf("the engine has %v, want at most 50 ms", left)
	}
}

// deadlines keeps how long the caller waits.
type deadlines struct {
	fake
	left time.Duration
}

func (d *deadlines) DecidePolicy(ctx context.Context, _ engine.Door, _ engine.Call) (engine.Verdict, error) {
	if at, ok := ctx.Deadline(); ok {
		d.left = time.Until(at)
	}
	return allowed, nil
}

func FuzzCheckJSON(f *testing.F) {
	for _, seed := range []string{
		of(""), of(`,"cost":"3","id":"order-1"`), of(`,"cost":-1`), `{}`, `[]`, ``, `{"subject":{"":""}}`, `{"evil":1}`,
		`{"cost":1e300}`, "{\"namespace\":\"\xff\"}", `{"namespace":"a","policy":"a","subject":null}`, strings.Repeat("[", 10_001),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		asked := &fake{verdict: allowed}
		code, answer := post(asked, "Check", body)
		switch code {
		case http.StatusOK, http.StatusBadRequest, http.StatusTooManyRequests:
		default:
			t.Fatalf("%d %s", code, answer)
		}
		if !json.Valid([]byte(answer)) {
			t.Fatalf("no JSON: %s", answer)
		}
		if (code == http.StatusOK) != (asked.asked != "") {
			t.Fatalf("%d, and the engine was asked for %q", code, asked.asked)
		}
	})
}

func TestAnAnswerIsOneAllocation(t *testing.T) {
	request := &penstockv1.CheckRequest{Id: "order-1"}
	for name, v := range map[string]engine.Verdict{"allowed": allowed, "denied": denied} {
		if got := testing.AllocsPerRun(100, func() { checked(&v, request) }); got > 1 {
			t.Errorf("%s: %v allocations, want 1", name, got)
		}
	}
}
