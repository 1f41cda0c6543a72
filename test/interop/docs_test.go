package interop

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/penstock-dev/penstock/internal/redisops"
)

var codeBlock = regexp.MustCompile("(?s)```(?:js|python)\n(.*?)```")

func readPage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/clients.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

func TestTheDocumentationShowsTheFilesThatAreTested(t *testing.T) {
	shown := map[string]bool{}
	for _, block := range codeBlock.FindAllStringSubmatch(readPage(t), -1) {
		shown[block[1]] = true
	}
	for _, name := range []string{"codec.mjs", "codec.py", "limit.mjs", "limit.py"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !shown[string(text)] {
			t.Errorf("docs/clients.md does not show %s as it is; copy it there", name)
		}
		delete(shown, string(text))
	}
	for block := range shown {
		t.Errorf("docs/clients.md shows what is not tested:\n%s", block)
	}
}

func TestTheKeysInTheDocumentationAreRight(t *testing.T) {
	page := readPage(t)
	bob := redisops.Entry{Key: "user", Value: "bob"}
	for subject, entries := range map[string][]redisops.Entry{
		"`user=bob`":                              {bob},
		"`user=bob`, `path=/a b`":                 {bob, {Key: "path", Value: "/a b"}},
		"`user=Zoë`, the ë being the bytes C3 AB": {{Key: "user", Value: "Zo\xc3\xab"}},
		"`user=bob`, `path=/v1/orders` of the `shared` pattern `/v1/*`": {bob, {Key: "path", Value: "/v1/*"}},
		"none: the policy has no descriptors":                           nil,
	} {
		if want := "| " + subject + " | `" + redisops.CounterKey("shop/api-per-user", entries) + "` |"; !strings.Contains(page, want) {
			t.Errorf("docs/clients.md lacks %s", want)
		}
	}
}
