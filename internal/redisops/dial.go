package redisops

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// keepAlive finds out within 45 s that whoever is at the other end of an idle connection is gone without a word.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 5 * time.Second, Count: 3}

// trialWait is how long a server may take for two round trips, to be found to speak TLS.
const trialWait = 500 * time.Millisecond

// errSuperseded has go-redis throw a connection away when it comes to its turn.
var errSuperseded = errors.New("the server that this connection goes to is not the one to use any more")

// endpoint is where the connections of one client go.
type endpoint struct {
	// address is host:port, or stands for the primary that the sentinels tell.
	address       string
	dialTimeout   time.Duration
	maxReplyBytes int
	protocol      int
	// tls is nil for connections without it.
	tls *tls.Config
	// locate gives the address to dial where address is none.
	locate func(ctx context.Context) (string, error)
	// wantPrimary has connections to replicas refused.
	wantPrimary bool
	// generation counts how often the connections that stand were dropped.
	generation atomic.Int64

	// trying is held by who tries whether the server speaks TLS, which was last done when tried says.
	trying sync.Mutex
	tried  time.Time
	// found is what that gave.
	found atomic.Bool
}

// drop has the connections that stand not used for anything new. Those on the wire end as they would.
func (e *endpoint) drop() { e.generation.Add(1) }

// dial opens a connection, as redis.Options.Dialer. One that cannot be opened is a failedConn, and no error: the pool of
// go-redis counts errors, and after as many as it has connections gives the last one for an answer without trying, for a
// second at a time; so a server would be used up to a second after it is back.
func (e *endpoint) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, e.dialTimeout)
	defer cancel()
	connection, err := e.open(ctx, network, address)
	if err != nil {
		return &failedConn{err: fmt.Errorf("%w: %w", ErrNotExecuted, err)}, nil
	}
	return connection, nil
}

func (e *endpoint) open(ctx context.Context, network, address string) (net.Conn, error) {
	if e.locate != nil {
		located, err := e.locate(ctx)
		if err != nil {
			return nil, err
		}
		address = located
	}
	generation := e.generation.Load()
	dialer := net.Dialer{KeepAliveConfig: keepAlive}
	connection, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	raw, is := connection.(syscall.Conn)
	if !is {
		_ = connection.Close()
		return nil, fmt.Errorf("a %T has no socket", connection)
	}
	metered := &meteredConn{Conn: connection, raw: raw, meter: newReplyMeter(e.maxReplyBytes), endpoint: e, generation: generation}
	if e.tls == nil {
		return metered, nil
	}
	secured := tls.Client(connection, tlsFor(e.tls, address))
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = connection.Close()
		return nil, fmt.Errorf("%s: %w", address, explainTLS(err, e.tls))
	}
	metered.Conn, metered.secured = secured, secured
	return metered, nil
}

// meteredConn is a connection whose replies go through a replyMeter.
type meteredConn struct {
	net.Conn
	// raw is the socket below.
	raw   syscall.Conn
	meter *replyMeter
	// secured is Conn where that is TLS.
	secured *tls.Conn
	// heard tells that something was read.
	heard atomic.Bool

	endpoint   *endpoint
	generation int64
}

// Read reads what came, or fails with ErrReplyRefused.
func (c *meteredConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.heard.Store(true)
	}
	if refused := c.meter.read(b[:n]); refused != nil {
		return 0, refused
	}
	if err != nil && !c.heard.Load() {
		err = c.explain(err)
	}
	return n, err
}

// Write writes, and lets the replies to it have their full size.
func (c *meteredConn) Write(b []byte) (int, error) {
	c.meter.renew()
	n, err := c.Conn.Write(b)
	if err != nil && !c.heard.Load() {
		err = c.explain(c.refusal(err))
	}
	return n, err
}

// refusal gives what a server said before it ended a TLS connection, or err. With TLS 1.3 one that refuses our certificate says
// so after the handshake.
func (c *meteredConn) refusal(err error) error {
	if c.secured == nil {
		return err
	}
	_ = c.SetReadDeadline(time.Now().Add(refusalWait))
	if _, said := c.Conn.Read(make([]byte, 1)); refusesUs(said) {
		return said
	}
	return err
}

// explain makes of an error before the first reply one that says what it means. Until then go-redis has sent no more than
// HELLO.
func (c *meteredConn) explain(err error) error {
	address := c.RemoteAddr().String()
	switch {
	case refusesUs(err):
		err = explainTLS(err, c.endpoint.tls)
	case c.secured == nil && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)) && c.endpoint.speaksTLS(address):
		err = fmt.Errorf("%w: %w; set tls, or mend the port: %w", ErrMisconfigured, ErrSpeaksTLS, err)
	}
	return fmt.Errorf("%w: opening a connection to %s: %w", ErrNotExecuted, address, err)
}

// speaksTLS tries whether a server speaks TLS that ended a connection without a word; at most once a second, since it may
// have had other reasons. A Redis that is just back says nothing to a greeting of TLS: that is not waited for long, and by
// one at a time.
func (e *endpoint) speaksTLS(address string) bool {
	if !e.trying.TryLock() {
		return e.found.Load()
	}
	defer e.trying.Unlock()
	if time.Since(e.tried) < time.Second {
		return e.found.Load()
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(e.dialTimeout, trialWait))
	defer cancel()
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // nothing is sent over it
	connection, err := dialer.DialContext(ctx, "tcp", address)
	if err == nil {
		_ = connection.Close()
	}
	e.tried = time.Now()
	e.found.Store(err == nil || refusesUs(err))
	return e.found.Load()
}

// SyscallConn is how go-redis looks, before it uses a connection, whether it is dead. With an error it throws it away.
func (c *meteredConn) SyscallConn() (syscall.RawConn, error) {
	if c.generation != c.endpoint.generation.Load() {
		return nil, errSuperseded
	}
	raw, err := c.raw.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("the socket of a connection: %w", err)
	}
	if c.secured != nil {
		return securedSocket{raw}, nil
	}
	return raw, nil
}

// securedSocket is the socket of a TLS connection. What is there to read is not the beginning of a reply but of a record, be it
// that the server is about to close; so go-redis must not look into it.
type securedSocket struct{ syscall.RawConn }

// errRecord tells of an idle TLS connection that the server has written to.
var errRecord = errors.New("the server has closed the TLS connection, or wrote to it without being asked")

// Read does in place of f what f is for: an error means that the connection is not to be used.
func (s securedSocket) Read(func(fd uintptr) bool) error {
	quiet := true
	err := s.RawConn.Read(func(fd uintptr) bool {
		quiet = nothingToRead(fd)
		return true
	})
	if err == nil && !quiet {
		err = errRecord
	}
	return err
}

// failedConn is a connection that could not be opened. All that is done with it fails for that reason.
type failedConn struct{ err error }

func (c *failedConn) Read([]byte) (int, error)         { return 0, c.err }
func (c *failedConn) Write([]byte) (int, error)        { return 0, c.err }
func (c *failedConn) Close() error                     { return nil }
func (c *failedConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *failedConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *failedConn) SetDeadline(time.Time) error      { return nil }
func (c *failedConn) SetReadDeadline(time.Time) error  { return nil }
func (c *failedConn) SetWriteDeadline(time.Time) error { return nil }
