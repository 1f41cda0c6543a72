package redistest

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Proxy is a TCP proxy in front of a server, for the faults of a network. It ends with the test.
type Proxy struct {
	// Addr is host:port to connect to.
	Addr string

	target    atomic.Pointer[string]
	listener  net.Listener
	delay     atomic.Int64
	accepted  atomic.Int64
	replies   atomic.Int64
	mu        sync.Mutex
	connected map[net.Conn]*atomic.Bool // each end, and whether replies are swallowed
	stopped   bool
	copies    sync.WaitGroup
}

// StartProxy starts a proxy to that address.
func StartProxy(tb testing.TB, target string) *Proxy {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("redistest: %v", err)
	}
	p := &Proxy{Addr: listener.Addr().String(), listener: listener, connected: map[net.Conn]*atomic.Bool{}}
	p.Retarget(target)
	p.copies.Go(p.accept)
	tb.Cleanup(p.stop)
	return p
}

// Delay adds so much to every round trip from now on. Bytes on the way already keep their delay, and many can be on the way.
func (p *Proxy) Delay(d time.Duration) { p.delay.Store(int64(d)) }

// Retarget sends new connections to another address, as a Service does after a failover; the others stay where they are.
func (p *Proxy) Retarget(target string) { p.target.Store(&target) }

// SwallowReplies lets requests through and drops what the server answers from now on, on the connections that are open now.
func (p *Proxy) SwallowReplies() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, swallow := range p.connected {
		swallow.Store(true)
	}
}

// Replies is how often something came from the server so far, also when it is still to be delayed.
func (p *Proxy) Replies() int { return int(p.replies.Load()) }

// Cut closes all connections; new ones are accepted.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for connection := range p.connected {
		_ = connection.Close()
	}
}

// Accepted is the number of connections accepted so far.
func (p *Proxy) Accepted() int { return int(p.accepted.Load()) }

// Open is the number of connections that are open now.
func (p *Proxy) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.connected) / 2
}

func (p *Proxy) stop() {
	p.mu.Lock()
	p.stopped = true
	p.mu.Unlock()
	_ = p.listener.Close()
	p.Cut()
	p.copies.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.accepted.Add(1)
		server, err := net.Dial("tcp", *p.target.Load())
		swallow := new(atomic.Bool)
		if err != nil || !p.register(swallow, client, server) {
			_ = client.Close()
			if server != nil {
				_ = server.Close()
			}
			continue
		}
		p.copies.Go(func() { p.copy(server, client, nil) })
		p.copies.Go(func() { p.copy(client, server, swallow) })
	}
}

func (p *Proxy) register(swallow *atomic.Bool, connections ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, connection := range connections {
		if p.stopped {
			return false
		}
		p.connected[connection] = swallow
	}
	return true
}

// copy moves bytes one way until either side closes, then closes both. Those with a swallow are replies: only they are
// delayed, since one direction is enough for a round trip.
func (p *Proxy) copy(to, from net.Conn, swallow *atomic.Bool) {
	type chunk struct {
		due   time.Time
		bytes []byte
	}
	chunks := make(chan chunk, 1024)
	p.copies.Go(func() {
		for c := range chunks {
			time.Sleep(time.Until(c.due))
			if _, err := to.Write(c.bytes); err != nil {
				break
			}
		}
		_, _ = to.Close(), from.Close()
		for range chunks {
			continue
		}
	})
	defer close(chunks)
	for {
		buffer := make([]byte, 16<<10)
		n, err := from.Read(buffer)
		switch {
		case n == 0:
		case swallow == nil:
			chunks <- chunk{time.Now(), buffer[:n]}
		case !swallow.Load():
			chunks <- chunk{time.Now().Add(time.Duration(p.delay.Load())), buffer[:n]}
			p.replies.Add(1)
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				_ = to.Close()
			}
			p.mu.Lock()
			delete(p.connected, from)
			p.mu.Unlock()
			return
		}
	}
}
