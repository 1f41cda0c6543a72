package callers

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/penstock-dev/penstock/internal/service/origin"
)

// Header is where a bearer token is at every door. At some, Authorization belongs to the request that is asked about.
const Header = "X-Penstock-Authorization"

// refusal is why a request reaches no door.
type refusal struct {
	reason string // the label
	text   string // for the caller
	code   codes.Code
}

func (r *refusal) err() error {
	return status.Error(r.code, r.text)
}

// Error is what the caller is told.
func (r *refusal) Error() string { return r.text }

const remedy = "; send a token as " + Header + ": Bearer <token>"

var (
	noToken         = &refusal{"missing", "no credentials" + remedy, codes.Unauthenticated}
	noCertificate   = &refusal{"missing", "no client certificate; connect with one that a CA of --tls-client-ca signed", codes.Unauthenticated}
	malformed       = &refusal{"malformed", "the credentials are no bearer token" + remedy + ", once", codes.Unauthenticated}
	unreadable      = &refusal{"malformed", "the token is no JWT that is signed with a public key" + remedy, codes.Unauthenticated}
	unknownToken    = &refusal{"unknown_token", "the token is unknown; the one who runs penstockd adds it to --auth-callers", codes.Unauthenticated}
	unknownKey      = &refusal{"unknown_key", "the token is signed with a key that is not among those of --auth-jwks", codes.Unauthenticated}
	badSignature    = &refusal{"signature", "the signature of the token is wrong", codes.Unauthenticated}
	expiredToken    = &refusal{"expired", "the token has expired; ask for a new one", codes.Unauthenticated}
	expiredOfClient = &refusal{"expired", "the client certificate has expired; connect with a new one", codes.Unauthenticated}
	wrongClaims     = &refusal{"claims", "the token is of another issuer than --auth-issuer, not for --auth-audience, or not yet valid", codes.Unauthenticated}
	noKeys          = &refusal{"no_keys", "the keys of --auth-jwks are not known yet; try again", codes.Unavailable}
	unknownSubject  = &refusal{"unknown_caller", "the token is of no ServiceAccount", codes.PermissionDenied}
	unknownOfClient = &refusal{"unknown_caller", "no name of the client certificate is among the callers; the one who runs penstockd adds it to --auth-callers", codes.PermissionDenied}
	reasons         = []string{"missing", "malformed", "unknown_token", "unknown_key", "signature", "expired", "claims", "no_keys", "unknown_caller"}
)

func (d *Directory) count(r *refusal) { d.refused.WithLabelValues(r.reason).Inc() }

// Handler lets through who has good credentials: a certificate, or a token in X-Penstock-Authorization, which is taken out of
// the request. Others get 401, or 403 when they are known and may nothing, or 503 while the keys are not known. It is for
// doors where Authorization belongs to the request that is asked about.
func (d *Directory) Handler(next http.Handler) http.Handler {
	return d.handler(next, asText, Header)
}

// DirectHandler is Handler for doors whose callers ask for themselves: it takes a token in Authorization too.
func (d *Directory) DirectHandler(next http.Handler) http.Handler {
	return d.handler(next, asText, Header, "Authorization")
}

// RPCHandler is DirectHandler for services of Connect: it refuses in the protocol that it is asked in.
func (d *Directory) RPCHandler(next http.Handler) http.Handler {
	errors := connect.NewErrorWriter()
	return d.handler(next, func(w http.ResponseWriter, r *http.Request, refused *refusal) {
		_ = errors.Write(w, r, connect.NewError(connect.Code(refused.code), refused))
	}, Header, "Authorization")
}

func (d *Directory) handler(next http.Handler, refuse func(http.ResponseWriter, *http.Request, *refusal), headers ...string) http.Handler {
	if d.mode == None {
		return unasked(next)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		granted, refused := d.ofRequest(r, headers)
		if refused != nil {
			d.count(refused)
			if refused.code == codes.Unauthenticated && d.mode == Bearer {
				w.Header().Set("WWW-Authenticate", "Bearer")
			}
			if refused.code == codes.Unavailable {
				w.Header().Set("Retry-After", "1")
			}
			refuse(w, r, refused)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), grantKey{}, granted)))
	})
}

// unasked notes what Of needs in mode None.
func unasked(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// What is not noted is not local.
		if origin.Local(r) {
			r = r.WithContext(context.WithValue(r.Context(), localKey{}, true))
		}
		next.ServeHTTP(w, r)
	})
}

func (d *Directory) ofRequest(r *http.Request, headers []string) (*grant, *refusal) {
	if d.mode == MTLS {
		return d.ofConnection(r.TLS)
	}
	var values []string
	for _, name := range headers {
		if values = r.Header[name]; len(values) > 0 {
			// A door can look at headers, count by them and pass them on; this one is none of its business.
			delete(r.Header, name)
			break
		}
	}
	return d.ofCredentials(r.Context(), values)
}

