package redistest

import (
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
)

// Ports are taken from below those that the kernel gives to outgoing connections: a client that tries to reach a
// server that was killed must not be given that server's port.
const (
	lowestPort = 12000
	ports      = 20000
)

var givenPorts = struct {
	sync.Mutex
	all map[int]bool
}{all: map[int]bool{}}

// freePort gives a port of 127.0.0.1 on which nothing listens. It is never given twice by one test binary.
func freePort(tb testing.TB) int {
	tb.Helper()
	givenPorts.Lock()
	defer givenPorts.Unlock()
	for range 1000 {
		port := lowestPort + rand.IntN(ports)
		if givenPorts.all[port] {
			continue
		}
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		_ = listener.Close()
		givenPorts.all[port] = true
		return port
	}
	tb.Fatal("redistest: no free port of 127.0.0.1")
	return 0
}
