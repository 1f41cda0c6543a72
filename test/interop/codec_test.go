package interop

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/penstock-dev/penstock/internal/redisops"
)

// byHand are subjects that an encoding could get wrong: what is no text, what looks like a separator, and what has another
// length in characters than in bytes.
var byHand = map[string][]redisops.Entry{
	"nothing":             nil,
	"one entry":           {{Key: "user", Value: "bob"}},
	"shifted":             {{Key: "userb", Value: "ob"}},
	"empty value":         {{Key: "user", Value: ""}},
	"empty key and value": {{Key: "", Value: ""}},
	"composed":            {{Key: "user", Value: "Zo\u00eb"}},
	"decomposed":          {{Key: "user", Value: "Zoe\u0308"}},
	"NUL":                 {{Key: "user", Value: "bob\x00"}, {Key: "path", Value: "\x00"}},
	"line breaks":         {{Key: "user", Value: "bob\r\n"}, {Key: "path", Value: "\n\r"}, {Key: "line", Value: "\u2028\u2029"}},
	"invalid UTF-8":       {{Key: "user", Value: "b\xff\xfe"}, {Key: "\xc3", Value: "\xed\xa0\x80"}},
	"right to left":       {{Key: "user", Value: "\u05d3\u05d5\u05d3 \u202e\u0645\u062d\u0645\u062f"}},
	"emoji":               {{Key: "user", Value: "\U0001F469\u200d\U0001F680"}, {Key: "\U0001F4A7", Value: "\U0001F1F3\U0001F1F4"}},
	"byte order mark":     {{Key: "user", Value: "\ufeffbob"}},
	"replacement":         {{Key: "user", Value: "\ufffd"}},
	"256 bytes":           {{Key: "user", Value: strings.Repeat("b", 256)}},
	"256 bytes, few runs": {{Key: "user", Value: strings.Repeat("\U0001F4A7", 64)}},
	"separators":          {{Key: "user", Value: "4:user3:bob"}, {Key: "3:bob", Value: ":"}, {Key: "0:", Value: "0:"}},
	"braces":              {{Key: "{user}", Value: "}:shop/api{"}, {Key: "path", Value: "{x}"}},
	"JSON":                {{Key: "user", Value: `{"base64":"Ym9i"}`}, {Key: "path", Value: `\u0000"\`}},
	"format directives":   {{Key: "user", Value: "%s%d%%b"}, {Key: "path", Value: "${value}{0}"}},
	"eight entries": {
		{Key: "a", Value: "1"}, {Key: "b", Value: "2"}, {Key: "c", Value: "3"}, {Key: "d", Value: "4"},
		{Key: "e", Value: "5"}, {Key: "f", Value: "6"}, {Key: "g", Value: "7"}, {Key: "h", Value: "8"},
	},
}

func TestEveryLanguageGivesTheSameCounterKey(t *testing.T) {
	subjects := [][]redisops.Entry{}
	for _, subject := range byHand {
		subjects = append(subjects, subject)
	}
	random := rand.New(rand.NewPCG(3, 1))
	for range 3000 {
		subjects = append(subjects, randomSubject(random))
	}
	inEveryLanguage(t, func(t *testing.T, start func(...string) *program) {
		coder := start()
		for _, subject := range subjects {
			want := redisops.CounterKey("shop/api-per-user", subject)
			for _, asBytes := range []bool{false, true} {
				got := coder.ask(question{Policy: "shop/api-per-user", Subject: parts(subject, asBytes)})
				if got.Key != want {
					t.Fatalf("%q (as bytes: %v) gives %q %s, want %q", subject, asBytes, got.Key, got.Error, want)
				}
			}
		}
	})
}

func TestASharedPatternCountsInPlaceOfTheValue(t *testing.T) {
	want := redisops.CounterKey("shop/api", []redisops.Entry{{Key: "user", Value: "bob"}, {Key: "path", Value: "/v1/*"}})
	inEveryLanguage(t, func(t *testing.T, start func(...string) *program) {
		subject := parts([]redisops.Entry{{Key: "user", Value: "bob"}, {Key: "path", Value: "/v1/orders"}}, false)
		subject[1] = append(subject[1], part{text: "/v1/*"})
		if got := start().ask(question{Policy: "shop/api", Subject: subject}); got.Key != want {
			t.Errorf("got %q %s, want %q", got.Key, got.Error, want)
		}
	})
}

// parts gives a subject as a program reads it.
func parts(subject []redisops.Entry, asBytes bool) [][]part {
	out := [][]part{}
	for _, e := range subject {
		out = append(out, []part{{e.Key, asBytes}, {e.Value, asBytes}})
	}
	return out
}

// randomSubject gives up to eight entries of up to 256 bytes: text of all scripts, any bytes, or separators and digits.
func randomSubject(random *rand.Rand) []redisops.Entry {
	subject := make([]redisops.Entry, random.IntN(9))
	for i := range subject {
		subject[i] = redisops.Entry{Key: randomText(random), Value: randomText(random)}
	}
	return subject
}

func randomText(random *rand.Rand) string {
	const separators = `0123456789:{}*/\"%`
	length := random.IntN(1 << random.IntN(9))
	kind := random.IntN(3)
	var text []byte
	for len(text) < length {
		switch kind {
		case 0:
			text = append(text, string(rune(random.IntN(0x110000)))...) // a surrogate becomes U+FFFD
		case 1:
			text = append(text, byte(random.IntN(256)))
		default:
			text = append(text, separators[random.IntN(len(separators))])
		}
	}
	return string(text)
}
