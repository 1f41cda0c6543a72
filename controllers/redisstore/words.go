package redisstore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/redis/go-redis/v9"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/internal/conditions"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
)

// maxReply bounds in bytes what a status quotes of a reply.
const maxReply = 256

// unreachable turns an error of Redis into an outcome: what somebody must put right stalls, an outage waits.
func unreachable(ctx context.Context, err error, site *site) error {
	// The status does not show all of it; see words.
	logf.FromContext(ctx).V(1).Info("Redis does not serve", "error", err.Error())
	which := ""
	if several, is := errors.AsType[*UnreachedError](err); is && several.Primaries > 1 {
		which = fmt.Sprintf(" at %s (%d of %d primaries)", strings.Join(several.addresses(), ", "), len(several.Unreached), several.Primaries)
	}
	if message, is := refusedCertificate(err); is {
		return &conditions.Stalling{Reason: v1.ReasonTLSFailed, Message: "no TLS with Redis" + which + ": " + message}
	}
	switch class := redisops.Classify(err); {
	case errors.Is(err, redisops.ErrReplyRefused):
		// Whatever answers there now, another Redis may do so soon.
	case errors.Is(err, redisops.ErrMisconfigured):
		return &conditions.Stalling{Reason: v1.ReasonInvalid, Message: "Redis cannot be used" + which + ": " + misconfiguration(err, site)}
	case class == redisops.Configuration:
		secrets := "the Secret of spec.auth.secretRef"
		if site.config.Topology == policy.TopologySentinel {
			secrets = "the Secrets of spec.auth.secretRef and spec.sentinel.auth.secretRef"
		}
		return &conditions.Stalling{Reason: v1.ReasonAuthenticationFailed, Message: "Redis refuses" + which + ": " + words(err) +
			"; check " + secrets + ", and what its user may do"}
	case class != redisops.Failed && isReply(err):
		return &conditions.Waiting{Reason: v1.ReasonUnavailable, Message: "Redis does not serve" + which + ": " + words(err) + remedy(err), After: site.backoff()}
	}
	return &conditions.Waiting{Reason: v1.ReasonUnreachable, Message: "Redis does not answer" + which + ": " + words(err), After: site.backoff()}
}

// misconfiguration gives what redisops says is wrong, which holds nothing of what a server said. Of several Sentinels that
// say the same it does not name the one that was first.
func misconfiguration(err error, site *site) string {
	switch {
	case errors.Is(err, redisops.ErrUnknownMaster):
		return fmt.Sprintf("the Sentinels know no primary of the name %q; mend spec.sentinel.masterName in a new RedisStore, or have them monitor it", site.config.MasterName)
	case errors.Is(err, redisops.ErrNotSentinel):
		return "not all of spec.addresses are Sentinels; use theirs, or create a RedisStore with another topology"
	}
	return afterMisconfigured(err)
}

// afterMisconfigured gives the first line of what is said after "misconfigured: "; empty when nothing is.
func afterMisconfigured(err error) string {
	_, text, _ := strings.Cut(err.Error(), redisops.ErrMisconfigured.Error()+": ")
	line, _, _ := strings.Cut(text, "\n")
	if op, is := errors.AsType[*net.OpError](err); is {
		// It has the local port, which differs from one attempt to the next.
		line, _, _ = strings.Cut(line, ": "+op.Error())
	}
	return line
}

func isReply(err error) bool {
	_, is := errors.AsType[redis.Error](err)
	return is
}

// remedies are what to do about a server that says why it cannot serve, by how its reply begins.
var remedies = []struct{ prefix, remedy string }{
	{"LOADING", "it reads its data after a start, which passes"},
	{"BUSY", "find out whose script runs for so long (SLOWLOG GET, CLIENT LIST); Penstock never kills one"},
	{"MISCONF", "see in its log why it cannot write snapshots, such as a full disk"},
	{"NOREPLICAS", "see why too few replicas are connected, or lower min-replicas-to-write"},
	{"ERR max number of clients", "raise maxclients, or find out who opens so many connections"},
	{"READONLY", "the address leads to a replica; wait for a failover to end, or use topology Sentinel"},
	{"MASTERDOWN", "a replica has lost its primary; wait for a failover to end"},
	{"CLUSTERDOWN", "see in CLUSTER INFO and CLUSTER NODES which slots are not served"},
}

