package redisops

import (
	"context"
	"errors"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"
)

var (
	// ErrUnknownOutcome tells that a command was, or may have been, sent and its reply did not come: it ran or it did not.
	// The cause is wrapped beside it (context.DeadlineExceeded for a caller that stopped waiting).
	ErrUnknownOutcome = errors.New("the outcome of the command is unknown")
	// ErrNotExecuted tells that a command certainly did not run, since no byte of it was sent. The cause is wrapped beside it.
	ErrNotExecuted = errors.New("the command was not sent")
	// ErrOverloaded is an ErrNotExecuted: too many commands are waiting already.
	ErrOverloaded = errors.New("too many commands are waiting for Redis")
	// ErrCallerClosed is an ErrNotExecuted: Close was called.
	ErrCallerClosed = errors.New("the caller is closed")
)

// Class is what an error says about the command that got it.
type Class int

// The classes. What the server says is by the table replyRows; everything else is by where it happened.
const (
	// None is no error, also the empty reply (redis.Nil).
	None Class = iota
	// NotExecuted is proven not to have run, and may do so when repeated: no byte was sent, or LOADING, MOVED, ASK,
	// TRYAGAIN, "non local key", CLUSTERDOWN, MASTERDOWN, too many clients, a transaction discarded.
	NotExecuted
	// ReadOnly is not executed because the server is a replica; its connection must be dropped, since the address may lead to the
	// primary by now.
	ReadOnly
	// NoScript is not executed: load the scripts, then repeat.
	NoScript
	// NoFunction is not executed: load the library, then repeat.
	NoFunction
	// Configuration is refused until somebody changes credentials, permissions, certificates, database or server (NOAUTH,
	// WRONGPASS, NOPERM, an unknown command, a certificate that is not trusted). It is never answered by onStoreFailure
	// silently.
	Configuration
	// WrongType is a key of ours that holds something else.
	WrongType
	// OutOfMemory is refused by maxmemory before it wrote anything.
	OutOfMemory
	// Policy is the function's own refusal (PENSTOCK_...).
	Policy
	// Unavailable is refused by a server that cannot serve now, for longer than a repeat could bridge (BUSY, MISCONF,
	// NOREPLICAS).
	Unavailable
	// Failed is any other error reply. The command may have run in part.
	Failed
	// UnknownOutcome has no reply: a timeout, a connection that broke after the command was sent.
	UnknownOutcome
)

var classNames = [...]string{
	None: "none", NotExecuted: "not executed", ReadOnly: "read only", NoScript: "no script", NoFunction: "no function",
	Configuration: "configuration", WrongType: "wrong type", OutOfMemory: "out of memory", Policy: "policy",
	Unavailable: "unavailable", Failed: "failed", UnknownOutcome: "unknown outcome",
}

// String gives the class in words, for logs and metrics.
func (c Class) String() string {
	if c < 0 || int(c) >= len(classNames) {
		return "invalid"
	}
	return classNames[c]
}

// Repeatable tells whether the same command may be sent again at once without the risk of running twice, and with a
// chance that it runs. NoScript and NoFunction need a loading first, which is for those who know what to load.
func (c Class) Repeatable() bool { return c == NotExecuted || c == ReadOnly }

// Classify gives the class of an error of go-redis or of Caller, wrapped or not. What it does not know is
// UnknownOutcome, the class that is never repeated.
func Classify(err error) Class {
	if err == nil || errors.Is(err, redis.Nil) {
		return None
	}
	// First, since an error reply to the handshake (WRONGPASS) comes wrapped in ErrNotExecuted, and says more.
	if reply, is := errors.AsType[redis.Error](err); is {
		return rowOf(reply.Error()).class
	}
	switch {
	case errors.Is(err, ErrMisconfigured):
		return Configuration
	case errors.Is(err, ErrUnknownOutcome):
		return UnknownOutcome
	case errors.Is(err, ErrNotExecuted),
		errors.Is(err, redis.ErrPoolTimeout), errors.Is(err, redis.ErrPoolExhausted), errors.Is(err, redis.ErrClosed),
		isDialError(err):
		return NotExecuted
	default:
		return UnknownOutcome
	}
}

func isDialError(err error) bool {
	op, is := errors.AsType[*net.OpError](err)
	return is && op.Op == "dial"
}

// verdict is what the outcome of a call says about its server, for the breaker.
type verdict int

const (
	// served: it answered, if only with an error of the call, or of the configuration, which must not hide behind a breaker.
	served verdict = iota
	// unserved: it says that it serves nobody now.
	unserved
	// broken: no connection, or none that lasted.
	broken
	// unsaid: nothing about the server.
	unsaid
)

