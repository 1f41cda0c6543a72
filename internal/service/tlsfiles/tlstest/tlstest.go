// Package tlstest makes certificates for tests, and files as Kubernetes mounts them.
package tlstest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// CA signs certificates.
type CA struct {
	// PEM is its own certificate.
	PEM []byte

	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// NewCA makes a CA that is trusted by whoever is given its PEM.
func NewCA(tb testing.TB) *CA {
	tb.Helper()
	key := newKey(tb)
	template := &x509.Certificate{
		SerialNumber: serial(tb), Subject: pkix.Name{CommonName: "a CA for tests"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatalf("tlstest: %v", err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatalf("tlstest: %v", err)
	}
	return &CA{PEM: inPEM("CERTIFICATE", der), certificate: certificate, key: key}
}

// Pool trusts this CA alone.
func (ca *CA) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(ca.certificate)
	return p
}

// Pair is a certificate and its key, in PEM.
type Pair struct {
	Cert, Key []byte
}

// Certificate is the pair as crypto/tls takes it.
func (p Pair) Certificate(tb testing.TB) tls.Certificate {
	tb.Helper()
	certificate, err := tls.X509KeyPair(p.Cert, p.Key)
	if err != nil {
		tb.Fatalf("tlstest: %v", err)
	}
	return certificate
}

// Issue makes a certificate, for server and client, of those names: URIs have a colon, emails an @, addresses are IP, and
// the rest is DNS. It is valid for an hour.
func (ca *CA) Issue(tb testing.TB, names ...string) Pair {
	tb.Helper()
	return ca.IssueUntil(tb, time.Now().Add(time.Hour), names...)
}

// IssueUntil makes a certificate that ends then; in the past, it has expired.
func (ca *CA) IssueUntil(tb testing.TB, end time.Time, names ...string) Pair {
	tb.Helper()
	template := &x509.Certificate{
		SerialNumber: serial(tb), NotBefore: end.Add(-2 * time.Hour), NotAfter: end,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, name := range names {
		address := net.ParseIP(name)
		switch {
		case address != nil:
			template.IPAddresses = append(template.IPAddresses, address)
		case strings.Contains(name, ":"):
			uri, err := url.Parse(name)
			if err != nil {
				tb.Fatalf("tlstest: %v", err)
			}
			template.URIs = append(template.URIs, uri)
		case strings.Contains(name, "@"):
			template.EmailAddresses = append(template.EmailAddresses, name)
		default:
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	key := newKey(tb)
	der, err := x509.CreateCertificate(rand.Reader, template, ca.certificate, key.Public(), ca.key)
	if err != nil {
		tb.Fatalf("tlstest: %v", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatalf("tlstest: %v", err)
	}
	return Pair{Cert: inPEM("CERTIFICATE", der), Key: inPEM("PRIVATE KEY", keyDER)}
}

// Mount is a folder of files as Kubernetes mounts a Secret or a ConfigMap: each is a link through ..data, and ..data is
// swapped for a new one, so that all files change at once.
type Mount struct {
	// Dir is where the files are.
	Dir string

	generation int
}

// NewMount mounts those contents by name.
func NewMount(tb testing.TB, files map[string][]byte) *Mount {
	tb.Helper()
	m := &Mount{Dir: tb.TempDir()}
	m.Swap(tb, files)
	for name := range files {
		if err := os.Symlink(filepath.Join("..data", name), m.Path(name)); err != nil {
			tb.Fatalf("tlstest: %v", err)
		}
	}
	return m
}

// Path is where a file is.
func (m *Mount) Path(name string) string {
	return filepath.Join(m.Dir, name)
}

// Swap replaces the files, which are named as those of NewMount were.
func (m *Mount) Swap(tb testing.TB, files map[string][]byte) {
	tb.Helper()
	old := "..generation-" + strconv.Itoa(m.generation)
	m.generation++
	folder := "..generation-" + strconv.Itoa(m.generation)
	if err := os.Mkdir(m.Path(folder), 0o755); err != nil {
		tb.Fatalf("tlstest: %v", err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(m.Path(folder), name), content, 0o600); err != nil {
			tb.Fatalf("tlstest: %v", err)
		}
	}
	if err := os.Symlink(folder, m.Path("..data_tmp")); err != nil {
		tb.Fatalf("tlstest: %v", err)
	}
	if err := os.Rename(m.Path("..data_tmp"), m.Path("..data")); err != nil {
		tb.Fatalf("tlstest: %v", err)
	}
	if err := os.RemoveAll(m.Path(old)); err != nil {
		tb.Fatalf("tlstest: %v", err)
	}
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatalf("tlstest: %v", err)
	}
	return key
}

func serial(tb testing.TB) *big.Int {
	tb.Helper()
	number, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		tb.Fatalf("tlstest: %v", err)
	}
	return number
}

func inPEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
