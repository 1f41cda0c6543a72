package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/redisops"
)

const (
	engineRedis  = "redis"
	engineValkey = "valkey"
)

// expiresSoon is how long before its end a certificate is worth a warning.
const expiresSoon = 30 * 24 * time.Hour

// connect makes a server answer, and finds out what it is. What keeps it from answering is found; then it is not opened.
func (e *examination) connect(ctx context.Context, s *server, sentinel bool) bool {
	cfg := e.node(s.address, sentinel)
	if !e.dial(ctx, s, cfg) {
		return false
	}
	opened, err := redisops.Open(cfg)
	if err != nil {
		e.find(s, Error, CheckConfiguration, err.Error(), "nothing connects with it", "")
		return false
	}
	nodes, err := opened.Primaries(ctx)
	if err != nil || len(nodes) != 1 {
		_ = opened.Close()
		e.find(s, Error, CheckReachable, fmt.Sprintf("it cannot be asked: %v", err), "", "")
		return false
	}
	s.client = nodes[0].Client
	if err := s.identify(ctx); err != nil {
		_ = opened.Close()
		e.unanswered(ctx, s, cfg, err)
		return false
	}
	s.opened = opened
	return true
}

// dial opens a connection without saying anything of Redis, and looks at the certificate of a server with TLS.
func (e *examination) dial(ctx context.Context, s *server, cfg redisops.Config) bool {
	dialer := net.Dialer{Timeout: cfg.DialTimeout}
	connection, err := dialer.DialContext(ctx, "tcp", s.address)
	if err != nil {
		what, remedy := dialWords(err)
		e.find(s, Error, CheckReachable, what, "without it nothing is decided by Redis, and each policy's onStoreFailure answers", remedy)
		return false
	}
	defer func() { _ = connection.Close() }()
	_ = connection.SetDeadline(time.Now().Add(cfg.DialTimeout))
	return cfg.TLS == nil || e.lookAtTLS(ctx, s, cfg, connection)
}

// dialWords says why a connection could not be opened, and what to do about it.
func dialWords(err error) (what, remedy string) {
	if lookup, is := errors.AsType[*net.DNSError](err); is {
		if lookup.IsNotFound {
			return fmt.Sprintf("the name %s is not known", lookup.Name), "correct the address, or the DNS that this machine asks"
		}
		return fmt.Sprintf("the name %s could not be looked up", lookup.Name), "look at the DNS that this machine asks"
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there: the connection was refused", "start the server, or correct host and port"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return "no connection in time", "look for a firewall or a NetworkPolicy in between, or give it more time (timeouts.dial, --dial-timeout)"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "there is no way to that network", "correct the address, or the routes of this machine"
	}
	return "no connection could be opened", "correct the address"
}

// lookAtTLS does the handshake whatever the certificate is, and then says what is wrong with it.
func (e *examination) lookAtTLS(ctx context.Context, s *server, cfg redisops.Config, connection net.Conn) bool {
	const why = "connections with it are refused"
	name := cfg.TLS.ServerName
	if name == "" {
		name, _, _ = net.SplitHostPort(s.address)
	}
	config := &tls.Config{
		ServerName: name,
		MinVersion: tls.VersionTLS12,
		// It is verified below, where more can be said than what failed first.
		InsecureSkipVerify: true, //nolint:gosec // nothing but a PING is sent over it
	}
	if len(cfg.TLS.ClientCert) > 0 {
		certificate, err := tls.X509KeyPair(cfg.TLS.ClientCert, cfg.TLS.ClientKey)
		if err != nil {
			e.find(s, Error, CheckTLS, "the client certificate and its key do not fit together", why, "give a certificate and its own key")
			return false
		}
		config.Certificates = []tls.Certificate{certificate}
	}
	client := tls.Client(connection, config)
	err := client.HandshakeContext(ctx)
	if err == nil {
		// With TLS 1.3 a server that misses our certificate says so only now.
		if _, err = client.Write([]byte("PING\r\n")); err == nil {
			_, err = client.Read(make([]byte, 1))
		}
	}
	shaken, shown := client.ConnectionState().HandshakeComplete, len(cfg.TLS.ClientCert) > 0
	if err != nil && !(errors.Is(err, io.EOF) && shaken) {
		what, remedy := tlsWords(err, shown)
		if shaken && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)) {
			// What it said was lost: it closed the connection before it read the PING.
			what, remedy = resetWords(shown)
		}
		e.find(s, Error, CheckTLS, what, why, remedy)
		return false
	}
	return e.verify(s, cfg, name, client.ConnectionState().PeerCertificates)
}

