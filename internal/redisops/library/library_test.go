package library_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// setOf gives n policies, each with that many bytes in its domain.
func setOf(n, bytes int) *policy.Set {
	var limits []policy.RateLimit
	for i := range n {
		limits = append(limits, policy.RateLimit{
			Name: fmt.Sprintf("shop/p%05d", i), Domain: strings.Repeat("d", bytes), OnStoreFailure: policy.FailureAllow,
			Limits: []policy.Limit{{Name: "default", Algorithm: policy.FixedWindow, Requests: 5, WindowMs: 60_000}},
		}.Sealed())
	}
	return policy.NewSet(limits)
}

func render(t *testing.T, set *policy.Set) string {
	t.Helper()
	text, err := library.Render(set)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestTheSameSetRendersTheSameText(t *testing.T) {
	a, b := render(t, setOf(3, 9)), render(t, setOf(3, 9))
	if a != b || library.Hash(a) != library.Hash(b) {
		t.Error("two texts of one set differ")
	}
	if other := render(t, setOf(4, 9)); other == a || library.Hash(other) == library.Hash(a) {
		t.Error("another set has the same text")
	}
	if !strings.HasPrefix(a, "#!lua name=penstock\n") {
		t.Errorf("begins with %.30q", a)
	}
	if len(library.Hash(a)) != 32 {
		t.Errorf("hash %q has not 32 digits", library.Hash(a))
	}
}

func TestPoliciesOfMoreThan2MiBAreTooLarge(t *testing.T) {
	if _, err := library.Render(setOf(40, 60_000)); !errors.Is(err, library.ErrTooLarge) {
		t.Errorf("2.4 MB: %v, want ErrTooLarge", err)
	}
	text := render(t, setOf(7000, 60))
	server := redistest.Start(t)
	if err := library.Load(context.Background(), server.Client(), text, false); err != nil {
		t.Fatalf("a library of %d bytes does not load: %v", len(text), err)
	}
	got := server.Do("FCALL", "penstock_policy", 0, "shop/p06999")
	if document, is := got.(string); !is || !strings.HasPrefix(document, `{"name":"shop/p06999"`) {
		t.Errorf("got %v", got)
	}
}

func TestNamesOfALibrarysPoliciesCanBeReadFromItsText(t *testing.T) {
	limits := []policy.RateLimit{}
	// What looks like an entry of the table does not count inside a document.
	for name, domain := range map[string]string{"a/b": "d", "shop/a-b.c": "]] [ [=[\nx/y]=] ]=[=[\n", "z/9": "]=] ]==]"} {
		limits = append(limits, policy.RateLimit{Name: name, Domain: domain}.Sealed())
	}
	if got := strings.Join(library.PolicyNames(render(t, policy.NewSet(limits))), " "); got != "a/b shop/a-b.c z/9" {
		t.Errorf("names %q", got)
	}
	for _, text := range []string{"", "#!lua name=penstock\n", render(t, policy.NewSet(nil))} {
		if got := library.PolicyNames(text); len(got) != 0 {
			t.Errorf("%.30q has the names %q, want none", text, got)
		}
	}
}

func TestAnEmptySetLoads(t *testing.T) {
	server := redistest.Start(t)
	if err := library.Load(context.Background(), server.Client(), render(t, policy.NewSet(nil)), false); err != nil {
		t.Fatal(err)
	}
}

func TestFunctionsAndScriptsHaveTheirFlags(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client()
	if err := library.Load(context.Background(), client, render(t, setOf(1, 1)), false); err != nil {
		t.Fatal(err)
	}
	libraries, err := client.FunctionList(context.Background(), redis.FunctionListQuery{LibraryNamePattern: library.Name}).Result()
	if err != nil || len(libraries) != 1 {
		t.Fatalf("%v, %v", libraries, err)
	}
	got := map[string]string{}
	for _, f := range libraries[0].Functions {
		got[f.Name] = strings.Join(f.Flags, " ")
	}
	want := map[string]string{
		"penstock_limit": "", "penstock_limit_many": "", "penstock_limit_peek": "no-writes", "penstock_policy": "no-writes",
		"penstock_limit_refund": "allow-oom", "penstock_limit_credit": "", "penstock_limit_reset": "allow-oom",
		"penstock_slot_acquire": "", "penstock_slot_release": "allow-oom", "penstock_library": "no-writes",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	delete(want, "penstock_policy") // The caller of a script has the policies.
	delete(want, "penstock_library")
	scripts := map[string]string{}
	for _, s := range library.Scripts() {
		first, _, _ := strings.Cut(s.Text, "\n")
		scripts[s.Name] = strings.TrimPrefix(strings.TrimPrefix(first, "#!lua"), " flags=")
	}
	if fmt.Sprint(scripts) != fmt.Sprint(want) {
		t.Errorf("the scripts have the flags %v, want %v", scripts, want)
	}
}

func TestLoadReplacesOnlyWhenTold(t *testing.T) {
	ctx := context.Background()
	client := redistest.Start(t).Client()
	if text, found, err := library.Loaded(ctx, client); err != nil || found {
		t.Fatalf("an empty server has %q, %v", text, err)
	}
	first, second := render(t, setOf(1, 1)), render(t, setOf(2, 1))
	steps := []struct {
		text    string
		replace bool
		want    string
	}{
		{first, false, first}, {second, false, first}, {second, true, second}, {first, true, first}, {first, false, first},
	}
	for i, s := range steps {
		if err := library.Load(ctx, client, s.text, s.replace); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		if text, found, err := library.Loaded(ctx, client); err != nil || !found || text != s.want {
			t.Fatalf("step %d: loaded %.40q…, %v, %v", i, text, found, err)
		}
	}
}

func TestAFunctionOfAnotherLibraryInTheWayIsAnError(t *testing.T) {
	ctx := context.Background()
	server := redistest.Start(t)
	server.Do("FUNCTION", "LOAD", "#!lua name=other\nredis.register_function('penstock_limit', function() return 1 end)")
	for _, replace := range []bool{false, true} {
		if err := library.Load(ctx, server.Client(), render(t, setOf(1, 1)), replace); err == nil || !strings.Contains(err.Error(), "penstock_limit") {
			t.Errorf("replace %v: %v", replace, err)
		}
	}
}

func TestDocumentIsReadBackOrRefused(t *testing.T) {
	ctx := context.Background()
	server := redistest.Start(t)
	client := server.Client()
	if _, err := library.ReadDocument(ctx, client); !errors.Is(err, library.ErrNoDocument) {
		t.Errorf("none: %v, want ErrNoDocument", err)
	}
	text := render(t, setOf(1, 1))
	server.Do("SET", library.DocumentKey, library.NewDocument(text).Marshal())
	if d, err := library.ReadDocument(ctx, client); err != nil || d.Text != text || d.Hash != library.Hash(text) {
		t.Errorf("%.40q…, %v", d.Text, err)
	}
	for name, stored := range map[string]string{"not JSON": "x", "another hash": `{"hash":"x","text":"y"}`, "empty": ""} {
		if _, err := library.ParseDocument([]byte(stored)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestProbeFindsWhatTheServerKnows(t *testing.T) {
	ctx := context.Background()
	embedded := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: embedded.Addr()})
	defer func() { _ = client.Close() }()
	loaded := redistest.Start(t)
	if err := library.Load(ctx, loaded.Client(), render(t, setOf(1, 1)), false); err != nil {
		t.Fatal(err)
	}
	full := redistest.Start(t, "--maxmemory", "1")
	renamed := redistest.Start(t, "--rename-command", "FCALL_RO", "")
	noScripts := redistest.Start(t)
	noScripts.Do("ACL", "SETUSER", "default", "-eval")
	tests := map[string]struct {
		client   redis.UniversalClient
		want     library.Capabilities
		wantMode library.Mode
	}{
		"redis-server":            {redistest.Start(t).Client(), library.Capabilities{Functions: true, ScriptFlags: true}, library.ModeFunctions},
		"with the library":        {loaded.Client(), library.Capabilities{Functions: true, ScriptFlags: true}, library.ModeFunctions},
		"out of memory":           {full.Client(), library.Capabilities{Functions: true, ScriptFlags: true}, library.ModeFunctions},
		"scripts not permitted":   {noScripts.Client(), library.Capabilities{Functions: true, ScriptFlags: true}, library.ModeFunctions},
		"without functions":       {renamed.Client(), library.Capabilities{ScriptFlags: true}, library.ModeScripts},
		"embedded, neither of it": {client, library.Capabilities{}, library.ModeScripts},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := library.Probe(ctx, test.client)
			if err != nil || got != test.want || got.Mode() != test.wantMode {
				t.Errorf("got %+v %v, %v, want %+v %v", got, got.Mode(), err, test.want, test.wantMode)
			}
		})
	}
}

func TestProbeDoesNotGuessWhenItMayNotAsk(t *testing.T) {
	ctx := context.Background()
	for name, rule := range map[string][]any{
		"no password":             {"resetpass", ">secret"},
		"functions not permitted": {"-fcall_ro"},
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			server.Do(append([]any{"ACL", "SETUSER", "default"}, rule...)...)
			if got, err := library.Probe(ctx, server.Client()); err == nil {
				t.Errorf("got %+v and no error", got)
			}
		})
	}
	old := redistest.Start(t, "--rename-command", "FCALL_RO", "")
	old.Do("ACL", "SETUSER", "default", "-eval")
	if got, err := library.Probe(ctx, old.Client()); err == nil {
		t.Errorf("neither functions nor the right to scripts: got %+v and no error", got)
	}
	down := redistest.Start(t)
	client := down.ClientWith(&redis.Options{MaxRetries: -1, DialerRetries: 1})
	down.Kill()
	if got, err := library.Probe(ctx, client); err == nil {
		t.Errorf("server down: got %+v and no error", got)
	}
}

