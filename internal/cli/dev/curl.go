package dev

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
)

const (
	// curlPace is how many requests a second curl surely makes, one after the other, against this machine.
	curlPace = 300
	// mostRequests is how many a demonstration may take.
	mostRequests = 2001
	// loopback is the address that curl asks from.
	loopback = "127.0.0.1"
)

// demonstrate gives a line of shell that shows a denial by one of the policies: the first one that needs few enough
// requests, and nothing but what curl can send. base is the URL of the HTTP doors. Without such a policy the line is
// empty, and the note says why.
func demonstrate(base string, policies []policy.RateLimit) (line, note string) {
	note = "No policy here is about an HTTP request alone (remote_address, method, path, host, header.<name>): ask over gRPC, with its domain and descriptors."
	tooMany := false
	for i := range policies {
		p := &policies[i]
		r, ok := requestFor(p.Descriptors)
		if !ok || !plain(p) {
			continue
		}
		n, ok := requestsToDenial(p.Limits)
		if !ok {
			if !tooMany {
				note = fmt.Sprintf("%s allows more than a line of curl can use up; lower its limit for a while to see a 429, or ask for it with a load generator at %s/auth/%s", p.Name, base, p.Name)
			}
			tooMany = true
			continue
		}
		url := fmt.Sprintf("'%s/auth/%s%s?[1-%d]'", base, p.Name, r.path, n)
		words := slices.Concat([]string{"curl", "-s", "-o", "/dev/null", "-w", `'%{http_code}\n'`}, r.options, []string{url})
		return strings.Join(words, " ") + " | sort | uniq -c", ""
	}
	return "", note
}

// plain tells whether each request that carries a policy's descriptors is counted by it, and denied beyond its limits.
func plain(p *policy.RateLimit) bool {
	return !p.NeedsDoor() && len(p.Overrides) == 0 && p.ShadowPercent == 0 && !p.IsConcurrency()
}

// request is what curl has to send so that a policy applies.
type request struct {
	options []string
	path    string
}

var (
	safeMethod = regexp.MustCompile(`^[A-Z]{1,20}$`)
	// No quotes, nothing that curl expands, no . as a whole segment, which curl takes out.
	safePath   = regexp.MustCompile(`^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+/?$|^/$`)
	safeHost   = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`)
	safeHeader = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)
	safeValue  = regexp.MustCompile(`^[A-Za-z0-9._~/:=-]+$`)
)

// requestFor finds a request that a policy with those descriptors applies to. It fails on descriptors that the HTTP door
// does not have, and on values that would have to be quoted.
func requestFor(descriptors []policy.Descriptor) (request, bool) {
	var r request
	seen := make(map[string]bool)
	for _, d := range descriptors {
		if seen[d.Key] {
			return r, false
		}
		seen[d.Key] = true
		if !r.add(d) {
			return r, false
		}
	}
	return r, true
}

func (r *request) add(d policy.Descriptor) bool {
	value := sample(d.Value)
	switch d.Key {
	case "remote_address":
		return d.Value == "" || matches(d.Value, loopback)
	case "method":
		value = cmp.Or(value, "GET")
		switch {
		case !safeMethod.MatchString(value):
			return false
		case value == "HEAD":
			r.options = append(r.options, "-I")
		case value != "GET":
			r.options = append(r.options, "-X", value)
		}
		return true
	case "path":
		if strings.HasPrefix(d.Value, "*") {
			value = "/" + value
		}
		r.path = value
		return value == "" || safePath.MatchString(value)
	case "host", "header.host":
		return value == "" || r.header("Host", value, safeHost)
	}
	name, isHeader := strings.CutPrefix(d.Key, "header.")
	return isHeader && safeHeader.MatchString(name) && r.header(name, cmp.Or(value, "demo"), safeValue)
}

func (r *request) header(name, value string, safe *regexp.Regexp) bool {
	r.options = append(r.options, "-H", "'"+name+": "+value+"'")
	return safe.MatchString(value)
}

// sample gives a value that fits a pattern.
func sample(pattern string) string {
	return strings.ReplaceAll(pattern, "*", "a")
}

// matches tells whether a value fits a pattern in which * is any run of characters.
func matches(pattern, value string) bool {
	expression := strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, ".*")
	return regexp.MustCompile("^" + expression + "$").MatchString(value)
}

// requestsToDenial gives how many requests, one after the other, surely meet a denial. It fails when curl cannot make
// them fast enough, or there are too many.
func requestsToDenial(limits []policy.Limit) (int64, bool) {
	best := int64(mostRequests + 1)
	for i := range limits {
		if n, ok := requestsToDeny(&limits[i]); ok {
			best = min(best, n)
		}
	}
	return best, best <= mostRequests
}

func requestsToDeny(l *policy.Limit) (int64, bool) {
	if l.Requests > mostRequests || l.Burst > mostRequests {
		return 0, false
	}
	window := time.Duration(l.WindowMs) * time.Millisecond
	n := l.Requests + 1
	switch l.Algorithm {
	case policy.Balance:
		return n, true
	case policy.FixedWindow, policy.SlidingCounter:
		// The requests may begin in one window and end in the next.
		n = 2*l.Requests + 1
	case policy.TokenBucket:
		refilled := float64(l.Requests) / window.Seconds() / curlPace // tokens while curl makes one request
		if refilled > 0.5 {
			return 0, false
		}
		return int64(float64(l.Burst)/(1-refilled)) + 2, true
	}
	// All of them must fall into one window.
	return n, time.Duration(n)*time.Second/curlPace < window
}
