package engine

import "strings"

// rank is how specific a pattern is. Of two policies on one tuple of keys the one with the higher rank at the first
// position where they differ applies.
type rank byte

const (
	rankKeyOnly rank = iota
	rankWildcard
	rankExact
)

// pattern is the value of a descriptor, ready to match.
type pattern struct {
	rank rank
	// parts are what stands between the wildcards; an exact pattern has one.
	parts []string
}

func compilePattern(value string) pattern {
	switch {
	case value == "":
		return pattern{rank: rankKeyOnly}
	case !strings.Contains(value, "*"):
		return pattern{rank: rankExact, parts: []string{value}}
	default:
		return pattern{rank: rankWildcard, parts: strings.Split(value, "*")}
	}
}

// matches takes time in proportion to the value, whatever the pattern: between the fixed ends, the leftmost place of
// each part is always the right one, so nothing is ever tried twice.
func (p *pattern) matches(value string) bool {
	switch p.rank {
	case rankKeyOnly:
		return true
	case rankExact:
		return value == p.parts[0]
	}
	first, last := p.parts[0], p.parts[len(p.parts)-1]
	if len(value) < len(first)+len(last) || !strings.HasPrefix(value, first) || !strings.HasSuffix(value, last) {
		return false
	}
	value = value[len(first) : len(value)-len(last)]
	for _, part := range p.parts[1 : len(p.parts)-1] {
		at := strings.Index(value, part)
		if at < 0 {
			return false
		}
		value = value[at+len(part):]
	}
	return true
}
