package limit_test

import (
	"fmt"
	"math/rand/v2"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// overridden gives the policy shop/api with these keys of descriptors, and overrides that a number of requests tells
// apart: of the n-th in the order of the list, n+1.
func overridden(keys string, overrides ...[]string) policy.RateLimit {
	p := one("shop/api", fixedWindow(1000, time.Minute))
	for key := range strings.FieldsSeq(keys) {
		p.Descriptors = append(p.Descriptors, policy.Descriptor{Key: key})
	}
	for n, values := range overrides {
		p.Overrides = append(p.Overrides, policy.Override{Values: values, Limits: []policy.Limit{fixedWindow(int64(n+1), time.Minute)}})
	}
	policy.SortOverrides(p.Overrides)
	return p
}

func TestTheMostSpecificOverrideApplies(t *testing.T) {
	type subject struct {
		values string
		// want is which override of the list, from 1; 0 is none.
		want int64
	}
	tests := map[string]struct {
		policy   policy.RateLimit
		subjects []subject
	}{
		"exact, else a prefix, else none": {overridden("user", []string{"b*"}, []string{"bob"}, []string{"bo*"}), []subject{
			{"bob", 2}, {"bobby", 3}, {"bo", 3}, {"bill", 1}, {"b", 1}, {"alice", 0}, {"", 0}, {"Bob", 0},
		}},
		"a wildcard in the middle": {overridden("path", []string{"/v1/*/items"}, []string{"/v1/*"}, []string{"*.png"}, []string{"/v1/*/items/*"}), []subject{
			{"/v1/7/items", 1}, {"/v1//items", 1}, {"/v1/items", 2}, {"/v1/7/items/8", 4}, {"/v1/", 2}, {"/a.png", 3}, {"/v1/a.png", 2}, {"/v2/", 0},
		}},
		"all, by a wildcard": {overridden("user", []string{"*"}, []string{"x*"}), []subject{{"", 1}, {"a", 1}, {"x", 2}}},
		"the first of equals": {overridden("user", []string{"a*b"}, []string{"*ab"}, []string{"ab*"}), []subject{
			{"ab", 1}, {"aab", 1}, {"cab", 2}, {"abc", 3},
		}},
		"several descriptors: the first counts most": {overridden("user path", []string{"", "/v1"}, []string{"bob", ""}, []string{"b*", "/v1"}, []string{"bob", "/*"}, []string{"*", "/v2"}), []subject{
			{"bob /v1", 4}, {"bob x", 2}, {"bill /v1", 3}, {"alice /v1", 1}, {"alice /v2", 5}, {"bob /v2", 4}, {"alice x", 0},
		}},
		"of exact values in two places": {overridden("user path", []string{"bob", "/v1"}, []string{"alice", "/v1"}, []string{"bob", "/v2"}), []subject{
			{"bob /v1", 1}, {"alice /v1", 2}, {"bob /v2", 3}, {"alice /v2", 0},
		}},
		"no two tuples look alike": {overridden("a b", []string{"1:x", "y"}, []string{"1", ":x1:y"}, []string{"x1:y", ""}), []subject{
			{"1:x y", 1}, {"1 :x1:y", 2}, {"x1:y z", 3}, {"1: xy", 0},
		}},
		"what means something to Lua means nothing": {overridden("user", []string{"%d+"}, []string{"[a-z]*"}, []string{"^a$"}, []string{"]=]"}), []subject{
			{"1", 0}, {"%d+", 1}, {"b", 0}, {"[a-z]b", 2}, {"a", 0}, {"^a$", 3}, {"]=]", 4},
		}},
	}
	server := redistest.Start(t)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				w := startOn(t, server, mode, true, test.policy)
				for _, s := range test.subjects {
					values := strings.Split(s.values, " ")
					row, err := w.try("charge 1", values...)
					want := s.want
					if want == 0 {
						want = 1000
					}
					if err != nil || row.Limit != want {
						t.Errorf("%q: %+v, %v, want the limit %d", s.values, row, err, want)
					}
					// Which it is in the policy's order.
					if o := row.Override; o == 0 != (s.want == 0) || o > 0 && w.policies["shop/api"].Overrides[o-1].Limits[0].Requests != want {
						t.Errorf("%q: override %d", s.values, o)
					}
				}
			})
		})
	}
}

