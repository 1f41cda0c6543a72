package redisops

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// replyError is an error reply as go-redis gives it.
type replyError string

func (e replyError) Error() string { return string(e) }
func (replyError) RedisError()     {}

func TestErrorRepliesAreClassified(t *testing.T) {
	for reply, want := range map[string]Class{
		"PENSTOCK_NOPOLICY no policy shop/x":                                               Policy,
		"PENSTOCK_BADKEY rl:x is not a key of shop/x":                                      Policy,
		"PENSTOCK_WRONGTYPE rl:{aaaaaaaaaaaaaaaaaaaaaa}:shop/x":                            WrongType,
		"NOSCRIPT No matching script. Please use EVAL.":                                    NoScript,
		"ERR Function not found":                                                           NoFunction,
		"LOADING Redis is loading the dataset in memory":                                   NotExecuted,
		"READONLY You can't write against a read only replica.":                            ReadOnly,
		"READONLY Can not run script with write flag on readonly replica.":                 ReadOnly,
		"MOVED 3999 127.0.0.1:6381":                                                        NotExecuted,
		"ASK 3999 127.0.0.1:6381":                                                          NotExecuted,
		"TRYAGAIN Multiple keys request during rehashing of slot":                          NotExecuted,
		"CLUSTERDOWN The cluster is down":                                                  NotExecuted,
		"CLUSTERDOWN Hash slot not served":                                                 NotExecuted,
		"MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.": NotExecuted,
		"ERR max number of clients reached":                                                NotExecuted,
		"ERR Script attempted to access a non local key in a cluster node script: x":       NotExecuted,
		"NOAUTH Authentication required.":                                                  Configuration,
		"WRONGPASS invalid username-password pair or user is disabled.":                    Configuration,
		"NOPERM this user has no permissions to run the 'fcall' command":                   Configuration,
		"NOPROTO unsupported protocol version":                                             Configuration,
		"DENIED Redis is running in protected mode because ...":                            Configuration,
		"ERR unknown command 'FCALL', with args beginning with: ":                          Configuration,
		"ERR unknown command `FCALL`, with args beginning with: ":                          Configuration,
		"ERR DB index is out of range":                                                     Configuration,
		"ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?": Configuration,
		"ERR Client sent AUTH, but no password is set":                                                        Configuration,
		"WRONGTYPE Operation against a key holding the wrong kind of value":                                   WrongType,
		"OOM command not allowed when used memory > 'maxmemory'.":                                             OutOfMemory,
		"BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.":              Unavailable,
		"MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.":    Unavailable,
		"NOREPLICAS Not enough good replicas to write.":                                                       Unavailable,
		"EXECABORT Transaction discarded because of previous errors.":                                         NotExecuted,
		"EXECABORT Transaction discarded because of: OOM command not allowed when used memory > 'maxmemory'.": OutOfMemory,
		"ERR user_script:12: attempt to index a nil value script: x":                                          Failed,
		"CROSSSLOT Keys in request don't hash to the same slot":                                               Failed,
		"ERR value is not an integer or out of range":                                                         Failed,
		// Before 7.0 a script's error is behind the server's text.
		"ERR Error running script (call to f_x): @user_script:1: -READONLY You can't write against a read only replica.":       ReadOnly,
		"ERR Error running script (call to f_x): @user_script:1: -OOM command not allowed when used memory > 'maxmemory'.":     OutOfMemory,
		"ERR Error running script (call to f_x): @user_script:1: WRONGTYPE Operation against a key holding the wrong kind":     WrongType,
		"ERR Error running script (call to f_x): @user_script:1: Script attempted to access a non local key in a cluster node": NotExecuted,
		"ERR Error running script (call to f_x): @user_script:1: user_script:1: attempt to index a nil value":                  Failed,
		// A word that means something at the beginning means nothing elsewhere.
		"ERR unknown policy LOADING": Failed,
	} {
		t.Run(reply, func(t *testing.T) {
			if got := Classify(fmt.Errorf("deciding: %w", replyError(reply))); got != want {
				t.Errorf("class %q, want %q", got, want)
			}
		})
	}
}

