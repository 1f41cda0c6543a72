package callers

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

const (
	// refreshEvery is how often the keys are asked for again, and so how long one that was withdrawn stays in force.
	refreshEvery = 5 * time.Minute
	// minRefetch is the least between two requests for the keys that callers bring about, by tokens of a key that is unknown.
	minRefetch = 10 * time.Second
	// fetchTimeout bounds one request for the keys, and waitForKeys how long a caller waits for it.
	fetchTimeout = 5 * time.Second
	waitForKeys  = time.Second
	// mostWaiting is how many callers wait at a time; others are refused at once.
	mostWaiting = 64

	maxKeys = 100
)

// keys are the public keys that sign tokens, as of the last time that they could be had. A server of keys that is away
// leaves them in force.
type keys struct {
	source  source
	log     *slog.Logger
	now     func() time.Time
	current atomic.Pointer[generation] // nil before the first
	waiting chan struct{}              // holds a value for each caller that waits

	mu sync.Mutex
	// underway is closed when the fetch that is under way has ended; nil without one.
	underway chan struct{}
	// tried is when the last fetch began, and fetched when the last good one did.
	tried, fetched time.Time
	failing        bool
}

// generation is keys that are in force together, and the tokens that they verified.
type generation struct {
	digest   [sha256.Size]byte // of what they were read from
	keys     []jose.JSONWebKey
	verified memo[[sha256.Size]byte, verified]
}

// verified is whose a token is, and until when that need not be found out again.
type verified struct {
	account account
	until   time.Time
}

// of gives the keys of that id: nil when there is none.
func (g *generation) of(id string) []jose.JSONWebKey {
	if g == nil {
		return nil
	}
	var found []jose.JSONWebKey
	for _, key := range g.keys {
		if key.KeyID == id {
			found = append(found, key)
		}
	}
	return found
}

// find gives the keys of that id. An unknown one has the keys fetched anew, if that was not done a moment ago.
func (k *keys) find(ctx context.Context, id string) (*generation, []jose.JSONWebKey) {
	g := k.current.Load()
	if found := g.of(id); found != nil {
		return g, found
	}
	if fetch := k.begin(minRefetch); fetch != nil {
		k.wait(ctx, fetch)
	}
	g = k.current.Load()
	return g, g.of(id)
}

func (k *keys) wait(ctx context.Context, fetch <-chan struct{}) {
	select {
	case k.waiting <- struct{}{}:
		defer func() { <-k.waiting }()
	default:
		return
	}
	enough := time.NewTimer(waitForKeys)
	defer enough.Stop()
	select {
	case <-fetch:
	case <-enough.C:
	case <-ctx.Done():
	}
}

// poll begins a fetch when one is due: of a file always, from a server when the keys have become old or could not be had.
func (k *keys) poll() {
	k.mu.Lock()
	due := !k.source.remote() || k.failing || k.fetched.IsZero() || k.now().Sub(k.fetched) >= refreshEvery
	k.mu.Unlock()
	if due {
		k.begin(0)
	}
}

// begin has the keys fetched, and gives what is closed then: of the fetch that is under way already, if there is one. It
// gives nil when the last one began less than pause ago.
func (k *keys) begin(pause time.Duration) <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.underway != nil {
		return k.underway
	}
	if !k.tried.IsZero() && k.now().Sub(k.tried) < pause {
		return nil
	}
	k.tried = k.now()
	k.underway = make(chan struct{})
	go func(ended chan struct{}) {
		defer close(ended)
		k.fetch()
	}(k.underway)
	return k.underway
}

// fetch runs on a time of its own: the caller that brought it about may leave, and the keys are for all.
func (k *keys) fetch() {
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	next, err := k.source.load(ctx)

	k.mu.Lock()
	defer k.mu.Unlock()
	k.underway = nil
	if err != nil {
		if !k.failing {
			k.log.Error("cannot get the keys that sign tokens; those known stay in force", "error", err.Error())
		}
		k.failing = true
		return
	}
	if k.failing {
		k.log.Info("the keys that sign tokens can be had again")
	}
	k.failing, k.fetched = false, k.now()
	if current := k.current.Load(); current == nil || current.digest != next.digest {
		k.current.Store(next)
		k.log.Info("keys that sign tokens", "keys", len(next.keys))
	}
}

// source is where keys are: of url or file, one is set.
type source struct {
	url, file, caFile, tokenFile string
}