// resetWords says why a server resets a connection right after the handshake.
func resetWords(shown bool) (what, remedy string) {
	if shown {
		return "it ends the connection after the handshake, as one does that does not accept our client certificate", "show a certificate of the CA of the server's tls-ca-cert-file, that has not expired"
	}
	return "it ends the connection after the handshake, as one does that wants a client certificate", "give one (--redis-tls-cert and --redis-tls-key, spec.tls.clientCertSecretRef)"
}

// tlsWords says why a handshake failed.
func tlsWords(err error, shown bool) (what, remedy string) {
	if _, plain := errors.AsType[tls.RecordHeaderError](err); plain {
		return "it does not speak TLS", "use the port of the server's tls-port, or redis:// (spec.tls removed) if nobody else can read the network"
	}
	if alert, is := errors.AsType[tls.AlertError](err); is || strings.Contains(err.Error(), "remote error: tls:") {
		text := err.Error()
		if is {
			text = alert.Error()
		}
		switch {
		case strings.Contains(text, "certificate required"), !shown && strings.Contains(text, "handshake failure"), !shown && strings.Contains(text, "bad certificate"):
			return "it wants a client certificate, and none was shown", "give one (--redis-tls-cert and --redis-tls-key, spec.tls.clientCertSecretRef)"
		case strings.Contains(text, "unknown certificate authority"), strings.Contains(text, "unknown certificate"), strings.Contains(text, "bad certificate"):
			return "it does not accept our client certificate: another CA signed it than the server trusts", "show a certificate of the CA of the server's tls-ca-cert-file"
		case strings.Contains(text, "expired certificate"):
			return "it does not accept our client certificate: it has expired", "renew it"
		}
		return "it refuses the TLS handshake", "compare the TLS versions and ciphers of both sides; ours are TLS 1.2 and later"
	}
	return "the TLS handshake did not come to an end", "is it the port of the server's tls-port? A port without TLS closes such a connection"
}

// verify says what is wrong with a server's certificates.
func (e *examination) verify(s *server, cfg redisops.Config, name string, presented []*x509.Certificate) bool {
	if len(presented) == 0 {
		e.find(s, Error, CheckTLS, "it shows no certificate", "nobody knows who answers", "configure tls-cert-file of the server")
		return false
	}
	leaf, now := presented[0], e.options.Clock()
	if cfg.TLS.InsecureSkipVerify {
		e.find(s, Warning, CheckTLS, "any certificate is accepted (insecureSkipVerify)", "whoever is in between can read and change all, the password too",
			"give the CA of the servers (--redis-tls-ca, spec.tls.caSecretRef), and the name in their certificates where it is another (serverName)")
		return true
	}
	roots, err := trusted(cfg.TLS.CA)
	if err != nil {
		e.find(s, Error, CheckTLS, err.Error(), "no certificate can be verified", "give the CA as PEM")
		return false
	}
	good := true
	wrong := func(what, remedy string) {
		e.find(s, Error, CheckTLS, what, "connections to it are refused", remedy)
		good = false
	}
	for _, certificate := range presented {
		switch {
		case now.After(certificate.NotAfter):
			wrong(fmt.Sprintf("the certificate for %s expired on %s", subject(certificate), day(certificate.NotAfter)), "renew it, and have the server load it")
		case now.Before(certificate.NotBefore):
			wrong(fmt.Sprintf("the certificate for %s is valid from %s only", subject(certificate), day(certificate.NotBefore)), "correct the clock of this machine, or wait")
		}
	}
	if err := leaf.VerifyHostname(name); err != nil {
		wrong(fmt.Sprintf("the certificate is for %s and not for %s", names(leaf), name),
			"set the server name to one of the certificate's (--redis-tls-server-name, spec.tls.serverName), or have one issued for this name")
	}
	intermediates := x509.NewCertPool()
	for _, certificate := range presented[1:] {
		intermediates.AddCert(certificate)
	}
	// At a time at which it is valid: that it is not, was said above.
	at := leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2)
	if !now.Before(leaf.NotBefore) && !now.After(leaf.NotAfter) {
		at = now
	}
	chains, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	if err != nil {
		if _, unknown := errors.AsType[x509.UnknownAuthorityError](err); unknown {
			wrong(fmt.Sprintf("the certificate was signed by %q, which is not trusted", leaf.Issuer.CommonName), "give the CA that signed it (--redis-tls-ca, spec.tls.caSecretRef)")
		} else if good {
			wrong("the certificate cannot be verified: "+strings.TrimPrefix(err.Error(), "x509: "), "have one issued for servers, by a CA that is trusted")
		}
	}
	if !good {
		return false
	}
	for _, certificate := range chains[0] {
		if left := certificate.NotAfter.Sub(now); left < expiresSoon {
			e.find(s, Warning, CheckTLS, fmt.Sprintf("the certificate for %s expires on %s", subject(certificate), day(certificate.NotAfter)),
				"from then on no connection is accepted", "renew it before")
			return true
		}
	}
	e.find(s, OK, CheckTLS, fmt.Sprintf("the certificate is for %s and good until %s", name, day(leaf.NotAfter)), "", "")
	return true
}

