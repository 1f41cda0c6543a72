package library_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/redisopstest"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

func TestALibraryTellsWhichTextItIs(t *testing.T) {
	ctx := context.Background()
	client := redistest.Start(t).Client()
	if told, err := library.Told(ctx, client); err != nil || told != "" {
		t.Errorf("no library: got %q, %v", told, err)
	}
	one, two := render(t, setOf(1, 1)), render(t, setOf(2, 1))
	for _, text := range []string{one, two} {
		if err := library.Load(ctx, client, text, true); err != nil {
			t.Fatal(err)
		}
		if told, err := library.Told(ctx, client); err != nil || told == "" || told != library.TextTells(text) {
			t.Errorf("got %q, %v, want %q", told, err, library.TextTells(text))
		}
	}
	if library.TextTells(one) == library.TextTells(two) {
		t.Error("two texts tell the same")
	}
	if err := library.Load(ctx, client, "#!lua name=penstock\nredis.register_function('penstock_limit', function() return 1 end)", true); err != nil {
		t.Fatal(err)
	}
	if told, err := library.Told(ctx, client); err != nil || told != "" {
		t.Errorf("another library: got %q, %v", told, err)
	}
	for name, text := range map[string]string{
		"empty": "", "another": "#!lua name=penstock\n", "cut": one[:len(one)-1], "longer": one + "\n",
		"changed": strings.Replace(one, "shop/p", "shop/q", 1),
	} {
		if told := library.TextTells(text); told != "" {
			t.Errorf("%s: tells %q", name, told)
		}
	}
}

func TestToldOfAServerThatDoesNotAnswerIsAnError(t *testing.T) {
	server := redistest.Start(t)
	client := server.ClientWith(&redis.Options{MaxRetries: -1, DialerRetries: 1})
	server.Do("ACL", "SETUSER", "default", "-fcall_ro")
	if told, err := library.Told(context.Background(), client); redisops.Classify(err) != redisops.Configuration {
		t.Errorf("not permitted: got %q, %v", told, err)
	}
	server.Kill()
	if told, err := library.Told(context.Background(), client); err == nil {
		t.Errorf("gone: got %q and no error", told)
	}
}

func TestThePublishedLibraryIsLoadedWhereItIsMissing(t *testing.T) {
	ctx := context.Background()
	documents, server := redistest.Start(t).Client(), redistest.Start(t).Client()
	if err := library.LoadPublished(ctx, documents, server); !errors.Is(err, library.ErrNoDocument) {
		t.Errorf("nothing published: %v", err)
	}
	for _, text := range []string{render(t, setOf(1, 1)), render(t, setOf(2, 1))} {
		if err := documents.Set(ctx, library.DocumentKey, library.NewDocument(text).Marshal(), 0).Err(); err != nil {
			t.Fatal(err)
		}
		if err := library.LoadPublished(ctx, documents, server); err != nil {
			t.Fatal(err)
		}
	}
	// A library that is there is never replaced.
	if told, err := library.Told(ctx, server); err != nil || told != library.TextTells(render(t, setOf(1, 1))) {
		t.Errorf("the server has %q, %v", told, err)
	}
	if _, found, err := library.Loaded(ctx, documents); err != nil || found {
		t.Errorf("a library where the documents are: %v, %v", found, err)
	}
}

func TestAllPrimariesAreProbed(t *testing.T) {
	ctx := context.Background()
	both := library.Capabilities{Functions: true, ScriptFlags: true}
	open := func(nodes ...*redistest.Server) *redisops.Servers {
		cfg := redisops.Config{Topology: policy.TopologyIndependent}
		for _, node := range nodes {
			cfg.Addresses = append(cfg.Addresses, node.Addr)
		}
		return redisopstest.Open(t, cfg)
	}
	full, other := redistest.Start(t), redistest.Start(t)
	noFunctions := redistest.Start(t, "--rename-command", "FCALL_RO", "")
	refusing := redistest.Start(t)
	refusing.Do("ACL", "SETUSER", "default", "-fcall_ro")
	down := redistest.Start(t)
	down.Kill()
	withoutSlots := redisopstest.Open(t, redisops.Config{
		Topology: policy.TopologyCluster, Addresses: []string{redistest.Start(t, "--cluster-enabled", "yes").Addr},
	})
	for name, tc := range map[string]struct {
		servers *redisops.Servers
		want    library.Capabilities
		wantErr redisops.Class
	}{
		"all the same":        {open(full, other), both, redisops.None},
		"one without":         {open(full, noFunctions), library.Capabilities{ScriptFlags: true}, redisops.None},
		"one away":            {open(full, down), both, redisops.None},
		"none has a slot":     {withoutSlots, library.Capabilities{}, redisops.NotExecuted},
		"all away":            {open(down), library.Capabilities{}, redisops.NotExecuted},
		"one permits too few": {open(full, refusing), library.Capabilities{}, redisops.Configuration},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := library.ProbeAll(ctx, tc.servers)
			if got != tc.want || redisops.Classify(err) != tc.wantErr {
				t.Errorf("got %+v, %v of class %s, want %+v, %s", got, err, redisops.Classify(err), tc.want, tc.wantErr)
			}
		})
	}
}
