package store_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
	"github.com/penstock-dev/penstock/internal/service/store"
)

// startKeeping starts a penstockd that keeps a snapshot.
func startKeeping(t *testing.T, server *redistest.Server, file string) *penstockd {
	t.Helper()
	cfg := redisops.Config{Addresses: []string{server.Addr}, CommandTimeout: commandTimeout, DialTimeout: commandTimeout / 5}
	return startAs(t, store.Options{Load: store.Always(cfg), Snapshot: file}, nil)
}

func lenient() policy.RateLimit {
	return rateLimit("lenient", "user", policy.FailureAllow, policy.FixedWindow)
}

func strict() policy.RateLimit {
	return rateLimit("strict", "team", policy.FailureDeny, policy.FixedWindow)
}

func share() policy.RateLimit {
	return rateLimit("share", "path", policy.FailureLocalShare, policy.FixedWindow)
}

func TestTheSnapshotIsTheLastSetForItsOwnerOnly(t *testing.T) {
	server := redistest.Start(t)
	folder := t.TempDir()
	file := filepath.Join(folder, "policies.json")
	publish(t, server, lenient())
	p := startKeeping(t, server, file)
	for _, policies := range [][]policy.RateLimit{{lenient(), strict()}, {strict()}} {
		set := publish(t, server, policies...)
		eventually(t, "the file holds the set", func() bool {
			content, err := os.ReadFile(file)
			return err == nil && string(content) == string(set.Marshal())
		})
	}
	p.ready(t)
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v; want 0600", info.Mode(), err)
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) != 1 {
		t.Errorf("the folder holds %v, %v; want the file alone", left, err)
	}
}

func TestStartedWithoutRedisTheSnapshotServesIfItsPoliciesAllow(t *testing.T) {
	for name, test := range map[string]struct {
		set  *policy.Set
		want bool
	}{
		"Allow":                 {policy.NewSet([]policy.RateLimit{lenient()}), true},
		"Allow and LocalShare":  {policy.NewSet([]policy.RateLimit{lenient(), share()}), true},
		"one of them says Deny": {policy.NewSet([]policy.RateLimit{lenient(), strict()}), false},
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
			newer := publish(t, server, lenient(), share(), strict())
			server.Kill()
			file := filepath.Join(t.TempDir(), "policies.json")
			write(t, file, string(test.set.Marshal()))
			p := startKeeping(t, server, file)
			if test.want {
				p.ready(t)
				if got := p.mustAsk(t, "user", "bob"); got.GetOverallCode() != ratelimitv3.RateLimitResponse_OK || !degraded(got) {
					t.Errorf("%v, want OK and degraded", got)
				}
				if got := p.get(t, "/readyz"); got.status != http.StatusOK || !strings.HasPrefix(got.body, "ok\ndegraded: ") {
					t.Errorf("%d %q, want ready and degraded", got.status, got.body)
				}
			} else {
				eventually(t, "it knows that Redis is gone", func() bool { return p.told("cannot reach redis; trying on") == 1 })
				if got := p.get(t, "/readyz"); got.status != http.StatusServiceUnavailable {
					t.Errorf("%d %q, want it not ready", got.status, got.body)
				}
			}
			server.Run()
			eventually(t, "the published set is in force", func() bool { set := p.engine.Set(); return set != nil && set.Hash == newer.Hash })
			eventually(t, "decided by Redis", func() bool { return !degraded(p.mustAsk(t, "user", "bob")) })
			eventually(t, "the snapshot is the newer one", func() bool {
				content, err := os.ReadFile(file)
				return err == nil && string(content) == string(newer.Marshal())
			})
		})
	}
}

func TestARedisWithoutPoliciesIsServedByTheSnapshotUntilItHasSome(t *testing.T) {
	server := redistest.Start(t)
	file := filepath.Join(t.TempDir(), "policies.json")
	write(t, file, string(policy.NewSet([]policy.RateLimit{lenient(), strict()}).Marshal()))
	p := startKeeping(t, server, file)
	p.ready(t)
	if got := p.mustAsk(t, "user", "bob"); got.GetOverallCode() != ratelimitv3.RateLimitResponse_OK || !degraded(got) {
		t.Errorf("Allow: %v, want OK and degraded", got)
	}
	if got := p.mustAsk(t, "team", "red"); got.GetOverallCode() != ratelimitv3.RateLimitResponse_OVER_LIMIT || !degraded(got) {
		t.Errorf("Deny: %v, want OVER_LIMIT and degraded", got)
	}
	publish(t, server, lenient())
	eventually(t, "decided by Redis", func() bool { return !degraded(p.mustAsk(t, "user", "bob")) })
}

