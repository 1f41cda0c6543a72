package callers

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestAStarStaysWithinItsPart(t *testing.T) {
	for name, test := range map[string]struct {
		pattern pattern
		name    string
		want    bool
	}{
		"all of it":            {pattern{"spiffe://a/ns/shop/sa/cart", '/'}, "spiffe://a/ns/shop/sa/cart", true},
		"a part":               {pattern{"spiffe://a/ns/shop/sa/*", '/'}, "spiffe://a/ns/shop/sa/cart", true},
		"an empty part":        {pattern{"spiffe://a/ns/shop/sa/*", '/'}, "spiffe://a/ns/shop/sa/", true},
		"two parts":            {pattern{"spiffe://a/ns/shop/*", '/'}, "spiffe://a/ns/shop/sa/cart", false},
		"begins with it":       {pattern{"spiffe://a/ns/shop", '/'}, "spiffe://a/ns/shop/sa/cart", false},
		"ends with it":         {pattern{"cart.shop", '.'}, "x.cart.shop", false},
		"a label":              {pattern{"*.shop.svc", '.'}, "cart.shop.svc", true},
		"two labels":           {pattern{"*.shop.svc", '.'}, "a.cart.shop.svc", false},
		"within a part":        {pattern{"cart-*-eu", 0}, "cart-1-2-eu", true},
		"several":              {pattern{"a*b*c", 0}, "aXbYbZc", true},
		"several, one too few": {pattern{"a*b*c", 0}, "aXbY", false},
		"no separator":         {pattern{"*", 0}, "a/b.c@d", true},
		"nothing":              {pattern{"*", 0}, "", true},
		"an account":           {pattern{"*/cart", '/'}, "shop/cart", true},
		"of any name":          {pattern{"shop/*", '/'}, "shop-eu/cart", false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := test.pattern.matches(test.name); got != test.want {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

func TestPatternsMatchAsTheirRegularExpressionsDo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		letters := rapid.SampledFrom([]rune("ab/*"))
		text := rapid.StringOfN(letters, 0, 10, -1).Draw(t, "pattern")
		name := rapid.StringOfN(rapid.SampledFrom([]rune("ab/")), 0, 12, -1).Draw(t, "name")
		for separator, run := range map[byte]string{'/': "[^/]*", 0: ".*"} {
			want := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(text), `\*`, run) + "$").MatchString(name)
			if got := (pattern{text, separator}).matches(name); got != want {
				t.Errorf("%q, separator %q, of %q: %v, want %v", text, separator, name, got, want)
			}
		}
	})
}
