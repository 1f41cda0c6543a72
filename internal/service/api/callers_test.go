package api

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/service/callers"
	penstockv1 "github.com/penstock-dev/penstock/proto/penstock/v1"
)

// methods are all calls with what they require beyond a policy.
var methods = map[string]string{
	"Check": "", "Peek": "", "Refund": "", "Credit": `,"amount":1`, "Reset": "", "AcquireSlot": "", "ReleaseSlot": `,"slotId":"s"`,
}

// granted gives the callers "shop", who may use the namespace shop, and "admin", an administrator of it.
func granted(t *testing.T) *callers.Directory {
	t.Helper()
	var text strings.Builder
	text.WriteString("callers:\n")
	for name, administrative := range map[string]bool{"shop": false, "admin": true} {
		fmt.Fprintf(&text, "- name: %s\n  tokenSHA256: [%x]\n  namespaces: [shop]\n  administrative: %t\n", name, sha256.Sum256([]byte(name)), administrative)
	}
	file := filepath.Join(t.TempDir(), "callers.yaml")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	directory, err := callers.New(callers.Config{Mode: callers.Bearer, File: file}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return directory
}

func TestACallerIsServedByWhatItMayTouch(t *testing.T) {
	directory := granted(t)
	as := func(caller, method, namespace string, f *fake) (int, string) {
		body := fmt.Sprintf(`{"namespace":%q,"policy":"api-per-ip","subject":{"remote_address":"192.0.2.1"}%s}`, namespace, methods[method])
		r := httptest.NewRequest(http.MethodPost, Prefix+method, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer "+caller)
		w := httptest.NewRecorder()
		directory.DirectHandler(New(f, directory)).ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	for method := range methods {
		t.Run(method, func(t *testing.T) {
			f := &fake{verdict: allowed}
			if code, body := as("admin", method, "shop", f); code != http.StatusOK || f.asked == "" {
				t.Errorf("the administrator: %d %s", code, body)
			}
			want, wantReason := http.StatusOK, ""
			if method == "Reset" {
				want, wantReason = http.StatusForbidden, `"ADMINISTRATIVE_ONLY"`
			}
			f = &fake{verdict: allowed}
			if code, body := as("shop", method, "shop", f); code != want || !strings.Contains(body, wantReason) || (f.asked != "") != (want == http.StatusOK) {
				t.Errorf("the caller: %d %s, want %d", code, body, want)
			}
			if code, body := as("nobody", method, "shop", f); code != http.StatusUnauthorized {
				t.Errorf("nobody: %d %s, want 401", code, body)
			}
			// What is there and what is not look the same.
			there, gone := &fake{verdict: allowed}, &fake{err: engine.ErrUnknownPolicy}
			code, body := as("admin", method, "bank", there)
			codeGone, bodyGone := as("admin", method, "bank", gone)
			if code != http.StatusForbidden || !strings.Contains(body, `"FORBIDDEN"`) || there.asked+gone.asked != "" {
				t.Errorf("another namespace: %d %s, want 403 and nothing asked", code, body)
			}
			if code != codeGone || compact(t, body) != compact(t, bodyGone) {
				t.Errorf("%d %s for a policy, and %d %s for none", code, body, codeGone, bodyGone)
			}
		})
	}
}

func TestLongValuesOfARequestOverHTTPAreForTheEngineToRefuse(t *testing.T) {
	long := strings.Repeat("v", 257)
	for method := range map[string]bool{"Check": true, "AcquireSlot": true} {
		t.Run(method, func(t *testing.T) {
			f := &fake{verdict: allowed}
			body := `{"namespace":"shop","policy":"api-per-ip","subject":{"method":"` + long + `"},"http":true}`
			if code, answer := post(f, method, body); code != http.StatusOK || f.found["method"] != long {
				t.Errorf("%d %s, and the engine found %v", code, answer, f.found)
			}
			f = &fake{err: &engine.ValueTooLongError{Key: "method", Bytes: 257}}
			if code, answer := post(f, method, body); code != http.StatusBadRequest || !strings.Contains(answer, `"VALUE_TOO_LONG"`) {
				t.Errorf("where the policy looks at it: %d %s", code, answer)
			}
		})
	}
}

func TestWhatAPolicySaysOfFailureIsTold(t *testing.T) {
	for name, test := range map[string]struct {
		policy *policy.RateLimit
		want   penstockv1.FailureMode
	}{
		"does not apply":     {nil, penstockv1.FailureMode_FAILURE_MODE_UNSPECIFIED},
		"allows":             {&policy.RateLimit{OnStoreFailure: policy.FailureAllow}, penstockv1.FailureMode_FAILURE_MODE_ALLOW},
		"denies":             {&policy.RateLimit{OnStoreFailure: policy.FailureDeny}, penstockv1.FailureMode_FAILURE_MODE_DENY},
		"denies some":        {&policy.RateLimit{OnStoreFailure: policy.FailureDeny, ShadowPercent: 99}, penstockv1.FailureMode_FAILURE_MODE_DENY},
		"only ever looks on": {&policy.RateLimit{OnStoreFailure: policy.FailureDeny, ShadowPercent: 100}, penstockv1.FailureMode_FAILURE_MODE_ALLOW},
	} {
		t.Run(name, func(t *testing.T) {
			if got := onStoreFailure(&engine.Verdict{Policy: test.policy}); got != test.want {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

func TestASlotTellsHowLongItIsHeld(t *testing.T) {
	minute := &policy.Limit{Algorithm: policy.Concurrency, SlotTTLMs: 60_000}
	for name, test := range map[string]struct {
		verdict engine.Verdict
		asked   *durationpb.Duration
		want    *durationpb.Duration
	}{
		"as the policy says": {engine.Verdict{Allowed: true, Binding: minute}, nil, durationpb.New(time.Minute)},
		"shorter":            {engine.Verdict{Allowed: true, Binding: minute}, durationpb.New(time.Second), durationpb.New(time.Second)},
		"longer":             {engine.Verdict{Allowed: true, Binding: minute}, durationpb.New(time.Hour), durationpb.New(time.Minute)},
		"denied":             {engine.Verdict{Binding: minute}, nil, nil},
		"nobody knows":       {engine.Verdict{Allowed: true}, durationpb.New(time.Second), nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := slotTTL(&test.verdict, test.asked); got.AsDuration() != test.want.AsDuration() || (got == nil) != (test.want == nil) {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}
