package engine

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
)

func TestTheMostSpecificPoliciesApply(t *testing.T) {
	for name, test := range map[string]struct {
		policies []policy.RateLimit
		request  tuple
		want     []string
	}{
		"key only takes any value": {
			policies: []policy.RateLimit{rateLimit("any", "user", "")},
			request:  tuple{"user", "bob"}, want: []string{"shop/any"},
		},
		"key only takes the empty value": {
			policies: []policy.RateLimit{rateLimit("any", "user", "")},
			request:  tuple{"user", ""}, want: []string{"shop/any"},
		},
		"exact beats wildcard beats key only": {
			policies: []policy.RateLimit{rateLimit("any", "user", ""), rateLimit("wild", "user", "b*"), rateLimit("exact", "user", "bob")},
			request:  tuple{"user", "bob"}, want: []string{"shop/exact"},
		},
		"wildcard beats key only": {
			policies: []policy.RateLimit{rateLimit("any", "user", ""), rateLimit("wild", "user", "b*"), rateLimit("exact", "user", "bob")},
			request:  tuple{"user", "ben"}, want: []string{"shop/wild"},
		},
		"key only is left when nothing more specific fits": {
			policies: []policy.RateLimit{rateLimit("any", "user", ""), rateLimit("wild", "user", "b*"), rateLimit("exact", "user", "bob")},
			request:  tuple{"user", "alice"}, want: []string{"shop/any"},
		},
		"a lone star is a wildcard and beats key only": {
			policies: []policy.RateLimit{rateLimit("any", "user", ""), rateLimit("star", "user", "*")},
			request:  tuple{"user", "bob"}, want: []string{"shop/star"},
		},
		"equal ones apply together": {
			policies: []policy.RateLimit{rateLimit("a", "user", "bob"), rateLimit("b", "user", "bob"), rateLimit("c", "user", "b*")},
			request:  tuple{"user", "bob"}, want: []string{"shop/a", "shop/b"},
		},
		"wildcards are equal however long": {
			policies: []policy.RateLimit{rateLimit("short", "path", "/a*"), rateLimit("long", "path", "/api/*"), rateLimit("other", "path", "/b*")},
			request:  tuple{"path", "/api/x"}, want: []string{"shop/long", "shop/short"},
		},
		"the first position that differs decides": {
			policies: []policy.RateLimit{rateLimit("first", "a", "1", "b", ""), rateLimit("second", "a", "", "b", "2"), rateLimit("wild", "a", "*", "b", "2")},
			request:  tuple{"a", "1", "b", "2"}, want: []string{"shop/first"},
		},
		"a more specific one that does not fit leaves room for the next": {
			policies: []policy.RateLimit{rateLimit("first", "a", "1", "b", "9"), rateLimit("second", "a", "", "b", "2"), rateLimit("wild", "a", "*", "b", "2")},
			request:  tuple{"a", "1", "b", "2"}, want: []string{"shop/wild"},
		},
		"keys in another order are another tuple": {
			policies: []policy.RateLimit{rateLimit("ab", "a", "", "b", "")},
			request:  tuple{"b", "1", "a", "2"},
		},
		"a longer tuple is another tuple": {
			policies: []policy.RateLimit{rateLimit("a", "a", "")},
			request:  tuple{"a", "1", "b", "2"},
		},
		"a shorter tuple is another tuple": {
			policies: []policy.RateLimit{rateLimit("ab", "a", "", "b", "")},
			request:  tuple{"a", "1"},
		},
		"keys that only look alike when run together are others": {
			policies: []policy.RateLimit{rateLimit("ab-c", "ab", "", "c", "")},
			request:  tuple{"a", "1", "bc", "2"},
		},
		"values that only look alike when run together are others": {
			policies: []policy.RateLimit{rateLimit("x", "a", "12", "b", "3")},
			request:  tuple{"a", "1", "b", "23"},
		},
		"without descriptors it applies to every request, beside the others": {
			policies: []policy.RateLimit{rateLimit("whole"), rateLimit("any", "user", "")},
			request:  tuple{"user", "bob"}, want: []string{"shop/any", "shop/whole"},
		},
		"without descriptors it applies where no tuple does": {
			policies: []policy.RateLimit{rateLimit("whole"), rateLimit("any", "user", "")},
			request:  tuple{"tenant", "acme"}, want: []string{"shop/whole"},
		},
		"a descriptor without entries matches none of the tuples": {
			policies: []policy.RateLimit{rateLimit("any", "user", "")},
			request:  tuple{},
		},
		"sixteen entries are more than a policy can have": {
			policies: []policy.RateLimit{rateLimit("any", "user", "")},
			request:  slices.Repeat(tuple{"user", "bob"}, 16),
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, test.policies...)
			w.decide(t, test.request)
			if got := w.store.lastPolicies(); !slices.Equal(got, test.want) {
				t.Errorf("charged %q, want %q", got, test.want)
			}
		})
	}
}

