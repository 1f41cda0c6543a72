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
		// Of a command in a script, 7.0 and newer.
		"ERR The user executing the script can't run this command or subcommand script: x, on @user_script:1.":                 Configuration,
		"ERR The user executing the script can't access at least one of the keys mentioned in the command arguments script: x": Configuration,
		"ERR ACL failure in script: User app has no permissions to run the 'set' command script: x, on @user_script:1.":        Configuration,
		"NOPERM ACL failure in script: User app has no permissions to run the 'set' command script: x, on @user_script:1.":     Configuration,
		"ERR Unknown Redis command called from script script: x, on @user_script:1.":                                           Configuration,
		"ERR Unknown command called from script script: x":                                                                     Configuration,
		"READONLY You can't write against a read only replica. script: x, on @user_script:1.":                                  ReadOnly,
		"OOM allow-oom flag is not set on the script, can not run it when used memory > 'maxmemory'":                           OutOfMemory,
		"ERR Script attempted to access a non local key in a cluster node script: x, on @user_script:1.":                       NotExecuted,
		"ERR Script attempted to execute a write command while the cluster is down and readonly script: x, on @user_script:1.": NotExecuted,
		"ERR Script attempted to execute a command while the cluster is down script: x, on @user_script:1.":                    NotExecuted,
		"ERR Script attempted to access keys that do not hash to the same slot script: x":                                      Failed,
		"ERR This Redis command is not allowed from script script: x, on @user_script:1.":                                      Failed,
		"ERR Can not run script on cluster, 'no-cluster' flag is set.":                                                         Configuration,
		"ERR Can not execute a script with write flag using *_ro command.":                                                     Failed,
		"ERR SELECT is not allowed in cluster mode":                                                                            Configuration,
		"ERR invalid DB index":                                    Configuration,
		"ERR invalid password":                                    Configuration,
		"ERR This instance has cluster support disabled":          Configuration,
		"ERR max number of clients + cluster connections reached": NotExecuted,
		"NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used": Configuration,
		"BUSY Redis is busy running a script. You can only call FUNCTION KILL or SHUTDOWN NOSAVE.":                                             Unavailable,
		"BUSY Redis is busy running a module command.":                                                                                         Unavailable,
		"BUSYKEY Target key name already exists.":                                                                                              Failed,
		"MISCONF Errors writing to the AOF file: No space left on device":                                                                      Unavailable,
		"TRYAGAIN Multiple keys request during rehashing of slot script: x":                                                                    NotExecuted,
		"ERR No such master with that name":                                                                                                    Configuration,
		// Valkey.
		"LOADING Valkey is loading the dataset in memory":                                                   NotExecuted,
		"BUSY Valkey is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.":           Unavailable,
		"MISCONF Valkey is configured to save RDB snapshots, but it's currently unable to persist to disk.": Unavailable,
		"DENIED Valkey is running in protected mode because ...":                                            Configuration,
		"REDIRECT 127.0.0.1:6380": NotExecuted,
		// Before 7.0 a script's error is behind the server's text.
		"ERR Error running script (call to f_x): @user_script:1: -NOPERM this user has no permissions to run the 'set' command":          Configuration,
		"ERR Error running script (call to f_x): @user_script:1: The user executing the script can't run this command or subcommand":     Configuration,
		"ERR Error running script (call to f_x): @user_script:1: @user_script: 1: Unknown Redis command called from Lua script":          Configuration,
		"ERR Error running script (call to f_x): @user_script:1: -MISCONF Redis is configured to save RDB snapshots":                     Unavailable,
		"ERR Error running script (call to f_x): @user_script:1: -NOREPLICAS Not enough good replicas to write.":                         Unavailable,
		"ERR Error running script (call to f_x): @user_script:1: Lua script attempted execute a write command while the cluster is down": NotExecuted,
		"ERR Error running script (call to f_x): @user_script:1: -READONLY You can't write against a read only replica.":                 ReadOnly,
		"ERR Error running script (call to f_x): @user_script:1: -OOM command not allowed when used memory > 'maxmemory'.":               OutOfMemory,
		"ERR Error running script (call to f_x): @user_script:1: WRONGTYPE Operation against a key holding the wrong kind":               WrongType,
		"ERR Error running script (call to f_x): @user_script:1: Script attempted to access a non local key in a cluster node":           NotExecuted,
		"ERR Error running script (call to f_x): @user_script:1: user_script:1: attempt to index a nil value":                            Failed,
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

