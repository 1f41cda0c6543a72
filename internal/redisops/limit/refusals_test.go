package limit_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

// Keys of the subject user=bob, path=/v1/carts.
const (
	digest = "rl:{aaaaaaaaaaaaaaaaaaaa_-}:"
	apiKey = digest + "shop/api"
)

func TestRefusalsNameWhatIsWrong(t *testing.T) {
	long := strings.Repeat("x", 257)
	tests := map[string]struct {
		function string
		keys     []string
		args     []any
		want     string
		// functionsOnly is for what scripts do not have: names of policies.
		functionsOnly bool
	}{
		"unknown policy":             {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/none", 1, "", "bob", "/v1/a"}, want: "PENSTOCK_NOPOLICY shop/none is not a policy of this store", functionsOnly: true},
		"no policy at all":           {function: "penstock_limit", keys: []string{apiKey}, want: "PENSTOCK_NOPOLICY", functionsOnly: true},
		"a policy with breaks":       {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/\r\n+OK\x00é", 1, "", "bob", "/v1/a"}, want: "PENSTOCK_NOPOLICY shop/??+OK??? is not", functionsOnly: true},
		"a document that is none":    {function: "penstock_limit", keys: []string{apiKey}, args: []any{"{", 1, ""}, want: "PENSTOCK_"},
		"a document of another kind": {function: "penstock_limit", keys: []string{apiKey}, args: []any{`{"name":"shop/api","limits":[{"name":"a","algorithm":"Abacus","windowMs":1000,"requests":1}]}`, 1, ""}, want: "PENSTOCK_"},

		"no key":                     {function: "penstock_limit", args: []any{"shop/api", 1, "", "bob", "/v1/a"}, want: `PENSTOCK_BADKEY key 1 is "": expected rl:{<22 base64url characters>}:shop/api`},
		"no keys for many":           {function: "penstock_limit_many", args: []any{"shop/api", 1, "", "bob", "/v1/a"}, want: "PENSTOCK_BADKEY key 1"},
		"another policy's key":       {function: "penstock_limit", keys: []string{digest + "shop/log"}, args: []any{"shop/api", 1, "", "bob", "/v1/a"}, want: "PENSTOCK_BADKEY key 1 is \"" + digest + "shop/log\": expected rl:{<22 base64url characters>}:shop/api"},
		"a key of the same length":   {function: "penstock_limit", keys: []string{digest + "shop/apj"}, args: []any{"shop/api", 1, "", "bob", "/v1/a"}, want: "PENSTOCK_BADKEY key 1"},
		"a short digest":             {function: "penstock_limit", keys: []string{"rl:{aaaa}:shop/api"}, args: []any{"shop/api", 1, "", "bob", "/v1/a"}, want: "PENSTOCK_BADKEY key 1"},
		"a digest with a brace":      {function: "penstock_limit", keys: []string{"rl:{aaaaaaaaaaa}aaaaaaaaaa}:shop/api"}, args: []any{"shop/api", 1, "", "bob", "/v1/a"}, want: "PENSTOCK_BADKEY key 1"},
		"a digest with a plus":       {function: "penstock_limit", keys: []string{"rl:{aaaaaaaaaaaaaaaaaaaaa+}:shop/api"}, args: []any{"shop/api", 1, "", "bob", "/v1/a"}, want: "PENSTOCK_BADKEY key 1"},
		"another prefix":             {function: "penstock_limit", keys: []string{"lr:{aaaaaaaaaaaaaaaaaaaa_-}:shop/api"}, args: []any{"shop/api", 1, "", "bob", "/v1/a"}, want: "PENSTOCK_BADKEY key 1"},
		"somebody's key":             {function: "penstock_limit", keys: []string{"user:{1}\n"}, args: []any{"shop/api", 1, "", "bob", "/v1/a"}, want: `PENSTOCK_BADKEY key 1 is "user:{1}?"`},
		"a second key":               {function: "penstock_limit", keys: []string{apiKey, "user:1"}, args: []any{"shop/api", 1, "", "bob", "/v1/a"}, want: `PENSTOCK_BADKEY key 2 is "user:1"`},
		"the same key twice":         {function: "penstock_limit", keys: []string{apiKey, apiKey}, args: []any{"shop/api", 1, "", "bob", "/v1/a"}, want: "PENSTOCK_BADKEY key 2"},
		"a log where there is none":  {function: "penstock_limit", keys: []string{apiKey, apiKey + ":default"}, args: []any{"shop/api", 1, "", "bob", "/v1/a"}, want: "PENSTOCK_BADKEY key 2"},
		"a log of another name":      {function: "penstock_limit", keys: []string{digest + "shop/log", digest + "shop/log:none"}, args: []any{"shop/log", 1, ""}, want: "PENSTOCK_BADKEY key 2"},
		"another subject's log":      {function: "penstock_limit", keys: []string{digest + "shop/log", "rl:{bbbbbbbbbbbbbbbbbbbbbb}:shop/log:default"}, args: []any{"shop/log", 1, ""}, want: "PENSTOCK_BADKEY key 2"},
		"a wrong second key of many": {function: "penstock_limit_many", keys: []string{apiKey, apiKey}, args: []any{"shop/api", 1, "", "bob", "/v1/a", "shop/log", 1, ""}, want: "PENSTOCK_BADKEY key 2 is \"" + apiKey + "\": expected rl:{<22 base64url characters>}:shop/log"},

		"no cost":                {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api"}, want: `PENSTOCK_BADARG cost is "": want an integer from 0 to 9007199254740991`},
		"a negative cost":        {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", -1, "", "bob", "/v1/a"}, want: `PENSTOCK_BADARG cost is "-1"`},
		"a broken cost":          {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", "1.5", "", "bob", "/v1/a"}, want: `PENSTOCK_BADARG cost is "1.5"`},
		"an exponent":            {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", "1e3", "", "bob", "/v1/a"}, want: `PENSTOCK_BADARG cost is "1e3"`},
		"a hexadecimal cost":     {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", "0x10", "", "bob", "/v1/a"}, want: `PENSTOCK_BADARG cost is "0x10"`},
		"a cost with blanks":     {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", " 1", "", "bob", "/v1/a"}, want: `PENSTOCK_BADARG cost is " 1"`},
		"a cost of 2^53":         {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", "9007199254740992", "", "bob", "/v1/a"}, want: "PENSTOCK_BADARG cost"},
		"a cost of 2^53+1":       {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", "9007199254740993", "", "bob", "/v1/a"}, want: "PENSTOCK_BADARG cost"},
		"a cost of many digits":  {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", strings.Repeat("9", 400), "", "bob", "/v1/a"}, want: "PENSTOCK_BADARG cost is \"" + strings.Repeat("9", 317) + "...\""},
		"no id":                  {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", 1}, want: "PENSTOCK_BADARG id "},
		"an id":                  {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", 1, "a1", "bob", "/v1/a"}, want: "PENSTOCK_BADARG id "},
		"a value too few":        {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", 1, "", "bob"}, want: "PENSTOCK_BADARG value 2 (path) is missing: shop/api takes 2 values"},
		"a value too many":       {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", 1, "", "bob", "/v1/a", "x"}, want: "PENSTOCK_BADARG 1 arguments too many: shop/api takes 2 values"},
		"too much behind many":   {function: "penstock_limit_many", keys: []string{apiKey}, args: []any{"shop/api", 1, "", "bob", "/v1/a", "shop/log", 1, ""}, want: "PENSTOCK_BADARG 3 arguments too many"},
		"a long value":           {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", 1, "", long, "/v1/a"}, want: "PENSTOCK_BADARG value 1 (user) has 257 bytes: want at most 256"},
		"another value":          {function: "penstock_limit", keys: []string{apiKey}, args: []any{"shop/api", 1, "", "bob", "/v2/a"}, want: `PENSTOCK_BADARG value 2 (path) is "/v2/a": shop/api is for "/v1/*"`},
		"the charge is numbered": {function: "penstock_limit_many", keys: []string{apiKey, digest + "shop/log"}, args: []any{"shop/api", 1, "", "bob", "/v1/a", "shop/log", "x", ""}, want: `PENSTOCK_BADARG charge 2: cost is "x"`},
		"a peek is checked too":  {function: "penstock_limit_peek", keys: []string{apiKey}, args: []any{"shop/api", 1, "", "bob", "/v2/a"}, want: "PENSTOCK_BADARG value 2"},
	}
	server := redistest.Start(t)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				if test.functionsOnly && mode == library.ModeScripts {
					test.want = "PENSTOCK_BADARG policy is not the JSON document of a RateLimit"
				}
				api := one("shop/api", fixedWindow(10, time.Minute))
				api.Descriptors = []policy.Descriptor{{Key: "user"}, {Key: "path", Value: "/v1/*"}}
				w := startOn(t, server, mode, false, api, one("shop/log", slidingLog(10, time.Minute)))
				reply, err := w.raw(test.function, test.keys, test.args...)
				if err == nil || !strings.HasPrefix(err.Error(), test.want) {
					t.Errorf("got %v, %v, want %s", reply, err, test.want)
				}
				if err != nil && redisops.Classify(err) != redisops.Policy {
					t.Errorf("class %v of %v, want %v", redisops.Classify(err), err, redisops.Policy)
				}
				if dump := w.dump(); dump != "" {
					t.Errorf("wrote %s", dump)
				}
			})
		})
	}
}

func TestDocumentedCallsAreAnswered(t *testing.T) {
	logKey := digest + "shop/log"
	tests := map[string]struct {
		function string
		keys     []string
		args     []any
	}{
		"a counter":                   {"penstock_limit", []string{apiKey}, []any{"shop/api", 1, "", "bob", "/v1/carts"}},
		"a counter with its log":      {"penstock_limit", []string{logKey, logKey + ":default"}, []any{"shop/log", 1, ""}},
		"leading zeros":               {"penstock_limit", []string{apiKey}, []any{"shop/api", "0001", "", "bob", "/v1/carts"}},
		"a peek":                      {"penstock_limit_peek", []string{logKey, logKey + ":default"}, []any{"shop/log", 1, ""}},
		"many of one":                 {"penstock_limit_many", []string{logKey}, []any{"shop/log", 1, ""}},
		"many, with logs and without": {"penstock_limit_many", []string{logKey, logKey + ":default", apiKey, logKey}, []any{"shop/log", 1, "", "shop/api", 1, "", "bob", "/v1/", "shop/log", 1, ""}},
	}
	server := redistest.Start(t)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				api := one("shop/api", fixedWindow(10, time.Minute))
				api.Descriptors = []policy.Descriptor{{Key: "user"}, {Key: "path", Value: "/v1/*"}}
				w := startOn(t, server, mode, false, api, one("shop/log", slidingLog(10, time.Minute)))
				reply, err := w.raw(test.function, test.keys, test.args...)
				if err != nil {
					t.Fatal(err)
				}
				rows := []any{reply}
				if test.function == "penstock_limit_many" {
					rows = reply.([]any)
				}
				for i, row := range rows {
					fields := row.([]any)
					if len(fields) != 8 || fields[0] != int64(1) || fields[5] != "default" || fields[6] != "ok" || fields[7] != "" {
						t.Errorf("row %d: %v", i, fields)
					}
				}
			})
		})
	}
}

func TestValuesMatchTheDeclaredPattern(t *testing.T) {
	tests := map[string]struct {
		declared string
		fit      []string
		unfit    []string
	}{
		"exact":           {"a.b", []string{"a.b"}, []string{"", "a.", "aXb", "a.bc", "xa.b"}},
		"prefix":          {"/v1/*", []string{"/v1/", "/v1/x/*"}, []string{"/v1", "v1/", "x/v1/"}},
		"suffix":          {"*.png", []string{".png", "a.png", ".png.png"}, []string{"png", ".pngx"}},
		"in the middle":   {"a*z", []string{"az", "abz", "azz", "aaz"}, []string{"a", "z", "azb", "baz"}},
		"several":         {"a*b*c", []string{"abc", "axbxc", "abbc", "abcc", "abcbc"}, []string{"ac", "acb", "bc", "abcb"}},
		"overlap":         {"aba*aba", []string{"abaaba", "abaxaba"}, []string{"aba", "ababa"}},
		"all":             {"*", []string{"", "x", "*"}, nil},
		"stars in a row":  {"a**b", []string{"ab", "axb"}, []string{"a", "b"}},
		"a Lua pattern":   {"%d+[a-z]*(.", []string{"%d+[a-z](.", "%d+[a-z]x(."}, []string{"1a(.", "%d+[a-z]("}},
		"bytes":           {"\u00e9*", []string{"\u00e9", "\u00e9\x00"}, []string{"e", "e\u0301"}},
		"a hard one":      {"a*a*a*a*a*a*a*b", []string{strings.Repeat("a", 255) + "b"}, []string{strings.Repeat("a", 256)}},
		"nearly too long": {"*" + strings.Repeat("x", 255), []string{strings.Repeat("x", 256)}, []string{strings.Repeat("x", 254)}},
	}
	server := redistest.Start(t)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			inBothModes(t, func(t *testing.T, mode library.Mode) {
				p := one("shop/api", fixedWindow(1000, time.Minute))
				p.Descriptors = []policy.Descriptor{{Key: "k", Value: test.declared}}
				w := startOn(t, server, mode, false, p)
				for _, value := range test.fit {
					if _, err := w.raw("penstock_limit", []string{apiKey}, "shop/api", 1, "", value); err != nil {
						t.Errorf("%q: %v", value, err)
					}
				}
				for _, value := range test.unfit {
					if _, err := w.raw("penstock_limit", []string{apiKey}, "shop/api", 1, "", value); err == nil || !strings.HasPrefix(err.Error(), "PENSTOCK_BADARG value 1 (k)") {
						t.Errorf("%q: %v, want PENSTOCK_BADARG", value, err)
					}
				}
			})
		})
	}
}

func TestTwoVersionsOfAPolicyInOneCallAreRefused(t *testing.T) {
	w := start(t, library.ModeScripts, false, one("shop/api", fixedWindow(10, time.Minute)))
	older := w.charge("shop/api", 1)
	w.publish(one("shop/api", fixedWindow(20, time.Minute)))
	_, err := w.limiter.Decide(context.Background(), []limit.Charge{older, w.charge("shop/api", 1)})
	if err == nil || !strings.Contains(err.Error(), "PENSTOCK_BADARG charge 2: policy") {
		t.Errorf("got %v", err)
	}
}

func TestDeletedPolicyIsErrNoPolicy(t *testing.T) {
	w := start(t, library.ModeFunctions, false, one("shop/api", fixedWindow(10, time.Minute)), one("shop/other", fixedWindow(10, time.Minute)))
	charges := []limit.Charge{w.charge("shop/other", 1), w.charge("shop/api", 1)}
	delete(w.policies, "shop/api")
	w.publish()
	_, err := w.limiter.Decide(context.Background(), charges)
	if !errors.Is(err, limit.ErrNoPolicy) || !strings.Contains(err.Error(), "shop/api") || redisops.Classify(err) != redisops.Policy {
		t.Errorf("got %v of class %v", err, redisops.Classify(err))
	}
	if rows, err := w.limiter.Decide(context.Background(), charges[:1]); err != nil || rows[0].Remaining != 9 {
		t.Errorf("the policy that is still there: %+v, %v, want 9 left", rows, err)
	}
}

func TestPolicyFunctionGivesTheDocument(t *testing.T) {
	p := one("shop/api", fixedWindow(maxInteger, time.Minute))
	p.Descriptors = []policy.Descriptor{{Key: "weird ]==]", Value: "]]]=]\n\"\\<é>"}}
	w := start(t, library.ModeFunctions, false, p)
	want, err := library.PolicyDocument(w.policies["shop/api"])
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		args    []any
		want    string
		wantErr string
	}{
		"by name":          {args: []any{"shop/api"}, want: want},
		"by name and kind": {args: []any{"shop/api", "RateLimit"}, want: want},
		"unknown":          {args: []any{"shop/none"}, wantErr: "PENSTOCK_NOPOLICY shop/none"},
		"another kind":     {args: []any{"shop/api", "LockPolicy"}, wantErr: `PENSTOCK_BADARG kind is "LockPolicy": want RateLimit`},
		"no name":          {wantErr: "PENSTOCK_BADARG policy"},
		"too much":         {args: []any{"shop/api", "RateLimit", "x"}, wantErr: "PENSTOCK_BADARG policy"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := w.client.Do(context.Background(), append([]any{"FCALL_RO", "penstock_policy", 0}, test.args...)...).Result()
			var reply redis.Error
			if test.wantErr != "" {
				if !errors.As(err, &reply) || !strings.HasPrefix(err.Error(), test.wantErr) {
					t.Errorf("got %v, %v, want %s", got, err, test.wantErr)
				}
			} else if err != nil || got != test.want {
				t.Errorf("got %v, %v, want %s", got, err, test.want)
			}
		})
	}
}
