package redisstore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/internal/conditions"
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
			"it closed the connection"},
		"refused": {&net.OpError{Op: "dial", Net: "tcp", Addr: remote, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)},
			"dial: connect: connection refused"},
		"no address": {&net.OpError{Op: "dial", Net: "tcp", Err: errors.New("missing address")}, "dial: missing address"},
		"no such host": {lookup(net.DNSError{Err: "no such host", Name: "redis.shop.svc", Server: "10.96.0.10:53", IsNotFound: true}),
			"lookup redis.shop.svc: no such host"},
		"DNS is silent": {lookup(net.DNSError{Err: "read udp 10.0.0.1:40000->10.96.0.10:53: i/o timeout", Name: "redis.shop.svc", IsTimeout: true}),
			"lookup redis.shop.svc: i/o timeout"},
		"DNS is refused": {lookup(net.DNSError{Err: "read udp 10.0.0.1:40000->10.96.0.10:53: read: connection refused", Name: "redis.shop.svc"}),
			"lookup redis.shop.svc: connection refused"},
		"no reply in time":       {&net.OpError{Op: "read", Net: "tcp", Source: local, Addr: remote, Err: os.ErrDeadlineExceeded}, "no answer in time"},
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

// What is wrong with a Redis, and what the status of its store says of it: whether somebody has to act, why, and what.
func TestEachFaultOfARedisHasItsReasonAndRemedy(t *testing.T) {
	alert := &net.OpError{Op: "remote error", Err: errors.New("tls: certificate required")}
	for name, tt := range map[string]struct {
		err         error
		wantStalled bool
		wantReason  string
		want        []string
	}{
		"loading":             {replyError("LOADING Redis is loading the dataset in memory"), false, v1.ReasonUnavailable, []string{"LOADING", "which passes"}},
		"busy":                {replyError("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."), false, v1.ReasonUnavailable, []string{"BUSY", "never kills"}},
		"no snapshots":        {replyError("MISCONF Redis is configured to save RDB snapshots"), false, v1.ReasonUnavailable, []string{"MISCONF", "full disk"}},
		"no replicas":         {replyError("NOREPLICAS Not enough good replicas to write."), false, v1.ReasonUnavailable, []string{"NOREPLICAS", "min-replicas-to-write"}},
		"too many clients":    {replyError("ERR max number of clients reached"), false, v1.ReasonUnavailable, []string{"raise maxclients"}},
		"a replica":           {replyError("READONLY You can't write against a read only replica."), false, v1.ReasonUnavailable, []string{"topology Sentinel"}},
		"a replica alone":     {replyError("MASTERDOWN Link with MASTER is down"), false, v1.ReasonUnavailable, []string{"failover"}},
		"slots not served":    {replyError("CLUSTERDOWN The cluster is down"), false, v1.ReasonUnavailable, []string{"CLUSTER NODES"}},
		"wrong password":      {replyError("WRONGPASS invalid username-password pair or user is disabled."), true, v1.ReasonAuthenticationFailed, []string{"WRONGPASS", "spec.auth.secretRef"}},
		"no password":         {replyError("NOAUTH Authentication required."), true, v1.ReasonAuthenticationFailed, []string{"NOAUTH", "spec.auth.secretRef"}},
		"no permission":       {replyError("NOPERM this user has no permissions to run the 'get' command"), true, v1.ReasonAuthenticationFailed, []string{"NOPERM", "what its user may do"}},
		"too old for RESP3":   {replyError("NOPROTO unsupported protocol version"), true, v1.ReasonAuthenticationFailed, []string{"NOPROTO"}},
		"no such command":     {replyError("ERR unknown command 'GET'"), true, v1.ReasonAuthenticationFailed, []string{"unknown command"}},
		"HTTP":                {errors.New(`redis: can't parse "HTTP/1.1 400 Bad Request"`), false, v1.ReasonUnreachable, []string{notRedis}},
		"another error reply": {replyError("ERR hunter2"), false, v1.ReasonUnreachable, []string{notRedis}},
		"expired": {&tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.Expired, Detail: "current time 2026-01-01 is after 2025"}}, true,
			v1.ReasonTLSFailed, []string{"has expired or is not valid yet; renew it"}},
		"for clients only": {&tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.IncompatibleUsage}}, true,
			v1.ReasonTLSFailed, []string{"issue one for servers"}},
		"wrong name": {&tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: &x509.Certificate{DNSNames: []string{"hunter2"}}, Host: "redis.shop.svc"}}, true,
			v1.ReasonTLSFailed, []string{`not for "redis.shop.svc"`, "spec.tls.serverName"}},
		"another authority": {&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, true, v1.ReasonTLSFailed, []string{"not trusted", "spec.tls.caSecretRef"}},
		"not verified":      {&tls.CertificateVerificationError{Err: errors.New("x509: hunter2")}, true, v1.ReasonTLSFailed, []string{"cannot be verified"}},
		"no TLS":            {tls.RecordHeaderError{Msg: "hunter2"}, true, v1.ReasonTLSFailed, []string{"does not speak TLS at this port", "remove spec.tls"}},
		"our certificate": {fmt.Errorf("%w: %w", redisops.ErrNotExecuted, alert), true, v1.ReasonTLSFailed,
			[]string{"certificate required", "spec.tls.clientCertSecretRef"}},
		"HTTP, at the first byte": {fmt.Errorf("%w: %w: %w: an HTTP server answers; mend the address", redisops.ErrNotExecuted, redisops.ErrMisconfigured, redisops.ErrReplyRefused), false,
			v1.ReasonUnreachable, []string{notRedis + ": an HTTP server answers; mend the address"}},
		"TLS where none was asked for": {fmt.Errorf("%w: %w: %w; set tls, or mend the port", redisops.ErrMisconfigured, redisops.ErrReplyRefused, redisops.ErrSpeaksTLS), true,
			v1.ReasonTLSFailed, []string{"add spec.tls"}},
		"no TLS where it was asked for": {fmt.Errorf("%w: tls: the server does not speak TLS at this port; mend the port, or remove tls", redisops.ErrMisconfigured), true,
			v1.ReasonTLSFailed, []string{"does not speak TLS at this port; mend the port"}},
		"old TLS": {fmt.Errorf("%w: tls: the handshake fails; the server has to speak TLS 1.2 or newer at this port: tls: hunter2", redisops.ErrMisconfigured), true,
			v1.ReasonTLSFailed, []string{"TLS 1.2 or newer at this port"}},
		"configuration": {fmt.Errorf("%w: db: 1; a Cluster has database 0 only", redisops.ErrMisconfigured), true, v1.ReasonInvalid, []string{"db: 1; a Cluster"}},
		"one of three": {&UnreachedError{Primaries: 3, Unreached: []Unreached{{"b:1", context.DeadlineExceeded}}}, false, v1.ReasonUnreachable,
			[]string{"Redis does not answer at b:1 (1 of 3 primaries): no answer in time"}},
		"what to put right first": {&UnreachedError{Primaries: 3, Unreached: []Unreached{{"b:1", io.EOF}, {"a:1", replyError("WRONGPASS")}}}, true,
			v1.ReasonAuthenticationFailed, []string{"at a:1, b:1 (2 of 3 primaries): WRONGPASS"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := unreachable(t.Context(), fmt.Errorf("ping: %w", tt.err), &site{})
			_, stalled := errors.AsType[*conditions.Stalling](got)
			reason, message := explain(got)
			if stalled != tt.wantStalled || reason != tt.wantReason {
				t.Errorf("stalled %v, reason %s; want %v, %s", stalled, reason, tt.wantStalled, tt.wantReason)
			}
			for _, part := range tt.want {
				if !strings.Contains(message, part) {
					t.Errorf("%q lacks %q", message, part)
				}
			}
			if strings.Contains(message, "hunter2") {
				t.Errorf("%q reads out what a server said", message)
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
