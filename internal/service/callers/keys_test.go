package callers

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/penstock-dev/penstock/internal/service/tlsfiles/tlstest"
)

// keyServer serves keys over HTTPS as an API server does: to who shows its token.
type keyServer struct {
	*httptest.Server
	caFile, tokenFile string
	answer            atomic.Pointer[func(http.ResponseWriter)]
	asked             atomic.Int64
}

func startKeyServer(t *testing.T, keys string) *keyServer {
	t.Helper()
	ca := tlstest.NewCA(t)
	k := &keyServer{caFile: write(t, "ca.crt", string(ca.PEM)), tokenFile: write(t, "token", "for-the-keys\n")}
	k.serve(keys)
	k.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k.asked.Add(1)
		if token, err := os.ReadFile(k.tokenFile); err != nil || r.Header.Get("Authorization") != "Bearer "+strings.TrimSpace(string(token)) {
			http.Error(w, "who are you?", http.StatusForbidden)
			return
		}
		(*k.answer.Load())(w)
	}))
	k.TLS = &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, "127.0.0.1").Certificate(t)}}
	k.StartTLS()
	t.Cleanup(k.Close)
	return k
}

func (k *keyServer) answers(with func(http.ResponseWriter)) {
	k.answer.Store(&with)
}

func (k *keyServer) serve(keys string) {
	k.answers(func(w http.ResponseWriter) { _, _ = io.WriteString(w, keys) })
}

func (k *keyServer) config() Config {
	return Config{Mode: Bearer, JWKS: k.URL + "/openid/v1/jwks", JWKSCAFile: k.caFile, JWKSTokenFile: k.tokenFile, Issuer: issuer}
}

// poll polls, and waits until what that began has ended.
func (s *subject) poll(t *testing.T) {
	t.Helper()
	s.accounts.keys.poll()
	s.accounts.keys.mu.Lock()
	fetch := s.accounts.keys.underway
	s.accounts.keys.mu.Unlock()
	if fetch != nil {
		<-fetch
	}
}

// reason is why a token is refused, or "".
func (s *subject) reason(t *testing.T, token string) string {
	t.Helper()
	if _, refused := s.ofCredentials(t.Context(), []string{bearer(token)}); refused != nil {
		return refused.reason
	}
	return ""
}