func TestScriptsLoadOnAnyServer(t *testing.T) {
	ctx := context.Background()
	real := redistest.Start(t).Client()
	embedded := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	defer func() { _ = embedded.Close() }()
	for range 2 {
		for _, client := range []*redis.Client{real, embedded} {
			if err := library.LoadScripts(ctx, client); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, s := range library.Scripts() {
		if found, err := real.ScriptExists(ctx, s.SHA).Result(); err != nil || !found[0] {
			t.Errorf("%s is not loaded: %v, %v", s.Name, found, err)
		}
		if found, err := embedded.ScriptExists(ctx, s.Plain().SHA).Result(); err != nil || !found[0] {
			t.Errorf("%s is not loaded on the embedded server: %v, %v", s.Name, found, err)
		}
		if s.Plain().Plain() != s.Plain() || strings.Count(s.Plain().Text, "\n") != strings.Count(s.Text, "\n") {
			t.Errorf("%s: Plain takes more than the first line", s.Name)
		}
	}
}

func TestEachFileOpensWithItsContract(t *testing.T) {
	names, err := filepath.Glob("*.lua")
	if err != nil || len(names) == 0 {
		t.Fatalf("%v, %v", names, err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		header, _, _ := strings.Cut(string(text), "\n\n")
		for _, word := range []string{"KEYS", "ARGV", "Reply:", "Time:"} {
			if !strings.Contains(header, word) {
				t.Errorf("%s: the header says nothing of %s", name, word)
			}
		}
	}
}

// Fault 59: anybody may have written what is published.
func FuzzParseDocument(f *testing.F) {
	f.Add(library.NewDocument("#!lua name=penstock\n").Marshal())
	f.Add([]byte(`{"hash":"","text":7}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, stored []byte) {
		d, err := library.ParseDocument(stored)
		if err != nil {
			return
		}
		if again, err := library.ParseDocument(d.Marshal()); err != nil || again != d {
			t.Errorf("%q was accepted and does not survive a round trip: %v", stored, err)
		}
		library.PolicyNames(d.Text)
	})
}
