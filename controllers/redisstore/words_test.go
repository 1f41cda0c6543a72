package redisstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/redisops"
)

// replyError is an error reply as go-redis gives it.
type replyError string

func (e replyError) Error() string { return string(e) }
func (replyError) RedisError()     {}

func TestErrorsAreToldWithoutWhatDiffersOrIsSecret(t *testing.T) {
	local, remote := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 40000}, &net.TCPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 6379}
	lookup := func(dns net.DNSError) error {
		return &net.OpError{Op: "dial", Net: "tcp", Err: &dns}
	}
	for name, tt := range map[string]struct {
		err  error
		want string
	}{
		"reset": {&net.OpError{Op: "read", Net: "tcp", Source: local, Addr: remote, Err: os.NewSyscallError("read", syscall.ECONNRESET)},
			"read 10.0.0.2:6379: read: connection reset by peer"},
		"no address": {&net.OpError{Op: "dial", Net: "tcp", Err: errors.New("missing address")}, "dial: missing address"},
		"no such host": {lookup(net.DNSError{Err: "no such host", Name: "redis.shop.svc", Server: "10.96.0.10:53", IsNotFound: true}),
			"lookup redis.shop.svc: no such host"},
		"DNS is silent": {lookup(net.DNSError{Err: "read udp 10.0.0.1:40000->10.96.0.10:53: i/o timeout", Name: "redis.shop.svc", IsTimeout: true}),
			"lookup redis.shop.svc: i/o timeout"},
		"DNS is refused": {lookup(net.DNSError{Err: "read udp 10.0.0.1:40000->10.96.0.10:53: read: connection refused", Name: "redis.shop.svc"}),
			"lookup redis.shop.svc: connection refused"},
		"out of time":            {context.DeadlineExceeded, "no answer in time"},
		"no connection in time":  {redis.ErrPoolTimeout, "no answer in time"},
		"closed":                 {fmt.Errorf("%w: first PING on a new connection: %w", redisops.ErrNotExecuted, io.EOF), "it closed the connection"},
		"a reply of Redis":       {fmt.Errorf("get: %w", replyError("NOPERM User x has no permissions to run the 'get' command")), "NOPERM User x has no permissions to run the 'get' command"},
		"its first line only":    {replyError("LOADING wait\nfor it"), "LOADING wait"},
		"at a bearable length":   {replyError("OOM " + strings.Repeat("é", 500)), "OOM " + strings.Repeat("é", 126)},
		"another error reply":    {replyError("ERR the password is hunter2"), notRedis},
		"a reply that is none":   {errors.New(`redis: can't parse "HTTP/1.1 400 Bad Request"`), notRedis},
		"in which Redis's words": {errors.New(`redis: can't parse "WRONGPASS hunter2"`), notRedis},
	} {
		t.Run(name, func(t *testing.T) {
			if got := words(fmt.Errorf("ping: %w", tt.err)); got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestARefusalOfAProvenRedisIsTold(t *testing.T) {
	err := fmt.Errorf("load the library: %w", replyError("ERR Error compiling function: near 'x'"))
	if got, want := refusal(err), "ERR Error compiling function: near 'x'"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
