package doctor

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Severity is how much a finding matters.
type Severity string

// The severities. Only an Error means that something does not work.
const (
	// OK is what was looked at and is as it should be.
	OK Severity = "ok"
	// Note is worth knowing.
	Note Severity = "note"
	// Warning works now, and will not, or not as expected, some day.
	Warning Severity = "warning"
	// Error does not work.
	Error Severity = "error"
)

// The names of the checks, in the order in which their findings are told. Scripts may go by them, so they stay.
const (
	CheckConfiguration = "configuration"
	CheckReachable     = "reachable"
	CheckTLS           = "tls"
	CheckAuth          = "auth"
	CheckTopology      = "topology"
	CheckLatency       = "latency"
	CheckTimeouts      = "timeouts"
	CheckVersion       = "version"
	CheckHoles         = "holes"
	CheckEviction      = "eviction"
	CheckMemory        = "memory"
	CheckPersistence   = "persistence"
	CheckReplication   = "replication"
	CheckClock         = "clock"
	CheckACL           = "acl"
	CheckOwner         = "owner"
	CheckPolicies      = "policies"
	CheckLibrary       = "library"
	CheckReplicas      = "replicas"
)

// Finding is the result of one check of one server, or of the store.
type Finding struct {
	Severity Severity `json:"severity"`
	// Check is the name of the check.
	Check string `json:"check"`
	// Servers are host:port of all that it is true of; none for what concerns the store.
	Servers []string `json:"servers,omitempty"`
	// What is found, Why it matters, and the Remedy; the last two are empty where there is nothing to say.
	What   string `json:"what"`
	Why    string `json:"why,omitempty"`
	Remedy string `json:"remedy,omitempty"`
}

// mostText bounds each text of a finding. The longest of our own, all rules of all roles, has a fourth of it.
const mostText = 4096

// printable gives the text with nothing in it that a terminal takes for more than text, such as an escape sequence or the
// end of the line: names and versions are what servers say they are.
func printable(text string) string {
	if len(text) > mostText {
		text = text[:mostText] + "…"
	}
	var b strings.Builder
	for _, r := range text {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			r = '�'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// String gives the finding as one line.
func (f Finding) String() string {
	where := strings.Join(f.Servers, ", ")
	if where == "" {
		where = "the store"
	}
	var line strings.Builder
	fmt.Fprintf(&line, "%-7s  %s  %s: %s", f.Severity, where, f.Check, sentence(f.What))
	for _, part := range []string{f.Why, f.Remedy} {
		if part != "" {
			line.WriteString(" " + sentence(part))
		}
	}
	return line.String()
}

// lowerCase are names that begin a sentence as they are.
var lowerCase = []string{"maxmemory", "penstockd", "redis", "valkey"}

// sentence gives the text with an upper-case letter first, where it begins with a word, and a full stop. A text ends without
// one where it ends with what is to be copied.
func sentence(text string) string {
	if text == "" {
		return ""
	}
	_, size := utf8.DecodeRuneInString(text)
	first, rest := text[:size], text[size:]
	if word, _, _ := strings.Cut(text, " "); !strings.ContainsAny(word, "-_:./=+&~%0123456789") && !slices.Contains(lowerCase, word) {
		first = strings.ToUpper(first)
	}
	if last := rest[max(len(rest)-1, 0):]; last != "." && !strings.Contains(text, "ACL SETUSER ") {
		rest += "."
	}
	return first + rest
}

// checks are the names in their order.
var checks = []string{
	CheckConfiguration, CheckReachable, CheckTLS, CheckAuth, CheckTopology, CheckLatency, CheckTimeouts, CheckVersion, CheckHoles,
	CheckEviction, CheckMemory, CheckPersistence, CheckReplication, CheckClock, CheckACL, CheckOwner, CheckPolicies, CheckLibrary,
	CheckReplicas,
}

// sorted gives the findings in the order of the checks, those of one check in the order of the servers, and what is the same of
// several servers once.
func sorted(findings []Finding, servers []string) []Finding {
	rank := func(f Finding) int {
		if len(f.Servers) == 0 {
			return -1
		}
		return slices.Index(servers, f.Servers[0])
	}
	slices.SortStableFunc(findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(slices.Index(checks, a.Check), slices.Index(checks, b.Check)), cmp.Compare(rank(a), rank(b)))
	})
	var merged []Finding
	for _, f := range findings {
		same := slices.IndexFunc(merged, func(m Finding) bool {
			return len(m.Servers) > 0 && len(f.Servers) > 0 && m.Severity == f.Severity && m.Check == f.Check &&
				m.What == f.What && m.Why == f.Why && m.Remedy == f.Remedy
		})
		if same < 0 {
			merged = append(merged, f)
			continue
		}
		merged[same].Servers = append(slices.Clip(merged[same].Servers), f.Servers...)
	}
	return merged
}

// Report is all that was found.
type Report struct {
	Findings []Finding `json:"findings"`
}

// Count gives how many findings have that severity.
func (r Report) Count(severity Severity) int {
	n := 0
	for _, finding := range r.Findings {
		if finding.Severity == severity {
			n++
		}
	}
	return n
}

// Failed tells whether something is wrong: an Error, with strict a Warning too.
func (r Report) Failed(strict bool) bool {
	return r.Count(Error) > 0 || (strict && r.Count(Warning) > 0)
}

// WriteText writes a line for each finding, and one that counts them.
func (r Report) WriteText(w io.Writer) error {
	var b strings.Builder
	for _, finding := range r.Findings {
		b.WriteString(finding.String())
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "%s, %s, %s, %d ok\n", counted(r.Count(Error), "error"), counted(r.Count(Warning), "warning"), counted(r.Count(Note), "note"), r.Count(OK))
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteJSON writes one document: the findings, and their number by severity.
func (r Report) WriteJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(struct {
		Report
		Errors   int `json:"errors"`
		Warnings int `json:"warnings"`
		Notes    int `json:"notes"`
	}{r, r.Count(Error), r.Count(Warning), r.Count(Note)})
}

func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
