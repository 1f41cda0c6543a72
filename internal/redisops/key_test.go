package redisops

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

func TestCounterKeyIsTheDocumentedOne(t *testing.T) {
	// The digests are those of sha256sum and base64 over the documented encoding, such as
	// printf '4:user3:bob' | openssl dgst -sha256 -binary | head -c 16 | base64.
	for name, tc := range map[string]struct {
		subject []Entry
		want    string
	}{
		"one entry":   {[]Entry{{"user", "bob"}}, "om89M8E5spqMz_qBsPf7jQ"},
		"two entries": {[]Entry{{"user", "bob"}, {"path", "/a b"}}, "J4XnbVim52opj0EJXYFJFw"},
		"no entry":    {nil, "47DEQpj8HBSa-_TImW-5JA"},
		"not ASCII":   {[]Entry{{"user", "bø\x00\xff"}}, "q5H5q0ujvTXPtQ5mlX49Tg"},
	} {
		t.Run(name, func(t *testing.T) {
			want := "rl:{" + tc.want + "}:shop/api-per-user"
			if got := CounterKey("shop/api-per-user", tc.subject); got != want {
				t.Errorf("CounterKey = %q, want %q", got, want)
			}
			if got := LogKey(want, "per-minute"); got != want+":per-minute" {
				t.Errorf("LogKey = %q", got)
			}
		})
	}
}

// Faults 41, 42 and 43: separators, braces, and every kind of odd Unicode.
func TestHostileValuesGiveDistinctKeysAndNeverReachThem(t *testing.T) {
	subjects := map[string][]Entry{
		"plain":                   {{"user", "bob"}},
		"key and value shifted":   {{"userb", "ob"}},
		"one entry more":          {{"user", "bob"}, {"", ""}},
		"separator in value":      {{"user", "bob4:user3:bob"}},
		"entries joined in value": {{"user", "bob"}, {"user", "bob"}},
		"length in value":         {{"user", "3:bob"}},
		"braces":                  {{"user", "{x}alice"}},
		"same braces":             {{"user", "{x}bob"}},
		"closing brace":           {{"user", "}bob"}},
		"NUL":                     {{"user", "bob\x00"}},
		"line break":              {{"user", "bob\r\n"}},
		"invalid UTF-8":           {{"user", "bob\xff"}},
		"other invalid UTF-8":     {{"user", "bob\xfe"}},
		"composed":                {{"user", "\u00e9"}},
		"decomposed":              {{"user", "e\u0301"}},
		"empty value":             {{"user", ""}},
		"nothing":                 {},
		"a megabyte":              {{"user", strings.Repeat("b", 1<<20)}},
	}
	seen := map[string]string{}
	for name, subject := range subjects {
		key := CounterKey("shop/api", subject)
		if other, taken := seen[key]; taken {
			t.Errorf("%s and %s share the key %q", name, other, key)
		}
		seen[key] = name
		if !wellFormed(key, "shop/api") {
			t.Errorf("%s: key %q is not rl:{22 characters of base64url}:shop/api", name, key)
		}
	}
}

func TestOrderOfEntriesCounts(t *testing.T) {
	a, b := Entry{"user", "bob"}, Entry{"path", "/"}
	if CounterKey("shop/api", []Entry{a, b}) == CounterKey("shop/api", []Entry{b, a}) {
		t.Error("the policy's order does not reach the key")
	}
}

// A decision touches the counter key and its logs: they must be in one slot whatever user bytes are in the subject, and
// different subjects must not gather in one.
func TestCounterAndLogKeysShareOneSlot(t *testing.T) {
	server := redistest.Start(t, "--cluster-enabled", "yes")
	client := server.Client()
	slots := map[int64]bool{}
	for i := range 64 {
		key := CounterKey("shop/api", []Entry{{"user", "{x}" + strconv.Itoa(i)}})
		want, err := client.ClusterKeySlot(t.Context(), key).Result()
		if err != nil {
			t.Fatal(err)
		}
		slots[want] = true
		for _, limit := range []string{"default", "per-day", "0"} {
			got, err := client.ClusterKeySlot(t.Context(), LogKey(key, limit)).Result()
			if err != nil || got != want {
				t.Errorf("log key of %q is in slot %d (%v), the counter in %d", limit, got, err, want)
			}
		}
	}
	if len(slots) < 32 {
		t.Errorf("64 subjects are in %d slots: values pin them", len(slots))
	}
}

func FuzzCounterKey(f *testing.F) {
	f.Add("user", "bob", "", "", "userb", "ob", "", "")
	f.Add("a", "1:b1:c", "", "", "a", "1:b", "1:c", "")
	f.Add("k", "{x}", "", "", "k", "}", "", "x")
	f.Add("k", "\xff\x00", "k", "", "k", "\xff", "\x00k", "")
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2, l1, w1, l2, w2 string) {
		one, two := []Entry{{k1, v1}, {k2, v2}}, []Entry{{l1, w1}, {l2, w2}}
		for _, pair := range [][2][]Entry{{one, two}, {one, one[:1]}, {one[:1], two[:1]}, {one, slices.Concat(one, two)}} {
			a, b := CounterKey("shop/api", pair[0]), CounterKey("shop/api", pair[1])
			if !wellFormed(a, "shop/api") {
				t.Fatalf("key %q of %q", a, pair[0])
			}
			if same := slices.Equal(pair[0], pair[1]); same != (a == b) {
				t.Fatalf("%q and %q: equal subjects %v, equal keys %v", pair[0], pair[1], same, a == b)
			}
		}
		encoded := appendSubject(nil, one)
		decoded, err := decodeSubject(encoded)
		if err != nil || !slices.Equal(decoded, one) {
			t.Fatalf("%q encodes as %q, which decodes as %q (%v)", one, encoded, decoded, err)
		}
	})
}

func wellFormed(key, policy string) bool {
	rest, found := strings.CutPrefix(key, "rl:{")
	digest, name, closed := strings.Cut(rest, "}:")
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return found && closed && name == policy && len(digest) == 22 && strings.Trim(digest, alphabet) == ""
}

// decodeSubject reads the documented encoding; that it can be read back is why no two subjects share one.
func decodeSubject(encoded []byte) ([]Entry, error) {
	var parts []string
	for len(encoded) > 0 {
		digits, rest, found := bytes.Cut(encoded, []byte(":"))
		n, err := strconv.Atoi(string(digits))
		if !found || err != nil || n < 0 || n > len(rest) {
			return nil, fmt.Errorf("no length at %q", encoded)
		}
		parts, encoded = append(parts, string(rest[:n])), rest[n:]
	}
	if len(parts)%2 != 0 {
		return nil, fmt.Errorf("%d parts", len(parts))
	}
	var subject []Entry
	for i := 0; i < len(parts); i += 2 {
		subject = append(subject, Entry{parts[i], parts[i+1]})
	}
	return subject, nil
}
