package manifest_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/penstock-dev/penstock/internal/cli/manifest"
)

// write makes a folder with files and gives its path.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func titles(objects []*manifest.Object) []string {
	var list []string
	for _, o := range objects {
		list = append(list, o.Title())
	}
	return list
}

const named = "apiVersion: v1\nkind: Named\nmetadata: {name: "

func TestReadFindsFiles(t *testing.T) {
	root := write(t, map[string]string{
		"b.yaml":            named + "b}\n",
		"a.yml":             named + "a}\n",
		"c.json":            "{\n\t\"apiVersion\": \"v1\", \"kind\": \"Named\",\n\t\"metadata\": {\"name\": \"c\"}\n}\n",
		"README.md":         "not a manifest",
		".hidden.yaml":      named + "hidden}\n",
		"below/d.yaml":      named + "d}\n",
		"below/more/e.yaml": named + "e}\n",
		".git/f.yaml":       named + "f}\n",
	})
	for name, test := range map[string]struct {
		paths     []string
		recursive bool
		want      []string
	}{
		"a folder, sorted, without those below":  {[]string{root}, false, []string{"Named a", "Named b", "Named c"}},
		"a folder and those below":               {[]string{root}, true, []string{"Named a", "Named b", "Named d", "Named e", "Named c"}},
		"a file of any name":                     {[]string{root + "/.hidden.yaml"}, false, []string{"Named hidden"}},
		"paths in the order that was given":      {[]string{root + "/b.yaml", root + "/below"}, false, []string{"Named b", "Named d"}},
		"a file once that is reached twice":      {[]string{root, root + "/b.yaml", root + "/./b.yaml"}, false, []string{"Named a", "Named b", "Named c"}},
		"standard input":                         {[]string{"-"}, false, []string{"Named stdin"}},
		"standard input beside files, read once": {[]string{"-", root + "/a.yml", "-"}, false, []string{"Named stdin", "Named a"}},
	} {
		t.Run(name, func(t *testing.T) {
			objects, problems, err := manifest.Read(test.paths, test.recursive, strings.NewReader(named+"stdin}\n"))
			if err != nil || len(problems) > 0 {
				t.Fatalf("error %v, problems %v", err, problems)
			}
			if got := titles(objects); !reflect.DeepEqual(got, test.want) {
				t.Errorf("read %q, want %q", got, test.want)
			}
		})
	}
}