// A breaker opens by what tells that a server serves nobody, and by nothing else: errors that come at once, and those of the
// configuration, are to reach their callers.
func TestErrorsTellWhetherTheServerServes(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		want verdict
	}{
		"no error":              {nil, served},
		"empty reply":           {redis.Nil, served},
		"own refusal":           {replyError("PENSTOCK_NOPOLICY x"), served},
		"script error":          {replyError("ERR user_script:1: x"), served},
		"out of memory":         {replyError("OOM command not allowed"), served},
		"cannot persist":        {replyError("MISCONF Redis is configured to save"), served},
		"too few replicas":      {replyError("NOREPLICAS Not enough good replicas to write."), served},
		"wrong type":            {replyError("WRONGTYPE Operation against a key"), served},
		"no script":             {replyError("NOSCRIPT No matching script."), served},
		"no function":           {replyError("ERR Function not found"), served},
		"no password":           {replyError("NOAUTH Authentication required."), served},
		"no permission":         {replyError("NOPERM this user"), served},
		"refused credentials":   {fmt.Errorf("%w: %w", ErrNotExecuted, replyError("WRONGPASS x")), served},
		"certificate":           {fmt.Errorf("%w: %w: tls: x", ErrNotExecuted, ErrMisconfigured), served},
		"loading":               {replyError("LOADING Redis is loading"), unserved},
		"loading at handshake":  {fmt.Errorf("%w: %w", ErrNotExecuted, replyError("LOADING x")), unserved},
		"busy":                  {replyError("BUSY Redis is busy"), unserved},
		"read only":             {replyError("READONLY You can't write"), unserved},
		"read only in a script": {replyError("ERR Error running script (call to f_x): @user_script:1: -READONLY You can't"), unserved},
		"cluster down":          {replyError("CLUSTERDOWN The cluster is down"), unserved},
		"cluster down, script":  {replyError("ERR Script attempted to execute a command while the cluster is down script: x"), unserved},
		"primary down":          {replyError("MASTERDOWN Link with MASTER is down"), unserved},
		"too many clients":      {replyError("ERR max number of clients reached"), unserved},
		"slot of nobody":        {replyError("CLUSTERDOWN Hash slot not served"), unsaid},
		"moved":                 {replyError("MOVED 1 127.0.0.1:1"), unsaid},
		"ask":                   {replyError("ASK 1 127.0.0.1:1"), unsaid},
		"try again":             {replyError("TRYAGAIN Multiple keys request"), unsaid},
		"non local key":         {replyError("ERR Script attempted to access a non local key in a cluster node"), unsaid},
		"cancelled":             {errNoReplyCancel, unsaid},
		"overloaded":            {errOverloaded, unsaid},
		"closed":                {errClosed, unsaid},
		"client closed":         {fmt.Errorf("%w: %w", ErrNotExecuted, redis.ErrClosed), unsaid},
		"no free connection":    {fmt.Errorf("%w: %w", ErrNotExecuted, redis.ErrPoolTimeout), unsaid},
		"breaker":               {ErrBreakerOpen, unsaid},
		"breaker, loading":      {fmt.Errorf("%w: %w", ErrBreakerOpen, replyError("LOADING x")), unsaid},
		"breaker, credentials":  {fmt.Errorf("%w: %w", ErrBreakerOpen, replyError("WRONGPASS x")), unsaid},
		"left":                  {errLeft, unsaid},
		"refused":               {fmt.Errorf("%w: %w", ErrNotExecuted, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}), broken},
		"end of stream":         {fmt.Errorf("%w: %w", ErrUnknownOutcome, io.EOF), broken},
		"read timeout":          {fmt.Errorf("%w: %w", ErrUnknownOutcome, os.ErrDeadlineExceeded), broken},
	} {
		t.Run(name, func(t *testing.T) {
			if got := judge(tc.err); got != tc.want {
				t.Errorf("verdict %d, want %d", got, tc.want)
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
		"no permission in a script": {
			options: []string{"--user", "app", "on", ">pw", "~*", "+eval"},
			config:  Config{Username: "app", Password: "pw"}, args: []any{"EVAL", script, 1, "n", 1}, want: Configuration,
		},
		"no such command in a script": {args: []any{"EVAL", "return redis.call('PENSTOCK')", 0}, want: Configuration},
		"no such database":            {config: Config{DB: 99}, args: increment, want: Configuration},
		"no such command":             {args: []any{"PENSTOCK"}, want: Configuration},
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
			servers := openServers(t, cfg)
			if err := servers.Client().Do(t.Context(), tc.args...).Err(); Classify(err) != tc.want && !tc.callerOnly {
				t.Errorf("go-redis: %v is of class %q, want %q", err, Classify(err), tc.want)
			}
			caller := NewCaller(servers, CallerOptions{})
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
