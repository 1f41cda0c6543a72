package manifest_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/penstock-dev/penstock/internal/cli/manifest"
)

func readText(t *testing.T, text string) ([]*manifest.Object, []manifest.Problem) {
	t.Helper()
	objects, problems, err := manifest.Read([]string{"-"}, false, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return objects, problems
}

func TestDocumentsAreSplit(t *testing.T) {
	type object struct {
		title          string
		document, line int
	}
	for name, test := range map[string]struct {
		text string
		want []object
	}{
		"one":                           {named + "a}\n", []object{{"Named a", 1, 1}}},
		"two":                           {named + "a}\n---\n" + named + "b}\n", []object{{"Named a", 1, 1}, {"Named b", 2, 5}}},
		"a marker first":                {"---\n" + named + "a}\n", []object{{"Named a", 1, 2}}},
		"comments before":               {"# one\n\n# two\n" + named + "a}\n", []object{{"Named a", 1, 4}}},
		"a marker with a comment":       {named + "a}\n--- # next\n" + named + "b}", []object{{"Named a", 1, 1}, {"Named b", 2, 5}}},
		"an empty document between":     {named + "a}\n---\n---\n# nothing\n---\n" + named + "b}\n", []object{{"Named a", 1, 1}, {"Named b", 4, 8}}},
		"an end marker":                 {named + "a}\n...\n" + named + "b}\n", []object{{"Named a", 1, 1}, {"Named b", 2, 5}}},
		"Windows line ends":             {strings.ReplaceAll(named+"a}\n---\n"+named+"b}\n", "\n", "\r\n"), []object{{"Named a", 1, 1}, {"Named b", 2, 5}}},
		"a byte order mark":             {"\ufeff" + named + "a}\n", []object{{"Named a", 1, 1}}},
		"dashes within a block":         {named + "a}\ndata: |\n  ---\n  x\n", []object{{"Named a", 1, 1}}},
		"a list":                        {"apiVersion: v1\nkind: List\nitems:\n- " + strings.ReplaceAll(named, "\n", "\n  ") + "a}\n- {apiVersion: v1, kind: Named, metadata: {namespace: ns, name: b}}\n", []object{{"Named a", 1, 4}, {"Named ns/b", 1, 7}}},
		"JSON":                          {"{\"apiVersion\": \"v1\",\n\t\"kind\": \"Named\"}\n", []object{{"Named ?", 1, 1}}},
		"an object without kind":        {"metadata: {name: a}\n", []object{{"? a", 1, 1}}},
		"a kind that only ends in List": {"apiVersion: v1\nkind: AllowList\nmetadata: {name: a}\n", []object{{"AllowList a", 1, 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			objects, problems := readText(t, test.text)
			if len(problems) > 0 {
				t.Fatalf("problems %v", problems)
			}
			var got []object
			for _, o := range objects {
				got = append(got, object{o.Title(), o.Document, o.Line})
			}
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestWhatCannotBeReadIsNamedByLine(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want string
	}{
		"a tab":              {named + "a}\nspec:\n\tx: 1\n", "<stdin>:5: not valid YAML: found character that cannot start any token"},
		"in the second":      {named + "a}\n---\nkind: Named\nspec: [1\n", "<stdin>:6: document 2: not valid YAML: did not find expected ',' or ']'"},
		"a key twice":        {named + "a}\nspec:\n  window: 1m\n  window: 2m\n", "<stdin>:6: Named a: spec.window: is there twice, first in line 5; remove one"},
		"a key twice below":  {named + "a}\n---\n" + named + "b}\nspec:\n  limits:\n  - {x: 1, x: 2}\n", "<stdin>:10: document 2: Named b: spec.limits[0].x: is there twice, first in line 10; remove one"},
		"a list":             {"- a\n- b\n", "<stdin>:1: not valid YAML: want a mapping with apiVersion, kind and metadata, found a list"},
		"a word":             {"\n\nhello\n", "<stdin>:3: not valid YAML: want a mapping with apiVersion, kind and metadata, found a string"},
		"a word in a List":   {"apiVersion: v1\nkind: List\nitems:\n- hello\n", "<stdin>:4: not valid YAML: items[0]: want a mapping with apiVersion, kind and metadata, found a string"},
		"JSON that is cut":   {"{\"kind\": \"Named\",\n", "<stdin>:"},
		"an unknown anchor":  {"kind: *nobody\n", "<stdin>:1: not valid YAML: unknown anchor 'nobody' referenced"},
		"a bomb of anchors":  {bomb(), "<stdin>:1: not valid YAML: document contains excessive aliasing"},
		"not text":           {"\x00\x01", "<stdin>:1: not valid YAML: control characters are not allowed"},
		"not UTF-8":          {"kind: \xff\n", "<stdin>:1: not valid YAML: invalid leading UTF-8 octet"},
		"a key that is null": {named + "a}\n? \n: 1\n", "<stdin>:1: not valid YAML:"},
	} {
		t.Run(name, func(t *testing.T) {
			_, problems := readText(t, test.text)
			if len(problems) != 1 {
				t.Fatalf("%d problems: %v", len(problems), problems)
			}
			if got := problems[0].String(); !strings.HasPrefix(got, test.want) {
				t.Errorf("problem %q, want %q", got, test.want)
			}
		})
	}
}

// bomb is a document that would be huge if its aliases were written out.
func bomb() string {
	var b strings.Builder
	b.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := range 9 {
		n := string(rune('0' + i))
		next := string(rune('1' + i))
		b.WriteString("a" + next + ": &a" + next + " [*a" + n + strings.Repeat(",*a"+n, 9) + "]\n")
	}
	return b.String()
}

func TestOneBadDocumentLeavesTheOthers(t *testing.T) {
	objects, problems := readText(t, named+"a}\n---\nspec: [\n---\n"+named+"b}\n")
	if got := titles(objects); !reflect.DeepEqual(got, []string{"Named a", "Named b"}) || len(problems) != 1 {
		t.Errorf("read %q with problems %v, want a, b and one problem", got, problems)
	}
}

func TestAListWithinAListIsTakenApart(t *testing.T) {
	const list = "{apiVersion: v1, kind: List, items: [\n"
	item := func(name string) string { return "{apiVersion: v1, kind: Named, metadata: {name: " + name + "}},\n" }
	for name, test := range map[string]struct {
		text        string
		want        []string
		wantLines   []int
		wantProblem string
	}{
		"one":          {list + item("a") + list + item("b") + "]},\n" + item("c") + "]}\n", []string{"Named a", "Named b", "Named c"}, []int{2, 4, 6}, ""},
		"an empty one": {list + item("a") + list + "]},\n" + item("c") + "]}\n", []string{"Named a", "Named c"}, []int{2, 5}, ""},
		"of one kind":  {list + strings.Replace(list, "List", "NamedList", 1) + item("b") + "]}]}\n", []string{"Named b"}, []int{3}, ""},
		"16":           {strings.Repeat(list, 16) + item("a") + strings.Repeat("]}", 16), []string{"Named a"}, []int{17}, ""},
		"17": {list + item("b") + strings.Repeat(list, 16) + item("a") + strings.Repeat("]}", 17), []string{"Named b"}, []int{2},
			"<stdin>:18: List ?: more than 16 lists stand within each other; put the items into one"},
		"with a word in it": {list + item("a") + list + "hello]}]}\n", []string{"Named a"}, []int{2},
			"<stdin>:4: not valid YAML: items[0]: want a mapping with apiVersion, kind and metadata, found a string"},
	} {
		t.Run(name, func(t *testing.T) {
			objects, problems := readText(t, test.text)
			var lines []int
			for _, o := range objects {
				lines = append(lines, o.Line)
			}
			if got := titles(objects); !reflect.DeepEqual(got, test.want) || !reflect.DeepEqual(lines, test.wantLines) {
				t.Errorf("read %q in lines %d, want %q in %d", got, lines, test.want, test.wantLines)
			}
			var got string
			for _, p := range problems {
				got += p.String()
			}
			if got != test.wantProblem {
				t.Errorf("problems %q, want %q", got, test.wantProblem)
			}
		})
	}
}

func TestLineOfAField(t *testing.T) {
	objects, _ := readText(t, `# one
apiVersion: v1
kind: List
items:
- kind: Named
  metadata:
    name: a
    labels:
      penstock.dev/tier: gold
  spec:
    shared: &shared
      window: 1m
    limits:
    - requests: 1
      window: 1m
    -
      requests: 2
    - *shared
`)
	for path, want := range map[string]int{
		"":                                   5,
		"metadata.name":                      7,
		"metadata.labels[penstock.dev/tier]": 9,
		"spec.limits":                        13,
		"spec.limits[0]":                     14,
		"spec.limits[0].window":              15,
		"spec.limits[1].requests":            17,
		"spec.limits[1].window":              17,
		"spec.limits[2].window":              12,
		"spec.limits[9].window":              13,
		"spec.nothing[0].there":              10,
		"status":                             5,
	} {
		if got := objects[0].LineOf(path); got != want {
			t.Errorf("%q is in line %d, want %d", path, got, want)
		}
	}
}

func TestKustomizationMayLeaveOutItsKind(t *testing.T) {
	root := write(t, map[string]string{"kustomization.yaml": "resources: [a.yaml]\n"})
	objects, _, err := manifest.Read([]string{root}, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := objects[0].Unstructured().GroupVersionKind().Group; got != "kustomize.config.k8s.io" {
		t.Errorf("group %q", got)
	}
}