// judge gives the verdict of an outcome. How long a caller waited is not in it.
func judge(err error) verdict {
	switch {
	case err == nil:
		return served
	case errors.Is(err, ErrBreakerOpen):
		return unsaid // now; the reply that it has was one to an earlier call
	}
	if reply, is := errors.AsType[redis.Error](err); is {
		return rowOf(reply.Error()).verdict
	}
	switch {
	case errors.Is(err, ErrOverloaded), errors.Is(err, ErrCallerClosed), errors.Is(err, errLeft), errors.Is(err, context.Canceled), errors.Is(err, redis.ErrClosed),
		errors.Is(err, redis.ErrPoolTimeout), errors.Is(err, redis.ErrPoolExhausted):
		return unsaid
	case Classify(err) == Configuration:
		return served
	default:
		return broken
	}
}

// replyRow is what an error reply says of its command and of its server.
type replyRow struct {
	text    string
	class   Class
	verdict verdict
}

// replyRows is the table: how an error reply begins, first match. Where Redis and Valkey differ, they do so further behind.
var replyRows = []replyRow{
	{"PENSTOCK_WRONGTYPE", WrongType, served},
	{"PENSTOCK_", Policy, served},
	{"NOSCRIPT", NoScript, served},
	{"ERR Function not found", NoFunction, served},
	{"LOADING", NotExecuted, unserved},
	{"READONLY", ReadOnly, unserved},
	// About one slot, and so nothing about the server.
	{"MOVED ", NotExecuted, unsaid},
	{"ASK ", NotExecuted, unsaid},
	{"TRYAGAIN", NotExecuted, unsaid},
	{"CLUSTERDOWN Hash slot not served", NotExecuted, unsaid},
	{"CLUSTERDOWN", NotExecuted, unserved},
	{"MASTERDOWN", NotExecuted, unserved},
	{"ERR max number of clients", NotExecuted, unserved},
	// In a script, at its first command with a key: all functions look at all their keys before they write.
	{"ERR Script attempted to access a non local key", NotExecuted, unsaid},
	{"ERR Script attempted to execute a write command while the cluster is down", NotExecuted, unserved},
	{"ERR Script attempted to execute a command while the cluster is down", NotExecuted, unserved},
	// Valkey, to a client that said it can follow.
	{"REDIRECT ", NotExecuted, unserved},
	{"NOAUTH", Configuration, served},
	{"WRONGPASS", Configuration, served},
	{"NOPERM", Configuration, served},
	{"NOPROTO", Configuration, served},
	{"DENIED", Configuration, served},
	{"ERR unknown command", Configuration, served},
	{"ERR Unknown Redis command called from script", Configuration, served},
	{"ERR Unknown command called from script", Configuration, served},
	{"ERR The user executing the script can't", Configuration, served},
	{"ERR ACL failure in script", Configuration, served},
	{"ERR Client sent AUTH", Configuration, served},
	{"ERR AUTH ", Configuration, served},
	{"ERR invalid password", Configuration, served}, // before 6.0
	{"ERR DB index is out of range", Configuration, served},
	{"ERR invalid DB index", Configuration, served},
	{"ERR SELECT is not allowed in cluster mode", Configuration, served},
	{"ERR This instance has cluster support disabled", Configuration, served},
	{"ERR Can not run script on cluster", Configuration, served},
	{"ERR No such master with that name", Configuration, served}, // of a sentinel
	{"WRONGTYPE", WrongType, served},
	{"OOM", OutOfMemory, served},
	{"BUSY ", Unavailable, unserved},
	// These come at once, and not to releases and reads.
	{"MISCONF", Unavailable, served},
	{"NOREPLICAS", Unavailable, served},
	// The server discards the whole transaction; why, it says in the first form only.
	{"EXECABORT", NotExecuted, served},
	// go-redis says so (TxFailedErr) when a watched key changed.
	{"redis: transaction failed", NotExecuted, served},
}

// scriptRows is for servers before 7.0, which put the error of a command that a script called behind their own text.
var scriptRows = []replyRow{
	{"-READONLY ", ReadOnly, unserved},
	{"-OOM ", OutOfMemory, served},
	{"-MISCONF ", Unavailable, served},
	{"-NOREPLICAS ", Unavailable, served},
	{"-NOPERM ", Configuration, served},
	{"The user executing the script can't", Configuration, served},
	{"Unknown Redis command called from Lua script", Configuration, served},
	{"WRONGTYPE ", WrongType, served},
	{"non local key", NotExecuted, unsaid},
	{"while the cluster is down", NotExecuted, unserved},
}

// rowOf gives what the tables say about an error reply. One that is in none is of the command.
func rowOf(message string) replyRow {
	if cause, found := strings.CutPrefix(message, "EXECABORT Transaction discarded because of: "); found {
		message = cause
	}
	for _, row := range replyRows {
		if strings.HasPrefix(message, row.text) {
			return row
		}
	}
	if strings.HasPrefix(message, "ERR Error running script") {
		for _, row := range scriptRows {
			if strings.Contains(message, row.text) {
				return row
			}
		}
	}
	return replyRow{class: Failed}
}
