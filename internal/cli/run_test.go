package cli_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/penstock-dev/penstock/internal/cli"
)

// run runs a command line to its end.
func run(t *testing.T, stdin string, args ...string) (code int, out, err string) {
	t.Helper()
	var outBuffer, errBuffer bytes.Buffer
	code = cli.Run(t.Context(), "v1.2.3", args, cli.Streams{In: strings.NewReader(stdin), Out: &outBuffer, Err: &errBuffer})
	return code, outBuffer.String(), errBuffer.String()
}

func TestExitCodes(t *testing.T) {
	const valid = "apiVersion: penstock.dev/v1\nkind: RateLimit\nmetadata: {name: a}\nspec: {limits: [{requests: 1, window: 1m}]}\n"
	for name, test := range map[string]struct {
		stdin    string
		args     []string
		wantCode int
		wantOut  string
		wantErr  string
	}{
		"help":                       {"", []string{"--help"}, cli.ExitOK, "Available Commands:", ""},
		"nothing asked":              {"", nil, cli.ExitOK, "Available Commands:", ""},
		"help of a command":          {"", []string{"dev", "--help"}, cli.ExitOK, "--redis embedded|URL", ""},
		"version":                    {"", []string{"version"}, cli.ExitOK, "penstock v1.2.3 (go", ""},
		"an unknown command":         {"", []string{"validte"}, cli.ExitUsage, "", "unknown command \"validte\" for \"penstock\"\n\nDid you mean this?\n\tvalidate"},
		"an unknown flag":            {"", []string{"validate", "--file", "x"}, cli.ExitUsage, "", "unknown flag: --file"},
		"an argument without flag":   {"", []string{"validate", "x.yaml"}, cli.ExitUsage, "", "x.yaml"},
		"an argument to version":     {"", []string{"version", "x"}, cli.ExitUsage, "", "unknown command \"x\""},
		"validate without files":     {"", []string{"validate"}, cli.ExitUsage, "", "nothing to read: name a file or a folder with -f"},
		"validate an empty name":     {"", []string{"validate", "-f", ""}, cli.ExitUsage, "", "-f is empty"},
		"validate what is not there": {"", []string{"validate", "-f", "gone.yaml"}, cli.ExitUsage, "", "gone.yaml: no such file or folder"},
		"validate nothing":           {"", []string{"validate", "-f", "-"}, cli.ExitUsage, "", "nothing to read"},
		"validate what is valid":     {valid, []string{"validate", "-f", "-"}, cli.ExitOK, "1 valid, 0 refused, 0 skipped\n", ""},
		"validate one object twice":  {valid + "---\n" + valid, []string{"validate", "-f", "-"}, cli.ExitOK, "2 valid, 0 refused, 0 skipped\n", ""},
		"help tells about that":      {"", []string{"validate", "--help"}, cli.ExitOK, "an object that is there twice is counted", ""},
		"validate what is refused":   {valid + "  nonsense", []string{"validate", "-f", "-"}, cli.ExitFailed, "0 valid, 1 refused, 0 skipped\n", ""},
		"dev without files":          {"", []string{"dev"}, cli.ExitUsage, "", "nothing to read: name a file or a folder with -f"},
		"dev what is not there":      {"", []string{"dev", "-f", "gone.yaml"}, cli.ExitUsage, "", "gone.yaml: no such file or folder"},
		"dev standard input":         {valid, []string{"dev", "-f", "-"}, cli.ExitUsage, "", "standard input has no changes to follow"},
		"dev an URL that is none":    {"", []string{"dev", "-f", "../../config/samples", "--redis", "127.0.0.1:6379"}, cli.ExitUsage, "", "--redis: redis URL:"},
		"dev a flag for another Redis": {"", []string{"dev", "-f", "../../config/samples", "--redis-topology", "Cluster"}, cli.ExitUsage, "",
			"--redis-topology is for a Redis that --redis names"},
		"dev a file for another Redis": {"", []string{"dev", "-f", "../../config/samples", "--redis", "embedded", "--redis-password-file", "pw"}, cli.ExitUsage, "",
			"give --redis redis://host:port, or leave --redis-password-file away"},
		"dev a Redis that is not there": {"", []string{"dev", "-f", "../../config/samples", "--redis", "redis://127.0.0.1:1"}, cli.ExitFailed, "",
			"Redis at 127.0.0.1:1: "},
		"dev an address that is none": {"", []string{"dev", "-f", "../../config/samples", "--http", "nowhere"}, cli.ExitUsage, "", "see --http and --grpc"},
		"dev what is refused": {"", []string{"dev", "-f", "../../config/samples/invalid/ratelimit_window_days.yaml"}, cli.ExitFailed,
			"ratelimit_window_days.yaml:11: RateLimit shop/window-days: spec.limits[0].window:", ""},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, err := run(t, test.stdin, test.args...)
			if code != test.wantCode {
				t.Errorf("exit code %d, want %d", code, test.wantCode)
			}
			if !strings.Contains(out, test.wantOut) || (test.wantOut == "") != (out == "") {
				t.Errorf("output %q, want %q", out, test.wantOut)
			}
			if !strings.Contains(err, test.wantErr) || (test.wantErr == "") != (err == "") {
				t.Errorf("error output %q, want %q", err, test.wantErr)
			}
		})
	}
}

func TestVersionIsKnownWithoutALinker(t *testing.T) {
	var out bytes.Buffer
	if code := cli.Run(context.Background(), "", []string{"version"}, cli.Streams{Out: &out, Err: &out}); code != cli.ExitOK {
		t.Fatalf("exit code %d: %s", code, &out)
	}
	if fields := strings.Fields(out.String()); len(fields) != 4 || fields[1] == "" {
		t.Errorf("output %q, want a version", out.String())
	}
}
