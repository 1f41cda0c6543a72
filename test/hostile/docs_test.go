package hostile

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const root = "../.."

// faults are the first and the last of each table of docs/faults.md, in their order there.
var faults = [][2]int{{1, 14}, {15, 30}, {94, 99}, {41, 59}}

// docs/faults.md names the tests of each fault, each after its folder.
func TestEveryTestThatTheTableOfFaultsNamesIsThere(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(root, "docs", "faults.md"))
	if err != nil {
		t.Fatal(err)
	}
	declared := map[string]map[string]bool{}
	named := regexp.MustCompile("`([^`]+)`(:?)")
	var numbers []int
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		number, err := strconv.Atoi(strings.TrimSpace(cells[0]))
		if err != nil {
			continue
		}
		numbers = append(numbers, number)
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
	var want []int
	for _, table := range faults {
		for number := table[0]; number <= table[1]; number++ {
			want = append(want, number)
		}
	}
	if !slices.Equal(numbers, want) {
		t.Errorf("the tables have faults %d, want %d", numbers, want)
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
