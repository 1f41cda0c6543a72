package acl_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/penstock-dev/penstock/internal/cli/doctor"
	"github.com/penstock-dev/penstock/internal/redisops"
)

func TestTheRulesForSentinelsAreEnoughAndNoneIsTooMany(t *testing.T) {
	s := start(t, "Sentinel")
	rules, canDoWithout := rulesOf(t, "sentinel", "all versions"), optional(t, "sentinel", false)
	s.permitAtSentinels(rules)
	if lost, failed := ask(s); failed != nil || len(lost) > 0 {
		t.Fatalf("with all rules: %v, lost: %v", failed, lost)
	}
	if denied := s.deniedBySentinels(); len(denied) > 0 {
		t.Errorf("with all rules: sentinels refused %v", denied)
	}
	for i, rule := range rules {
		s.permitAtSentinels(slices.Delete(slices.Clone(rules), i, i+1))
		lost, failed := ask(s)
		denied := s.deniedBySentinels()
		what, isOptional := canDoWithout[rule]
		switch {
		case failed == nil && len(lost) == 0 && len(denied) == 0:
			t.Errorf("without %s all works and nothing is refused: the rule is not needed", rule)
		case failed != nil && isOptional:
			t.Errorf("without %s: %v; the page says only %q is lost", rule, failed, what)
		case failed == nil && !isOptional:
			t.Errorf("without %s only this is lost: %v, refused: %v; the page does not name it among the optional ones", rule, lost, denied)
		}
	}
}

// ask does what is done with sentinels.
func ask(s *site) (lost []string, failed error) {
	config := s.config
	config.SentinelUsername, config.SentinelPassword = user, password
	servers, err := redisops.Open(config)
	if err != nil {
		return nil, err
	}
	defer func() { _ = servers.Close() }()
	if _, err := servers.Primaries(s.t.Context()); err != nil {
		return nil, fmt.Errorf("find the primary: %w", err)
	}
	if err := servers.Client().Ping(s.t.Context()).Err(); err != nil {
		return nil, fmt.Errorf("reach the primary: %w", err)
	}
	if nodes, err := servers.Nodes(s.t.Context()); err != nil || len(nodes) != len(s.servers) {
		lost = append(lost, fmt.Sprintf("replicas: %v", err))
	}
	report := doctor.Examine(s.t.Context(), doctor.Options{Config: config})
	for _, finding := range report.Findings {
		if finding.Check == doctor.CheckTopology && finding.Severity == doctor.Error {
			return lost, fmt.Errorf("doctor: %v", finding)
		}
		if strings.Contains(finding.What, "not permitted") {
			lost = append(lost, finding.String())
		}
	}
	config.MasterName = "another"
	report = doctor.Examine(s.t.Context(), doctor.Options{Config: config})
	if !slices.ContainsFunc(report.Findings, func(f doctor.Finding) bool { return strings.Contains(f.Remedy, s.config.MasterName) }) {
		lost = append(lost, "the right name")
	}
	return lost, nil
}

func (s *site) permitAtSentinels(rules []string) {
	s.t.Helper()
	for _, sentinel := range s.sentinels {
		args := []any{"ACL", "SETUSER", user, "reset", "on", ">" + password}
		for _, rule := range rules {
			args = append(args, rule)
		}
		sentinel.Do(args...)
		sentinel.Do("ACL", "LOG", "RESET")
	}
}

func (s *site) deniedBySentinels() []string {
	s.t.Helper()
	var denied []string
	for _, sentinel := range s.sentinels {
		entries, err := sentinel.Client().ACLLog(s.t.Context(), 128).Result()
		if err != nil {
			s.t.Fatal(err)
		}
		for _, entry := range entries {
			if entry.Username == user {
				denied = append(denied, entry.Object)
			}
		}
	}
	return denied
}
