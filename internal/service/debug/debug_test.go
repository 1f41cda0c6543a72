package debug

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/service/topdenied"
)

// denials is a report that is always the same.
type denials struct {
	report topdenied.Report
	asked  int
}

func (d *denials) Top(n int) topdenied.Report {
	d.asked = n
	return d.report
}

func attack() *denials {
	begin := time.Date(2027, 1, 15, 8, 0, 0, 0, time.UTC)
	return &denials{report: topdenied.Report{
		From: begin, To: begin.Add(7 * time.Minute), Denials: 1000,
		Subjects: []topdenied.Subject{
			{
				Policy: "shop/per-user", Entries: []topdenied.Entry{{Key: "user", Value: "bob"}, {Key: "path", Value: "/a b"}},
				AtLeast: 500, AtMost: 510, Since: begin.Add(90 * time.Second),
			},
			{Policy: "shop/whole", AtLeast: 12, AtMost: 12, Since: begin},
		},
	}}
}

// ask is a request as a local caller makes it.
func ask(path string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.RemoteAddr, r.Host = "127.0.0.1:50000", "localhost:9090"
	return r
}

func answer(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestTheTableShowsWhoWasDenied(t *testing.T) {
	w := answer(New(attack(), false), ask("/debug/top"))
	want := `1000 denials from 2027-01-15T08:00:00Z to 2027-01-15T08:07:00Z; the 2 subjects denied most often

AT LEAST  AT MOST  SHARE  SINCE     POLICY         SUBJECT
500       510      50.0%  08:01:30  shop/per-user  user="bob" path="/a b"
12        12       1.2%   08:00:00  shop/whole     -
`
	if got := w.Body.String(); got != want {
		t.Errorf("shown\n%s, want\n%s", got, want)
	}
	for name, want := range map[string]string{
		"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestJSONShowsTheSame(t *testing.T) {
	want := `{
  "from": "2027-01-15T08:00:00Z",
  "to": "2027-01-15T08:07:00Z",
  "denials": 1000,
  "subjects": [
    {
      "policy": "shop/per-user",
      "subject": [
        {
          "key": "user",
          "value": "bob"
        },
        {
          "key": "path",
          "value": "/a b"
        }
      ],
      "atLeast": 500,
      "atMost": 510,
      "share": 0.5,
      "since": "2027-01-15T08:01:30Z"
    },
    {
      "policy": "shop/whole",
      "subject": [],
      "atLeast": 12,
      "atMost": 12,
      "share": 0.012,
      "since": "2027-01-15T08:00:00Z"
    }
  ]
}
`
	if got := answer(New(attack(), false), ask("/debug/top?format=json")).Body.String(); got != want {
		t.Errorf("shown\n%s, want\n%s", got, want)
	}
}

func TestTheFormatIsWhatTheCallerWants(t *testing.T) {
	for name, test := range map[string]struct {
		query, accept, want string
	}{
		"nothing said":          {"", "", "text/plain; charset=utf-8"},
		"a browser":             {"", "text/html,application/xhtml+xml,*/*;q=0.8", "text/plain; charset=utf-8"},
		"curl":                  {"", "*/*", "text/plain; charset=utf-8"},
		"JSON accepted":         {"", "application/json", "application/json"},
		"JSON before others":    {"", "application/json, */*;q=0.1", "application/json"},
		"text by its name":      {"?format=text", "application/json", "text/plain; charset=utf-8"},
		"JSON by its name":      {"?format=json", "text/plain", "application/json"},
		"what there is not":     {"?format=xml", "", ""},
		"an Accept of nonsense": {"", ";;;", "text/plain; charset=utf-8"},
	} {
		t.Run(name, func(t *testing.T) {
			r := ask("/debug/top" + test.query)
			r.Header.Set("Accept", test.accept)
			w := answer(New(attack(), false), r)
			if test.want == "" {
				if w.Code != http.StatusBadRequest {
					t.Errorf("%d, want 400", w.Code)
				}
				return
			}
			if got := w.Header().Get("Content-Type"); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

func TestTheNumberOfSubjectsIsBounded(t *testing.T) {
	for query, want := range map[string]int{
		"": defaultSubjects, "?n=1": 1, "?n=1024": 1024, "?n=0": -1, "?n=-1": -1, "?n=1025": -1, "?n=x": -1, "?n=99999999999999999999": -1,
	} {
		d := attack()
		d.asked = -1
		w := answer(New(d, false), ask("/debug/top"+query))
		if d.asked != want || (w.Code == http.StatusOK) != (want > 0) {
			t.Errorf("%q: asked for %d, answered %d; want %d", query, d.asked, w.Code, want)
		}
	}
}

// Fault 43: what users choose is shown so that it can do nothing.
func TestValuesAreQuoted(t *testing.T) {
	values := []string{"\x00\r\n1  shop/other", "\x1b[2J", "\u202eevil", "אב", "\xff\xfe", `"quoted"`, "<script>", "\t", "\u2028", "e\u0301"}
	d := &denials{}
	for _, v := range values {
		d.report.Subjects = append(d.report.Subjects, topdenied.Subject{Policy: "shop/p", Entries: []topdenied.Entry{{Key: "user", Value: v}}})
	}
	text := answer(New(d, false), ask("/debug/top")).Body.String()
	if got := strings.Count(text, "\n"); got != 3+len(values) {
		t.Errorf("%d lines, want %d:\n%s", got, 3+len(values), text)
	}
	for _, b := range []byte(text) {
		if b != '\n' && (b < ' ' || b > '~') {
			t.Fatalf("byte %#x is shown as it is:\n%s", b, text)
		}
	}
	if !strings.Contains(text, `user="\x00\r\n1  shop/other"`) || !strings.Contains(text, `user="\u202eevil"`) || !strings.Contains(text, `user="\xff\xfe"`) {
		t.Errorf("the values cannot be told from what is shown:\n%s", text)
	}
	var shown struct {
		Subjects []struct {
			Subject []struct {
				Value string
				Bytes []byte
			}
		}
	}
	if err := json.Unmarshal(answer(New(d, false), ask("/debug/top?format=json")).Body.Bytes(), &shown); err != nil {
		t.Fatal(err)
	}
	for i, want := range values {
		got := shown.Subjects[i].Subject[0]
		if got.Value != want && string(got.Bytes) != want {
			t.Errorf("JSON has %q and %q, want %q", got.Value, got.Bytes, want)
		}
	}
}

func TestAKeyThatCouldBeMistakenIsQuoted(t *testing.T) {
	for key, want := range map[string]string{"user": "user", "a b": `"a b"`, "a=b": `"a=b"`, "a\nb": `"a\nb"`, "ü": `"\u00fc"`, `a"b`: `"a\"b"`} {
		if got := quotedKey(key); got != want {
			t.Errorf("%q is shown as %s, want %s", key, got, want)
		}
	}
}

func TestOnlyLocalCallersAreAnswered(t *testing.T) {
	for name, test := range map[string]struct {
		peer, host string
		headers    map[string]string
		want       int
	}{
		"IPv4":                           {"127.0.0.1:1", "localhost:9090", nil, 200},
		"IPv6":                           {"[::1]:1", "[::1]:9090", nil, 200},
		"IPv4 in IPv6":                   {"[::ffff:127.0.0.1]:1", "127.0.0.1", nil, 200},
		"an address in brackets":         {"[::1]:1", "[::1]", nil, 200},
		"another host":                   {"10.0.0.7:1", "localhost:9090", nil, 403},
		"another host that lies":         {"10.0.0.7:1", "localhost:9090", map[string]string{"X-Forwarded-For": "127.0.0.1"}, 403},
		"another host that lies by name": {"10.0.0.7:1", "localhost:9090", map[string]string{"Forwarded": "for=127.0.0.1", "X-Real-IP": "127.0.0.1"}, 403},
		"behind a proxy":                 {"127.0.0.1:1", "localhost:9090", map[string]string{"X-Forwarded-For": "10.0.0.7"}, 403},
		"behind a proxy that says Via":   {"127.0.0.1:1", "localhost:9090", map[string]string{"Via": "1.1 proxy"}, 403},
		"through a sidecar":              {"127.0.0.6:1", "10.0.0.1:9090", nil, 403},
		"a page in a browser":            {"127.0.0.1:1", "attacker.example:9090", nil, 403},
		"a name like localhost":          {"127.0.0.1:1", "localhost.attacker.example", nil, 403},
		"no host":                        {"127.0.0.1:1", "", nil, 403},
		"no peer":                        {"", "localhost", nil, 403},
		"a socket":                       {"@", "localhost", nil, 403},
		"an interface of the host":       {"[fe80::1%lo]:1", "localhost", nil, 403},
	} {
		t.Run(name, func(t *testing.T) {
			for _, path := range []string{"/debug/top", "/debug/pprof/", "/debug/pprof/heap"} {
				r := ask(path)
				r.RemoteAddr, r.Host = test.peer, test.host
				for name, value := range test.headers {
					r.Header.Set(name, value)
				}
				w := answer(New(attack(), true), r)
				if w.Code != test.want {
					t.Errorf("%s: %d, want %d", path, w.Code, test.want)
				}
				if test.want == http.StatusForbidden && strings.Contains(w.Body.String(), "bob") {
					t.Errorf("%s shows who was denied", path)
				}
			}
		})
	}
}

func TestARealLocalConnectionIsAnswered(t *testing.T) {
	server := httptest.NewServer(New(attack(), true))
	defer server.Close()
	for path, want := range map[string]int{"/debug/top": 200, "/debug/pprof/goroutine?debug=1": 200, "/debug/pprof/profile?seconds=1": 200} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		reply, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(reply.Body)
		_ = reply.Body.Close()
		if err != nil || reply.StatusCode != want || len(body) == 0 {
			t.Errorf("%s: %d with %d bytes, %v; want %d", path, reply.StatusCode, len(body), err, want)
		}
	}
}

func TestProfilesAreServedOnlyWhereTheyAreAskedFor(t *testing.T) {
	for _, test := range []struct {
		path     string
		profiles bool
		want     int
	}{
		{"/debug/pprof/", false, 404}, {"/debug/pprof/heap", false, 404}, {"/debug/pprof/profile", false, 404},
		{"/debug/pprof/", true, 200}, {"/debug/pprof/heap", true, 200}, {"/debug/pprof/symbol", true, 200},
		{"/debug/pprof/cmdline", true, 404}, // arguments may hold a password
		{"/debug/", true, 404}, {"/debug/vars", true, 404},
	} {
		if got := answer(New(attack(), test.profiles), ask(test.path)).Code; got != test.want {
			t.Errorf("%s with profiles %t: %d, want %d", test.path, test.profiles, got, test.want)
		}
	}
}

func TestOnlyReadingIsAllowed(t *testing.T) {
	for _, method := range []string{http.MethodPost, http.MethodDelete} {
		r := ask("/debug/top")
		r.Method = method
		if got := answer(New(attack(), false), r).Code; got != http.StatusMethodNotAllowed {
			t.Errorf("%s: %d, want 405", method, got)
		}
	}
}

func TestTheCounterIsShown(t *testing.T) {
	text := answer(New(topdenied.New(nil), false), ask("/debug/top")).Body.String()
	if want := "the 0 subjects"; !strings.Contains(text, want) {
		t.Errorf("shown %s, want %s", text, want)
	}
}
