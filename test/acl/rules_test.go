package acl_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/penstock-dev/penstock/internal/cli/doctor"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// page is where the rules are.
const page = "../../docs/acl.md"

// The headings of the rules.
const (
	functions = "Redis 7.0 and later"
	scripts   = "before Redis 7.0"
	cluster   = "on a cluster besides"
)

var (
	block = regexp.MustCompile("(?s)### The (\\w+), ([^\n]+)\n+```\nACL SETUSER [-\\w]+ ([^\n]*)\n```")
	// row is a line of the table of rules that are optional.
	row = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^|]+) \\| ([^|]+) \\|$")
)

func readPage(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// rulesOf reads the rules of a role below one of the headings.
func rulesOf(t *testing.T, role, heading string) []string {
	t.Helper()
	for _, found := range block.FindAllStringSubmatch(readPage(t), -1) {
		if found[1] != role || found[2] != heading {
			continue
		}
		return slices.DeleteFunc(strings.Fields(found[3]), func(field string) bool { return !strings.ContainsAny(field[:1], "+~%&") })
	}
	t.Fatalf("%s has no rules of the %s, %s", page, role, heading)
	return nil
}

// optional reads which rules a role can do without, and what is lost then.
func optional(t *testing.T, role string, old bool) map[string]string {
	t.Helper()
	lost := map[string]string{}
	for _, found := range row.FindAllStringSubmatch(readPage(t), -1) {
		if found[2] == role || (found[2] == role+", 7.0 and later" && !old) {
			lost[strings.ReplaceAll(found[1], `\|`, "|")] = found[3]
		}
	}
	if len(lost) == 0 {
		t.Fatalf("%s names no optional rules of the %s: the pattern does not find them any more", page, role)
	}
	return lost
}

// A RedisStore has one user for operator and penstockd.
func TestTheRulesOfAStoreAreThoseOfOperatorAndPenstockd(t *testing.T) {
	both := []doctor.Role{doctor.RoleOperator, doctor.RolePenstockd}
	for heading, situation := range map[string]doctor.Situation{functions: {}, scripts: {Scripts: true}, cluster: {Cluster: true}} {
		have, want := rulesOf(t, "store", heading), doctor.RulesOf(both, situation)
		if heading == cluster {
			have = append(have, rulesOf(t, "store", functions)...)
		}
		slices.Sort(have)
		slices.Sort(want)
		if !slices.Equal(have, want) {
			t.Errorf("%s: the page has\n%v\nand the doctor\n%v", heading, have, want)
		}
	}
}

// Before 7.0 a new user has all channels unless the server is told otherwise, and then refuses to be given some of them.
func TestTheLinesOfThePageAreTakenAsTheyStand(t *testing.T) {
	lines := 0
	servers := []*redistest.Server{redistest.Start(t, "--acl-pubsub-default", "allchannels"), redistest.Start(t)}
	for line := range strings.Lines(readPage(t)) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "ACL SETUSER ") || strings.Contains(line, "+sentinel|") {
			continue // servers do not know what sentinels are for
		}
		lines++
		var args []any
		for word := range strings.FieldsSeq(line) {
			args = append(args, word)
		}
		for _, server := range servers {
			if reply := server.Do(args...); reply != "OK" {
				t.Errorf("%s: %v", line, reply)
			}
		}
	}
	if lines < 10 {
		t.Errorf("%s has %d lines to paste: the pattern does not find them any more", page, lines)
	}
}

// The doctor tells the rules that it has built in.
func TestThePageAndTheDoctorHaveTheSameRules(t *testing.T) {
	for _, role := range doctor.Roles() {
		for heading, situation := range map[string]doctor.Situation{functions: {}, scripts: {Scripts: true}, cluster: {Cluster: true}} {
			if role == doctor.RoleApplication && heading == scripts {
				continue // there is nothing to call
			}
			have, want := rulesOf(t, string(role), heading), doctor.RulesOf([]doctor.Role{role}, situation)
			if heading == cluster {
				have = append(have, rulesOf(t, string(role), functions)...)
			}
			slices.Sort(have)
			slices.Sort(want)
			if !slices.Equal(have, want) {
				t.Errorf("%s, %s: the page has\n%v\nand the doctor\n%v", role, heading, have, want)
			}
			lost := optional(t, string(role), heading == scripts)
			for _, right := range doctor.RightsOf(role, situation) {
				if right.Optional != lost[right.Rule] {
					t.Errorf("%s, %s, %s: without it, says the page, %q, and the doctor %q", role, heading, right.Rule, lost[right.Rule], right.Optional)
				}
			}
		}
	}
}
