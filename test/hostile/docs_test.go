package hostile

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const root = "../.."

// docs/faults.md names the tests of each fault, each after its folder.
func TestEveryTestThatTheTableOfFaultsNamesIsThere(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(root, "docs", "faults.md"))
	if err != nil {
		t.Fatal(err)
	}
	declared := map[string]map[string]bool{}
	named := regexp.MustCompile("`([^`]+)`(:?)")
	next := 41
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		number, err := strconv.Atoi(strings.TrimSpace(cells[0]))
		if err != nil {
			continue
		}
		if number != next {
			t.Errorf("fault %d stands where %d is wanted", number, next)
		}
		next = number + 1
		folder, tests := "", 0
		for _, word := range named.FindAllStringSubmatch(cells[len(cells)-1], -1) {
			if word[2] == ":" {
				folder = word[1]
				continue
			}
			if declared[folder] == nil {
				declared[folder] = testsOf(t, folder)
			}
			if tests++; !declared[folder][word[1]] {
				t.Errorf("fault %d: there is no %s in %q", number, word[1], folder)
			}
		}
		if tests == 0 {
			t.Errorf("fault %d has no test", number)
		}
	}
	const last = 59
	if next != last+1 {
		t.Errorf("the table ends with fault %d, want %d", next-1, last)
	}
}

// testsOf gives the names of the functions in the test files of a folder.
func testsOf(t *testing.T, folder string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, declaration := range file.Decls {
			if function, is := declaration.(*ast.FuncDecl); is && function.Recv == nil {
				names[function.Name.Name] = true
			}
		}
	}
	return names
}
