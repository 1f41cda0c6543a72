// Package redistest starts real redis-servers for tests.
package redistest

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// patience is how long anything here may take before the test fails: real processes share few cores with other tests.
const patience = 60 * time.Second

// Server is a redis-server process on a free port of 127.0.0.1, without persistence, that ends with the test.
type Server struct {
	// Addr is host:port. It stays the same when the server is started again.
	Addr string

	tb       testing.TB
	args     []string
	username string // of the helpers here, as is all up to tls
	password string
	tls      *tls.Config // nil: without TLS
	cmd      *exec.Cmd
	ended    chan struct{} // closed once the process has ended; nil before the first
	paused   atomic.Bool
	output   *syncBuffer
}

// Start starts a server with further command-line options, such as "--requirepass", "secret". The binary is
// redis-server on PATH; PENSTOCK_REDIS_SERVER names another. It fails the test when there is none: the real server is
// the judge of everything here, so there is nothing to skip to.
//
// With "--tls-cert-file" (see TLS.Options) Addr speaks TLS only. Do, Client and the other helpers authenticate
// with what the options say: masteruser and masterauth if they are given, else requirepass.
func Start(tb testing.TB, options ...string) *Server {
	tb.Helper()
	s := newServer(tb, options)
	s.Run()
	return s
}

// newServer prepares a server; Run starts it.
func newServer(tb testing.TB, options []string) *Server {
	tb.Helper()
	port, plain := strconv.Itoa(freePort(tb)), "0"
	s := &Server{Addr: net.JoinHostPort("127.0.0.1", port), tb: tb, output: &syncBuffer{}}
	s.username, s.password = credentials(options)
	s.tls = adminTLS(tb, options)
	if s.tls == nil {
		plain = port
	}
	s.args = []string{
		"--port", plain, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", tb.TempDir(), "--loglevel", "warning",
		"--repl-diskless-sync-delay", "0",
	}
	if s.tls != nil {
		s.args = append(s.args, "--tls-port", port, "--tls-replication", "yes")
	}
	if option(options, "--cluster-enabled") == "yes" {
		s.args = append(s.args, "--cluster-port", strconv.Itoa(freePort(tb))) // by default 10000 above, which may be taken
	}
	s.args = append(s.args, options...)
	tb.Cleanup(s.Kill)
	return s
}

// credentials are those with which servers started with these options let each other, and the helpers here, in.
func credentials(options []string) (username, password string) {
	if password := option(options, "--masterauth"); password != "" {
		return option(options, "--masteruser"), password
	}
	return "", option(options, "--requirepass")
}

// option is the value of the last option with that name; empty when there is none.
func option(options []string, name string) string {
	value := ""
	for i := range len(options) - 1 {
		if options[i] == name {
			value = options[i+1]
		}
	}
	return value
}

// Run starts the server again after Kill, on the same address and folder, and waits until it answers.
func (s *Server) Run() {
	s.tb.Helper()
	s.spawn()
	s.awaitAnswer()
}

func (s *Server) spawn() {
	s.tb.Helper()
	binary := os.Getenv("PENSTOCK_REDIS_SERVER")
	if binary == "" {
		binary = "redis-server"
	}
	s.cmd = exec.Command(binary, s.args...)
	s.cmd.Stdout, s.cmd.Stderr = s.output, s.output
	// No server outlives a test binary that was killed.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	s.paused.Store(false)
	if err := s.cmd.Start(); err != nil {
		s.tb.Fatalf("redistest: %v (install redis-server 7.0 or newer; `make test` does)", err)
	}
	ended := make(chan struct{})
	s.ended = ended
	go func(cmd *exec.Cmd) {
		_ = cmd.Wait()
		close(ended)
	}(s.cmd)
}

// awaitAnswer waits until the server answers, be it with an error: it accepts connections before it has read its users.
func (s *Server) awaitAnswer() {
	s.tb.Helper()
	s.await(s.Addr+" answers", func() error {
		if !s.running() {
			s.tb.Fatalf("redistest: %s ended: %s", s.Addr, s.output)
		}
		connection, err := net.DialTimeout("tcp", s.Addr, time.Second)
		if err != nil {
			return err
		}
		_ = connection.Close()
		_, err = s.try("PING")
		if _, answered := errors.AsType[redis.Error](err); answered {
			return nil
		}
		return err
	})
}

