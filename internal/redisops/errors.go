package redisops

import (
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

// The classes. What the server says is by the table in classifyReply; everything else is by where it happened.
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
	// Configuration is refused until somebody changes credentials, permissions, database or server (NOAUTH, WRONGPASS,
	// NOPERM, an unknown command). It is never answered by onStoreFailure silently.
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
		return classifyReply(reply.Error())
	}
	var op *net.OpError
	switch {
	case errors.Is(err, ErrUnknownOutcome):
		return UnknownOutcome
	case errors.Is(err, ErrNotExecuted),
		errors.Is(err, redis.ErrPoolTimeout), errors.Is(err, redis.ErrPoolExhausted), errors.Is(err, redis.ErrClosed),
		errors.As(err, &op) && op.Op == "dial":
		return NotExecuted
	default:
		return UnknownOutcome
	}
}

// replyClasses is the table: how an error reply begins, first match.
var replyClasses = []struct {
	prefix string
	class  Class
}{
	{"PENSTOCK_WRONGTYPE", WrongType},
	{"PENSTOCK_", Policy},
	{"NOSCRIPT", NoScript},
	{"ERR Function not found", NoFunction},
	{"LOADING", NotExecuted},
	{"READONLY", ReadOnly},
	{"MOVED ", NotExecuted},
	{"ASK ", NotExecuted},
	{"TRYAGAIN", NotExecuted},
	{"CLUSTERDOWN", NotExecuted},
	{"MASTERDOWN", NotExecuted},
	{"ERR max number of clients", NotExecuted},
	{"ERR Script attempted to access a non local key", NotExecuted},
	{"NOAUTH", Configuration},
	{"WRONGPASS", Configuration},
	{"NOPERM", Configuration},
	{"NOPROTO", Configuration},
	{"DENIED", Configuration},
	{"ERR unknown command", Configuration},
	{"ERR Client sent AUTH", Configuration},
	{"ERR AUTH ", Configuration},
	{"ERR DB index is out of range", Configuration},
	{"WRONGTYPE", WrongType},
	{"OOM", OutOfMemory},
	{"BUSY ", Unavailable},
	{"MISCONF", Unavailable},
	{"NOREPLICAS", Unavailable},
	// The server discards the whole transaction; why, it says in the first form only.
	{"EXECABORT", NotExecuted},
	// go-redis says so (TxFailedErr) when a watched key changed.
	{"redis: transaction failed", NotExecuted},
}

func classifyReply(message string) Class {
	if cause, found := strings.CutPrefix(message, "EXECABORT Transaction discarded because of: "); found {
		message = cause
	}
	for _, row := range replyClasses {
		if strings.HasPrefix(message, row.prefix) {
			return row.class
		}
	}
	// Servers before 7.0 put the error of a command that a script called behind their own text.
	if strings.HasPrefix(message, "ERR Error running script") {
		for _, row := range []struct {
			text  string
			class Class
		}{
			{"-READONLY ", ReadOnly}, {"-OOM ", OutOfMemory}, {"WRONGTYPE ", WrongType}, {"non local key", NotExecuted},
		} {
			if strings.Contains(message, row.text) {
				return row.class
			}
		}
	}
	return Failed
}
