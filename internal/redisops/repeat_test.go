package redisops

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// scripted is a server that answers each INCR with the next of its replies, and the last one again when they run out:
// some states of a real server cannot be had for exactly one command.
type scripted struct {
	addr    string
	mu      sync.Mutex
	replies []string
	asked   int
}

func startScripted(t *testing.T, replies ...string) *scripted {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &scripted{addr: listener.Addr().String(), replies: replies}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = connection.Close() })
			go s.serve(connection)
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		serving.Wait()
	})
	return s
}

func (s *scripted) serve(connection net.Conn) {
	reader := bufio.NewReader(connection)
	for {
		var count int
		if _, err := fmt.Fscanf(reader, "*%d\r\n", &count); err != nil {
			return
		}
		var words []string
		for range count {
			var size int
			if _, err := fmt.Fscanf(reader, "$%d\r\n", &size); err != nil {
				return
			}
			word := make([]byte, size+2)
			if _, err := io.ReadFull(reader, word); err != nil {
				return
			}
			words = append(words, string(word[:size]))
		}
		reply := "-ERR unknown command\r\n"
		switch strings.ToUpper(words[0]) {
		case "PING":
			reply = "+PONG\r\n"
		case "INCR":
			reply = s.next() + "\r\n"
		}
		if _, err := io.WriteString(connection, reply); err != nil {
			return
		}
	}
}

func (s *scripted) next() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	return s.replies[min(s.asked, len(s.replies))-1]
}

func (s *scripted) times() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func TestOnlyWhatCertainlyDidNotRunIsRepeated(t *testing.T) {
	for name, tc := range map[string]struct {
		replies   []string
		wantTimes int
		want      Class
	}{
		"answered":                   {[]string{":1"}, 1, None},
		"loading, then answered":     {[]string{"-LOADING x", ":1"}, 2, None},
		"try again, then answered":   {[]string{"-TRYAGAIN x", ":1"}, 2, None},
		"moved, then answered":       {[]string{"-MOVED 1 127.0.0.1:1", ":1"}, 2, None},
		"ask, then answered":         {[]string{"-ASK 1 127.0.0.1:1", ":1"}, 2, None},
		"cluster down, then back":    {[]string{"-CLUSTERDOWN x", ":1"}, 2, None},
		"master down, then back":     {[]string{"-MASTERDOWN x", ":1"}, 2, None},
		"read only twice, then not":  {[]string{"-READONLY x", "-READONLY x", ":1"}, 3, None},
		"non local key, then not":    {[]string{"-ERR Script attempted to access a non local key in a cluster node", ":1"}, 2, None},
		"loading for long":           {[]string{"-LOADING x"}, 3, NotExecuted},
		"read only for good":         {[]string{"-READONLY x"}, 3, ReadOnly},
		"repeated, then other error": {[]string{"-LOADING x", "-WRONGTYPE x"}, 2, WrongType},
		"busy":                       {[]string{"-BUSY x"}, 1, Unavailable},
		"no script":                  {[]string{"-NOSCRIPT x"}, 1, NoScript},
		"no function":                {[]string{"-ERR Function not found"}, 1, NoFunction},
		"no permission":              {[]string{"-NOPERM x"}, 1, Configuration},
		"out of memory":              {[]string{"-OOM x"}, 1, OutOfMemory},
		"own refusal":                {[]string{"-PENSTOCK_NOPOLICY x"}, 1, Policy},
		"error of a script":          {[]string{"-ERR user_script:1: x"}, 1, Failed},
		"no RESP at all":             {[]string{"HTTP/1.1 400 Bad Request"}, 1, UnknownOutcome},
		"half a reply, then nothing": {[]string{"*2\r\n:1"}, 1, UnknownOutcome},
	} {
		t.Run(name, func(t *testing.T) {
			server := startScripted(t, tc.replies...)
			cfg := Config{}
			if tc.want == UnknownOutcome {
				cfg.DialTimeout = 200 * time.Millisecond // for the reply that never ends
			}
			caller := open(t, cfg, server.addr, defaultBounds)
			value, err := caller.Do(t.Context(), []any{"INCR", "n"})
			if Classify(err) != tc.want {
				t.Errorf("Do = %v, %v of class %q; want %q", value, err, Classify(err), tc.want)
			}
			if got := server.times(); got != tc.wantTimes {
				t.Errorf("sent %d times, want %d", got, tc.wantTimes)
			}
		})
	}
}
