package cli_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/penstock-dev/penstock/internal/cli"
)

const samples = "../../config/samples"

func TestValidateTakesTheSamples(t *testing.T) {
	code, out, _ := run(t, "", "validate", "-f", samples)
	// The namespace and the kustomization are not ours.
	if code != cli.ExitOK || out != "12 valid, 0 refused, 2 skipped\n" {
		t.Errorf("exit code %d, output %q", code, out)
	}
}

// The API server refuses the same files with the same messages: see api/v1/samples_test.go.
func TestValidateRefusesTheInvalidSamples(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(samples, "invalid", "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no invalid samples: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(string(text), "\n")
			want, found := strings.CutPrefix(first, "# want: ")
			if !found {
				t.Fatalf("the first line is %q, want # want: <message>", first)
			}
			code, out, _ := run(t, "", "validate", "-f", file)
			if code != cli.ExitFailed {
				t.Errorf("exit code %d, want %d", code, cli.ExitFailed)
			}
			refusal, summary, _ := strings.Cut(out, "\n0 valid, 1 refused, 0 skipped\n")
			if !strings.Contains(refusal, want) || summary != "" {
				t.Errorf("output %q, want %q", out, want)
			}
			if kind, _, _ := strings.Cut(filepath.Base(file), "_"); !strings.Contains(strings.ToLower(refusal), ": "+kind+" shop/") {
				t.Errorf("output %q does not name the object", out)
			}
			if !strings.HasPrefix(refusal, file+":") {
				t.Errorf("output %q does not begin with the file", out)
			}
		})
	}
}

func TestInvalidSamplesAreOutOfTheWay(t *testing.T) {
	kustomization, err := os.ReadFile(filepath.Join(samples, "kustomization.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(kustomization), "invalid") {
		t.Error("the kustomization reaches the invalid samples")
	}
	code, out, _ := run(t, "", "validate", "-R", "-f", samples)
	if code != cli.ExitFailed || !strings.Contains(out, "invalid/") {
		t.Errorf("-R does not reach them: exit code %d, output %q", code, out)
	}
}