// The order is policy.SortOverrides', the matching that of a declared value; here both are done in Go.
func TestAnyOverridesAreChosenAsInGo(t *testing.T) {
	server := redistest.Start(t)
	pattern := func(r *rand.Rand) string {
		return []string{"", "a", "b", "ab", "a*", "*b", "*", "a*b", "*a*", "ab*", "a**", "ba"}[r.IntN(12)]
	}
	value := func(r *rand.Rand) string { return []string{"", "a", "b", "ab", "ba", "aab", "abb", "c"}[r.IntN(8)] }
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		r := rand.New(rand.NewPCG(1, 2))
		for range 30 {
			var overrides [][]string
			for range 1 + r.IntN(20) {
				values := []string{pattern(r), pattern(r), pattern(r)}
				if strings.Join(values, "") != "" {
					overrides = append(overrides, values)
				}
			}
			w := startOn(t, server, mode, true, overridden("x y z", overrides...))
			for range 20 {
				values := []string{value(r), value(r), value(r)}
				row, err := w.try("peek 0", values...)
				if err != nil {
					t.Fatal(err)
				}
				if want := firstMatch(t, w.policies["shop/api"], values); row.Override != want {
					t.Fatalf("%q of %q: override %d, want %d", values, overrides, row.Override, want)
				}
			}
		}
	})
}

func firstMatch(t *testing.T, p *policy.RateLimit, values []string) int {
	t.Helper()
	for n, o := range p.Overrides {
		fits := true
		for i, pattern := range o.Values {
			matched, err := path.Match(pattern, values[i])
			if err != nil {
				t.Fatal(err)
			}
			fits = fits && (pattern == "" || matched)
		}
		if fits {
			return n + 1
		}
	}
	return 0
}

func TestAHundredOverridesAreFound(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		var overrides [][]string
		for n := range policy.MaxOverrides {
			overrides = append(overrides, []string{fmt.Sprintf("user-%03d%s", n, strings.Repeat("*", n%2))})
		}
		w := start(t, mode, true, overridden("user", overrides...))
		for n := range policy.MaxOverrides {
			row, err := w.try("charge 1", fmt.Sprintf("user-%03d", n))
			if err != nil || row.Limit != int64(n+1) {
				t.Errorf("%d: %+v, %v", n, row, err)
			}
		}
		if row, err := w.try("charge 1", "user-100"); err != nil || row.Override != 0 {
			t.Errorf("none of them: %+v, %v", row, err)
		}
	})
}

