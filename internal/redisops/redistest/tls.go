package redistest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TLS is with what a server speaks TLS, in PEM. Package tlstest makes such things: valid, expired, of another name, and
// of another authority.
type TLS struct {
	Cert, Key []byte
	// ClientCA makes the server refuse clients without a certificate of that authority; nil: none is asked for. Servers of a
	// cluster or of Sentinel trust each other by it as well, so there it is needed, unless AnyClient is true.
	ClientCA []byte
	// AnyClient lets clients in without a certificate even though there is a ClientCA.
	AnyClient bool
}

// StartTLS starts a server that speaks TLS only.
func StartTLS(tb testing.TB, with TLS, options ...string) *Server {
	tb.Helper()
	return Start(tb, append(with.Options(tb), options...)...)
}

// Options are those of Start, StartCluster and StartSentinel for servers that speak TLS only. To each other, and for the
// helpers here, servers show a certificate that is valid and of no authority but its own.
func (t TLS) Options(tb testing.TB) []string {
	tb.Helper()
	dir := tb.TempDir()
	cert, key := adminPair(tb)
	options := []string{"--tls-auth-clients", "yes"}
	if t.ClientCA == nil || t.AnyClient {
		options[1] = "no"
	}
	for _, file := range []struct {
		option  string
		content []byte
	}{
		{"--tls-cert-file", t.Cert},
		{"--tls-key-file", t.Key},
		{"--tls-ca-cert-file", slices.Concat(t.ClientCA, cert)},
		{"--tls-client-cert-file", cert},
		{"--tls-client-key-file", key},
	} {
		path := filepath.Join(dir, strings.TrimPrefix(file.option, "--"))
		if err := os.WriteFile(path, file.content, 0o600); err != nil {
			tb.Fatalf("redistest: %v", err)
		}
		options = append(options, file.option, path)
	}
	return options
}

// UseTLS gives a server that was started with TLS other certificates, at once when it runs and for each start from now on.
// Connections that are open stay.
func (s *Server) UseTLS(with TLS) {
	s.tb.Helper()
	options := with.Options(s.tb)
	if s.running() {
		set := []any{"CONFIG", "SET"}
		for pair := range slices.Chunk(options, 2) {
			set = append(set, strings.TrimPrefix(pair[0], "--"), pair[1])
		}
		s.Do(set...)
	}
	s.args = append(s.args, options...)
	s.tls = adminTLS(s.tb, options)
}

// tlsOptions are those of the options that are about TLS.
func tlsOptions(options []string) []string {
	var about []string
	for i := range len(options) - 1 {
		if strings.HasPrefix(options[i], "--tls-") {
			about = append(about, options[i], options[i+1])
		}
	}
	return about
}

// adminTLS is with what the helpers here connect to a server with these options; nil without TLS. They take whatever
// certificate the server has.
func adminTLS(tb testing.TB, options []string) *tls.Config {
	tb.Helper()
	if option(options, "--tls-cert-file") == "" {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(option(options, "--tls-client-cert-file"), option(options, "--tls-client-key-file"))
	if err != nil {
		tb.Fatalf("redistest: %v", err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair},
		InsecureSkipVerify: true, //nolint:gosec // the server's certificate may be a bad one on purpose
	}
}

// adminPair makes a certificate, signed by itself, and its key.
func adminPair(tb testing.TB) (cert, key []byte) {
	tb.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatalf("redistest: %v", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "redistest"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		tb.Fatalf("redistest: %v", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		tb.Fatalf("redistest: %v", err)
	}
	var certPEM, keyPEM bytes.Buffer
	_ = pem.Encode(&certPEM, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	_ = pem.Encode(&keyPEM, &pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	return certPEM.Bytes(), keyPEM.Bytes()
}