func TestARefusedPasswordIsNoReasonToServeTheSnapshot(t *testing.T) {
	server := redistest.Start(t, "--requirepass", "secret")
	file := filepath.Join(t.TempDir(), "policies.json")
	write(t, file, string(policy.NewSet([]policy.RateLimit{lenient()}).Marshal()))
	p := startKeeping(t, server, file)
	select {
	case <-p.engine.Ready():
		t.Fatal("it serves the snapshot")
	case <-time.After(2 * commandTimeout): // ten times what an outage has it wait
	}
	if got := p.get(t, "/readyz"); got.status != http.StatusServiceUnavailable || !strings.Contains(got.body, "refuses the credentials") {
		t.Errorf("%d %q, want it not ready for the credentials", got.status, got.body)
	}
}

func TestASnapshotThatCannotBeUsedIsSaidAndIgnored(t *testing.T) {
	good := string(policy.NewSet([]policy.RateLimit{lenient()}).Marshal())
	for name, test := range map[string]struct{ content, want string }{
		"missing": {"", "there is no snapshot of the policies yet"},
		"cut off": {good[:len(good)/2], "the snapshot of the policies cannot be used"},
		"changed": {strings.Replace(good, "shop/lenient", "shop/another", 1), "the snapshot of the policies cannot be used"},
		"foreign": {"apiVersion: v1\n", "the snapshot of the policies cannot be used"},
		"newer":   {`{"format":99}`, "newer format"},
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
			set := publish(t, server, lenient())
			server.Kill()
			file := filepath.Join(t.TempDir(), "policies.json")
			if test.content != "" {
				write(t, file, test.content)
			}
			p := startKeeping(t, server, file)
			eventually(t, "the log says so", func() bool { return p.told(test.want) == 1 })
			server.Run()
			p.ready(t)
			eventually(t, "a good one takes its place", func() bool {
				content, err := os.ReadFile(file)
				return err == nil && string(content) == string(set.Marshal())
			})
		})
	}
}

func TestAFolderInPlaceOfTheSnapshotIsSaidOnceAndLeftAsItIs(t *testing.T) {
	server := redistest.Start(t)
	folder := t.TempDir()
	file := filepath.Join(folder, "policies.json")
	if err := os.Mkdir(file, 0o700); err != nil {
		t.Fatal(err)
	}
	publish(t, server, lenient())
	p := startKeeping(t, server, file)
	p.ready(t)
	const said = "cannot write the snapshot of the policies"
	eventually(t, "it says so", func() bool { return p.told(said) == 1 })
	next := publish(t, server, lenient(), strict())
	eventually(t, "the newer set is in force", func() bool { return p.engine.Set().Hash == next.Hash })
	last := publish(t, server, strict())
	eventually(t, "the newest set is in force", func() bool { return p.engine.Set().Hash == last.Hash })
	p.stop()
	if p.told(said) != 1 {
		t.Errorf("want it said once:\n%s", p.log)
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) != 1 || !left[0].IsDir() {
		t.Errorf("%v, %v; want what was there and nothing else", left, err)
	}
}

func TestAFolderThatCannotBeWrittenIsSaidOnce(t *testing.T) {
	server := redistest.Start(t)
	folder := filepath.Join(t.TempDir(), "later")
	file := filepath.Join(folder, "policies.json")
	publish(t, server, lenient())
	p := startKeeping(t, server, file)
	p.ready(t)
	const said = "cannot write the snapshot of the policies"
	eventually(t, "it says so", func() bool { return p.told(said) == 1 })
	publish(t, server, strict())
	next := publish(t, server, strict(), lenient())
	eventually(t, "the newest set is in force", func() bool { return p.engine.Set().Hash == next.Hash })
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	last := publish(t, server, lenient(), share())
	eventually(t, "it is written again", func() bool {
		content, err := os.ReadFile(file)
		return err == nil && string(content) == string(last.Marshal())
	})
	eventually(t, "it says that it is over", func() bool { return p.told("the snapshot of the policies can be written again") == 1 })
	if p.told(said) != 1 {
		t.Errorf("want it said once:\n%s", p.log)
	}
}
