package redisops

import (
	"net"
	"testing"
)

// However the bytes of a reply are cut on their way, they are refused or taken alike, and never for more than the bound.
func FuzzReplyMeter(f *testing.F) {
	for _, seed := range []string{
		"*8\r\n:1\r\n:100\r\n:99\r\n:60000\r\n:0\r\n$7\r\ndefault\r\n$2\r\nok\r\n$0\r\n\r\n", "*2\r\n*1\r\n:1\r\n*3\r\n:1\r\n:2\r\n",
		"*3\r\n$-1\r\n*-1\r\n_\r\n", "|1\r\n+a\r\n+b\r\n%1\r\n+k\r\n*1\r\n:1\r\n", "-ERR no such thing\r\n", "$9223372036854775806\r\n",
		"*1000000000000000000\r\n", "%4611686018427387904\r\n", "$-2\r\n", "*\r\n", "\n", ">2\r\n+message\r\n$1\r\nx\r\n", "",
	} {
		f.Add([]byte(seed), 3)
	}
	f.Fuzz(func(t *testing.T, reply []byte, at int) {
		const limit = 4096
		if at < 0 || at > len(reply) {
			at = len(reply)
		}
		whole, parts := newReplyMeter(limit), newReplyMeter(limit)
		err := whole.read(reply)
		partly := parts.read(reply[:at])
		if partly == nil {
			partly = parts.read(reply[at:])
		}
		if (err == nil) != (partly == nil) {
			t.Fatalf("at once %v, in two parts %v", err, partly)
		}
		if err != nil {
			return
		}
		if len(reply) > limit {
			t.Fatalf("%d bytes were taken, want at most %d", len(reply), limit)
		}
		if left := whole.left.Load(); left < 0 || left != parts.left.Load() || whole.skip != parts.skip || len(whole.open) != len(parts.open) {
			t.Fatalf("at once %d are left, %d to skip in %d arrays; in two parts %d, %d in %d",
				left, whole.skip, len(whole.open), parts.left.Load(), parts.skip, len(parts.open))
		}
	})
}

func FuzzParseURL(f *testing.F) {
	for _, seed := range []string{
		"redis://localhost", "redis://user:secret@[::1]:6380/15", "redis://:se%63ret@redis.example", "rediss://localhost",
		"redis://localhost:0", "redis://localhost:65536", "redis://localhost/-1", "redis://localhost?db=1", "redis://", "", "redis://%zz",
		"redis://user:secret@a:1,[::1]:2,c/3", "redis://a,,b", "redis://a@b@c:1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		cfg, err := ParseURL(text)
		if err != nil {
			return
		}
		for _, address := range cfg.Addresses {
			if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" || cfg.DB < 0 {
				t.Fatalf("%q became the addresses %q and the database %d: %v", text, cfg.Addresses, cfg.DB, err)
			}
		}
	})
}
