package callers

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	jose "github.com/go-jose/go-jose/v4"
)

// account is a Kubernetes ServiceAccount.
type account struct {
	namespace, name string
}

// rememberFor is how long a token that was verified is not verified again.
const rememberFor = time.Minute

// algorithms are those of public keys. What is signed with a shared secret, or not at all, is refused before anything else.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// accounts knows ServiceAccounts by their tokens.
type accounts struct {
	keys   *keys
	issuer string
	config oidc.Config
	now    func() time.Time
}

func newAccounts(cfg Config, log *slog.Logger, now func() time.Time) (*accounts, error) {
	from, err := newSource(cfg)
	if err != nil {
		return nil, err
	}
	a := &accounts{
		keys:   &keys{source: from, log: log, now: now, waiting: make(chan struct{}, mostWaiting)},
		issuer: cfg.Issuer,
		config: oidc.Config{ClientID: cmp.Or(cfg.Audience, DefaultAudience), Now: now},
		now:    now,
	}
	for _, algorithm := range algorithms {
		a.config.SupportedSigningAlgs = append(a.config.SupportedSigningAlgs, string(algorithm))
	}
	if !from.remote() {
		first, err := from.load(context.Background())
		if err != nil {
			return nil, err
		}
		a.keys.current.Store(first)
	}
	return a, nil
}

// of gives whose token it is. The digest is the token's.
func (a *accounts) of(ctx context.Context, digest [sha256.Size]byte, token string) (account, *refusal) {
	if g := a.keys.current.Load(); g != nil {
		if known, found := g.verified.get(digest); found && a.now().Before(known.until) {
			return known.account, nil
		}
	}
	try := &attempt{keys: a.keys}
	verdict, err := oidc.NewVerifier(a.issuer, try, &a.config).Verify(ctx, token)
	if err != nil {
		return account{}, try.why(err)
	}
	found, is := parseSubject(verdict.Subject)
	if !is {
		return account{}, unknownSubject
	}
	until := a.now().Add(rememberFor)
	if verdict.Expiry.Before(until) {
		until = verdict.Expiry
	}
	try.by.verified.put(digest, verified{found, until})
	return found, nil
}

// parseSubject reads the subject of a ServiceAccount's token.
func parseSubject(subject string) (account, bool) {
	rest, is := strings.CutPrefix(subject, "system:serviceaccount:")
	namespace, name, found := strings.Cut(rest, ":")
	return account{namespace, name}, is && found && namespace != "" && name != "" && !strings.ContainsAny(namespace, "/*") && !strings.ContainsAny(name, ":/*")
}

// attempt verifies the signature of one token. It is the verifier's KeySet.
type attempt struct {
	keys *keys
	// by are the keys that the token was verified with; nil when it was not.
	by *generation
	// refused is why it was not; nil before that was tried.
	refused *refusal
}

var errNotVerified = errors.New("not verified")

// VerifySignature gives the payload of the token, which the verifier has found to be of an algorithm that it may be of.
func (a *attempt) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	parsed, err := jose.ParseSigned(token, algorithms)
	if err != nil {
		return nil, err
	}
	header := parsed.Signatures[0].Header
	g, found := a.keys.find(ctx, header.KeyID)
	switch {
	case g == nil:
		a.refused = noKeys
		return nil, errNotVerified
	case found == nil:
		a.refused = unknownKey
		return nil, errNotVerified
	}
	for _, key := range found {
		if key.Algorithm != "" && key.Algorithm != header.Algorithm {
			continue
		}
		if payload, err := parsed.Verify(key.Key); err == nil {
			a.by = g
			return payload, nil
		}
	}
	a.refused = badSignature
	return nil, errNotVerified
}

// why tells the reason behind an error of the verifier. The error itself holds what the token says, so it goes nowhere.
func (a *attempt) why(err error) *refusal {
	var expired *oidc.TokenExpiredError
	switch {
	case a.refused != nil:
		return a.refused
	case a.by == nil:
		return unreadable
	case errors.As(err, &expired):
		return expiredToken
	default:
		return wrongClaims
	}
}

// maxTokenBytes is several times what Kubernetes makes.
const maxTokenBytes = 8 << 10

// isToken tells whether a text can be a bearer token (the token68 of RFC 9110).
func isToken(text string) bool {
	body := strings.TrimRight(text, "=")
	return body != "" && len(text) <= maxTokenBytes && !slices.ContainsFunc([]byte(body), func(c byte) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && strings.IndexByte("-._~+/", c) < 0
	})
}
