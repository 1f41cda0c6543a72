package redistest_test

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

func TestToxiproxyDelaysReplies(t *testing.T) {
	toxic := redistest.StartToxiproxy(t, redistest.Start(t).Addr)
	client := plain(t, toxic.Addr)
	for _, delay := range []time.Duration{50 * time.Millisecond, 100 * time.Millisecond} {
		toxic.Latency(delay, 0)
		start := time.Now()
		if err := client.Ping(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < delay {
			t.Errorf("a reply came after %v, want at least %v", took, delay)
		}
	}
	toxic.Heal()
	if err := client.Ping(t.Context()).Err(); err != nil {
		t.Error(err)
	}
}

func TestABlackHoleHoldsRequestsAndReplies(t *testing.T) {
	server := redistest.Start(t)
	toxic := redistest.StartToxiproxy(t, server.Addr)
	client := plain(t, toxic.Addr)
	if err := client.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	toxic.BlackHole()
	for name, client := range map[string]*redis.Client{"an open connection": client, "a new one": plain(t, toxic.Addr)} {
		err := client.WithTimeout(100*time.Millisecond).Incr(t.Context(), "n").Err()
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s through a black hole: %v", name, err)
		}
	}
	toxic.Heal()
	if got := server.Do("EXISTS", "n"); got != int64(0) {
		t.Error("a request came through")
	}
	if err := plain(t, toxic.Addr).Ping(t.Context()).Err(); err != nil {
		t.Errorf("after it: %v", err)
	}
}

func TestToxiproxyGoesDownAndComesUp(t *testing.T) {
	toxic := redistest.StartToxiproxy(t, redistest.Start(t).Addr)
	client := plain(t, toxic.Addr)
	if err := client.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	toxic.Down()
	if _, err := net.Dial("tcp", toxic.Addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("while down: %v", err)
	}
	toxic.Up()
	if err := plain(t, toxic.Addr).Ping(t.Context()).Err(); err != nil {
		t.Errorf("while up: %v", err)
	}
}

func TestToxiproxyResetsConnections(t *testing.T) {
	toxic := redistest.StartToxiproxy(t, redistest.Start(t).Addr)
	client := plain(t, toxic.Addr)
	if err := client.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	toxic.ResetPeer()
	if err := client.Ping(t.Context()).Err(); err == nil {
		t.Error("a connection that was open answers")
	}
	if err := plain(t, toxic.Addr).Ping(t.Context()).Err(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a new connection: %v", err)
	}
	toxic.Heal()
	if err := plain(t, toxic.Addr).Ping(t.Context()).Err(); err != nil {
		t.Errorf("after it: %v", err)
	}
}

func TestToxiproxyCutsRepliesToPieces(t *testing.T) {
	server := redistest.Start(t)
	value := strings.Repeat("v", 20000)
	server.Do("SET", "k", value)
	toxic := redistest.StartToxiproxy(t, server.Addr)

	toxic.Slice(1000, time.Millisecond)
	start := time.Now()
	if got := plain(t, toxic.Addr).Get(t.Context(), "k").Val(); got != value {
		t.Errorf("%d bytes in pieces, want %d", len(got), len(value))
	}
	if took := time.Since(start); took < 15*time.Millisecond {
		t.Errorf("20 pieces with pauses took %v", took)
	}
	toxic.Heal()

	toxic.Bandwidth(100)
	start = time.Now()
	if got := plain(t, toxic.Addr).Get(t.Context(), "k").Val(); got != value {
		t.Errorf("%d bytes slowly, want %d", len(got), len(value))
	}
	if took := time.Since(start); took < 150*time.Millisecond {
		t.Errorf("20 KB at 100 KB/s took %v", took)
	}
	toxic.Heal()

	toxic.LimitData(1000)
	err := plain(t, toxic.Addr).Get(t.Context(), "k").Err()
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a reply cut short: %v", err)
	}
}