// await tries until there is no error, and fails the test when that takes too long.
func (s *Server) await(what string, try func() error) {
	s.tb.Helper()
	await(s.tb, what, func() error {
		if err := try(); err != nil {
			return fmt.Errorf("%w; output: %s", err, s.output)
		}
		return nil
	})
}

func await(tb testing.TB, what string, try func() error) {
	tb.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("redistest: not so that %s: %v", what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (s *Server) alive() bool {
	if s.ended == nil {
		return false
	}
	select {
	case <-s.ended:
		return false
	default:
		return true
	}
}

// running tells whether the process was started and neither ended nor paused by the test.
func (s *Server) running() bool {
	return s.alive() && !s.paused.Load()
}

// running are those of the servers that run.
func running(servers []*Server) []*Server {
	return slices.DeleteFunc(slices.Clone(servers), func(s *Server) bool { return !s.running() })
}

// Client gives a plain client, closed with the test.
func (s *Server) Client() *redis.Client {
	return s.ClientWith(&redis.Options{Username: s.username, Password: s.password})
}

// ClientWith gives a client with options of the caller's; the address is filled in, and for a server with TLS what
// it takes to connect when the options have no TLSConfig.
func (s *Server) ClientWith(options *redis.Options) *redis.Client {
	options.Addr = s.Addr
	if options.TLSConfig == nil {
		options.TLSConfig = s.tls
	}
	client := redis.NewClient(options)
	s.tb.Cleanup(func() { _ = client.Close() })
	return client
}

// Do runs one command, once, and fails the test on an error.
func (s *Server) Do(args ...any) any {
	s.tb.Helper()
	reply, err := s.command(3, args)
	if err != nil {
		s.tb.Fatalf("redistest: %v: %v", args, err)
	}
	return reply
}

// try is Do that hands the error to the caller, and gives maps as lists.
func (s *Server) try(args ...any) (any, error) {
	return s.command(2, args)
}

func (s *Server) command(protocol int, args []any) (any, error) {
	client := redis.NewClient(&redis.Options{
		Addr: s.Addr, Username: s.username, Password: s.password, TLSConfig: s.tls, Protocol: protocol,
		DisableIdentity: true, MaxRetries: -1, DialerRetries: 1,
	})
	defer func() { _ = client.Close() }()
	return client.Do(context.Background(), args...).Result()
}

// PID is the process id.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Kill ends the server at once, as a crash would. It does nothing when the server is not running.
func (s *Server) Kill() {
	if s.alive() {
		_ = s.cmd.Process.Kill()
		<-s.ended
	}
}

// Pause stops the process without closing its connections; Resume lets it go on.
func (s *Server) Pause() {
	s.tb.Helper()
	s.signal(syscall.SIGSTOP)
	s.paused.Store(true)
}

// Resume ends a Pause.
func (s *Server) Resume() {
	s.tb.Helper()
	s.signal(syscall.SIGCONT)
	s.paused.Store(false)
}

func (s *Server) signal(signal syscall.Signal) {
	s.tb.Helper()
	if err := s.cmd.Process.Signal(signal); err != nil {
		s.tb.Fatalf("redistest: %v: %v", signal, err)
	}
}

// ReplicaOf makes the server a replica of another, and waits until it is one whose primary can be reached.
func (s *Server) ReplicaOf(primary *Server) {
	s.tb.Helper()
	host, port, _ := net.SplitHostPort(primary.Addr)
	s.Do("REPLICAOF", host, port)
	s.await(s.Addr+" replicates "+primary.Addr, s.replicating)
}

// replicating gives an error unless the server is a replica whose link is up.
func (s *Server) replicating() error {
	reply, err := s.try("ROLE")
	if err != nil {
		return err
	}
	if role, is := reply.([]any); !is || len(role) < 4 || role[0] != "slave" || role[3] != "connected" {
		return errors.New("its link is not up")
	}
	return nil
}

// syncBuffer keeps what the process prints, for error messages.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return fmt.Sprintf("%q", b.buf.String())
}
