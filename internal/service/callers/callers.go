// Package callers tells who asks penstockd, and what they may touch.
//
//	directory, err := callers.New(callers.Config{Mode: callers.Bearer, File: "callers.yaml"}, logger, registry)
//	...
//	go directory.Run(ctx)                          // follows the files
//	server := grpc.NewServer(grpc.UnaryInterceptor(directory.Unary), grpc.StreamInterceptor(directory.Stream))
//	http.Handle("/", directory.Handler(doors))
//	...
//	if !directory.Of(ctx).MayUsePolicy(name) {…}   // in a door
//
// A request without good credentials reaches no door. Where something is missing or unknown, a caller has fewer rights and
// never more.
package callers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/penstock-dev/penstock/internal/service/origin"
)

// How callers say who they are: Config.Mode.
const (
	// None asks nobody: all may use every policy and domain. Administrative calls and overrides of limits are for those who
	// connect over loopback.
	None = "none"
	// MTLS is by the names in a client's certificate.
	MTLS = "mtls"
	// Bearer is by a token: a static one of the file, or that of a Kubernetes ServiceAccount.
	Bearer = "bearer"
)

// DefaultAudience is what the token of a ServiceAccount must be meant for.
const DefaultAudience = "penstock"

// pollEvery is how often files are read.
const pollEvery = 10 * time.Second

// Config is how callers are known.
type Config struct {
	// Mode is None, MTLS or Bearer.
	Mode string
	// File lists the callers; see docs/penstockd.md. Required for MTLS.
	File string
	// JWKS is where the keys are that sign the tokens of ServiceAccounts: an https:// URL, or a file. "" accepts none.
	JWKS string
	// JWKSCAFile is the CAs of that URL's server; "" is those of the system. JWKSTokenFile holds a token to show it; "" shows
	// none. Both are read anew for each request.
	JWKSCAFile, JWKSTokenFile string
	// Issuer is the iss of the tokens. Required with JWKS.
	Issuer string
	// Audience must be among the aud of the tokens; "" is DefaultAudience.
	Audience string
}

// Directory knows the callers. All its methods may be called concurrently.
type Directory struct {
	mode     string
	callers  *file     // nil without one
	nobody   roster    // in its place
	accounts *accounts // nil without keys
	refused  *prometheus.CounterVec
	now      func() time.Time
}

// New reads the files; what they hold is followed by Run. It makes no connection: the server of the keys may be away. The
// metric goes into the registerer. It fails when the configuration is wrong, naming flag, file and remedy.
func New(cfg Config, log *slog.Logger, registerer prometheus.Registerer) (*Directory, error) {
	return open(cfg, log, registerer, time.Now)
}

func open(cfg Config, log *slog.Logger, registerer prometheus.Registerer, now func() time.Time) (*Directory, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	d := &Directory{mode: cfg.Mode, now: now, refused: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "penstock_unauthenticated_total",
		Help: "Requests that were refused before they reached a door, since they did not say well enough who asks.",
	}, []string{"reason"})}
	var err error
	if cfg.File != "" {
		if d.callers, err = readFile(cfg.File, log); err != nil {
			return nil, err
		}
	}
	if cfg.JWKS != "" {
		if d.accounts, err = newAccounts(cfg, log, now); err != nil {
			return nil, err
		}
	}
	if err := registerer.Register(d.refused); err != nil {
		return nil, fmt.Errorf("registering the metric of refused callers: %w", err)
	}
	for _, reason := range reasons {
		d.refused.WithLabelValues(reason)
	}
	return d, nil
}

// Everybody is the Directory of mode None.
func Everybody() *Directory {
	return &Directory{mode: None}
}

// Authenticates tells whether calls over gRPC have to pass Unary or Stream: in mode None there is nothing to do there.
// Requests over HTTP have to pass Handler in every mode, which sees whether a proxy asks for somebody else.
func (d *Directory) Authenticates() bool { return d.mode != None }

// Validate tells what is wrong with the configuration, by flag and remedy. It looks at no file.
func (c Config) Validate() error {
	switch c.Mode {
	case None:
		for _, option := range []struct{ flag, value string }{
			{"--auth-callers", c.File}, {"--auth-jwks", c.JWKS}, {"--auth-jwks-ca", c.JWKSCAFile},
			{"--auth-jwks-token-file", c.JWKSTokenFile}, {"--auth-issuer", c.Issuer},
		} {
			if option.value != "" {
				return fmt.Errorf("%s is of no use with --auth none, which asks nobody; give --auth mtls or bearer, or leave it out", option.flag)
			}
		}
	case MTLS:
		if c.File == "" {
			return errors.New("--auth-callers is missing; --auth mtls needs the file that says what callers may touch")
		}
		if c.JWKS != "" {
			return errors.New("--auth-jwks is of no use with --auth mtls, which looks at certificates; give --auth bearer, or leave it out")
		}
	case Bearer:
		if c.File == "" && c.JWKS == "" {
			return errors.New("--auth bearer knows no caller; give --auth-callers, --auth-jwks or both")
		}
	default:
		return fmt.Errorf("--auth is %q; give none, mtls or bearer", c.Mode)
	}
	return c.validateKeys()
}

