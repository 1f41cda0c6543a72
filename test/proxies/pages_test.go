package proxies

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// fence is a block of code in a page. What stands behind its language is its name.
var fence = regexp.MustCompile("(?ms)^```([a-z]+) ([a-z-]+)\n(.*?)^```$")

// doors is where the pages are.
const doors = "../../docs/doors"

func readPage(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(doors, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// block gives the block of that name in the page.
func block(t *testing.T, page, name string) string {
	t.Helper()
	for _, found := range fence.FindAllStringSubmatch(readPage(t, page), -1) {
		if found[2] == name {
			return found[3]
		}
	}
	t.Fatalf("%s has no block %q", page, name)
	return ""
}

// replace replaces parts of a configuration, each of which it must have: pairs of old and new text.
func replace(t *testing.T, text string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("the configuration lacks %q:\n%s", pairs[i], text)
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	return text
}

// in puts the addresses of the site in the place of the page's, and the timeouts that are given as pairs too, unless it is
// hurried.
func (s site) in(t *testing.T, text string, timeouts ...string) string {
	t.Helper()
	// First, as the changes are written in the words of the page.
	text = replace(t, text, s.change...)
	if !s.hurried {
		text = replace(t, text, timeouts...)
	}
	text = replace(t, text, pagePenstockd, s.penstockd, pageBackend, s.backend)
	return strings.ReplaceAll(text, edgeNetwork, edge+"/32") // not every proxy has it there
}