func newSource(cfg Config) (source, error) {
	switch at, err := url.Parse(cfg.JWKS); {
	case strings.HasPrefix(cfg.JWKS, "http://"):
		return source{}, errors.New("--auth-jwks: keys that came over plain HTTP could be anybody's; give an https:// URL or a file")
	case strings.HasPrefix(cfg.JWKS, "https://"):
		if err != nil || at.Host == "" {
			return source{}, errors.New("--auth-jwks is no URL; give it as https://host/path")
		}
		if at.User != nil {
			return source{}, errors.New("--auth-jwks has a user in it; give what the server wants to see by --auth-jwks-token-file")
		}
		s := source{url: cfg.JWKS, caFile: cfg.JWKSCAFile, tokenFile: cfg.JWKSTokenFile}
		// Read now, so that a mistake is seen now.
		_, err := s.authorities()
		if err == nil {
			_, err = s.token()
		}
		return s, err
	case cfg.JWKSCAFile != "" || cfg.JWKSTokenFile != "":
		return source{}, errors.New("--auth-jwks is a file, and --auth-jwks-ca and --auth-jwks-token-file are for a server; give an https:// URL, or leave them out")
	default:
		return source{file: cfg.JWKS}, nil
	}
}

func (s source) remote() bool {
	return s.url != ""
}

func (s source) load(ctx context.Context) (*generation, error) {
	if !s.remote() {
		text, err := readBounded(s.file)
		if err != nil {
			return nil, fmt.Errorf("--auth-jwks: %w", err)
		}
		g, err := parseKeys(text)
		if err != nil {
			return nil, fmt.Errorf("--auth-jwks: %s: %w", s.file, err)
		}
		return g, nil
	}
	text, err := s.get(ctx)
	if err != nil {
		return nil, err
	}
	g, err := parseKeys(text)
	if err != nil {
		return nil, fmt.Errorf("--auth-jwks: what %s answers: %w", s.url, err)
	}
	return g, nil
}

// get asks the server. Its CAs and the token for it are read each time, since they are renewed under the same names.
func (s source) get(ctx context.Context) ([]byte, error) {
	authorities, err := s.authorities()
	if err != nil {
		return nil, err
	}
	token, err := s.token()
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("--auth-jwks: %w", err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	client := &http.Client{
		Transport: &http.Transport{
			Proxy:             http.ProxyFromEnvironment,
			TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: authorities},
			DisableKeepAlives: true,
		},
		// Neither the token nor the trust in the answer is for whoever the server points to.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("--auth-jwks: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("--auth-jwks: %s answers %d; the API server wants a token that may read it, see --auth-jwks-token-file", s.url, response.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("--auth-jwks: reading the answer of %s: %w", s.url, err)
	}
	if len(text) > maxBytes {
		return nil, fmt.Errorf("--auth-jwks: %s answers more than %d bytes", s.url, maxBytes)
	}
	return text, nil
}

// authorities gives nil, which is those of the system, without a file.
func (s source) authorities() (*x509.CertPool, error) {
	if s.caFile == "" {
		return nil, nil
	}
	text, err := os.ReadFile(s.caFile)
	if err != nil {
		return nil, fmt.Errorf("--auth-jwks-ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("--auth-jwks-ca: %s holds no certificate in PEM; give those of the CAs of the server of the keys", s.caFile)
	}
	return pool, nil
}

func (s source) token() (string, error) {
	if s.tokenFile == "" {
		return "", nil
	}
	text, err := os.ReadFile(s.tokenFile)
	if err != nil {
		return "", fmt.Errorf("--auth-jwks-token-file: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if !isToken(token) {
		return "", fmt.Errorf("--auth-jwks-token-file: %s holds no bearer token; give a file that holds it alone", s.tokenFile)
	}
	return token, nil
}

// parseKeys reads a JSON Web Key Set. Keys of a kind that is unknown here, or for other things than signing, are left out, as
// RFC 7517 asks; so are private and symmetric ones, which have no place there.
func parseKeys(text []byte) (*generation, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		// The decoder's error can show a piece of the content.
		return nil, errors.New("no JSON Web Key Set")
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("%d keys, more than %d", len(set.Keys), maxKeys)
	}
	g := &generation{digest: sha256.Sum256(text)}
	for _, raw := range set.Keys {
		var key jose.JSONWebKey
		if err := json.Unmarshal(raw, &key); err != nil {
			continue
		}
		if key.IsPublic() && key.Valid() && (key.Use == "" || key.Use == "sig") {
			g.keys = append(g.keys, key)
		}
	}
	if len(g.keys) == 0 {
		return nil, errors.New("no public key for signatures is in it")
	}
	return g, nil
}