func (c Config) validateKeys() error {
	for _, option := range []struct{ flag, value string }{
		{"--auth-issuer", c.Issuer}, {"--auth-jwks-ca", c.JWKSCAFile}, {"--auth-jwks-token-file", c.JWKSTokenFile},
	} {
		if option.value != "" && c.JWKS == "" {
			return fmt.Errorf("%s needs --auth-jwks; give it, or leave this out", option.flag)
		}
	}
	if c.JWKS != "" && c.Issuer == "" {
		return errors.New("--auth-issuer is missing; with --auth-jwks give the issuer of the tokens, which " +
			"`kubectl get --raw /.well-known/openid-configuration` tells")
	}
	return nil
}

// Run follows the files and keys until the context ends.
func (d *Directory) Run(ctx context.Context) {
	d.run(ctx, time.Tick(pollEvery))
}

func (d *Directory) run(ctx context.Context, again <-chan time.Time) {
	for {
		if d.callers != nil {
			d.callers.reload()
		}
		if d.accounts != nil {
			d.accounts.keys.poll()
		}
		select {
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

// Caller is who asks, with what they may touch. The zero value may touch nothing.
type Caller struct {
	granted *grant
	// unasked is the context of the request in mode None, else nil: what is for this host only is found out when it matters.
	unasked context.Context
}

// grant is what a caller may touch. It is not changed once it is made.
type grant struct {
	// everything is every policy and domain.
	everything bool
	// own is the namespace of a ServiceAccount, or "".
	own                             string
	namespaces, domains             []pattern
	administrative, overridesLimits bool
}

var everybody = &grant{everything: true}

// MayUsePolicy tells whether the policy, "<namespace>/<name>", is in a namespace that the caller may touch. Whether it
// exists has no part in that.
func (c Caller) MayUsePolicy(name string) bool {
	if c.granted == nil {
		return false
	}
	namespace, policy, found := strings.Cut(name, "/")
	return c.granted.everything || found && policy != "" && c.granted.touches(namespace)
}

// MayUseDomain tells whether the caller may ask for all policies of the domain: one that was granted by its name, or that is
// named as a namespace that the caller may touch.
func (c Caller) MayUseDomain(domain string) bool {
	return c.granted != nil && (c.granted.everything || anyMatches(c.granted.domains, domain) ||
		isNamespace(domain) && c.granted.touches(domain))
}

// isNamespace tells whether there can be a namespace of that name: a DNS label (RFC 1123).
func isNamespace(name string) bool {
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case c != '-' || i == 0 || i == len(name)-1:
			return false
		}
	}
	return name != "" && len(name) <= 63
}

// Administrative tells whether the caller may reset, force a release and flush, in what it may touch.
func (c Caller) Administrative() bool {
	return c.granted != nil && c.granted.administrative || c.unasked != nil && isLocal(c.unasked)
}

// MayOverrideLimits tells whether a limit that a request brings along (`limit` of an Envoy descriptor) is heeded.
func (c Caller) MayOverrideLimits() bool {
	return c.granted != nil && c.granted.overridesLimits || c.unasked != nil && isLocal(c.unasked)
}

func (g *grant) touches(namespace string) bool {
	return namespace != "" && (namespace == g.own || anyMatches(g.namespaces, namespace))
}

// grantKey is of the context of a request: its *grant.
type grantKey struct{}

// Of tells who sent the request of that context, which has passed Handler, DirectHandler, Unary or Stream. It allocates
// nothing.
func (d *Directory) Of(ctx context.Context) Caller {
	if d.mode == None {
		return Caller{granted: everybody, unasked: ctx}
	}
	granted, _ := ctx.Value(grantKey{}).(*grant)
	return Caller{granted: granted}
}

// localKey is of the context of a request over HTTP: whether it comes from this host, as a bool.
type localKey struct{}

// isLocal tells whether a request comes from this host: see origin.Local, of which the name that was asked for is left out
// for gRPC, which no page in a browser speaks.
func isLocal(ctx context.Context) bool {
	if local, known := ctx.Value(localKey{}).(bool); known {
		return local
	}
	p, known := peer.FromContext(ctx)
	if !known || !thisHost(p.Addr) {
		return false
	}
	for _, name := range origin.PassedOnKeys {
		if len(metadata.ValueFromIncomingContext(ctx, name)) > 0 {
			return false
		}
	}
	return true
}

func thisHost(address net.Addr) bool {
	tcp, is := address.(*net.TCPAddr)
	return is && origin.ThisHost(tcp.AddrPort().Addr())
}