func TestWildcardsStandForAnyRunOfBytes(t *testing.T) {
	for name, test := range map[string]struct {
		pattern, value string
		want           bool
	}{
		"prefix":                           {"api*", "api/v1", true},
		"prefix alone":                     {"api*", "api", true},
		"prefix missed":                    {"api*", "ap", false},
		"suffix":                           {"*.html", "index.html", true},
		"suffix missed":                    {"*.html", "index.htm", false},
		"middle":                           {"a*z", "abcz", true},
		"middle empty":                     {"a*z", "az", true},
		"ends may not overlap":             {"aba*aba", "aba", false},
		"ends may touch":                   {"aba*aba", "abaaba", true},
		"parts in order":                   {"a*b*c", "axbxc", true},
		"parts out of order":               {"a*b*c*d", "acbd", false},
		"a part may not eat into the end":  {"a*bc*c", "abc", false},
		"stars side by side":               {"a**b", "ab", true},
		"star alone":                       {"*", "", true},
		"newlines and NUL are bytes too":   {"a*b", "a\n\x00\xffb", true},
		"what is special elsewhere is not": {"a.[b]?*", "axb", false},
		"and is itself here":               {"a.[b]?*", "a.[b]?c", true},
		"case counts":                      {"API*", "api", false},
	} {
		t.Run(name, func(t *testing.T) {
			p := compilePattern(test.pattern)
			if got := p.matches(test.value); got != test.want {
				t.Errorf("%q matches %q: %v, want %v", test.pattern, test.value, got, test.want)
			}
		})
	}
}

// globReference is the definition, by trying everything.
func globReference(pattern, value string) bool {
	if pattern == "" {
		return value == ""
	}
	if pattern[0] == '*' {
		for i := 0; i <= len(value); i++ {
			if globReference(pattern[1:], value[i:]) {
				return true
			}
		}
		return false
	}
	return value != "" && value[0] == pattern[0] && globReference(pattern[1:], value[1:])
}

func TestWildcardsMatchAsByTheirDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringMatching(`[ab*]{1,8}`).Draw(t, "pattern")
		value := rapid.StringMatching(`[ab]{0,10}`).Draw(t, "value")
		p := compilePattern(pattern)
		if got, want := p.matches(value), globReference(pattern, value); got != want {
			t.Fatalf("%q matches %q: %v, want %v", pattern, value, got, want)
		}
	})
}

// matchReference is the rule as it is written: of the policies that fit, those that no other one is more specific than.
func matchReference(policies []policy.RateLimit, request []redisops.Entry) []string {
	var best string
	var names []string
	for i := range policies {
		if len(policies[i].Descriptors) != len(request) {
			continue
		}
		fits, ranks := true, ""
		for j, d := range policies[i].Descriptors {
			p := compilePattern(d.Value)
			fits = fits && d.Key == request[j].Key && p.matches(request[j].Value)
			ranks += string(rune('0' + p.rank))
		}
		switch {
		case !fits || ranks < best:
		case ranks > best:
			best, names = ranks, []string{policies[i].Name}
		default:
			names = append(names, policies[i].Name)
		}
	}
	slices.Sort(names)
	return names
}

func TestMatchingFollowsTheRuleForAnySet(t *testing.T) {
	key := rapid.SampledFrom([]string{"a", "b", "ab"})
	value := rapid.SampledFrom([]string{"", "1", "2", "12", "*", "1*", "*2"})
	rapid.Check(t, func(t *rapid.T) {
		var policies []policy.RateLimit
		for i := range rapid.IntRange(1, 12).Draw(t, "policies") {
			var descriptors []string
			for range rapid.IntRange(1, 3).Draw(t, "descriptors") {
				descriptors = append(descriptors, key.Draw(t, "key"), value.Draw(t, "value"))
			}
			policies = append(policies, rateLimit("p"+string(rune('a'+i)), descriptors...))
		}
		var asked []redisops.Entry
		for range rapid.IntRange(1, 3).Draw(t, "entries") {
			asked = append(asked, redisops.Entry{Key: key.Draw(t, "asked key"), Value: strings.ReplaceAll(value.Draw(t, "asked value"), "*", "1")})
		}
		var got []string
		for _, m := range compile(policy.NewSet(policies), nil).domains["shop"].match(nil, asked, &view{}) {
			got = append(got, m.policy.policy.Name)
		}
		slices.Sort(got)
		if want := matchReference(policies, asked); !slices.Equal(got, want) {
			t.Fatalf("%v applies to %v, want %v", got, asked, want)
		}
	})
}
