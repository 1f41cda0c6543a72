package process

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// Ports are below those that systems give to connections by themselves: a connection to the port of a server that was
// killed must not be given that port, where it would meet itself.
const (
	lowestPort = 12000
	ports      = 20000
)

var givenPorts struct {
	sync.Mutex
	all map[int]bool
}

// FreeAddress gives a loopback address that nobody listens on. None is given twice.
func FreeAddress() (string, error) {
	givenPorts.Lock()
	defer givenPorts.Unlock()
	if givenPorts.all == nil {
		givenPorts.all = map[int]bool{}
	}
	for range 1000 {
		port := lowestPort + rand.IntN(ports)
		if givenPorts.all[port] {
			continue
		}
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		listener, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		_ = listener.Close()
		givenPorts.all[port] = true
		return address, nil
	}
	return "", errors.New("finding a free port: 1000 ports of 127.0.0.1 from 12000 to 31999 are taken")
}