func TestOverridesHaveLimitsOfTheirOwn(t *testing.T) {
	p := one("shop/api", fixedWindow(2, time.Minute), named("log", slidingLog(3, time.Hour)))
	p.Descriptors = []policy.Descriptor{{Key: "user"}}
	p.Overrides = []policy.Override{
		{Values: []string{"alice"}, Limits: []policy.Limit{named("other-log", slidingLog(1, time.Minute)), named("money", balance(5))}},
		{Values: []string{"root"}, Unlimited: true},
		{Values: []string{"bucket-*"}, Limits: []policy.Limit{tokenBucket(60, time.Minute, 1)}},
	}
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		w := start(t, mode, true, p)
		unlimited := "allow 9007199254740991/-1 reset 0s override 2"
		w.playOne(t, []act{
			{do: "charge 9007199254740991 #a", want: unlimited}, {do: "charge 1 #a", want: unlimited}, {do: "peek 1", want: unlimited},
			{do: "refund 1", want: unlimited}, {do: "refund 1 #a", want: unlimited}, {do: "credit 1", want: unlimited}, {do: "reset", want: unlimited},
		}, "root")
		root := w.charge("shop/api", 1, "root")
		root.ID = "b"
		for _, row := range w.decide(root, w.charge("shop/api", 3, "bob")) {
			if row.Allowed != (row.Override == 2) || row.New {
				t.Errorf("unlimited beside a denial: %+v", row)
			}
		}
		w.do("DEL", w.key("shop/api", "root")+"!reset") // which tells only when it was
		if dump := w.dump(); dump != "" {
			t.Errorf("wrote %s", dump)
		}
		w.playOne(t, []act{
			{do: "charge 1", want: "allow 0/1 reset 1m0s override 1"},
			{do: "charge 1", want: "deny 0/1 reset 1m0s retry 1m0s override 1"},
			{at: time.Minute, do: "charge 1", want: "allow 0/1 reset 1m0s override 1"},
			{at: time.Minute, do: "refund 1", want: "allow 1/1 reset 0s override 1"},
			{at: time.Minute, do: "credit 2", want: "allow 1/1 reset 0s override 1"},
		}, "alice")
		if n := w.do("EXISTS", redisops.LogKey(w.key("shop/api", "alice"), "log")); n != int64(0) {
			t.Error("the policy's log was written")
		}
		w.playOne(t, []act{
			{do: "charge 1", want: "allow 0/1 reset 1s override 3"}, {do: "charge 1", want: "deny 0/1 reset 1s retry 1s override 3"},
		}, "bucket-1")
		w.playOne(t, []act{
			{do: "charge 2", want: "allow 0/2 reset 1m0s"}, {do: "charge 1", want: "deny 0/2 reset 1m0s retry 1m0s"},
		}, "bob")
		// A direct caller may name the log of any override, and a reset removes them all.
		for _, log := range []string{"log", "other-log"} {
			key := w.key("shop/api", "bob")
			w.do("ZADD", redisops.LogKey(key, "other-log"), "1", "1")
			if _, err := w.raw("penstock_limit_peek", []string{key, redisops.LogKey(key, log)}, "shop/api", 1, "", "bob"); err != nil {
				t.Errorf("with the log %s: %v", log, err)
			}
		}
		w.act("reset", "bob")
		w.do("DEL", w.key("shop/api", "bob")+"!reset") // which tells only when it was
		if dump := w.dump(); strings.Contains(dump, w.key("shop/api", "bob")) {
			t.Errorf("left %s", dump)
		}
	})
}

// Whether an override is there or not, the key is the same: limits of one name and kind keep what was used.
func TestAnOverrideThatComesOrGoesKeepsWhatWasUsed(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		without := overridden("user")
		with := overridden("user", []string{"bob"}, []string{"b*"}, []string{"*"}, []string{"bo*"}, []string{"bob*"})
		w := start(t, mode, true, without)
		w.playOne(t, []act{
			{do: "charge 300", want: "allow 700/1000 reset 1m0s"},
			{change: with, do: "charge 1", want: "deny 0/1 reset 1m0s retry 1m0s override 1"},
			{change: without, do: "charge 100", want: "allow 600/1000 reset 1m0s"},
		}, "bob")
	})
}

// A shared wildcard's subject is the pattern itself, which it matches.
func TestASharedWildcardIsOneBudget(t *testing.T) {
	inBothModes(t, func(t *testing.T, mode library.Mode) {
		p := one("shop/api", fixedWindow(2, time.Minute))
		p.Descriptors = []policy.Descriptor{{Key: "path", Value: "/v1/*", Shared: true}, {Key: "user"}}
		p.Overrides = []policy.Override{{Values: []string{"", "root"}, Unlimited: true}}
		w := start(t, mode, true, p)
		w.playOne(t, []act{
			{do: "charge 1", want: "allow 1/2 reset 1m0s"}, {do: "charge 2", want: "deny 1/2 reset 1m0s retry 1m0s"},
		}, "/v1/*", "bob")
		w.playOne(t, []act{{do: "charge 5", want: "allow 9007199254740991/-1 reset 0s override 1"}}, "/v1/*", "root")
	})
}
