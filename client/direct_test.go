package client

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
	"github.com/penstock-dev/penstock/internal/service/tlsfiles/tlstest"
)

func writeFile(t *testing.T, path string, content []byte) string {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestADirectReachesEveryTopology(t *testing.T) {
	for name, begin := range map[string]func(t *testing.T) (redisops.Config, DirectOptions){
		"Sentinel": func(t *testing.T) (redisops.Config, DirectOptions) {
			servers := redistest.StartSentinel(t, 1, redistest.SentinelOptions{Redis: []string{"--requirepass", "secret"}, Sentinels: []string{"--requirepass", "other"}})
			cfg := redisops.Config{
				Topology: policy.TopologySentinel, Addresses: servers.Addresses(), MasterName: servers.MasterName, Password: "secret", SentinelPassword: "other",
			}
			return cfg, DirectOptions{
				Redis: "redis://" + strings.Join(servers.Addresses(), ","), Topology: "Sentinel", MasterName: servers.MasterName, Password: "secret", SentinelPassword: "other",
			}
		},
		"Cluster with TLS": func(t *testing.T) (redisops.Config, DirectOptions) {
			ca, folder := tlstest.NewCA(t), t.TempDir()
			server, ours := ca.Issue(t, "127.0.0.1"), ca.Issue(t, "checkout")
			cluster := redistest.StartCluster(t, 3, 0, redistest.TLS{Cert: server.Cert, Key: server.Key, ClientCA: ca.PEM}.Options(t)...)
			cfg := redisops.Config{
				Topology: policy.TopologyCluster, Addresses: cluster.Addresses(), TLS: &redisops.TLS{CA: ca.PEM, ClientCert: ours.Cert, ClientKey: ours.Key},
			}
			return cfg, DirectOptions{Redis: "rediss://" + strings.Join(cluster.Addresses(), ","), Topology: "Cluster", Protocol: 3, TLS: DirectTLS{
				CAFile:   writeFile(t, filepath.Join(folder, "ca"), ca.PEM),
				CertFile: writeFile(t, filepath.Join(folder, "cert"), ours.Cert), KeyFile: writeFile(t, filepath.Join(folder, "key"), ours.Key),
			}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, opts := begin(t)
			publishBy(t, cfg)
			opts.CommandTimeout, opts.Logger = patient, slog.New(slog.DiscardHandler)
			d, err := NewDirect(t.Context(), opts)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = d.Close() }()
			for i, want := range []bool{true, true, false} {
				if v, err := d.Check(t.Context(), of("shop/two", "192.0.2.1")); err != nil || v.Allowed != want || v.Mode != Enforced {
					t.Errorf("request %d: %+v, %v; want allowed %t", i+1, v, err, want)
				}
			}
		})
	}
}

func TestADirectThatStartsWithoutRedisKnowsThePoliciesOfItsSnapshot(t *testing.T) {
	server := startRedis(t)
	file := filepath.Join(t.TempDir(), "policies.json")
	opts := DirectOptions{
		Redis: "redis://" + server.Addr, CommandTimeout: patient, DialTimeout: 50 * time.Millisecond, Snapshot: file, Logger: slog.New(slog.DiscardHandler),
	}
	first, err := NewDirect(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	_ = first.Close() // by then it is written
	allow := policy.NewSet([]policy.RateLimit{policies()[1]})
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v; want a file for its owner", info, err)
	}
	writeFile(t, file, allow.Marshal())
	server.Kill()
	again, err := NewDirect(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.Close() }()
	if v, err := again.Check(t.Context(), of("shop/many", "192.0.2.1")); err != nil || !v.Allowed || v.Degraded != CauseStore {
		t.Errorf("%+v, %v; want the policy's own Allow", v, err)
	}
}
