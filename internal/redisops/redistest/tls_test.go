package redistest_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/redisops/redistest"
	"github.com/penstock-dev/penstock/internal/service/tlsfiles/tlstest"
)

// ping connects as a Go client does that trusts this CA alone, and gives the error of a PING.
func ping(addr string, ca *tlstest.CA, client ...tls.Certificate) error {
	connection, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: ca.Pool(), Certificates: client, MinVersion: tls.VersionTLS12})
	if err != nil {
		return err
	}
	defer func() { _ = connection.Close() }()
	if _, err = connection.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	reply := make([]byte, 7)
	if _, err = io.ReadFull(connection, reply); err == nil && string(reply) != "+PONG\r\n" {
		err = errors.New(string(reply))
	}
	return err
}

func TestAClientTrustsOnlyAValidCertificateOfTheRightNameAndAuthority(t *testing.T) {
	ca := tlstest.NewCA(t)
	isValid := func(err error) bool { return err == nil }
	isExpired := func(err error) bool {
		invalid := x509.CertificateInvalidError{}
		return errors.As(err, &invalid) && invalid.Reason == x509.Expired
	}
	isOfAnotherName := func(err error) bool { return errors.As(err, &x509.HostnameError{}) }
	isOfAnotherAuthority := func(err error) bool { return errors.As(err, &x509.UnknownAuthorityError{}) }
	valid := ca.Issue(t, "127.0.0.1")
	server := redistest.StartTLS(t, redistest.TLS{Cert: valid.Cert, Key: valid.Key})
	cases := map[string]struct {
		pair tlstest.Pair
		want func(error) bool
	}{
		"valid":             {valid, isValid},
		"expired":           {ca.IssueUntil(t, time.Now().Add(-time.Minute), "127.0.0.1"), isExpired},
		"another name":      {ca.Issue(t, "redis.elsewhere.example"), isOfAnotherName},
		"another authority": {tlstest.NewCA(t).Issue(t, "127.0.0.1"), isOfAnotherAuthority},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			server.UseTLS(redistest.TLS{Cert: tc.pair.Cert, Key: tc.pair.Key})
			if err := ping(server.Addr, ca); !tc.want(err) {
				t.Errorf("while the server runs on: %v", err)
			}
			server.Do("PING")
			server.Kill()
			server.Run()
			if err := ping(server.Addr, ca); !tc.want(err) {
				t.Errorf("after the server started again: %v", err)
			}
			server.Do("PING")
		})
	}
}

func TestAServerAsksForClientCertificatesOfItsAuthority(t *testing.T) {
	ca := tlstest.NewCA(t)
	pair := ca.Issue(t, "127.0.0.1")
	server := redistest.StartTLS(t, redistest.TLS{Cert: pair.Cert, Key: pair.Key, ClientCA: ca.PEM})
	server.Do("PING")
	if err := ping(server.Addr, ca, ca.Issue(t, "app").Certificate(t)); err != nil {
		t.Errorf("with a certificate: %v", err)
	}
	for name, client := range map[string][]tls.Certificate{
		"none":                 nil,
		"expired":              {ca.IssueUntil(t, time.Now().Add(-time.Minute), "app").Certificate(t)},
		"of another authority": {tlstest.NewCA(t).Issue(t, "app").Certificate(t)},
	} {
		if err := ping(server.Addr, ca, client...); err == nil {
			t.Errorf("%s: the server lets it in", name)
		}
	}
	server.UseTLS(redistest.TLS{Cert: pair.Cert, Key: pair.Key, ClientCA: ca.PEM, AnyClient: true})
	if err := ping(server.Addr, ca); err != nil {
		t.Errorf("without one where none is needed: %v", err)
	}
}
