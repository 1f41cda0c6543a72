package redisstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/redis/go-redis/v9"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/internal/conditions"
	"github.com/penstock-dev/penstock/internal/redisops"
)

// maxReply bounds in bytes what a status quotes of a reply.
const maxReply = 256

// unreachable turns an error of Redis into an outcome: what somebody must put right stalls, an outage waits.
func unreachable(ctx context.Context, err error, site *site) error {
	// The status does not show all of it; see words.
	logf.FromContext(ctx).V(1).Info("Redis does not serve", "error", err.Error())
	if redisops.Classify(err) == redisops.Configuration {
		return &conditions.Stalling{Reason: v1.ReasonAuthenticationFailed, Message: "Redis refuses: " + words(err) +
			"; check the Secret of spec.auth.secretRef, and what its user may do"}
	}
	return &conditions.Waiting{Reason: v1.ReasonUnreachable, Message: "Redis does not answer: " + words(err), After: site.backoff()}
}

// words gives an error of Redis for a status. It leaves out what differs from one attempt to the next, such as the local
// port, since the status would be written with every attempt; and what a server said, unless Redis says such things: the
// operator reaches services that the author of a RedisStore may not, and must not read to them what those answer.
func words(err error) string {
	if reply, is := errors.AsType[redis.Error](err); is {
		if redisops.Classify(err) == redisops.Failed {
			return notRedis
		}
		return quote(reply)
	}
	if lookup, is := errors.AsType[*net.DNSError](err); is {
		// Err may begin with the addresses of the exchange with the DNS server.
		return fmt.Sprintf("lookup %s: %s", lookup.Name, strings.TrimSpace(lookup.Err[strings.LastIndex(lookup.Err, ": ")+1:]))
	}
	if op, is := errors.AsType[*net.OpError](err); is {
		if op.Addr == nil {
			return fmt.Sprintf("%s: %v", op.Op, op.Err)
		}
		return fmt.Sprintf("%s %s: %v", op.Op, op.Addr, op.Err)
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, redis.ErrPoolTimeout):
		return "no answer in time"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "it closed the connection"
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
