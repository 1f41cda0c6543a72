package hostile

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/penstock-dev/penstock/internal/service/tlsfiles/tlstest"
)

// crowd is how many connections make each attack.
const crowd = 20

const (
	rlsMethod     = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
	extAuthz      = "/envoy.service.auth.v3.Authorization/Check"
	limiterMethod = "/penstock.v1.LimiterService/Check"
)

// Every attack runs at the same time: what they hold together is what a penstockd has to bear.
func TestSlowClientsAreCutOff(t *testing.T) {
	t.Parallel()
	v := start(t)
	watches := v.watchesHealth()
	attacks := map[string]func() error{
		"silence on the HTTP port": func() error { return ends(dial(t, v.HTTP), headerTimeout+slack) },
		"silence on the gRPC port": func() error { return ends(dial(t, v.GRPC), headerTimeout+slack) },
		"silence on the port of metrics": func() error {
			return ends(dial(t, v.Metrics), headerTimeout+slack)
		},
		"a half preface of HTTP/2": func() error { return v.begins(v.HTTP, http2.ClientPreface[:20], headerTimeout) },
		"a half preface of gRPC":   func() error { return v.begins(v.GRPC, http2.ClientPreface[:20], headerTimeout) },
		"a preface without settings": func() error {
			return v.begins(v.HTTP, http2.ClientPreface, headerTimeout)
		},
		"headers that come slowly": func() error {
			return v.drips(v.HTTP, "GET /auth/shop/crowd HTTP/1.1\r\nHost: penstockd\r\n", "crowd: x\r\n", headerTimeout)
		},
		"headers that come slowly to metrics": func() error {
			return v.drips(v.Metrics, "GET /metrics HTTP/1.1\r\nHost: penstockd\r\n", "crowd: x\r\n", headerTimeout)
		},
	}
	for _, path := range []string{"/auth/shop/crowd", "/json", limiterMethod} {
		head := "POST " + path + " HTTP/1.1\r\nHost: penstockd\r\nContent-Type: application/json\r\n"
		attacks["a body that comes slowly to "+path] = func() error {
			return v.drips(v.HTTP, head+"Content-Length: 60000\r\n\r\n", " ", bodyTimeout)
		}
		attacks["chunks that come slowly to "+path] = func() error {
			return v.drips(v.HTTP, head+"Transfer-Encoding: chunked\r\n\r\n", "1\r\n \r\n", bodyTimeout)
		}
		attacks["a stream that comes slowly to "+path] = func() error {
			return v.dripsHTTP2(v.HTTP, path, "application/json", nil, bodyTimeout)
		}
	}
	for _, method := range []string{rlsMethod, extAuthz, "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"} {
		attacks["a message that comes slowly to "+method] = func() error {
			return v.dripsHTTP2(v.GRPC, method, "application/grpc", message(60_000, nil), bodyTimeout)
		}
	}
	attacks["a message that comes slowly to "+limiterMethod] = func() error {
		return v.dripsHTTP2(v.HTTP, limiterMethod, "application/grpc", message(60_000, nil), bodyTimeout)
	}
	attacks["answers that nobody reads"] = func() error { return v.neverReads(v.HTTP, "/auth/shop/nothing") }
	attacks["metrics that nobody reads"] = func() error { return v.neverReads(v.Metrics, "/metrics") }
	attacks["answers over HTTP/2 that nobody reads"] = v.neverReadsHTTP2

	var all sync.WaitGroup
	for name, attack := range attacks {
		all.Go(func() {
			n := crowd
			if strings.HasSuffix(name, "nobody reads") {
				n = 2 // each has many answers made
			}
			if err := many(n, attack); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	all.Wait()
	select {
	case err := <-watches:
		t.Errorf("a watch of health, which is no attack, was cut off: %v", err)
	default:
	}
}

// watchesHealth begins a call that goes on, and tells when it ends.
func (v *victim) watchesHealth() <-chan error {
	connection, err := grpc.NewClient(v.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { _ = connection.Close() })
	watch, err := healthv1.NewHealthClient(connection).Watch(v.t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil {
		v.t.Fatal(err)
	}
	if first, err := watch.Recv(); err != nil || first.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		v.t.Fatalf("health: %v, %v", first, err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := watch.Recv()
		ended <- err
	}()
	return ended
}

// begins sends that once, and then nothing.
func (v *victim) begins(address, text string, timeout time.Duration) error {
	connection := dial(v.t, address)
	if _, err := io.WriteString(connection, text); err != nil {
		return err
	}
	return ends(connection, timeout+slack)
}

// drips begins with a head and goes on slowly.
func (v *victim) drips(address, head, more string, timeout time.Duration) error {
	connection := dial(v.t, address)
	if _, err := io.WriteString(connection, head); err != nil {
		return err
	}
	go drip(connection, more)
	return ends(connection, timeout+slack)
}

// dripsHTTP2 begins a stream and goes on slowly.
func (v *victim) dripsHTTP2(address, path, contentType string, begin []byte, timeout time.Duration) error {
	c := dialHTTP2(v.t, address)
	if err := c.open(1, false, "POST", path, contentType); err != nil {
		return err
	}
	go drip(c.stream(1), string(begin)+" ")
	if err := c.read(timeout+slack, endsStream(1)); err != nil {
		return fmt.Errorf("the stream is not ended: %w", err)
	}
	return nil
}

// stream writes a body.
func (c *raw) stream(id uint32) io.Writer { return body{c, id} }

type body struct {
	c  *raw
	id uint32
}

func (b body) Write(data []byte) (int, error) {
	return len(data), b.c.write(func(f *http2.Framer) error { return f.WriteData(b.id, false, data) })
}

// neverReads asks and asks, and never reads an answer. It is cut off some time after the buffers on the way are full.
func (v *victim) neverReads(address, path string) error {
	connection := dial(v.t, address)
	_ = connection.SetWriteDeadline(time.Now().Add(bodyTimeout + 3*slack))
	questions := strings.Repeat("GET "+path+" HTTP/1.1\r\nHost: penstockd\r\n\r\n", 100)
	for {
		_, err := io.WriteString(connection, questions)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return errors.New("is not cut off")
		}
		if err != nil {
			return nil
		}
	}
}

// neverReadsHTTP2 asks for answers and leaves no room for them.
func (v *victim) neverReadsHTTP2() error {
	c := dialHTTP2(v.t, v.HTTP, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	if err := c.open(1, true, "GET", "/readyz", "text/plain"); err != nil {
		return err
	}
	if err := c.read(bodyTimeout+slack, endsStream(1)); err != nil {
		return fmt.Errorf("the stream is not ended: %w", err)
	}
	return nil
}

func TestAConnectionThatNoLongerAnswersIsCutOff(t *testing.T) {
	t.Parallel()
	v := start(t)
	silent := func(address string) error {
		c := dialHTTP2(t, address)
		if err := c.write((*http2.Framer).WriteSettingsAck); err != nil {
			return err
		}
		return c.cutOff(pingTimeout + slack)
	}
	var all sync.WaitGroup
	for port, address := range map[string]string{"HTTP": v.HTTP, "gRPC": v.GRPC} {
		all.Go(func() {
			if err := many(crowd, func() error { return silent(address) }); err != nil {
				t.Errorf("a silent connection of the %s port: %v", port, err)
			}
		})
		// A block of headers that is never ended leaves no room for the answer to a ping.
		all.Go(func() {
			if err := many(crowd, func() error {
				c := dialHTTP2(t, address)
				if err := c.write(func(f *http2.Framer) error {
					return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.headers("POST", "/json", "application/json")})
				}); err != nil {
					return err
				}
				return c.cutOff(pingTimeout + slack)
			}); err != nil {
				t.Errorf("headers without an end on the %s port: %v", port, err)
			}
		})
	}
	all.Wait()
}

func TestAHalfHandshakeIsCutOff(t *testing.T) {
	t.Parallel()
	ca := tlstest.NewCA(t)
	pair := ca.Issue(t, "127.0.0.1")
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for path, content := range map[string][]byte{cert: pair.Cert, key: pair.Key} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	v := startTLS(t, &tls.Config{RootCAs: ca.Pool()}, "--tls-cert", cert, "--tls-key", key)
	hello := clientHello(t)
	var all sync.WaitGroup
	for port, address := range map[string]string{"HTTP": v.HTTP, "gRPC": v.GRPC, "metrics": v.Metrics} {
		for name, text := range map[string]string{"nothing": "", "half a hello": hello[:len(hello)/2], "a hello and no more": hello} {
			all.Go(func() {
				if err := many(crowd, func() error { return v.begins(address, text, headerTimeout) }); err != nil {
					t.Errorf("%s on the %s port: %v", name, port, err)
				}
			})
		}
		all.Go(func() {
			plain := "GET /readyz HTTP/1.1\r\nHost: penstockd\r\n\r\n"
			if err := v.begins(address, plain, 0); err != nil {
				t.Errorf("a plain request on the %s port: %v", port, err)
			}
		})
	}
	// A connection that shook hands has the bounds of any other.
	for port, address := range map[string]string{"HTTP": v.HTTP, "gRPC": v.GRPC} {
		all.Go(func() {
			connection, err := tls.Dial("tcp", address, trusting(v.tls, "h2"))
			if err != nil {
				t.Errorf("the %s port: %v", port, err)
				return
			}
			defer func() { _ = connection.Close() }()
			if err := ends(connection, bodyTimeout+slack); err != nil {
				t.Errorf("silence after the handshake on the %s port: %v", port, err)
			}
		})
	}
	all.Wait()
}

// clientHello gives what a client of TLS sends first.
func clientHello(t *testing.T) string {
	t.Helper()
	client, server := net.Pipe()
	defer func() { _ = server.Close() }()
	go func() { _ = tls.Client(client, &tls.Config{ServerName: "penstockd"}).Handshake() }()
	hello := make([]byte, 4096)
	n, err := server.Read(hello)
	if err != nil {
		t.Fatal(err)
	}
	return string(hello[:n])
}

func TestIdleConnectionsBeyondTheBoundWaitAndTheOthersAreServed(t *testing.T) {
	t.Parallel()
	const bound, idle = 300, 2000
	v := start(t, "--max-client-connections", fmt.Sprint(bound))
	var held []net.Conn
	for range idle {
		held = append(held, dial(t, v.HTTP), dial(t, v.GRPC))
	}
	if goroutines, _ := v.resources(); goroutines > v.goroutines+4*2*bound {
		t.Errorf("%d goroutines beside %d connections, want no more than for %d of each port", goroutines, 2*idle, bound)
	}
	// Who hangs up makes room for who waits.
	for _, connection := range held {
		_ = connection.Close()
	}
	for _, address := range []string{v.HTTP, v.GRPC} {
		c := dialHTTP2(t, address)
		if err := c.read(headerTimeout+slack, func(http2.Frame) bool { return true }); err != nil {
			t.Errorf("a caller that comes after them: %v", err)
		}
	}
}
