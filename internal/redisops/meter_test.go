package redisops

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

func TestReplyMeterRefusesWhatIsClaimedBeforeItComes(t *testing.T) {
	const limit = 1000
	for name, tc := range map[string]struct {
		reply       string
		wantRefused bool
		wantOpen    int // arrays whose end has not come
	}{
		"a row":                     {reply: "*8\r\n:1\r\n:100\r\n:99\r\n:60000\r\n:0\r\n$7\r\ndefault\r\n$2\r\nok\r\n$0\r\n\r\n"},
		"two rows, one unfinished":  {reply: "*2\r\n*1\r\n:1\r\n*3\r\n:1\r\n:2\r\n", wantOpen: 2},
		"nulls":                     {reply: "*3\r\n$-1\r\n*-1\r\n_\r\n"},
		"empty array in an array":   {reply: "*1\r\n*0\r\n"},
		"a string with lines":       {reply: "*1\r\n$14\r\n*9999999999\r\n:\r\n"},
		"a map and attributes":      {reply: "|1\r\n+a\r\n+b\r\n%1\r\n+k\r\n*1\r\n:1\r\n"},
		"an error":                  {reply: "-ERR no such thing\r\n"},
		"no RESP":                   {reply: "HTTP/1.1 400 Bad Request\r\n\r\n", wantRefused: true},
		"no RESP behind RESP":       {reply: "+OK\r\nwhat\r\n", wantRefused: true},
		"a push between replies":    {reply: "+OK\r\n>3\r\n$7\r\nmessage\r\n+c\r\n+x\r\n:1\r\n"},
		"as long as may be":         {reply: "$994\r\n" + strings.Repeat("x", 994) + "\r\n"},
		"a longer string":           {reply: "$995\r\n", wantRefused: true},
		"a string of 2 GB":          {reply: "$2000000000\r\n", wantRefused: true},
		"a string of 2^63-2":        {reply: "$9223372036854775806\r\n", wantRefused: true},
		"a size out of range":       {reply: "$92233720368547758060\r\n", wantRefused: true},
		"an endless size":           {reply: "$" + strings.Repeat("0", 100) + "5\r\n", wantRefused: true},
		"a negative size":           {reply: "$-2\r\n", wantRefused: true},
		"no size":                   {reply: "*\r\n", wantRefused: true},
		"an array of 10^18":         {reply: "*1000000000000000000\r\n", wantRefused: true},
		"an array of 100":           {reply: "*100\r\n", wantRefused: true},
		"a map of 50":               {reply: "%50\r\n", wantRefused: true},
		"many arrays in an array":   {reply: "*10\r\n" + strings.Repeat("*10\r\n", 10), wantRefused: true},
		"arrays deep in each other": {reply: strings.Repeat("*1\r\n", maxReplyDepth+1), wantRefused: true},
		"a line that does not end":  {reply: "+" + strings.Repeat("x", limit), wantRefused: true},
		"many short replies":        {reply: strings.Repeat(":1\r\n", limit), wantRefused: true},
	} {
		for _, step := range []int{1, 7, len(tc.reply)} {
			m := newReplyMeter(limit)
			var err error
			for rest := tc.reply; rest != "" && err == nil; {
				n := min(step, len(rest))
				err = m.read([]byte(rest[:n]))
				rest = rest[n:]
			}
			if refused := errors.Is(err, ErrReplyRefused); refused != tc.wantRefused || !refused && (err != nil || len(m.open) != tc.wantOpen) {
				t.Errorf("%s in pieces of %d: %v with %d arrays open, want refused %v, %d open", name, step, err, len(m.open), tc.wantRefused, tc.wantOpen)
			}
		}
	}
}

// What answers need not be a Redis, and must not take the memory of the process.
func TestHostileServerCostsAnErrorAndNoMemory(t *testing.T) {
	for name, tc := range map[string]struct{ answer, stream string }{
		"a string of 2 GB":  {"$2000000000\r\n", "x"},
		"a string of 1 TB":  {"$1000000000000\r\n", "x"},
		"the largest size":  {"$9223372036854775806\r\n", "x"},
		"an array of 10^12": {"*1000000000000\r\n", ":1\r\n"},
		"arrays for ever":   {"", "*1\r\n"},
		"a line for ever":   {"+", "x"},
	} {
		t.Run(name, func(t *testing.T) {
			addr := startHostile(t, tc.answer, strings.Repeat(tc.stream, 1<<10))
			cfg := Config{Addresses: []string{addr}, MaxReplyBytes: 1 << 20}
			caller := open(t, cfg, addr, bounds{base: 1, most: 1, queued: 10})
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if value, err := caller.Do(t.Context(), []any{"INCR", "n"}); !errors.Is(err, ErrReplyRefused) {
				t.Errorf("Do = %v, %v; want %v", value, err, ErrReplyRefused)
			}
			if err := openServers(t, cfg).Client().Get(t.Context(), "n").Err(); !errors.Is(err, ErrReplyRefused) {
				t.Errorf("Get: %v, want %v", err, ErrReplyRefused)
			}
			runtime.ReadMemStats(&after)
			if got := after.TotalAlloc - before.TotalAlloc; got > 32<<20 {
				t.Errorf("%d bytes were allocated for replies of which 1 MiB may come", got)
			}
		})
	}
}

// startHostile starts a server that serves a handshake, and answers a command with the stream behind the answer, for ever.
func startHostile(t *testing.T, answer, stream string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	serve := func(connection net.Conn) {
		defer func() { _ = connection.Close() }()
		_ = connection.SetDeadline(time.Now().Add(patience))
		for lines := bufio.NewScanner(connection); lines.Scan(); {
			reply := ""
			switch strings.ToUpper(lines.Text()) {
			case "HELLO":
				reply = "-ERR unknown command\r\n"
			case "PING":
				reply = "+PONG\r\n"
			case "INCR", "GET":
				_, err := io.WriteString(connection, answer)
				for err == nil {
					_, err = io.WriteString(connection, stream)
				}
				return
			}
			if _, err := io.WriteString(connection, reply); err != nil {
				return
			}
		}
	}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go serve(connection)
		}
	}()
	return listener.Addr().String()
}

// panicking lets pipelines panic, as go-redis does with some replies.
type panicking struct{}

func (panicking) DialHook(next redis.DialHook) redis.DialHook { return next }

func (panicking) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (panicking) ProcessPipelineHook(redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(context.Context, []redis.Cmder) error { panic("out of range") }
}

func TestPanicCostsTheBatchAndNotTheProcess(t *testing.T) {
	caller := open(t, Config{}, redistest.Start(t).Addr, bounds{base: 1, most: 1, queued: 10})
	caller.only.client.AddHook(panicking{})
	for range 3 {
		if _, err := caller.Do(t.Context(), []any{"PING"}); err == nil || !strings.Contains(err.Error(), "panic in go-redis: out of range") {
			t.Errorf("error %v, want the panic told", err)
		}
	}
}
