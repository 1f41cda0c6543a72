package callers

import (
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/penstock-dev/penstock/internal/service/tlsfiles/tlstest"
)

const oneOfEach = `
# who may ask
callers:
- name: edge
  san: ["spiffe://cluster.local/ns/edge/sa/*", "*.edge.svc", "*@edge.example"]
  namespaces: ["shop*"]
  domains: [edge]
- name: admin
  tokenSHA256: [` + "%ADMIN%" + `]
  namespaces: ["*"]
  administrative: true
  limitOverrides: true
- name: pay
  serviceAccounts: ["shop/cart"]
  namespaces: [pay]
  administrative: false
`

func callersFile(tokens map[string]string) string {
	text := oneOfEach
	for name, token := range tokens {
		text = strings.ReplaceAll(text, name, digestOf(token))
	}
	return text
}

func TestAFileOfCallersIsYAMLOrJSON(t *testing.T) {
	for name, text := range map[string]string{
		"YAML":              callersFile(map[string]string{"%ADMIN%": "s3cret"}),
		"a byte order mark": "\ufeffcallers: [{name: a, san: [a]}]\n",
		"JSON":              `{"callers": [{"name": "a", "san": ["a"], "administrative": true}]}`,
		"JSON with tabs":    "{\n\t\"callers\": [\n\t\t{\"name\": \"a\", \"san\": [\"a\"]}\n\t]\n}\n",
		"nobody":            "callers: []",
		"digits only":       "callers: [{name: 7, tokenSHA256: [" + strings.Repeat("1", 64) + "]}]",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := parse([]byte(text)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAMistakeInAFileOfCallersIsNamedWithItsRemedy(t *testing.T) {
	long := strings.Repeat("a", maxPatternBytes+1)
	for name, test := range map[string]struct {
		text string
		want []string
	}{
		"empty":             {"", []string{"it is empty", "callers: []"}},
		"a comment":         {"# nobody\n", []string{"it is empty"}},
		"null":              {"null", []string{"the file", "want a mapping"}},
		"no list":           {"callers:\n  a: b", []string{"line 2", "callers: want a list"}},
		"no callers":        {"{}", []string{"callers is missing", "callers: []"}},
		"no YAML":           {"callers: [", []string{"not valid YAML", "line 1"}},
		"two documents":     {"callers: []\n---\ncallers: []", []string{"more than one document"}},
		"unknown at top":    {"callers: []\nusers: []", []string{"line 2", `unknown field "users"`, "there are callers"}},
		"unknown":           {"callers:\n- name: shop\n  sans: [a]", []string{"line 3", `caller "shop"`, `unknown field "sans"`, "san, tokenSHA256"}},
		"case":              {"callers:\n- Name: shop", []string{`callers[0]`, `unknown field "Name"`}},
		"merge":             {"callers:\n- <<: {name: a}\n  name: b", []string{`unknown field "<<"`}},
		"twice":             {"callers:\n- name: shop\n  san: [a]\n  san: [b]", []string{"line 4", `caller "shop"`, "san is there twice"}},
		"no name":           {"callers:\n- san: [a]", []string{"line 2", "callers[0]", "name is missing"}},
		"a null name":       {"callers:\n- name:\n  san: [a]", []string{"line 2", "name: want a string"}},
		"name taken":        {"callers:\n- {name: shop, san: [a]}\n- {name: shop, san: [b]}", []string{"line 3", `caller "shop"`, "name is there twice"}},
		"nobody":            {"callers:\n- {name: shop, namespaces: [shop]}", []string{`caller "shop"`, "give san, tokenSHA256 or serviceAccounts"}},
		"a caller of text":  {"callers: [shop]", []string{"callers[0]", "want a mapping with name"}},
		"an alias":          {"callers: [&a {name: a, san: [a]}, *a]", []string{"callers[1]", "write out what the alias stands for"}},
		"an alias of names": {"callers: [{name: a, san: &s [a]}, {name: b, san: *s}]", []string{`caller "b": san: want a list`, "write out"}},
		"no list of names":  {"callers:\n- name: shop\n  san: a", []string{"line 3", `caller "shop": san: want a list of strings`}},
		"an empty name":     {"callers:\n- {name: shop, san: ['']}", []string{"san[0]: want a string"}},
		"an address":        {"callers:\n- {name: shop, san: [a, 10.0.0.1]}", []string{"san[1]", "an address is no name", "give a URI"}},
		"a space":           {"callers:\n- {name: shop, san: ['a b']}", []string{"san[0]", "want no spaces"}},
		"too long":          {"callers:\n- {name: shop, domains: [" + long + "]}", []string{"domains[0]", "more than 1024 bytes"}},
		"a token":           {"callers:\n- {name: shop, tokenSHA256: [hunter2]}", []string{"line 2", `caller "shop": tokenSHA256[0]`, "sha256sum", "64 hexadecimal"}},
		"a token, no list":  {"callers:\n- {name: shop, tokenSHA256: hunter2}", []string{"tokenSHA256: want a list"}},
		"an empty token":    {"callers:\n- {name: shop, tokenSHA256: [" + digestOf("") + "]}", []string{"tokenSHA256[0]", "empty token"}},
		"a newline alone":   {"callers:\n- {name: shop, tokenSHA256: [" + digestOf("\n") + "]}", []string{"tokenSHA256[0]", "empty token"}},
		"a token of two": {"callers:\n- {name: a, tokenSHA256: [" + digestOf("x") + "]}\n- {name: b, tokenSHA256: [" + strings.ToUpper(digestOf("x")) + "]}",
			[]string{"line 3", `caller "b": tokenSHA256[0]`, `caller "a" has that token too`}},
		"an account":      {"callers:\n- {name: shop, serviceAccounts: [cart]}", []string{`serviceAccounts[0]: "cart"`, "<namespace>/<name>"}},
		"a policy":        {"callers:\n- {name: shop, san: [a], namespaces: [shop/api]}", []string{`namespaces[0]: "shop/api" is no namespace`}},
		"yes":             {"callers:\n- {name: shop, san: [a], administrative: yes}", []string{"administrative: want true or false"}},
		"quoted":          {"callers:\n- {name: shop, san: [a], limitOverrides: 'true'}", []string{"limitOverrides: want true or false"}},
		"too many tokens": {"callers:\n- {name: shop, tokenSHA256: [" + manyDigests() + "]}", []string{"tokenSHA256: more than 1024 tokens"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse([]byte(test.text))
			if err == nil {
				t.Fatal("it was accepted")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q lacks %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%q shows a token", err)
			}
		})
	}
}

func manyDigests() string {
	var all []string
	for i := range maxTokens + 1 {
		all = append(all, digestOf(strings.Repeat("x", i+1)))
	}
	return strings.Join(all, ", ")
}

func TestAFileOfCallersThatIsTooLargeIsRefused(t *testing.T) {
	path := write(t, "callers.yaml", strings.Repeat("#", maxBytes+1))
	if _, err := readFile(path, (&logged{}).to()); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("%v, want it refused", err)
	}
}

func TestANewFileOfCallersComesIntoForceAndABadOneDoesNot(t *testing.T) {
	of := func(name, token string) map[string][]byte {
		return map[string][]byte{"callers.yaml": []byte("callers: [{name: " + name + ", tokenSHA256: [" + digestOf(token) + "], namespaces: [shop]}]")}
	}
	mount := tlstest.NewMount(t, of("a", "first"))
	s := start(t, Config{Mode: Bearer, File: mount.Path("callers.yaml")}, nil)
	allowed := func(token string) bool {
		code, _, _ := s.get(t, "/auth", nil, Header, bearer(token))
		return code == 200
	}
	lines := func() int { return strings.Count(s.log.String(), "\n") }

	mount.Swap(t, of("b", "second"))
	s.callers.reload()
	if allowed("first") || !allowed("second") || lines() != 1 {
		t.Errorf("first %v, second %v, %d lines; want the second alone, and one line", allowed("first"), allowed("second"), lines())
	}
	mount.Swap(t, map[string][]byte{"callers.yaml": []byte("callers:\n- name: [")})
	s.callers.reload()
	s.callers.reload()
	if !allowed("second") || lines() != 2 || !strings.Contains(s.log.String(), "the last good one stays in force") {
		t.Errorf("a bad file: second %v, logged\n%s", allowed("second"), s.log)
	}
	mount.Swap(t, of("b", "second"))
	s.callers.reload()
	s.callers.reload()
	if lines() != 3 || !strings.Contains(s.log.String(), "again the one in force") {
		t.Errorf("mended: logged\n%s", s.log)
	}
	mount.Swap(t, map[string][]byte{"callers.yaml": []byte("callers: []")})
	s.callers.reload()
	if allowed("second") {
		t.Error("a caller who was taken out is still let in")
	}
	if err := os.Remove(mount.Path("..data")); err != nil {
		t.Fatal(err)
	}
	s.callers.reload()
	if lines() != 5 || strings.Contains(s.log.String(), "second") {
		t.Errorf("no file: logged\n%s", s.log)
	}
}

func TestRunReadsTheFilesAgainUntilItsContextEnds(t *testing.T) {
	path := write(t, "callers.yaml", "callers: [{name: a, tokenSHA256: ["+digestOf("first")+"]}]")
	keys := write(t, "keys.json", jwks(t, newECKey(t, "one")))
	synctest.Test(t, func(t *testing.T) {
		s := newSubject(t, Config{Mode: Bearer, File: path, JWKS: keys, Issuer: issuer})
		go s.Run(t.Context())
		if err := os.WriteFile(path, []byte("callers: []"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(keys, []byte(jwks(t, newECKey(t, "two"))), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(pollEvery + time.Millisecond)
		synctest.Wait()
		if n := len(s.callers.current.Load().entries); n != 0 {
			t.Errorf("%d callers, want none", n)
		}
		if g := s.accounts.keys.current.Load(); g.of("one") != nil || g.of("two") == nil {
			t.Error("want the new key alone")
		}
	})
}

func FuzzParseCallers(f *testing.F) {
	f.Add([]byte(callersFile(map[string]string{"%ADMIN%": "s3cret"})))
	f.Add([]byte(`{"callers": [{"name": "a", "san": ["*"], "administrative": true}]}`))
	f.Add([]byte("callers: [&a {name: a, san: [a]}, *a]"))
	f.Add([]byte("callers:\n- <<: {name: a}\n  name: !!binary aGk=\n---\n..."))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := parse(text)
		if err != nil {
			return
		}
		names := map[string]bool{}
		for _, e := range r.entries {
			if e.name == "" || names[e.name] {
				t.Fatalf("name %q is empty or there twice", e.name)
			}
			names[e.name] = true
			if e.granted.everything || e.granted.own != "" {
				t.Fatal("a file granted what no file can")
			}
		}
	})
}
