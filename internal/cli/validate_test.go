package cli_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/penstock-dev/penstock/internal/cli"
)

var update = flag.Bool("update", false, "write the golden files")

// Each folder of testdata/validate is a case; its output stands in <folder>.golden.
func TestValidateOutput(t *testing.T) {
	t.Chdir("testdata/validate")
	for folder, test := range map[string]struct {
		args     []string
		wantCode int
	}{
		"mixed":      {[]string{"-f", "mixed"}, cli.ExitFailed},
		"recursive":  {[]string{"-R", "-f", "mixed"}, cli.ExitFailed},
		"unreadable": {[]string{"-f", "unreadable"}, cli.ExitFailed},
		"foreign":    {[]string{"-f", "foreign"}, cli.ExitOK},
		"list":       {[]string{"-f", "list"}, cli.ExitFailed},
		"types":      {[]string{"-f", "types"}, cli.ExitFailed},
		"metadata":   {[]string{"-f", "metadata"}, cli.ExitFailed},
	} {
		t.Run(folder, func(t *testing.T) {
			code, out, _ := run(t, "", append([]string{"validate"}, test.args...)...)
			if code != test.wantCode {
				t.Errorf("exit code %d, want %d", code, test.wantCode)
			}
			golden := filepath.Join(folder + ".golden")
			if *update {
				if err := os.WriteFile(golden, []byte(out), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if out != string(want) {
				t.Errorf("output:\n%s\nwant:\n%s", out, want)
			}
		})
	}
}
