package dev_test

import (
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/cli/dev"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/connect"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/redisops/redisopstest"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// often makes a session look as often as a test can wait for.
const often = 20 * time.Millisecond

func TestARedisThatLostThePoliciesGetsThemBack(t *testing.T) {
	for name, lose := range map[string]func(t *testing.T, server *redistest.Server){
		// In one step: between two, the session could restore what the second takes away again.
		"by FLUSHALL and FUNCTION FLUSH": func(t *testing.T, server *redistest.Server) {
			_, err := server.Client().TxPipelined(t.Context(), func(pipe redis.Pipeliner) error {
				pipe.FlushAll(t.Context())
				pipe.FunctionFlush(t.Context())
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		},
		"by FLUSHALL":       func(_ *testing.T, server *redistest.Server) { server.Do("FLUSHALL") },
		"by FUNCTION FLUSH": func(_ *testing.T, server *redistest.Server) { server.Do("FUNCTION", "FLUSH") },
		"by a restart": func(_ *testing.T, server *redistest.Server) {
			server.Kill()
			server.Run()
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			r := start(t, dev.Options{Redis: connect.Settings{URL: "redis://" + server.Addr}, Retry: often, Upkeep: often},
				map[string]string{"a.yaml": rateLimit("a", "requests: 1, window: 1h") + "  onStoreFailure: Deny\n"})
			r.wantStatus(t, "default/a", 200, 429)
			r.edit(t, "restored: Redis at "+server.Addr+" holds 1 policy again", func() { lose(t, server) })
			set, err := policystore.Read(t.Context(), server.Client())
			if err != nil || set.RateLimit("default/a") == nil {
				t.Errorf("Redis holds %v (%v), want default/a", set, err)
			}
			if _, found, err := library.Loaded(t.Context(), server.Client()); err != nil || !found {
				t.Errorf("the functions are loaded: %t (%v)", found, err)
			}
			if name == "by FUNCTION FLUSH" {
				r.wantStatus(t, "default/a", 429) // the counters were not lost
				return
			}
			// The first requests may still find Redis as it was when the connections broke.
			awaitStatus(t, r, "default/a", 200)
			r.wantStatus(t, "default/a", 429)
		})
	}
}

func TestAnEditWhileRedisIsAwayIsInForceOnceItIsBack(t *testing.T) {
	server := redistest.Start(t)
	r := start(t, dev.Options{Redis: connect.Settings{URL: "redis://" + server.Addr}, Retry: often},
		map[string]string{"a.yaml": rateLimit("a", "requests: 1, window: 1h")})
	server.Kill()
	said := r.edit(t, "not published, tried again every 20ms:\n  Redis at "+server.Addr+": ",
		func() { r.write(t, "a.yaml", rateLimit("a", "requests: 3, window: 1h")) })
	if strings.Contains(said, "reloaded") {
		t.Errorf("said %q", said)
	}
	said = r.edit(t, "~ default/a  3/1h", server.Run)
	if strings.Contains(said, "not published") {
		t.Errorf("what went wrong is said twice: %q", said)
	}
	set, err := policystore.Read(t.Context(), server.Client())
	if err != nil || set.RateLimit("default/a").Limits[0].Requests != 3 {
		t.Errorf("Redis holds %v (%v), want 3 requests", set, err)
	}
}

// A mistake in a file must not keep Redis from getting the last good policies back.
func TestTheLastGoodPoliciesAreRestoredBesideAMistake(t *testing.T) {
	server := redistest.Start(t)
	r := start(t, dev.Options{Redis: connect.Settings{URL: "redis://" + server.Addr}, Retry: often, Upkeep: often},
		map[string]string{"a.yaml": rateLimit("a", "requests: 1, window: 1h")})
	r.edit(t, "not reloaded", func() { r.write(t, "a.yaml", "kind: [") })
	r.edit(t, "restored: ", func() { server.Do("FLUSHALL") })
	r.wantStatus(t, "default/a", 200, 429)
	r.edit(t, "reloaded: 1 policy", func() { r.write(t, "a.yaml", rateLimit("a", "requests: 1, window: 1h")) })
}

func TestAnotherSessionOnTheSameRedisIsNoticed(t *testing.T) {
	server := redistest.Start(t)
	first := start(t, dev.Options{Redis: connect.Settings{URL: "redis://" + server.Addr}, Upkeep: often}, map[string]string{"a.yaml": rateLimit("a", "requests: 1, window: 1h")})
	first.edit(t, "had other policies than the files; does another penstock dev publish there?", func() {
		// An owner that publishes once: two sessions would replace each other's for ever.
		other := policystore.Publication{Owner: server.Client().Get(t.Context(), policystore.OwnerKey).Val(), Set: policy.NewSet(nil), Mode: library.ModeFunctions}
		if _, err := policystore.Publish(t.Context(), redisopstest.At(t, server.Addr), other); err != nil {
			t.Fatal(err)
		}
	})
	set, err := policystore.Read(t.Context(), server.Client())
	if err != nil || set.RateLimit("default/a") == nil {
		t.Errorf("Redis holds %v (%v), want default/a", set, err)
	}
}

func TestARedisThatIsTakenByAnOperatorIsLeftToIt(t *testing.T) {
	server := redistest.Start(t)
	r := start(t, dev.Options{Redis: connect.Settings{URL: "redis://" + server.Addr}, Retry: often, Upkeep: often},
		map[string]string{"a.yaml": rateLimit("a", "requests: 1, window: 1h")})
	r.edit(t, `belongs to "3f0c/shop/default", and penstock dev takes nothing over`, func() {
		server.Do("SET", policystore.OwnerKey, "3f0c/shop/default")
	})
	r.edit(t, "restored: ", func() { server.Do("DEL", policystore.OwnerKey) })
}
