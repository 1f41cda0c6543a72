package main

import (
	"bytes"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
)

func environment(variables map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { value, set := variables[name]; return value, set }
}

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaultsAreThoseOfTheDesign(t *testing.T) {
	cfg, err := parse([]string{"--redis", "redis://r:6380/2"}, environment(nil), &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	redis, err := cfg.redis.Load()
	if err != nil {
		t.Fatal(err)
	}
	got := []any{
		redis.Addresses[0], redis.DB, redis.CommandTimeout, redis.DialTimeout, redis.MinBackoff, redis.MaxBackoff, redis.MaxConnections,
		cfg.service.HTTP, cfg.service.GRPC, cfg.service.Metrics, cfg.service.LameDuck, cfg.service.Drain, cfg.logLevel, cfg.policies == nil, cfg.denyCache, cfg.snapshot,
	}
	want := []any{
		"r:6380", 2, 10 * time.Millisecond, time.Second, 50 * time.Millisecond, 2 * time.Second, 64,
		":8080", ":8081", ":9090", 5 * time.Second, 20 * time.Second, slog.LevelInfo, true, true, "",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%v, want\n%v", got, want)
	}
}

func TestASettingComesFromItsFlagElseFromItsVariable(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		env  map[string]string
		want time.Duration
	}{
		"flag":         {[]string{"--lame-duck=1s"}, nil, time.Second},
		"variable":     {nil, map[string]string{"PENSTOCKD_LAME_DUCK": "2s"}, 2 * time.Second},
		"flag wins":    {[]string{"--lame-duck=1s"}, map[string]string{"PENSTOCKD_LAME_DUCK": "2s"}, time.Second},
		"neither":      {nil, nil, 5 * time.Second},
		"another name": {nil, map[string]string{"LAME_DUCK": "2s", "PENSTOCKD_LAMEDUCK": "3s"}, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			variables := map[string]string{"PENSTOCKD_REDIS": "redis://r"}
			maps.Copy(variables, test.env)
			cfg, err := parse(test.args, environment(variables), &bytes.Buffer{})
			if err != nil || cfg.service.LameDuck != test.want {
				t.Errorf("%v, %v; want %v", cfg.service.LameDuck, err, test.want)
			}
		})
	}
}

