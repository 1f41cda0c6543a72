package cli_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/penstock-dev/penstock/internal/cli"
)

const repository = "../.."

var (
	yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")
	hereDoc   = regexp.MustCompile(`(?s)<<'EOF'\n(.*?)\nEOF`)
	link      = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
)

// pages gives the documentation: README, CONTRIBUTING and everything below docs and bench.
func pages(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for _, root := range []string{"README.md", "CONTRIBUTING.md", "docs", "bench"} {
		err := filepath.WalkDir(filepath.Join(repository, root), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || filepath.Ext(path) != ".md" {
				return err
			}
			text, err := os.ReadFile(path)
			texts[path] = string(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return texts
}

func TestExamplesInTheDocumentationAreValid(t *testing.T) {
	examples := 0
	for page, text := range pages(t) {
		for _, block := range append(yamlBlock.FindAllStringSubmatch(text, -1), hereDoc.FindAllStringSubmatch(text, -1)...) {
			if !strings.Contains(block[1], "penstock.dev/v1") {
				continue
			}
			examples++
			if code, out, _ := run(t, strings.ReplaceAll(block[1], "HOST", "redis.example"), "validate", "-f", "-"); code != cli.ExitOK {
				t.Errorf("%s: %s\n%s", page, out, block[1])
			}
		}
	}
	if examples < 4 {
		t.Errorf("found %d examples: the pattern does not find them any more", examples)
	}
}

func TestLinksInTheDocumentationLeadSomewhere(t *testing.T) {
	links := 0
	for page, text := range pages(t) {
		for _, target := range link.FindAllStringSubmatch(text, -1) {
			links++
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), target[1])); err != nil {
				t.Errorf("%s: %s leads nowhere", page, target[1])
			}
		}
	}
	if links < 10 {
		t.Errorf("found %d links: the pattern does not find them any more", links)
	}
}