func TestKeysComeFromAServerThatWantsAToken(t *testing.T) {
	key := newECKey(t, "one")
	k := startKeyServer(t, jwks(t, key))
	s := newSubject(t, k.config())
	if k.asked.Load() != 0 {
		t.Error("New made a connection")
	}
	// Before Run has begun, the first token has the keys fetched.
	if reason := s.reason(t, key.sign(t, claims(s.clock.now(), nil))); reason != "" {
		t.Errorf("refused: %s; logged\n%s", reason, s.log)
	}
	// The token for the keys is renewed under its name.
	if err := os.WriteFile(k.tokenFile, []byte("renewed"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.clock.advance(refreshEvery)
	s.poll(t)
	if k.asked.Load() != 2 || strings.Contains(s.log.String(), "cannot") || strings.Contains(s.log.String(), "renewed") {
		t.Errorf("asked %d times, logged\n%s", k.asked.Load(), s.log)
	}
}

func TestAKeyServerThatIsDownLeavesTheKnownKeysInForce(t *testing.T) {
	one, two := newECKey(t, "one"), newECKey(t, "two")
	k := startKeyServer(t, jwks(t, one))
	s := newSubject(t, k.config())
	s.poll(t)
	for name, broken := range map[string]func(http.ResponseWriter){
		"an error":  func(w http.ResponseWriter) { http.Error(w, "for-the-logs", http.StatusInternalServerError) },
		"forbidden": func(w http.ResponseWriter) { http.Error(w, "for-the-logs", http.StatusForbidden) },
		"no JSON":   func(w http.ResponseWriter) { _, _ = io.WriteString(w, "<html>for-the-logs") },
		"no keys":   func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"keys":[]}`) },
		"too much":  func(w http.ResponseWriter) { _, _ = io.WriteString(w, strings.Repeat(" ", maxBytes+1)) },
		"points elsewhere": func(w http.ResponseWriter) {
			w.Header().Set("Location", k.URL+"/else")
			w.WriteHeader(http.StatusFound)
		},
		"hangs up": func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			k.answers(broken)
			before, asked := strings.Count(s.log.String(), "\n"), k.asked.Load()
			s.clock.advance(refreshEvery)
			s.poll(t)
			s.clock.advance(pollEvery)
			s.poll(t)
			if k.asked.Load() != asked+2 {
				t.Errorf("asked %d times, want it tried again", k.asked.Load()-asked)
			}
			if reason := s.reason(t, one.sign(t, claims(s.clock.now(), nil))); reason != "" {
				t.Errorf("refused: %s", reason)
			}
			if lines := strings.Count(s.log.String(), "\n") - before; lines != 1 || strings.Contains(s.log.String(), "for-the-logs") {
				t.Errorf("%d lines, want one:\n%s", lines, s.log)
			}
			k.serve(jwks(t, one))
			s.poll(t)
			if lines := strings.Count(s.log.String(), "\n") - before; lines != 2 || !strings.Contains(s.log.String(), "can be had again") {
				t.Errorf("%d lines, want one more:\n%s", lines, s.log)
			}
		})
	}
	k.serve(jwks(t, two))
	s.clock.advance(refreshEvery)
	s.poll(t)
	if reason := s.reason(t, one.sign(t, claims(s.clock.now(), nil))); reason != "unknown_key" {
		t.Errorf("a key that was withdrawn: %q", reason)
	}
}

func TestWithoutKeysACallerIsToldToTryAgain(t *testing.T) {
	key := newECKey(t, "one")
	k := startKeyServer(t, "")
	k.answers(func(w http.ResponseWriter) { http.Error(w, "", http.StatusInternalServerError) })
	s := start(t, k.config(), nil)
	code, body, header := s.get(t, "/auth", nil, Header, bearer(key.sign(t, claims(s.clock.now(), nil))))
	if code != http.StatusServiceUnavailable || header.Get("Retry-After") != "1" || !strings.Contains(body, "try again") {
		t.Errorf("%d %q %v", code, body, header)
	}
}

// A caller can have any number of keys looked for, and the server of the keys must not notice.
func TestUnknownKeysAreLookedForOnceInAWhile(t *testing.T) {
	one, two := newECKey(t, "one"), newECKey(t, "two")
	k := startKeyServer(t, jwks(t, one))
	s := newSubject(t, k.config())
	s.poll(t)
	s.clock.advance(minRefetch)
	token := two.sign(t, claims(s.clock.now(), nil))
	for range 100 {
		if reason := s.reason(t, token); reason != "unknown_key" {
			t.Fatal(reason)
		}
	}
	if k.asked.Load() != 2 {
		t.Errorf("asked %d times, want once for all of them", k.asked.Load()-1)
	}
	// A key that is new is known after no more than that while, not only with the next refresh.
	k.serve(jwks(t, one, two))
	s.clock.advance(minRefetch)
	if reason := s.reason(t, token); reason != "" {
		t.Errorf("refused: %s", reason)
	}
	if k.asked.Load() != 3 {
		t.Errorf("asked %d times", k.asked.Load())
	}
	// What is known needs nothing more.
	s.clock.advance(minRefetch)
	if s.reason(t, one.sign(t, claims(s.clock.now(), nil))) != "" || s.reason(t, newECKey(t, "one").sign(t, claims(s.clock.now(), nil))) != "signature" || k.asked.Load() != 3 {
		t.Errorf("asked %d times", k.asked.Load())
	}
}

func TestWhileTheKeysAreFetchedOnlySoManyWait(t *testing.T) {
	one, two := newECKey(t, "one"), newECKey(t, "two")
	k := startKeyServer(t, jwks(t, one))
	s := newSubject(t, k.config())
	s.poll(t)
	s.clock.advance(minRefetch)
	release := make(chan struct{})
	k.answers(func(w http.ResponseWriter) { <-release; _, _ = io.WriteString(w, jwks(t, one, two)) })
	fetch := s.accounts.keys.begin(minRefetch)
	for range mostWaiting {
		s.accounts.keys.waiting <- struct{}{}
	}
	token := two.sign(t, claims(s.clock.now(), nil))
	if reason := s.reason(t, token); reason != "unknown_key" {
		t.Errorf("one too many: %q", reason)
	}
	<-s.accounts.keys.waiting
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, refused := s.ofCredentials(gone, []string{bearer(token)}); refused != unknownKey {
		t.Errorf("one who left: %v", refused)
	}
	// Known keys are not held up.
	if reason := s.reason(t, one.sign(t, claims(s.clock.now(), nil))); reason != "" {
		t.Errorf("a known key: %q", reason)
	}
	waited := make(chan *refusal, 1)
	go func() {
		_, refused := s.ofCredentials(t.Context(), []string{bearer(token)})
		waited <- refused
	}()
	close(release)
	<-fetch
	if refused := <-waited; refused != nil {
		t.Errorf("one who waited: %v", refused)
	}
}

func TestATokenIsVerifiedOnceAMinute(t *testing.T) {
	key := newECKey(t, "one")
	path := write(t, "keys.json", jwks(t, key))
	s := newSubject(t, Config{Mode: Bearer, JWKS: path, Issuer: issuer})
	short := key.sign(t, claims(s.clock.now(), map[string]any{"exp": s.clock.now().Add(30 * time.Second).Unix()}))
	long := key.sign(t, claims(s.clock.now(), nil))
	for _, token := range []string{short, long} {
		if reason := s.reason(t, token); reason != "" {
			t.Fatal(reason)
		}
	}
	g := s.accounts.keys.current.Load()
	good := g.keys
	g.keys = nil // so that verifying fails
	if s.reason(t, short) != "" || s.reason(t, long) != "" {
		t.Error("verified again within the minute")
	}
	g.keys = good
	s.clock.advance(30 * time.Second)
	if reason := s.reason(t, short); reason != "expired" {
		t.Errorf("%q, want expired: it is not remembered longer than it is valid", reason)
	}
	g.keys = nil
	s.clock.advance(30 * time.Second)
	if reason := s.reason(t, long); reason != "unknown_key" {
		t.Errorf("%q, want it verified again after a minute", reason)
	}
	g.keys = good

	// What a withdrawn key verified is forgotten with it.
	if s.reason(t, long) != "" {
		t.Fatal("refused")
	}
	if err := os.WriteFile(path, []byte(jwks(t, newECKey(t, "two"))), 0o600); err != nil {
		t.Fatal(err)
	}
	s.poll(t)
	if reason := s.reason(t, long); reason != "unknown_key" {
		t.Errorf("%q, want it refused", reason)
	}
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	var m memo[[sha256.Size]byte, int]
	for i := range 3 * mostRemembered {
		m.put(sha256.Sum256([]byte{byte(i), byte(i >> 8), byte(i >> 16)}), i)
		if len(m.held) > mostRemembered {
			t.Fatalf("%d are held", len(m.held))
		}
	}
}

func TestOnlyPublicKeysForSignaturesAreTaken(t *testing.T) {
	ec, rsa := newECKey(t, "ec"), newRSAKey(t, "rsa")
	marshal := func(k jose.JSONWebKey) string {
		text, err := json.Marshal(k)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	set := `{"keys":[` + strings.Join([]string{
		marshal(jose.JSONWebKey{Key: ec.key.Public(), KeyID: "good"}),
		marshal(jose.JSONWebKey{Key: rsa.key.Public(), KeyID: "good too", Use: "sig", Algorithm: "RS256"}),
		marshal(jose.JSONWebKey{Key: rsa.key.Public(), KeyID: "encrypts", Use: "enc"}),
		marshal(jose.JSONWebKey{Key: ec.key, KeyID: "private"}),
		marshal(jose.JSONWebKey{Key: []byte("0123456789abcdef0123456789abcdef"), KeyID: "secret", Algorithm: "HS256"}),
		`{"kty":"OKP","crv":"Ed448","x":"AA","kid":"another kind"}`,
		`{"kty":"EC","kid":"no point","crv":"P-256"}`,
		`7`,
	}, ",") + `]}`
	g, err := parseKeys([]byte(set))
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, key := range g.keys {
		ids = append(ids, key.KeyID)
	}
	if strings.Join(ids, ", ") != "good, good too" {
		t.Errorf("%q", ids)
	}
	if _, err := parseKeys([]byte(`{"keys":[` + strings.Repeat("7,", maxKeys) + `7]}`)); err == nil || !strings.Contains(err.Error(), "more than 100") {
		t.Errorf("%v, want too many refused", err)
	}
}

func FuzzParseKeys(f *testing.F) {
	f.Add([]byte(jwks(f, newECKey(f, "one"))))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AAAA"},{"kty":"RSA","n":"AQ","e":"AQAB"}]}`))
	f.Add([]byte(`{"keys":null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		g, err := parseKeys(text)
		if err != nil {
			return
		}
		for _, key := range g.keys {
			if !key.IsPublic() {
				t.Fatal("a key that is not public")
			}
		}
	})
}