func TestOtherErrorsAreClassifiedByWhereTheyHappened(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		want Class
	}{
		"no error":              {nil, None},
		"empty reply":           {redis.Nil, None},
		"refused":               {&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, NotExecuted},
		"no such host":          {&net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}, NotExecuted},
		"no free connection":    {redis.ErrPoolTimeout, NotExecuted},
		"too many connections":  {redis.ErrPoolExhausted, NotExecuted},
		"client closed":         {redis.ErrClosed, NotExecuted},
		"not sent":              {fmt.Errorf("%w: %w", ErrNotExecuted, io.EOF), NotExecuted},
		"overloaded":            {errOverloaded, NotExecuted},
		"not sent in time":      {errNotSentInTime, NotExecuted},
		"no reply in time":      {errNoReplyInTime, UnknownOutcome},
		"refused credentials":   {fmt.Errorf("%w: %w", ErrNotExecuted, replyError("WRONGPASS x")), Configuration},
		"watched key changed":   {redis.TxFailedErr, NotExecuted},
		"reset":                 {&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, UnknownOutcome},
		"broken pipe":           {&net.OpError{Op: "write", Err: os.NewSyscallError("write", syscall.EPIPE)}, UnknownOutcome},
		"end of stream":         {io.EOF, UnknownOutcome},
		"read timeout":          {&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, UnknownOutcome},
		"deadline":              {context.DeadlineExceeded, UnknownOutcome},
		"anything else":         {errors.New("redis: can't parse reply"), UnknownOutcome},
		"dial error after sent": {fmt.Errorf("%w: %w", ErrUnknownOutcome, &net.OpError{Op: "dial"}), UnknownOutcome},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Classify(tc.err); got != tc.want {
				t.Errorf("class %q, want %q", got, tc.want)
			}
		})
	}
}

func TestOnlyProvenAndPromisingClassesAreRepeatable(t *testing.T) {
	for class := None; class <= UnknownOutcome; class++ {
		if want := class == NotExecuted || class == ReadOnly; class.Repeatable() != want {
			t.Errorf("%q is repeatable: %v", class, class.Repeatable())
		}
		if class.String() == "" || class.String() == "invalid" {
			t.Errorf("class %d has no name", class)
		}
	}
	if got := Class(99).String(); got != "invalid" {
		t.Errorf("Class(99) = %q", got)
	}
}

