package cli_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/penstock-dev/penstock/internal/cli"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

func TestDoctorExitCodes(t *testing.T) {
	server := redistest.Start(t, "--requirepass", "hush-hush")
	manifest := func(address string) string {
		path := filepath.Join(t.TempDir(), "store.yaml")
		text := fmt.Sprintf("apiVersion: penstock.dev/v1\nkind: RedisStore\nmetadata: {name: default, namespace: shop}\nspec: {addresses: [%q]}\n", address)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("hush-hush\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	url := "redis://" + server.Addr
	slow := []string{"--command-timeout", "2s"}
	for name, test := range map[string]struct {
		args     []string
		wantCode int
		wantOut  string
		wantErr  string
	}{
		"nothing is wrong":          {append([]string{"--redis", url, "--redis-password-file", password}, slow...), cli.ExitOK, "0 errors", ""},
		"strict":                    {append([]string{"--redis", url, "--redis-password-file", password, "--strict"}, slow...), cli.ExitFailed, "known holes", ""},
		"no password":               {[]string{"--redis", url}, cli.ExitFailed, "asks for a password", ""},
		"a manifest":                {[]string{"-f", manifest(server.Addr), "--redis-password-file", password}, cli.ExitOK, "0 errors", ""},
		"a manifest, nobody there":  {[]string{"-f", manifest("127.0.0.1:1")}, cli.ExitFailed, "connection was refused", ""},
		"a manifest that is wrong":  {[]string{"-f", manifest("nonsense")}, cli.ExitFailed, "spec.addresses[0]", ""},
		"a manifest of another":     {[]string{"-f", filepath.Join(samples, "ratelimit.yaml")}, cli.ExitUsage, "", ""},
		"nowhere":                   {nil, cli.ExitUsage, "", "Give one of --redis, -f and --store"},
		"two places":                {[]string{"--redis", url, "--store", "a/b"}, cli.ExitUsage, "", "Give one of"},
		"an unknown role":           {[]string{"--redis", url, "--role", "king"}, cli.ExitUsage, "", `--role is "king"`},
		"an unknown output":         {[]string{"--redis", url, "-o", "xml"}, cli.ExitUsage, "", `--output is "xml"`},
		"no time":                   {[]string{"--redis", url, "--timeout", "0s"}, cli.ExitUsage, "", "--timeout is 0s"},
		"a namespace for nothing":   {[]string{"--redis", url, "-n", "shop"}, cli.ExitUsage, "", "go with --store"},
		"no cluster":                {[]string{"--store", "shop/default", "--kubeconfig", "nowhere"}, cli.ExitUsage, "", "--store"},
		"a topology and a manifest": {[]string{"-f", manifest(server.Addr), "--redis-topology", "Cluster"}, cli.ExitUsage, "", "--redis-topology"},
		"a URL that is none":        {[]string{"--redis", "nonsense"}, cli.ExitUsage, "", "--redis"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, err := run(t, "", append([]string{"doctor"}, test.args...)...)
			if code != test.wantCode || !strings.Contains(out, test.wantOut) || !strings.Contains(err, test.wantErr) {
				t.Errorf("exit code %d, want %d with %q and %q:\n%s%s", code, test.wantCode, test.wantOut, test.wantErr, out, err)
			}
			if strings.Contains(out+err, "hush-hush") {
				t.Errorf("the password is shown:\n%s%s", out, err)
			}
		})
	}
}

func TestDoctorWritesJSON(t *testing.T) {
	server := redistest.Start(t)
	_, out, _ := run(t, "", "doctor", "--redis", "redis://"+server.Addr, "-o", "json", "--command-timeout", "2s")
	var report struct {
		Findings []struct{ Severity, Check, What string }
		Errors   int
		Warnings int
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	if len(report.Findings) < 5 || report.Errors != 0 || report.Warnings == 0 {
		t.Errorf("%s", out)
	}
}
