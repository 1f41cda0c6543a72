package doors

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
)

// sequence is policies, and requests to them with the verdicts that each is to get.
type sequence struct {
	// policies are specs of RateLimits by their names. A sequence of one policy is asked at every door, others only at those
	// that are asked for a domain.
	policies map[string]string
	// steps are one request in each line, after the other: its attributes, and its verdict.
	//
	//	user="a b" path=/x cost=2  denied 1/3 retry 1h of api/hour
	//
	// An attribute is remote_address, method, path, host, or a header, whose attribute is header.<name>; its value may be
	// quoted as in Go. cost is what the caller says that it costs. The verdict is one of
	//
	//	allowed    2/3   there is room: 2 of 3 are left
	//	allowed 2..0/3   three such lines, with 2, 1 and 0 left
	//	denied     0/3   a limit has no room
	//	blocked    0/0   the limit is 0 requests
	//	penalty    0/3   the subject is blocked, since it was denied too often
	//	shadow     0/3   it would have been denied, but the policy only looks on
	//	unlimited        an override lets the subject pass uncounted
	//	unmatched        no policy applies
	//	refused          a value is longer than a policy can count by
	//
	// and behind it, where they are not what goes without saying:
	//
	//	retry 1h             a denial is to be tried again in that time, less what the test takes
	//	within 1h            or in that time at most, depending on the time of the day
	//	of api/hour          what binds: the policy, with the limit when it has several
	//	violating api,other  all that deny
	//	rate 5               what a TokenBucket refills in a window, when it holds more or less than that
	//
	// The line "wait" waits for as long as the door has told.
	steps string
}

// step is a request and its verdict.
type step struct {
	text    string
	wait    bool
	subject []redisops.Entry
	// cost is unsaid unless the caller says one.
	cost int64
	want want
}

const unsaid = -1

// question is a request to one policy, or to all of a domain.
type question struct {
	policies []policy.RateLimit
	subject  []redisops.Entry
	cost     int64
}

// policy is the name of the only policy.
func (q *question) policy() string { return q.policies[0].Name }

// domain is that of all policies.
func (q *question) domain() string { return q.policies[0].Domain }

// attribute gives an attribute of the subject, or "".
func (q *question) attribute(key string) string {
	value, _ := q.lookup(key)
	return value
}

func (q *question) lookup(key string) (string, bool) {
	for _, e := range q.subject {
		if e.Key == key {
			return e.Value, true
		}
	}
	return "", false
}

// headers calls set for each header of the subject.
func (q *question) headers(set func(name, value string)) {
	for _, e := range q.subject {
		if name, is := strings.CutPrefix(e.Key, "header."); is {
			set(name, e.Value)
		}
	}
}

// entries gives the attributes that the policy counts by, in its order, unless one is missing.
func (q *question) entries(p *policy.RateLimit) (entries []redisops.Entry, found bool) {
	for _, d := range p.Descriptors {
		value, found := q.lookup(d.Key)
		if !found {
			return nil, false
		}
		entries = append(entries, redisops.Entry{Key: d.Key, Value: value})
	}
	return entries, true
}

// want is the verdict that a request is to get.
type want struct {
	outcome          string
	figures          bool
	remaining, limit int64
	retry, within    time.Duration
	of               string
	violating        []string
	rate             int64
}

var (
	attributePattern = regexp.MustCompile(`^([a-z_-]+)=("(?:[^"\\]|\\.)*"|\S*)\s+`)
	figuresPattern   = regexp.MustCompile(`^(\d+)(?:\.\.(\d+))?/(\d+)$`)
)

// parse reads the steps of a sequence.
func parse(t *testing.T, sequence, text string, policies []policy.RateLimit) []step {
	t.Helper()
	var steps []step
	for line := range strings.Lines(strings.TrimSpace(text)) {
		s := step{text: strings.TrimSpace(line), cost: unsaid}
		if s.text == "wait" {
			steps = append(steps, step{text: s.text, wait: true, cost: unsaid})
			continue
		}
		rest := s.text + " "
		for match := attributePattern.FindStringSubmatch(rest); match != nil; match = attributePattern.FindStringSubmatch(rest) {
			s.attribute(t, match[1], match[2])
			rest = rest[len(match[0]):]
		}
		words := strings.Fields(rest)
		if len(words) == 0 {
			t.Fatalf("%s: %q has no verdict", sequence, s.text)
		}
		last := s.verdict(t, words)
		if s.want.of == "" && len(policies) == 1 {
			_, s.want.of, _ = strings.Cut(policies[0].Name, "/")
		}
		if s.want.of == "" && s.want.figures {
			t.Fatalf("%s: %q does not say what binds", sequence, s.text)
		}
		for ; s.want.remaining >= last; s.want.remaining-- {
			steps = append(steps, s)
		}
	}
	return steps
}

func (s *step) attribute(t *testing.T, name, value string) {
	if strings.HasPrefix(value, `"`) {
		unquoted, err := strconv.Unquote(value)
		if err != nil {
			t.Fatalf("%q: %v", s.text, err)
		}
		value = unquoted
	}
	switch name {
	case "cost":
		s.cost = number(t, value)
		return
	case "remote_address", "method", "path", "host":
	default:
		name = "header." + name
	}
	s.subject = append(s.subject, redisops.Entry{Key: name, Value: value})
}

// verdict reads what is to be told. It gives what is left after the last of the requests that the line stands for.
func (s *step) verdict(t *testing.T, words []string) (last int64) {
	s.want.outcome = words[0]
	words = words[1:]
	if len(words) > 0 {
		if match := figuresPattern.FindStringSubmatch(words[0]); match != nil {
			s.want.figures = true
			s.want.remaining, s.want.limit = number(t, match[1]), number(t, match[3])
			last = s.want.remaining
			if match[2] != "" {
				last = number(t, match[2])
			}
			words = words[1:]
		}
	}
	if len(words)%2 != 0 {
		t.Fatalf("%q: %s has no value", s.text, words[len(words)-1])
	}
	for ; len(words) > 0; words = words[2:] {
		switch value := words[1]; words[0] {
		case "retry":
			s.want.retry = duration(t, value)
		case "within":
			s.want.within = duration(t, value)
		case "of":
			s.want.of = value
		case "violating":
			s.want.violating = strings.Split(value, ",")
		case "rate":
			s.want.rate = number(t, value)
		default:
			t.Fatalf("%q: what is %s?", s.text, words[0])
		}
	}
	return last
}

func number(t *testing.T, text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func duration(t *testing.T, text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
