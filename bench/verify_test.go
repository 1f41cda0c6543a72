package main

import (
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/bench/internal/process"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

func TestVerificationFindsServersThatDoNotCount(t *testing.T) {
	for name, test := range map[string]struct {
		counted func() func(key, value string) bool
		want    []string
	}{
		"an honest server": {want: nil},
		"a server that decides by the first answer": {
			counted: func() func(key, value string) bool {
				seen := map[string]bool{}
				return func(key, value string) bool {
					first := !seen[key+value]
					seen[key+value] = true
					return first
				}
			},
			want: []string{"of 112 probes 112 were allowed", "its counters hold 20"},
		},
		"a server that loses one count": {
			counted: func() func(key, value string) bool {
				n := 0
				return func(string, string) bool { n++; return n != 30 }
			},
			want: []string{"its counters hold"},
		},
		"a server that does not count the probes": {
			counted: func() func(key, value string) bool {
				return func(key, _ string) bool { return key != probeKey }
			},
			want: []string{"of 112 probes 112 were allowed"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := &fakeServer{}
			if test.counted != nil {
				server.counted = test.counted()
			}
			fake := server.serve(t)
			requests := subjects(20)
			if _, err := fake.sweep(t.Context(), 8, requests); err != nil {
				t.Fatal(err)
			}
			m, err := load{callers: 8, requests: requests}.run(t.Context(), fake.clients, 0, 50*time.Millisecond, nothing, nothing)
			if err != nil {
				t.Fatal(err)
			}
			fake.sent.add(m.all)

			r := &runner{load: load{callers: 8, requests: requests}, progress: io.Discard}
			v := &verification{KeysAdded: 20}
			if err := r.verify(t.Context(), fake, v); err != nil {
				t.Fatal(err)
			}
			if len(v.Problems) != len(test.want) {
				t.Fatalf("found %q, want %q", v.Problems, test.want)
			}
			for i := range test.want {
				if !strings.HasPrefix(v.Problems[i], test.want[i]) {
					t.Errorf("found %q, want %q", v.Problems[i], test.want[i])
				}
			}
		})
	}
}

func TestFillCountsTheKeysThatAServerAdds(t *testing.T) {
	server := redistest.Start(t)
	r := &runner{redis: &process.Redis{Client: server.Client()}, load: load{callers: 4, requests: subjects(5)}, progress: io.Discard}
	fake := &fakeServer{counted: func(_, value string) bool {
		server.Do("INCR", value)
		return true
	}}
	v, err := r.fill(t.Context(), fake.serve(t))
	if err != nil {
		t.Fatal(err)
	}
	if v.KeysAdded != 5 {
		t.Errorf("got %d keys, want 5", v.KeysAdded)
	}

	inMemory := &fakeServer{}
	v, err = r.fill(t.Context(), inMemory.serve(t))
	if err != nil {
		t.Fatal(err)
	}
	v.judge(5)
	if v.KeysAdded != 0 || !slices.Contains(v.Problems, "it added 0 keys to Redis for 5 subjects") {
		t.Errorf("a server that keeps its counts to itself got %+v", v)
	}
}

func TestSweepAsksAgainWhatWasDeniedAndAccountsForIt(t *testing.T) {
	server := &fakeServer{denying: 3}
	fake := server.serve(t)
	counted, err := fake.sweep(t.Context(), 2, subjects(4))
	if err != nil {
		t.Fatal(err)
	}
	if want := (answers{ok: 4, overLimit: 3}); counted != 4 || fake.sent != want {
		t.Errorf("counted %d, sent %+v; want 4, %+v", counted, fake.sent, want)
	}
}

func TestSweepGivesUpOnAServerThatOnlyDenies(t *testing.T) {
	server := &fakeServer{denying: 1000}
	_, err := server.serve(t).sweep(t.Context(), 1, subjects(1))
	if err == nil || !strings.Contains(err.Error(), "was not allowed in 20 attempts") || !strings.Contains(err.Error(), "OVER_LIMIT") {
		t.Errorf("got %v, want how often it was asked, and the last answer", err)
	}
}
