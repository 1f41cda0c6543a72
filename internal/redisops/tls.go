package redisops

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// ErrHandshake tells that a server accepted a connection and did not end the TLS handshake, as one does that is starting, or
// speaks something else. The cause is wrapped beside it.
var ErrHandshake = errors.New("the TLS handshake does not end; if that stays so, see whether the server speaks TLS at this port")

// refusalWait is how long is waited for a server to say why it closed a TLS connection.
const refusalWait = 100 * time.Millisecond

// config gives what crypto/tls takes; nil without TLS.
func (t *TLS) config() (*tls.Config, error) {
	if t == nil {
		return nil, nil
	}
	cfg := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         t.ServerName,
		InsecureSkipVerify: t.InsecureSkipVerify, //nolint:gosec // only where somebody asks for it
	}
	if len(t.CA) > 0 {
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(t.CA) {
			return nil, fmt.Errorf("%w: the CA of tls has no certificate; want PEM, beginning with -----BEGIN CERTIFICATE-----", ErrMisconfigured)
		}
	}
	switch {
	case len(t.ClientCert) == 0 && len(t.ClientKey) == 0:
		return cfg, nil
	case len(t.ClientCert) == 0:
		return nil, fmt.Errorf("%w: tls has a client key and no client certificate; give both, or neither", ErrMisconfigured)
	case len(t.ClientKey) == 0:
		return nil, fmt.Errorf("%w: tls has a client certificate and no client key; give both, or neither", ErrMisconfigured)
	}
	pair, err := tls.X509KeyPair(t.ClientCert, t.ClientKey)
	if err != nil {
		return nil, fmt.Errorf("%w: the client certificate and key of tls: %w; want the PEM of a certificate and of its own key", ErrMisconfigured, err)
	}
	// Also to servers that name other authorities: their refusal says more than a connection without a certificate.
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	return cfg, nil
}

// tlsFor gives the configuration for a connection to that address.
func tlsFor(cfg *tls.Config, address string) *tls.Config {
	if cfg.ServerName != "" {
		return cfg
	}
	cfg = cfg.Clone()
	cfg.ServerName, _, _ = net.SplitHostPort(address)
	return cfg
}

// refusesUs tells whether the server ended the connection and said why.
func refusesUs(err error) bool {
	op, is := errors.AsType[*net.OpError](err)
	return is && op.Op == "remote error"
}

// explainTLS makes of an error of TLS one that says what to mend. An outage stays one.
func explainTLS(err error, cfg *tls.Config) error {
	misconfigured := func(what string) error { return fmt.Errorf("%w: tls: %s: %w", ErrMisconfigured, what, err) }
	if _, is := errors.AsType[tls.RecordHeaderError](err); is {
		// Its text is for those who know TLS, and it holds what came.
		return fmt.Errorf("%w: tls: the server does not speak TLS at this port; mend the port, or remove tls", ErrMisconfigured)
	}
	if _, is := errors.AsType[x509.HostnameError](err); is {
		return misconfigured("the certificate of the server is for other names; mend the address or serverName, or give the server another certificate")
	}
	if _, is := errors.AsType[x509.UnknownAuthorityError](err); is {
		return misconfigured("no CA that is trusted has signed the certificate of the server; mend the CA")
	}
	if invalid, is := errors.AsType[x509.CertificateInvalidError](err); is && invalid.Reason == x509.Expired {
		return misconfigured("the certificate of the server, or of its CA, has expired or is not valid yet; renew it, or mend the clocks")
	}
	if _, is := errors.AsType[*tls.CertificateVerificationError](err); is {
		return misconfigured("the certificate of the server is not accepted; give it another one")
	}
	switch {
	case refusesUs(err) && (strings.Contains(err.Error(), "certificate") || strings.Contains(err.Error(), "handshake failure")):
		if cfg.GetClientCertificate == nil {
			return misconfigured("the server wants a client certificate; give one")
		}
		return misconfigured("the server refuses the client certificate; mend it")
	case refusesUs(err):
		return misconfigured("the server refuses the connection; it has to accept TLS 1.2 or newer")
	case errors.Is(err, io.EOF), errors.As(err, new(net.Error)):
		return fmt.Errorf("%w: %w", ErrHandshake, err)
	default:
		return misconfigured("the handshake fails; the server has to speak TLS 1.2 or newer at this port")
	}
}
