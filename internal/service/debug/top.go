package debug

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/penstock-dev/penstock/internal/service/topdenied"
)

const (
	// defaultSubjects are shown unless somebody asks for another number, and at most mostSubjects.
	defaultSubjects = 20
	mostSubjects    = topdenied.MaxSubjects
)

// Denials know who was denied; topdenied.Counter does.
type Denials interface {
	Top(n int) topdenied.Report
}

// top shows the subjects that were denied most often.
type top struct {
	denials Denials
}

// ServeHTTP answers with a table, or with JSON for ?format=json or whoever accepts JSON and no text.
func (t top) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	n := defaultSubjects
	if given := query.Get("n"); given != "" {
		var err error
		if n, err = strconv.Atoi(given); err != nil || n < 1 || n > mostSubjects {
			http.Error(w, fmt.Sprintf("n: want a number from 1 to %d", mostSubjects), http.StatusBadRequest)
			return
		}
	}
	wantsJSON := false
	switch format := query.Get("format"); format {
	case "json":
		wantsJSON = true
	case "text":
	case "":
		wantsJSON = prefersJSON(r.Header.Values("Accept"))
	default:
		http.Error(w, "format: want text or json", http.StatusBadRequest)
		return
	}
	report := t.denials.Top(n)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Vary", "Accept")
	if wantsJSON {
		w.Header().Set("Content-Type", "application/json")
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		_ = encoder.Encode(asJSON(&report)) // what fails is the connection
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write(asTable(&report))
}

// prefersJSON tells whether the first type of an Accept header that is one of ours is JSON's.
func prefersJSON(accept []string) bool {
	for part := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		switch name, _, _ := mime.ParseMediaType(part); name {
		case "application/json":
			return true
		case "text/plain", "text/*", "*/*":
			return false
		}
	}
	return false
}

// share is that of all denials which are the subject's for certain, from 0 to 1.
func share(s *topdenied.Subject, of *topdenied.Report) float64 {
	if of.Denials == 0 {
		return 0
	}
	return float64(s.AtLeast) / float64(of.Denials)
}

// asTable gives the report as text. Whatever a user has put into a value, it is quoted, in ASCII: it begins no line, moves
// no cursor, and turns no writing direction.
func asTable(r *topdenied.Report) []byte {
	var out bytes.Buffer
	_, _ = fmt.Fprintf(&out, "%d denials from %s to %s; the %d subjects denied most often\n\n",
		r.Denials, r.From.UTC().Format(time.RFC3339), r.To.UTC().Format(time.RFC3339), len(r.Subjects))
	table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "AT LEAST\tAT MOST\tSHARE\tSINCE\tPOLICY\tSUBJECT")
	for i := range r.Subjects {
		s := &r.Subjects[i]
		_, _ = fmt.Fprintf(table, "%d\t%d\t%.1f%%\t%s\t%s\t%s\n",
			s.AtLeast, s.AtMost, 100*share(s, r), s.Since.UTC().Format(time.TimeOnly), s.Policy, subject(s))
	}
	_ = table.Flush() // into memory, which does not fail
	return out.Bytes()
}

// subject gives the entries as key="value", separated by spaces, and - where there are none.
func subject(s *topdenied.Subject) string {
	if len(s.Entries) == 0 {
		return "-"
	}
	var pairs []string
	for _, e := range s.Entries {
		pairs = append(pairs, quotedKey(e.Key)+"="+strconv.QuoteToASCII(e.Value))
	}
	return strings.Join(pairs, " ")
}

// quotedKey is a key as it is, where it is of visible ASCII and so cannot be mistaken.
func quotedKey(key string) string {
	for i := range len(key) {
		if key[i] <= ' ' || key[i] > '~' || key[i] == '"' || key[i] == '=' {
			return strconv.QuoteToASCII(key)
		}
	}
	return key
}

type jsonReport struct {
	From     time.Time     `json:"from"`
	To       time.Time     `json:"to"`
	Denials  uint64        `json:"denials"`
	Subjects []jsonSubject `json:"subjects"`
}

type jsonSubject struct {
	Policy  string      `json:"policy"`
	Subject []jsonEntry `json:"subject"`
	AtLeast uint64      `json:"atLeast"`
	AtMost  uint64      `json:"atMost"`
	Share   float64     `json:"share"`
	Since   time.Time   `json:"since"`
}

type jsonEntry struct {
	Key   string `json:"key"`
	Value string `json:"value"`
	// Bytes are those of a value that is no UTF-8, of which Value has lost some.
	Bytes []byte `json:"bytes,omitempty"`
}

func asJSON(r *topdenied.Report) jsonReport {
	out := jsonReport{From: r.From.UTC(), To: r.To.UTC(), Denials: r.Denials, Subjects: []jsonSubject{}}
	for i := range r.Subjects {
		s := &r.Subjects[i]
		shown := jsonSubject{
			Policy: s.Policy, Subject: []jsonEntry{}, AtLeast: s.AtLeast, AtMost: s.AtMost, Share: share(s, r), Since: s.Since.UTC(),
		}
		for _, e := range s.Entries {
			entry := jsonEntry{Key: e.Key, Value: e.Value}
			if !utf8.ValidString(e.Value) {
				entry.Bytes = []byte(e.Value)
			}
			shown.Subject = append(shown.Subject, entry)
		}
		out.Subjects = append(out.Subjects, shown)
	}
	return out
}