// What a real server answers, as go-redis gives it and as Caller does.
func TestErrorsOfARealServerAreClassified(t *testing.T) {
	const (
		script   = "redis.call('SET', KEYS[1], ARGV[1]) return 1"
		function = "#!lua name=tried\nredis.register_function('tried', function(keys) return redis.call('SET', keys[1], 1) end)"
	)
	increment := []any{"INCR", "n"}
	for name, tc := range map[string]struct {
		options []string
		prepare func(t *testing.T, server *redistest.Server)
		config  Config
		args    []any
		want    Class
		// callerOnly: go-redis cannot tell that nothing was sent, Caller can.
		callerOnly bool
	}{
		"no password given": {options: []string{"--requirepass", "secret"}, args: increment, want: Configuration},
		"wrong password":    {options: []string{"--requirepass", "secret"}, config: Config{Password: "guess"}, args: increment, want: Configuration},
		"unknown user":      {config: Config{Username: "nobody", Password: "x"}, args: increment, want: Configuration},
		"no permission": {
			options: []string{"--user", "app", "on", ">pw", "~*", "+get"},
			config:  Config{Username: "app", Password: "pw"}, args: increment, want: Configuration,
		},
		"no such database": {config: Config{DB: 99}, args: increment, want: Configuration},
		"no such command":  {args: []any{"PENSTOCK"}, want: Configuration},
		"wrong type": {
			prepare: func(_ *testing.T, s *redistest.Server) { s.Do("RPUSH", "n", "x") }, args: increment, want: WrongType,
		},
		"wrong type in a script": {
			prepare: func(_ *testing.T, s *redistest.Server) { s.Do("RPUSH", "n", "x") },
			args:    []any{"EVAL", "return redis.call('INCR', KEYS[1])", 1, "n"}, want: WrongType,
		},
		"unknown script":   {args: []any{"EVALSHA", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", 1, "n"}, want: NoScript},
		"unknown function": {args: []any{"FCALL", "penstock_limit", 1, "n"}, want: NoFunction},
		"out of memory":    {options: []string{"--maxmemory", "100kb"}, args: []any{"SET", "n", "1"}, want: OutOfMemory},
		"out of memory in a script": {
			options: []string{"--maxmemory", "100kb"}, args: []any{"EVAL", "#!lua\n" + script, 1, "n", 1}, want: OutOfMemory,
		},
		"a replica": {
			prepare: func(t *testing.T, s *redistest.Server) { s.ReplicaOf(redistest.Start(t)) }, args: increment, want: ReadOnly,
		},
		"a replica, script": {
			prepare: func(t *testing.T, s *redistest.Server) { s.ReplicaOf(redistest.Start(t)) },
			args:    []any{"EVAL", script, 1, "n", 1}, want: ReadOnly,
		},
		"a replica, function": {
			prepare: func(t *testing.T, s *redistest.Server) {
				s.Do("FUNCTION", "LOAD", function)
				primary := redistest.Start(t)
				primary.Do("FUNCTION", "LOAD", function)
				s.ReplicaOf(primary)
			},
			args: []any{"FCALL", "tried", 1, "n"}, want: ReadOnly,
		},
		"too few replicas": {options: []string{"--min-replicas-to-write", "1"}, args: increment, want: Unavailable},
		"busy": {
			options: []string{"--busy-reply-threshold", "5"},
			prepare: func(_ *testing.T, s *redistest.Server) { keepBusy(s) }, args: increment, want: Unavailable,
		},
		"too many clients": {
			options: []string{"--maxclients", "1"},
			prepare: func(t *testing.T, s *redistest.Server) {
				if err := s.Client().Ping(t.Context()).Err(); err != nil {
					t.Fatal(err)
				}
			},
			args: increment, want: NotExecuted, callerOnly: true,
		},
		"a cluster without slots": {options: []string{"--cluster-enabled", "yes"}, args: increment, want: NotExecuted},
		"nobody listens": {
			prepare: func(_ *testing.T, s *redistest.Server) { s.Kill() }, args: increment, want: NotExecuted,
		},
		"no address":             {config: Config{Addresses: []string{}}, args: increment, want: NotExecuted},
		"two addresses":          {config: Config{Addresses: []string{"a:1", "b:1"}}, args: increment, want: NotExecuted},
		"an error of the script": {args: []any{"EVAL", "return nothing.there", 0}, want: Failed},
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t, tc.options...)
			if tc.prepare != nil {
				tc.prepare(t, server)
			}
			cfg := tc.config
			if cfg.Addresses == nil {
				cfg.Addresses = []string{server.Addr}
			}
			cfg.DialTimeout, cfg.CommandTimeout = 10*time.Second, 30*time.Second
			client := NewClient(cfg)
			defer func() { _ = client.Close() }()
			if err := client.Do(t.Context(), tc.args...).Err(); Classify(err) != tc.want && !tc.callerOnly {
				t.Errorf("go-redis: %v is of class %q, want %q", err, Classify(err), tc.want)
			}
			caller := NewCaller(client, cfg)
			defer caller.Close()
			if value, err := caller.Do(t.Context(), tc.args); Classify(err) != tc.want {
				t.Errorf("Caller: %v, %v is of class %q, want %q", value, err, Classify(err), tc.want)
			}
		})
	}
}

// keepBusy lets the server run a script until it is killed, and waits until it says so.
func keepBusy(server *redistest.Server) {
	client := server.ClientWith(&redis.Options{MaxRetries: -1, ReadTimeout: -1})
	go client.Eval(context.Background(), "while true do end", nil)
	probe := server.ClientWith(&redis.Options{MaxRetries: -1})
	for Classify(probe.Ping(context.Background()).Err()) != Unavailable {
		time.Sleep(time.Millisecond)
	}
}
