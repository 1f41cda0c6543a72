package expr

import (
	"os"
	"strings"
	"testing"
)

// examples gives the expressions in the blocks of a manual that begin with ```cel, by the heading that they are under. An
// empty line ends an expression.
func examples(t *testing.T, path string) map[string][]string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]string{}
	var heading string
	for section := range strings.SplitSeq("\n"+string(content), "\n## ") {
		heading, _, _ = strings.Cut(section, "\n")
		for _, block := range strings.Split(section, "\n```cel\n")[1:] {
			block, _, closed := strings.Cut(block, "\n```")
			if !closed {
				t.Fatalf("%s: a block without an end", heading)
			}
			found[heading] = append(found[heading], strings.Split(block, "\n\n")...)
		}
	}
	return found
}

func TestTheManualsExamplesAreAccepted(t *testing.T) {
	found := examples(t, "../../docs/expressions.md")
	for heading, texts := range found {
		for _, text := range texts {
			var err error
			if heading == "Costs" {
				_, err = CompileCost(text)
			} else {
				_, err = CompileCondition(text)
			}
			if err != nil {
				t.Errorf("%s: %s: %v", heading, text, err)
			}
		}
	}
	for _, heading := range []string{"What there is to look at", "Conditions", "Costs"} {
		if len(found[heading]) < 3 {
			t.Errorf("%s: %d examples, want at least 3", heading, len(found[heading]))
		}
	}
}