func TestSettingsOfRedisComeFromFlagsAndVariables(t *testing.T) {
	file := write(t, "password", "of the file\n")
	for name, test := range map[string]struct {
		args []string
		env  map[string]string
		want redisops.Config
	}{
		"flags": {
			[]string{"--redis", "redis://s1:1,s2:2", "--redis-topology", "Sentinel", "--redis-master-name", "main", "--redis-password-file", file}, nil,
			redisops.Config{Topology: policy.TopologySentinel, Addresses: []string{"s1:1", "s2:2"}, MasterName: "main", Password: "of the file"},
		},
		"variables": {nil, map[string]string{
			"PENSTOCKD_REDIS": "rediss://me@c1:1,c2:2", "PENSTOCKD_REDIS_TOPOLOGY": "Cluster", "PENSTOCKD_REDIS_PASSWORD": "of the variable",
			"PENSTOCKD_REDIS_TLS_SERVER_NAME": "redis.shop.svc", "PENSTOCKD_REDIS_PROTOCOL": "3",
		}, redisops.Config{
			Topology: policy.TopologyCluster, Addresses: []string{"c1:1", "c2:2"}, Username: "me", Password: "of the variable", Protocol: 3,
			TLS: &redisops.TLS{ServerName: "redis.shop.svc"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := parse(test.args, environment(test.env), &bytes.Buffer{})
			if err != nil {
				t.Fatal(err)
			}
			if got, err := cfg.redis.Load(); err != nil || !reflect.DeepEqual(got, test.want.WithDefaults()) {
				t.Errorf("%+v, %v; want\n%+v", got, err, test.want.WithDefaults())
			}
		})
	}
}

func TestEachProcessHasANameOfItsOwn(t *testing.T) {
	one := func(args ...string) string {
		cfg, err := parse(append([]string{"--redis", "redis://r"}, args...), environment(nil), &bytes.Buffer{})
		if err != nil {
			t.Fatal(err)
		}
		return cfg.replica
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if a, b := one(), one(); a == b || !strings.HasPrefix(a, host+"-") || !strings.HasPrefix(b, host+"-") {
		t.Errorf("%q and %q, want two names that begin with %s-", a, b, host)
	}
	if got := one("--replica", "edge-1"); got != "edge-1" {
		t.Errorf("%q, want the one that was given", got)
	}
}

func TestAWrongSettingIsNamedWithItsRemedy(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		env  map[string]string
		want []string
	}{
		"no server":              {nil, nil, []string{"--redis is missing", "redis://host:port"}},
		"another scheme":         {[]string{"--redis", "http://r"}, nil, []string{"--redis", "scheme", "want redis://"}},
		"unknown flag":           {[]string{"--redis", "redis://r", "--lameduck", "1s"}, nil, []string{"unknown flag: --lameduck"}},
		"no duration":            {[]string{"--redis", "redis://r", "--lame-duck", "5"}, nil, []string{"--lame-duck", `"5"`, "duration"}},
		"no duration, variable":  {[]string{"--redis", "redis://r"}, map[string]string{"PENSTOCKD_DRAIN": "soon"}, []string{"PENSTOCKD_DRAIN", "--drain", `"soon"`}},
		"a negative duration":    {[]string{"--redis", "redis://r", "--lame-duck", "-1s"}, nil, []string{"--lame-duck is -1s", "give at least 0s"}},
		"no time to wait":        {[]string{"--redis", "redis://r", "--command-timeout", "0s"}, nil, []string{"--command-timeout is 0s", "give at least 1ms"}},
		"backoffs crossed":       {[]string{"--redis", "redis://r", "--min-backoff", "5s"}, nil, []string{"--max-backoff is 2s", "give at least 5s"}},
		"no connections":         {[]string{"--redis", "redis://r", "--max-connections", "0"}, nil, []string{"--max-connections is 0", "give at least 1"}},
		"a level of logs":        {[]string{"--redis", "redis://r", "--log-level", "loud"}, nil, []string{`--log-level is "loud"`, "debug, info, warn or error"}},
		"no client connections":  {[]string{"--redis", "redis://r", "--max-client-connections", "0"}, nil, []string{"--max-client-connections is 0", "give at least 1"}},
		"a proxy by its name":    {[]string{"--redis", "redis://r", "--trusted-proxies", "10.0.0.0/8,edge"}, nil, []string{"--trusted-proxies", "edge"}},
		"a key and no cert":      {[]string{"--redis", "redis://r", "--tls-key", "tls.key"}, nil, []string{"--tls-cert is missing"}},
		"client CAs and no cert": {[]string{"--redis", "redis://r", "--tls-client-ca", "ca.crt"}, nil, []string{"--tls-cert is missing"}},
		"mtls and no CAs":        {[]string{"--redis", "redis://r", "--auth", "mtls", "--auth-callers", "c.yaml"}, nil, []string{"--tls-client-ca is missing"}},
		"an unknown auth":        {[]string{"--redis", "redis://r", "--auth", "basic"}, nil, []string{"--auth", "none, mtls or bearer"}},
		"bearer and no tokens":   {[]string{"--redis", "redis://r", "--auth", "bearer"}, nil, []string{"--auth-callers", "--auth-jwks"}},
		"an argument":            {[]string{"--redis", "redis://r", "serve"}, nil, []string{`unexpected argument "serve"`}},
		"no password file":       {[]string{"--redis", "redis://r", "--redis-password-file", "/does/not/exist"}, nil, []string{"--redis-password-file", "/does/not/exist"}},
		"two kinds of policies":  {[]string{"--redis", "redis://r", "--policies", "x", "--snapshot", "y"}, nil, []string{"--snapshot", "--policies", "leave one away"}},
		"policies for no server": {[]string{"--redis", "redis://r1,r2", "--redis-topology", "Independent", "--policies", "x"}, nil, []string{"--policies", "Independent", "--redis-topology"}},
		"a user and no password": {[]string{"--redis", "redis://me@r"}, nil, []string{"--redis-password-file is missing"}},
		"no policies file":       {[]string{"--redis", "redis://r", "--policies", "/does/not/exist"}, nil, []string{"--policies", "/does/not/exist"}},
		"a policies file broken": {[]string{"--redis", "redis://r", "--policies", "config_test.go"}, nil, []string{"--policies", "policy set"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse(test.args, environment(test.env), &bytes.Buffer{})
			if err == nil {
				t.Fatal("it was accepted")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q lacks %q", err, want)
				}
			}
		})
	}
}

func TestTheDenyCacheCanBeSwitchedOff(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		env  map[string]string
	}{
		"flag":     {[]string{"--redis", "redis://r", "--deny-cache=false"}, nil},
		"variable": {[]string{"--redis", "redis://r"}, map[string]string{"PENSTOCKD_DENY_CACHE": "false"}},
	} {
		t.Run(name, func(t *testing.T) {
			if cfg, err := parse(test.args, environment(test.env), &bytes.Buffer{}); err != nil || cfg.denyCache {
				t.Errorf("%v, %v; want it off", cfg.denyCache, err)
			}
		})
	}
}

func TestPoliciesMayComeFromAFile(t *testing.T) {
	set := policy.NewSet(nil)
	cfg, err := parse([]string{"--redis", "redis://r", "--policies", write(t, "set.json", string(set.Marshal()))}, environment(nil), &bytes.Buffer{})
	if err != nil || cfg.policies == nil || cfg.policies.Hash != set.Hash {
		t.Errorf("%v, %v; want the set of the file", cfg.policies, err)
	}
}

func TestHelpNamesEveryFlagInItsGroup(t *testing.T) {
	var out bytes.Buffer
	if _, err := parse([]string{"--help"}, environment(nil), &out); !errors.Is(err, pflag.ErrHelp) {
		t.Fatalf("%v, want ErrHelp", err)
	}
	at := 0
	for _, want := range []string{"Redis:\n", "--redis URL", "--redis-topology", "--redis-tls-ca", "--command-timeout", "--replica", "Policies:\n", "--policies", "--snapshot", "--deny-cache", "Doors:\n", "--http", "--grpc", "--metrics", "--trusted-proxies", "TLS and callers:\n", "--tls-cert", "--auth", "Process:\n", "--lame-duck", "--log-level", "--tracing"} {
		next := strings.Index(out.String()[at:], want)
		if next < 0 {
			t.Fatalf("help lacks %q, or has it elsewhere:\n%s", want, &out)
		}
		at += next
	}
}