func TestReadFollowsLinksToFiles(t *testing.T) {
	root := write(t, map[string]string{"data/a.yaml": named + "a}\n", "empty/.keep": ""})
	for link, target := range map[string]string{"empty/a.yaml": "../data/a.yaml", "empty/loop": "..", "linked": "data"} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, folder := range []string{"empty", "linked"} {
		objects, _, err := manifest.Read([]string{filepath.Join(root, folder)}, true, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := titles(objects); !reflect.DeepEqual(got, []string{"Named a"}) {
			t.Errorf("%s: read %q, want a once", folder, got)
		}
	}
}

func TestAFileOfAFolderThatCannotBeReadIsAProblem(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(path string) error
		want  string
	}{
		"a link to nothing": {func(path string) error { return os.Symlink("../gone.yaml", path) }, ":1: is a link to ../gone.yaml, which is not there; mend the link, or remove it"},
		"a link to itself":  {func(path string) error { return os.Symlink("b.yaml", path) }, ":1: cannot be read: too many levels of symbolic links"},
		"a file that is much too large": {func(path string) error { return os.WriteFile(path, make([]byte, manifest.MaxFileBytes+1), 0o600) },
			":1: cannot be read: larger than 16 MiB; split it"},
	} {
		t.Run(name, func(t *testing.T) {
			root := write(t, map[string]string{"below/a.yaml": named + "a}\n", "below/c.yaml": named + "c}\n"})
			path := filepath.Join(root, "below", "b.yaml")
			if err := test.spoil(path); err != nil {
				t.Fatal(err)
			}
			objects, problems, err := manifest.Read([]string{root}, true, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := titles(objects); !reflect.DeepEqual(got, []string{"Named a", "Named c"}) {
				t.Errorf("read %q, want the others", got)
			}
			if len(problems) != 1 || problems[0].String() != path+test.want {
				t.Errorf("problems %v, want %q", problems, path+test.want)
			}
			// It is nothing that keeps changes of the others from being seen.
			if folders, err := manifest.Folders([]string{root}, true); err != nil || len(folders) != 2 {
				t.Errorf("folders %q (%v), want both", folders, err)
			}
			if _, _, err := manifest.Read([]string{path}, false, nil); err == nil || !strings.Contains(err.Error(), "b.yaml: ") {
				t.Errorf("error %v, want one when the file itself is asked for", err)
			}
		})
	}
}

func TestReadSaysWhatIsNotThere(t *testing.T) {
	root := write(t, map[string]string{
		"empty.yaml":         "",
		"comment.yaml":       "# nothing\n---\n# still nothing\n",
		"only-below/x/a.yml": named + "a}\n",
		"nothing/README.md":  "",
	})
	large := filepath.Join(root, "large.yaml")
	if err := os.WriteFile(large, make([]byte, manifest.MaxFileBytes+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		path      string
		recursive bool
		want      string
	}{
		"no such file":                    {root + "/gone.yaml", false, "gone.yaml: no such file or folder"},
		"an empty file":                   {root + "/empty.yaml", false, "nothing to read: no manifest in " + root + "/empty.yaml"},
		"a file of comments":              {root + "/comment.yaml", false, "nothing to read: no manifest in " + root + "/comment.yaml"},
		"a folder with manifests below":   {root + "/only-below", false, "no .yaml, .yml or .json file in this folder; -R reads the folders below it too"},
		"a folder without any":            {root + "/nothing", true, "nothing: no .yaml, .yml or .json file in this folder"},
		"a file that is much too large":   {large, false, "large.yaml: larger than 16 MiB; split it"},
		"standard input that has nothing": {"-", false, "nothing to read: no manifest in -"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := manifest.Read([]string{test.path}, test.recursive, strings.NewReader(""))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestFoldersAreThoseToWatch(t *testing.T) {
	root := write(t, map[string]string{"a.yaml": "", "below/b.yaml": "", "below/more/c.yaml": "", ".git/d.yaml": ""})
	for name, test := range map[string]struct {
		path      string
		recursive bool
		want      []string
	}{
		"of a file":                   {root + "/a.yaml", false, []string{root}},
		"of a folder":                 {root + "/", false, []string{root}},
		"of a folder and those below": {root, true, []string{root, root + "/below", root + "/below/more"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := manifest.Folders([]string{test.path, test.path}, test.recursive)
			if err != nil || !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %q (%v), want %q", got, err, test.want)
			}
		})
	}
}

// Whatever a file holds: it is objects, or problems that say where, and nothing is lost without a word.
func FuzzRead(f *testing.F) {
	for _, text := range []string{
		"", "---\n---\n", named + "a}\n---\n" + named + "b}\n", "{\"apiVersion\": \"v1\",\n\t\"kind\": \"Named\"}", "a: &x [*x]\n",
		"a: &a [1]\nb: &b [*a, *a]\nc: [*b, *b]\n", "kind: List\nitems: [{kind: Named}, 7]\n", "\xff\xfe\x00", "a: b: c\n", "- 1\n- 2\n",
		"apiVersion: penstock.dev/v1\nkind: RateLimit\nspec: {limits: [{requests: 1e3}]}\n", "? {a: 1}\n: 2\n", "a: 1\na: 2\n", "...\n", "%YAML 9.9\n---\na: 1\n",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		objects, problems, err := manifest.Read([]string{manifest.Stdin}, false, strings.NewReader(text))
		if err != nil && len(objects)+len(problems) > 0 {
			t.Errorf("%q: %v beside %d objects and %d problems", text, err, len(objects), len(problems))
		}
		for _, p := range problems {
			if p.Message == "" || p.File != manifest.StdinName || p.Line < 1 {
				t.Errorf("%q: the problem %+v says nothing of what or where", text, p)
			}
		}
		for _, o := range objects {
			if o.Title() == "" {
				t.Errorf("%q: an object without a title", text)
			}
		}
	})
}
