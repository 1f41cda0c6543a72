package callers

// pattern is a text in which * stands for any run of bytes, the empty one too, without the byte that separates the parts
// of such a name.
type pattern struct {
	text string
	// separator is 0 for names without parts.
	separator byte
}

func anyMatches(patterns []pattern, name string) bool {
	for _, p := range patterns {
		if p.matches(name) {
			return true
		}
	}
	return false
}

// matches takes no more than len(text) × len(name) steps. Of what follows a *, the first place that fits is the best one:
// what a later * cannot reach from there, because a separator is between, it cannot reach from further on in the same part.
func (p pattern) matches(name string) bool {
	at, in := 0, 0        // in text, in name
	star, resume := -1, 0 // the last *, and where in name what follows it was tried
	for in < len(name) || at < len(p.text) {
		switch {
		case at < len(p.text) && p.text[at] == '*':
			star, resume = at, in
			at++
		case at < len(p.text) && in < len(name) && p.text[at] == name[in]:
			at++
			in++
		case star >= 0 && resume < len(name) && (p.separator == 0 || name[resume] != p.separator):
			resume++
			at, in = star+1, resume
		default:
			return false
		}
	}
	return true
}
