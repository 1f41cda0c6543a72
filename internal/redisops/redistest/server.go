// Package redistest starts real redis-servers for tests.
package redistest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Server is a redis-server process on a free port of 127.0.0.1, without persistence, that ends with the test.
type Server struct {
	// Addr is host:port. It stays the same when the server is started again.
	Addr string

	tb     testing.TB
	args   []string
	dir    string
	cmd    *exec.Cmd
	output *syncBuffer
}

// Start starts a server with further command-line options, such as "--requirepass", "secret". The binary is
// redis-server on PATH; PENSTOCK_REDIS_SERVER names another. It fails the test when there is none: the real server is
// the judge of everything here, so there is nothing to skip to.
func Start(tb testing.TB, options ...string) *Server {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("redistest: %v", err)
	}
	addr := listener.Addr().String()
	_ = listener.Close()
	_, port, _ := net.SplitHostPort(addr)

	s := &Server{Addr: addr, tb: tb, dir: tb.TempDir(), output: &syncBuffer{}}
	s.args = append([]string{
		"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", s.dir, "--loglevel", "warning",
		"--repl-diskless-sync-delay", "0",
	}, options...)
	tb.Cleanup(func() { s.Kill() })
	s.Run()
	return s
}

// Run starts the server again after Kill or Shutdown, on the same address and folder, and waits until it accepts
// connections.
func (s *Server) Run() {
	s.tb.Helper()
	binary := os.Getenv("PENSTOCK_REDIS_SERVER")
	if binary == "" {
		binary = "redis-server"
	}
	s.cmd = exec.Command(binary, s.args...)
	s.cmd.Stdout, s.cmd.Stderr = s.output, s.output
	// No server outlives a test binary that was killed.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.tb.Fatalf("redistest: %v (install redis-server 7.0 or newer; `make test` does)", err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		connection, err := net.DialTimeout("tcp", s.Addr, time.Second)
		if err == nil {
			_ = connection.Close()
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	s.tb.Fatalf("redistest: %s does not accept connections: %s", s.Addr, s.output)
}

// Client gives a plain client, closed with the test.
func (s *Server) Client() *redis.Client {
	return s.ClientWith(&redis.Options{})
}

// ClientWith gives a client with options of the caller's; the address is filled in.
func (s *Server) ClientWith(options *redis.Options) *redis.Client {
	options.Addr = s.Addr
	client := redis.NewClient(options)
	s.tb.Cleanup(func() { _ = client.Close() })
	return client
}

// Do runs one command and fails the test on an error.
func (s *Server) Do(args ...any) any {
	s.tb.Helper()
	client := redis.NewClient(&redis.Options{Addr: s.Addr})
	defer func() { _ = client.Close() }()
	reply, err := client.Do(context.Background(), args...).Result()
	if err != nil {
		s.tb.Fatalf("redistest: %v: %v", args, err)
	}
	return reply
}

// PID is the process id.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Kill ends the server at once, as a crash would. It does nothing when the server is not running.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

// Pause stops the process without closing its connections; Resume lets it go on.
func (s *Server) Pause() { s.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(signal syscall.Signal) {
	s.tb.Helper()
	if err := s.cmd.Process.Signal(signal); err != nil {
		s.tb.Fatalf("redistest: %v: %v", signal, err)
	}
}

func (s *Server) end(signal syscall.Signal) {
	if s.cmd == nil || s.cmd.Process == nil || s.cmd.ProcessState != nil {
		return
	}
	_ = s.cmd.Process.Signal(signal)
	_ = s.cmd.Wait()
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

// ReplicaOf makes the server a replica of another, and waits until it is one whose primary can be reached.
func (s *Server) ReplicaOf(primary *Server) {
	s.tb.Helper()
	host, port, _ := net.SplitHostPort(primary.Addr)
	s.Do("REPLICAOF", host, port)
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) {
		if role, is := s.Do("ROLE").([]any); is && len(role) > 3 && role[0] == "slave" && role[3] == "connected" {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.tb.Fatalf("redistest: %s does not replicate %s: %s", s.Addr, primary.Addr, s.output)
}