func remedy(err error) string {
	reply, is := errors.AsType[redis.Error](err)
	if !is {
		return ""
	}
	for _, r := range remedies {
		if strings.HasPrefix(reply.Error(), r.prefix) {
			return "; " + r.remedy
		}
	}
	return ""
}

// refusedCertificate tells why TLS did not come about, and what to do; false when that is not what is wrong. It leaves out
// what the server's certificate says, like words.
func refusedCertificate(err error) (string, bool) {
	if host, is := errors.AsType[x509.HostnameError](err); is {
		return fmt.Sprintf("the certificate of the server is not for %q; issue one that is, or set spec.tls.serverName to a name that it is for", host.Host), true
	}
	if invalid, is := errors.AsType[x509.CertificateInvalidError](err); is {
		if invalid.Reason == x509.Expired {
			return "the certificate of the server, or of an authority, has expired or is not valid yet; renew it", true
		}
		return "the certificate of the server cannot be used for this; issue one for servers", true
	}
	if _, is := errors.AsType[x509.UnknownAuthorityError](err); is {
		return "the certificate of the server is of an authority that is not trusted; put that of the authority into the Secret of spec.tls.caSecretRef", true
	}
	if _, is := errors.AsType[*tls.CertificateVerificationError](err); is {
		return "the certificate of the server cannot be verified", true
	}
	if _, is := errors.AsType[tls.RecordHeaderError](err); is {
		return "the server does not speak TLS at this port; use the one that does, or remove spec.tls", true
	}
	if alert, is := errors.AsType[tls.AlertError](err); is {
		return refusedByServer(alert), true
	}
	if op, is := errors.AsType[*net.OpError](err); is && op.Op == "remote error" {
		return refusedByServer(op.Err), true
	}
	if errors.Is(err, redisops.ErrSpeaksTLS) {
		return "the server speaks TLS at this port; add spec.tls, or use another port", true
	}
	if text, is := strings.CutPrefix(afterMisconfigured(err), "tls: "); is {
		what, _, _ := strings.Cut(text, ": ")
		return what, true
	}
	return "", false
}

func refusedByServer(alert error) string {
	return fmt.Sprintf("the server refuses: %s; check the certificate in the Secret of spec.tls.clientCertSecretRef, and whom the server trusts", alert)
}

// words gives an error of Redis for a status. It leaves out what differs from one attempt to the next, such as the
// addresses and ports of a connection, since the status would be written with every attempt; and what a server said, unless Redis says such things: the
// operator reaches services that the author of a RedisStore may not, and must not read to them what those answer.
func words(err error) string {
	if reply, is := errors.AsType[redis.Error](err); is {
		if redisops.Classify(err) == redisops.Failed {
			return notRedis
		}
		return quote(reply)
	}
	if errors.Is(err, redisops.ErrReplyRefused) {
		if _, hint, _ := strings.Cut(afterMisconfigured(err), redisops.ErrReplyRefused.Error()+": "); hint != "" {
			return notRedis + ": " + hint
		}
		return notRedis
	}
	for _, said := range []error{redisops.ErrNoSentinel, redisops.ErrNoPrimary, redisops.ErrHandshake} {
		// And not what is wrapped: which of several Sentinels fails first, and how, differs from one attempt to the next.
		if errors.Is(err, said) {
			return said.Error()
		}
	}
	if lookup, is := errors.AsType[*net.DNSError](err); is {
		// Err may begin with the addresses of the exchange with the DNS server.
		return fmt.Sprintf("lookup %s: %s", lookup.Name, strings.TrimSpace(lookup.Err[strings.LastIndex(lookup.Err, ": ")+1:]))
	}
	switch timeout := net.Error(nil); {
	// Whichever of the timeouts ends first, and however a connection ends.
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, redis.ErrPoolTimeout):
		return "no answer in time"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "it closed the connection"
	}
	if op, is := errors.AsType[*net.OpError](err); is {
		// Without the address: a name may stand for several, and which of them is tried first differs, too.
		return fmt.Sprintf("%s: %v", op.Op, op.Err)
	}
	return notRedis
}

const notRedis = "the server does not speak the Redis protocol as expected"

// refusal gives the words of a server that proved to be a Redis, whatever they begin with.
func refusal(err error) string {
	if reply, is := errors.AsType[redis.Error](err); is {
		return quote(reply)
	}
	return words(err)
}

// quote gives the first line of a reply.
func quote(reply redis.Error) string {
	line, _, _ := strings.Cut(reply.Error(), "\n")
	return strings.ToValidUTF8(line[:min(len(line), maxReply)], "")
}
