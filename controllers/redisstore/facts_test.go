package redisstore

import (
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
)

func TestServersAreTold(t *testing.T) {
	for name, tt := range map[string]struct {
		info string
		want sighting
	}{
		"redis": {"# Server\r\nredis_version:7.0.15\r\nmaster_replid:abc\r\nmaxmemory_policy:noeviction\r\naof_enabled:0\r\n",
			sighting{engine: "redis", version: "7.0.15", identity: "abc", maxmemoryPolicy: "noeviction", persisted: "None"}},
		"valkey": {"redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.0\r\naof_enabled:1\r\n",
			sighting{engine: "valkey", version: "8.1.0", persisted: "AOF"}},
		"something that tells nothing": {"hello\r\n", sighting{engine: "redis"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got sighting
			got.describe(redisops.ParseInfo(tt.info))
			if got != tt.want {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestSeveralPrimariesAreAsGoodAsTheWorst(t *testing.T) {
	all := library.Capabilities{Functions: true, ScriptFlags: true}
	good := sighting{library: all, tracking: true, engine: "redis", version: "7.10.0", identity: "a", maxmemoryPolicy: "noeviction", persisted: "RDB+AOF"}
	with := func(change func(*sighting)) sighting {
		s := good
		change(&s)
		return s
	}
	for name, tt := range map[string]struct {
		other sighting
		check func(Facts) any
		want  any
	}{
		"version by numbers":           {with(func(s *sighting) { s.version = "7.9.1" }), func(f Facts) any { return f.Version }, "7.9.1"},
		"version, a part of the other": {with(func(s *sighting) { s.version = "7.10" }), func(f Facts) any { return f.Version }, "7.10"},
		"version that is not told":     {with(func(s *sighting) { s.version = "" }), func(f Facts) any { return f.Version }, "7.10.0"},
		"engine of the oldest":         {with(func(s *sighting) { s.engine, s.version = "valkey", "7.2.0" }), func(f Facts) any { return f.Engine }, "valkey"},
		"eviction of some":             {with(func(s *sighting) { s.maxmemoryPolicy = "volatile-lru" }), func(f Facts) any { return f.MaxmemoryPolicy }, "volatile-lru"},
		"eviction not told":            {with(func(s *sighting) { s.maxmemoryPolicy = "" }), func(f Facts) any { return f.MaxmemoryPolicy }, ""},
		"less persistence":             {with(func(s *sighting) { s.persisted = "RDB" }), func(f Facts) any { return f.Persistence }, "RDB"},
		"persistence not told":         {with(func(s *sighting) { s.persisted = "" }), func(f Facts) any { return f.Persistence }, ""},
		"no persistence":               {with(func(s *sighting) { s.persisted = "None" }), func(f Facts) any { return f.Persistence }, "None"},
		"no functions":                 {with(func(s *sighting) { s.library.Functions = false }), func(f Facts) any { return f.Mode }, library.ModeScripts},
		"no pushes": {with(func(s *sighting) { s.tracking = false }), func(f Facts) any { return f.Capabilities },
			[]string{"functions", "script-flags"}},
		"all":                  {good, func(f Facts) any { return f.Capabilities }, []string{"functions", "script-flags", "tracking"}},
		"an identity not told": {with(func(s *sighting) { s.identity = "" }), func(f Facts) any { return f.Identity }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, order := range [][]sighting{{good, tt.other}, {tt.other, good}} {
				if got := tt.check(merge(order)); !reflect.DeepEqual(got, tt.want) {
					t.Errorf("got %v, want %v", got, tt.want)
				}
			}
		})
	}
}

func TestIdentityOfSeveralPrimariesChangesWithEachOfThem(t *testing.T) {
	of := func(identities ...string) string {
		var seen []sighting
		for _, id := range identities {
			seen = append(seen, sighting{identity: id})
		}
		return merge(seen).Identity
	}
	if of("a", "b") != of("b", "a") {
		t.Error("the order counts")
	}
	all := []string{of("a"), of("a", "b"), of("a", "c"), of("a", "b", "c")}
	slices.Sort(all)
	if len(slices.Compact(all)) != 4 || all[0] == "" {
		t.Errorf("got %q", all)
	}
}

func TestLostPrimariesAreNamed(t *testing.T) {
	err := errors.New("no answer")
	facts := Facts{Primaries: make([]Primary, 1), Unreached: []Unreached{{"b:1", err}, {"a:1", err}}}
	if got, want := facts.lost().Error(), "a:1, b:1 (2 of 3 primaries): no answer"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if facts.Unreached = nil; facts.lost() != nil {
		t.Errorf("got %v", facts.lost())
	}
}