// lookAtClientCertificate says when our own certificate ends.
func (e *examination) lookAtClientCertificate() {
	if e.cfg.TLS == nil || len(e.cfg.TLS.ClientCert) == 0 {
		return
	}
	block, _ := pem.Decode(e.cfg.TLS.ClientCert)
	if block == nil {
		return
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return // redisops.Open has said so
	}
	switch left := certificate.NotAfter.Sub(e.options.Clock()); {
	case left < 0:
		e.store(Error, CheckTLS, "our client certificate expired on "+day(certificate.NotAfter), "the servers refuse it", "renew it")
	case left < expiresSoon:
		e.store(Warning, CheckTLS, "our client certificate expires on "+day(certificate.NotAfter), "from then on the servers refuse it", "renew it before")
	}
}

func trusted(ca []byte) (*x509.CertPool, error) {
	if len(ca) == 0 {
		roots, err := x509.SystemCertPool()
		if err != nil {
			return nil, errors.New("this machine has no CAs of its own")
		}
		return roots, nil
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("there is no certificate in the CA that was given")
	}
	return roots, nil
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

func subject(c *x509.Certificate) string {
	if c.IsCA {
		return fmt.Sprintf("the CA %q", c.Subject.CommonName)
	}
	return names(c)
}

// names gives the names of a certificate.
func names(c *x509.Certificate) string {
	all := append([]string(nil), c.DNSNames...)
	for _, ip := range c.IPAddresses {
		all = append(all, ip.String())
	}
	if len(all) == 0 {
		return "nobody"
	}
	return strings.Join(all, " and ")
}

// identify asks a server what it is. Everybody may ask for HELLO, which came with 6.0.
func (s *server) identify(ctx context.Context) error {
	reply, err := do(ctx, s.client, "HELLO")
	if err != nil && !unknownCommand(err) {
		return err
	}
	hello := pairs(reply)
	s.mode, s.replica = hello["mode"], hello["role"] == "replica" || hello["role"] == "slave"
	s.engine, s.version = hello["server"], hello["version"]

	if s.mode == modeSentinel {
		return nil // what HELLO tells is all that matters of one
	}
	text, err := do(ctx, s.client, "INFO")
	if info, is := text.(string); is {
		s.describe(redisops.ParseInfo(info))
	}
	if s.mode == "" {
		// Before 6.0, and whoever imitates it.
		if err != nil {
			return err
		}
		s.mode = "standalone"
	}
	return nil
}

// describe fills in what INFO tells.
func (s *server) describe(info map[string]string) {
	s.info = info
	if version := info["redis_version"]; version != "" {
		s.engine, s.version = engineRedis, version
	}
	if version := info["valkey_version"]; version != "" {
		s.engine, s.version = engineValkey, version
	}
	if mode := info["redis_mode"]; mode != "" {
		s.mode = mode
	}
	if role := info["role"]; role != "" {
		s.replica = role == "slave"
	}
}

// pairs gives a reply of names and values, be it a list (RESP2) or a map (RESP3).
func pairs(reply any) map[string]string {
	found := make(map[string]string)
	switch reply := reply.(type) {
	case []any:
		for i := 0; i+1 < len(reply); i += 2 {
			found[fmt.Sprint(reply[i])] = fmt.Sprint(reply[i+1])
		}
	case map[any]any:
		for name, value := range reply {
			found[fmt.Sprint(name)] = fmt.Sprint(value)
		}
	}
	return found
}

func unknownCommand(err error) bool {
	reply, is := errors.AsType[redis.Error](err)
	return is && strings.Contains(reply.Error(), "unknown command")
}

// unanswered says why a server does not answer on a connection that stands.
func (e *examination) unanswered(ctx context.Context, s *server, cfg redisops.Config, err error) {
	reply, is := errors.AsType[redis.Error](err)
	if !is {
		e.silent(ctx, s, cfg, err)
		return
	}
	user := cfg.Username
	if user == "" {
		user = "default"
	}
	const undecided = "nothing is decided, and doors answer with an error: wrong credentials are no outage"
	text := reply.Error()
	switch {
	case strings.HasPrefix(text, "WRONGPASS"):
		e.find(s, Error, CheckAuth, fmt.Sprintf("user %q does not exist, is off, or has another password", user), undecided,
			"correct the user or the password, or change them on the server with ACL SETUSER")
	case strings.HasPrefix(text, "NOAUTH"):
		e.find(s, Error, CheckAuth, "it asks for a password, and none was given", undecided,
			"give one (--redis-password-file, spec.auth.secretRef; for sentinels --redis-sentinel-password-file, spec.sentinel.auth.secretRef)")
	case strings.Contains(text, "AUTH <password> called without any password"), strings.HasPrefix(text, "ERR Client sent AUTH"), strings.HasPrefix(text, "ERR AUTH "):
		e.find(s, Error, CheckAuth, "a password was given, and the server has none for this user", undecided, "take the password out, or set one on the server")
	case strings.HasPrefix(text, "DENIED"):
		e.find(s, Error, CheckAuth, "it is in protected mode: it answers on its own host only", undecided, "give it a password (requirepass, ACL SETUSER), and only then let others in")
	case strings.HasPrefix(text, "LOADING"):
		e.find(s, Error, CheckReachable, "it is still loading its data", "until it is done each policy's onStoreFailure answers", "wait")
	case strings.HasPrefix(text, "ERR max number of clients"):
		e.find(s, Error, CheckReachable, "it has as many clients as it takes", "new connections are refused", "raise maxclients of the server, or close what is idle")
	case strings.HasPrefix(text, "ERR DB index"):
		e.find(s, Error, CheckReachable, fmt.Sprintf("it has no database %d", cfg.DB), "nothing is decided", "use a database that is there, or none")
	case redisops.Classify(err) == redisops.Failed:
		e.notRedis(s)
	case strings.HasPrefix(text, "NOPERM"):
		e.find(s, Error, CheckAuth, fmt.Sprintf("user %q may not open a connection as it is configured", user), undecided, "add +select for a database other than 0")
	default:
		kind, _, _ := strings.Cut(text, " ")
		e.find(s, Error, CheckReachable, fmt.Sprintf("it refuses with %q", kind), "nothing is decided by it", "look at the log of the server")
	}
}

// silent is for a connection on which no error reply came.
func (e *examination) silent(ctx context.Context, s *server, cfg redisops.Config, err error) {
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, redis.ErrPoolTimeout):
		e.find(s, Error, CheckReachable, "it accepts connections and does not answer", "each decision waits for timeouts.command and goes by onStoreFailure",
			"look whether the server hangs (SLOWLOG, a long script, swapping), or whether something else listens there")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		if cfg.TLS == nil && speaksTLS(ctx, s.address, cfg.DialTimeout) {
			e.find(s, Error, CheckTLS, "it speaks TLS, and was asked without", "it closes the connection", "use rediss:// (spec.tls)")
			return
		}
		e.find(s, Error, CheckReachable, "it closes the connection without an answer", "nothing is decided", "look at the log of the server, and at what is in between")
	default:
		if cfg.TLS == nil && speaksTLS(ctx, s.address, cfg.DialTimeout) {
			e.find(s, Error, CheckTLS, "it speaks TLS, and was asked without", "its answers cannot be read", "use rediss:// (spec.tls)")
			return
		}
		e.notRedis(s)
	}
}

func (e *examination) notRedis(s *server) {
	e.find(s, Error, CheckReachable, "what answers there is no Redis", "nothing is decided by it", "correct host and port")
}

// speaksTLS tells whether a server answers to a TLS handshake.
func speaksTLS(ctx context.Context, address string, timeout time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // nothing is sent over it
	connection, err := dialer.DialContext(ctx, "tcp", address)
	if err == nil {
		_ = connection.Close()
		return true
	}
	_, alert := errors.AsType[tls.AlertError](err)
	return alert || strings.Contains(err.Error(), "remote error: tls:")
}