// asText refuses with a line of text.
func asText(w http.ResponseWriter, _ *http.Request, refused *refusal) {
	code := http.StatusUnauthorized
	switch refused.code {
	case codes.PermissionDenied:
		code = http.StatusForbidden
	case codes.Unavailable:
		code = http.StatusServiceUnavailable
	}
	http.Error(w, refused.text, code)
}

// healthPrefix is of the methods that need no credentials: those who look after a Pod have none.
var healthPrefix = "/" + healthv1.Health_ServiceDesc.ServiceName + "/"

// Unary lets through who has good credentials, as Handler does: a certificate, or a token in the metadata
// x-penstock-authorization, else authorization. Others get UNAUTHENTICATED, PERMISSION_DENIED or UNAVAILABLE. Health needs
// none.
func (d *Directory) Unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if d.admits(info.FullMethod) {
		return handler(ctx, request)
	}
	ctx, err := d.identify(ctx)
	if err != nil {
		return nil, err
	}
	return handler(ctx, request)
}

// Stream is Unary for streams. They are asked when they begin.
func (d *Directory) Stream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if d.admits(info.FullMethod) {
		return handler(server, stream)
	}
	ctx, err := d.identify(stream.Context())
	if err != nil {
		return err
	}
	return handler(server, &identified{stream, ctx})
}

// identified is a stream that knows its caller.
type identified struct {
	grpc.ServerStream
	ctx context.Context
}

// Context is the stream's, with the caller.
func (i *identified) Context() context.Context {
	return i.ctx
}

// admits tells whether a method needs no credentials.
func (d *Directory) admits(method string) bool {
	return d.mode == None || strings.HasPrefix(method, healthPrefix)
}

// identify gives the context in which the caller is known.
func (d *Directory) identify(ctx context.Context) (context.Context, error) {
	granted, refused := d.ofCall(ctx)
	if refused != nil {
		d.count(refused)
		return nil, refused.err()
	}
	return context.WithValue(ctx, grantKey{}, granted), nil
}

func (d *Directory) ofCall(ctx context.Context) (*grant, *refusal) {
	if d.mode == MTLS {
		if p, known := peer.FromContext(ctx); known {
			if info, is := p.AuthInfo.(credentials.TLSInfo); is {
				return d.ofConnection(&info.State)
			}
		}
		return nil, noCertificate
	}
	values := metadata.ValueFromIncomingContext(ctx, strings.ToLower(Header))
	if len(values) == 0 {
		values = metadata.ValueFromIncomingContext(ctx, "authorization")
	}
	return d.ofCredentials(ctx, values)
}

// ofConnection is of the certificate that the handshake has verified. It may have expired since.
func (d *Directory) ofConnection(state *tls.ConnectionState) (*grant, *refusal) {
	if state == nil || len(state.VerifiedChains) == 0 {
		return nil, noCertificate
	}
	now := d.now()
	valid := func(chain []*x509.Certificate) bool {
		return !slices.ContainsFunc(chain, func(c *x509.Certificate) bool { return now.After(c.NotAfter) })
	}
	if !slices.ContainsFunc(state.VerifiedChains, valid) {
		return nil, expiredOfClient
	}
	granted := d.callers.current.Load().ofCertificate(state.VerifiedChains[0][0])
	if granted == nil {
		return nil, unknownOfClient
	}
	return granted, nil
}

// ofCredentials is of all values of the header that a token is in.
func (d *Directory) ofCredentials(ctx context.Context, values []string) (*grant, *refusal) {
	if len(values) == 0 {
		return nil, noToken
	}
	token, is := parseBearer(values[0])
	if !is || len(values) > 1 {
		return nil, malformed
	}
	digest := sha256.Sum256([]byte(token))
	callers := &d.nobody
	if d.callers != nil {
		callers = d.callers.current.Load()
	}
	if granted := callers.ofToken(&digest); granted != nil {
		return granted, nil
	}
	// A JWT has three parts; what has not, is no token of a ServiceAccount.
	if d.accounts == nil || strings.Count(token, ".") != 2 {
		return nil, unknownToken
	}
	of, refused := d.accounts.of(ctx, digest, token)
	if refused != nil {
		return nil, refused
	}
	return callers.ofAccount(of), nil
}

// parseBearer gives the token of "Bearer <token>".
func parseBearer(credentials string) (string, bool) {
	scheme, rest, found := strings.Cut(credentials, " ")
	token := strings.Trim(rest, " ")
	return token, found && strings.EqualFold(scheme, Bearer) && isToken(token)
}
