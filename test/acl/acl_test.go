package acl_test

import (
	"slices"
	"sync"
	"testing"
)

// exercise does all that a role does. It gives what does not work at all, and what is lost of what it can do without.
type exercise func(s *site) (lost []string, failed error)

var roles = map[string]exercise{
	"operator":    operate,
	"penstockd":   serve,
	"application": apply,
	"doctor":      examine,
}

// need remembers which rules were found to be needed, by role and heading.
type need struct {
	mu    sync.Mutex
	found map[[3]string]bool
}

func (n *need) remember(place [3]string, is bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.found[place] = n.found[place] || is
}

func TestTheRulesOfThePageAreEnoughAndNoneIsTooMany(t *testing.T) {
	needed := &need{found: map[[3]string]bool{}}
	t.Run("on", func(t *testing.T) {
		for topology := range sites {
			t.Run(topology, func(t *testing.T) {
				t.Parallel()
				s := start(t, topology)
				for role, do := range roles {
					if s.has(role) {
						t.Run(role, func(t *testing.T) { try(t, s, role, do, needed) })
					}
				}
			})
		}
	})
	// A rule that is needed on one server only may stand below the heading for all.
	for rule, isNeeded := range needed.found {
		if !isNeeded {
			t.Errorf("%s, %s: without %s all works and nothing is refused: the rule is not needed", rule[0], rule[1], rule[2])
		}
	}
}

func try(t *testing.T, s *site, role string, do exercise, needed *need) {
	former := s.t
	s.t = t
	defer func() { s.t = former }()
	rules, canDoWithout := s.rules(role), optional(t, role, s.old())
	s.permit(rules)
	if lost, failed := do(s); failed != nil || len(lost) > 0 {
		t.Fatalf("with all rules: %v, lost: %v; refused: %v", failed, lost, s.denied())
	}
	if denied := s.denied(); len(denied) > 0 {
		t.Errorf("with all rules: the server refused %v", denied)
	}
	for i, rule := range rules {
		if s.takeAway != nil && !s.takeAway(role, rule) {
			continue
		}
		s.permit(slices.Delete(slices.Clone(rules), i, i+1))
		lost, failed := do(s)
		denied := s.denied()
		what, isOptional := canDoWithout[rule]
		is := failed != nil || len(lost) > 0 || len(denied) > 0
		needed.remember([3]string{role, s.headings()[0], rule}, is)
		switch {
		case failed != nil && isOptional:
			t.Errorf("without %s: %v; the page says only %q is lost", rule, failed, what)
		case is && failed == nil && !isOptional:
			t.Errorf("without %s only this is lost: %v, refused: %v; the page does not name it among the optional ones", rule, lost, denied)
		}
	}
}
