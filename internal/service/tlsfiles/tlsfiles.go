// Package tlsfiles is the TLS of a server from files, which are read again when they change: connections that are open
// stay as they are, new ones get what is in the files then. What cannot be used is logged once, and the last that could
// be stays.
//
// Files are found changed by reading them every ten seconds, since a Kubernetes volume swaps a symbolic link and other
// mounts tell nothing at all.
package tlsfiles

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

// pollEvery is how often the files are read.
const pollEvery = 10 * time.Second

// Config names the files, all of PEM.
type Config struct {
	// CertFile is the certificate of the server, followed by those between it and its CA; KeyFile its private key.
	CertFile, KeyFile string
	// ClientCAFile is the CAs that sign the certificates of clients. Without it nobody is asked for one.
	ClientCAFile string
}

// Files is the files, followed until Close.
type Files struct {
	cfg     Config
	log     *slog.Logger
	current atomic.Pointer[material]
	// failed is why the files could not be used when they were last read, or "".
	failed string

	stop, stopped chan struct{}
}

// material is what one reading of the files gave. The key is only ever in here.
type material struct {
	cert, key, clientCA []byte
	config              *tls.Config
}

// New reads the files, and follows them until Close. It fails, naming flag and file, when they cannot be used.
func New(cfg Config, log *slog.Logger) (*Files, error) {
	return follow(cfg, log, time.Tick(pollEvery))
}

// follow reads the files now and whenever it is told to.
func follow(cfg Config, log *slog.Logger, again <-chan time.Time) (*Files, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	f := &Files{cfg: cfg, log: log, stop: make(chan struct{}), stopped: make(chan struct{})}
	first, err := agreed(cfg.read)
	if err != nil {
		return nil, err
	}
	if first.config, err = first.build(cfg); err != nil {
		return nil, err
	}
	f.current.Store(first)
	go f.run(again)
	return f, nil
}

// Close ends following the files. Servers go on with what was read last.
func (f *Files) Close() {
	close(f.stop)
	<-f.stopped
}

// ServerConfig is for one server, which may change it (http.Server does): TLS 1.2 or later, by ALPN HTTP/2 or HTTP/1.1,
// with the certificate of now. With ClientCAFile a client may give a certificate; one that no CA of now signed, or that has
// expired, fails the handshake. Who must have one is for the doors to say.
func (f *Files) ServerConfig() *tls.Config {
	config := f.current.Load().config.Clone()
	// What this gives replaces the configuration for that connection, ALPN included: servers set theirs outside of it only.
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return f.current.Load().config, nil
	}
	return config
}

func (f *Files) run(again <-chan time.Time) {
	defer close(f.stopped)
	for {
		select {
		case <-again:
			f.reload()
		case <-f.stop:
			return
		}
	}
}

// reload puts the files into force when they have changed and can be used. Where they are written one by one, certificate
// and key may be caught halfway between old and new; then the next reading finds them whole.
func (f *Files) reload() {
	next, err := agreed(f.cfg.read)
	if err == nil {
		if next.same(f.current.Load()) {
			if f.failed != "" {
				f.failed = ""
				f.log.Info("the TLS files are again those in force")
			}
			return
		}
		next.config, err = next.build(f.cfg)
	}
	if err != nil {
		if reason := err.Error(); reason != f.failed {
			f.failed = reason
			f.log.Error("cannot use the new TLS files; the last good ones stay in force", "error", reason)
		}
		return
	}
	f.failed = ""
	f.current.Store(next)
	f.log.Info("TLS files changed", "notAfter", next.config.Certificates[0].Leaf.NotAfter.UTC().Format(time.RFC3339))
}

func (c Config) validate() error {
	switch {
	case c.CertFile == "":
		return errors.New("--tls-cert is missing; give the file of the server's certificate")
	case c.KeyFile == "":
		return errors.New("--tls-key is missing; give the file of the key to --tls-cert")
	}
	return nil
}

// agreed reads until two readings agree: of a mount that is swapped in between, one reading can hold a certificate of before
// and a key of after.
func agreed(read func() (*material, error)) (*material, error) {
	last, err := read()
	for range 3 {
		next, failed := read()
		if err == nil && failed == nil && next.same(last) {
			return next, nil
		}
		last, err = next, failed
	}
	return last, err
}

func (c Config) read() (*material, error) {
	var m material
	for _, file := range []struct {
		flag, name string
		content    *[]byte
	}{
		{"--tls-cert", c.CertFile, &m.cert}, {"--tls-key", c.KeyFile, &m.key}, {"--tls-client-ca", c.ClientCAFile, &m.clientCA},
	} {
		if file.name == "" {
			continue
		}
		content, err := os.ReadFile(file.name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file.flag, err)
		}
		*file.content = content
	}
	return &m, nil
}

func (m *material) same(other *material) bool {
	return bytes.Equal(m.cert, other.cert) && bytes.Equal(m.key, other.key) && bytes.Equal(m.clientCA, other.clientCA)
}

func (m *material) build(cfg Config) (*tls.Config, error) {
	pair, err := tls.X509KeyPair(m.cert, m.key)
	if err != nil {
		return nil, fmt.Errorf("--tls-cert %s and --tls-key %s are no pair of certificate and key in PEM: %w", cfg.CertFile, cfg.KeyFile, err)
	}
	config := &tls.Config{
		Certificates: []tls.Certificate{pair},
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2", "http/1.1"},
	}
	if cfg.ClientCAFile != "" {
		if config.ClientCAs, err = pool(m.clientCA); err != nil {
			return nil, fmt.Errorf("--tls-client-ca %s: %w", cfg.ClientCAFile, err)
		}
		config.ClientAuth = tls.VerifyClientCertIfGiven
		// A session that is resumed brings the certificate of then. None may outlive the CA that signed it, on whatever
		// release of Go this is built with, so each connection is a handshake of its own.
		config.SessionTicketsDisabled = true
	}
	return config, nil
}

// pool is strict where x509.CertPool.AppendCertsFromPEM leaves out what it cannot read.
func pool(text []byte) (*x509.CertPool, error) {
	p, count := x509.NewCertPool(), 0
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("it holds a block of type %q; give certificates only", block.Type)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", count+1, err)
		}
		p.AddCert(certificate)
		count++
	}
	if count == 0 {
		return nil, errors.New("it holds no certificate in PEM; give those of the CAs that sign the certificates of callers")
	}
	return p, nil
}
