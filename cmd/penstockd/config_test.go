package main

import (
	"bytes"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/penstock-dev/penstock/internal/policy"
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
	got := []any{
		cfg.redis.Addresses[0], cfg.redis.DB, cfg.redis.CommandTimeout, cfg.redis.DialTimeout, cfg.redis.MinBackoff, cfg.redis.MaxBackoff, cfg.redis.MaxConnections,
		cfg.service.HTTP, cfg.service.GRPC, cfg.service.Metrics, cfg.service.LameDuck, cfg.service.Drain, cfg.logLevel, cfg.policies == nil, cfg.denyCache,
	}
	want := []any{
		"r:6380", 2, 10 * time.Millisecond, time.Second, 50 * time.Millisecond, 2 * time.Second, 64,
		":8080", ":8081", ":9090", 5 * time.Second, 20 * time.Second, slog.LevelInfo, true, true,
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

func TestThePasswordComesFromTheFileElseTheVariableElseTheURL(t *testing.T) {
	file := write(t, "password", "of the file\n")
	url := []string{"--redis", "redis://me:of-the-url@r"}
	for name, test := range map[string]struct {
		args []string
		env  map[string]string
		want string
	}{
		"file":     {append(url, "--redis-password-file", file), map[string]string{passwordVariable: "of the variable"}, "of the file"},
		"variable": {url, map[string]string{passwordVariable: "of the variable"}, "of the variable"},
		"URL":      {url, nil, "of-the-url"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := parse(test.args, environment(test.env), &bytes.Buffer{})
			if err != nil || cfg.redis.Password != test.want || cfg.redis.Username != "me" {
				t.Errorf("%q %q, %v; want me and %q", cfg.redis.Username, cfg.redis.Password, err, test.want)
			}
		})
	}
}

func TestAWrongSettingIsNamedWithItsRemedy(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		env  map[string]string
		want []string
	}{
		"no server":              {nil, nil, []string{"--redis is missing", "redis://host:port"}},
		"another scheme":         {[]string{"--redis", "http://r"}, nil, []string{"--redis", `"http"`, "want redis://"}},
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
	for _, want := range []string{"Redis:\n", "--redis string", "--command-timeout", "Policies:\n", "--policies", "--deny-cache", "Doors:\n", "--http", "--grpc", "--metrics", "--trusted-proxies", "TLS and callers:\n", "--tls-cert", "--auth", "Process:\n", "--lame-duck", "--log-level", "--tracing"} {
		next := strings.Index(out.String()[at:], want)
		if next < 0 {
			t.Fatalf("help lacks %q, or has it elsewhere:\n%s", want, &out)
		}
		at += next
	}
}
