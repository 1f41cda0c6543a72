package expr

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/cel-go/cel"
)

// secret is in every value of request, so that a test sees it where no value may be.
const secret = "s3cret"

func values(of map[string]string) func(string) (string, bool) {
	return func(key string) (string, bool) {
		value, found := of[key]
		return value, found
	}
}

func request() *Request {
	return &Request{
		Domain: "shop",
		Cost:   3,
		Lookup: values(map[string]string{
			"remote_address":        "192.0.2.7",
			"method":                "POST",
			"path":                  "/api/v2/orders",
			"host":                  secret + ".example.com",
			"header.x-user":         "bob",
			"header.x-tier":         "gold",
			"header.x-secret":       secret,
			"header.content-length": "5000",
			"header.x-points-at":    "user",
			"user":                  "alice",
			"long":                  strings.Repeat("x", MaxValueBytes+1),
			"longest":               strings.Repeat("x", MaxValueBytes),
		}),
	}
}

func TestConditions(t *testing.T) {
	for text, want := range map[string]bool{
		`true`:                                                                                      true,
		`request.domain == "shop"`:                                                                  true,
		`request.cost > 3`:                                                                          false,
		`request.method in ["POST", "PUT"]`:                                                         true,
		`request.path.startsWith("/api/")`:                                                          true,
		`request.path.matches("^/api/v[0-9]+/")`:                                                    true,
		`request.remote_address == "192.0.2.7"`:                                                     true,
		`request.host.endsWith(".example.com")`:                                                     true,
		`request.header["x-user"] == "bob"`:                                                         true,
		`request.header["X-User"] == "bob"`:                                                         true,
		`request.header["X-" + "User"] == "bob"`:                                                    true,
		`"X-User" in request.header`:                                                                true,
		`"x-nobody" in request.header`:                                                              false,
		`request.descriptors["user"] == "alice"`:                                                    true,
		`request.descriptors.user == "alice"`:                                                       true,
		`"user" in request.descriptors`:                                                             true,
		`"User" in request.descriptors`:                                                             false,
		`"header.x-user" in request.header`:                                                         false,
		`has(request.method) && has(request.path)`:                                                  true,
		`has(request.descriptors.user)`:                                                             true,
		`has(request.descriptors.tenant)`:                                                           false,
		`has(request.domain) && has(request.cost) && has(request.header)`:                           true,
		`"x-nobody" in request.header && request.header["x-nobody"] == "x"`:                         false,
		`request.header["x-nobody"] == "x" || request.cost == 3`:                                    true,
		`request.descriptors[request.header["x-points-at"]] == "alice"`:                             true,
		`request.path.split("/").exists(part, part == "v2")`:                                        true,
		`["/health", "/ready"].all(p, !request.path.startsWith(p))`:                                 true,
		`["a", "b"].map(x, x + "c").exists(x, x == "bc")`:                                           true,
		`[1, 2, 3].filter(x, x > 1).exists_one(x, x == 2)`:                                          true,
		`request.method.lowerAscii() == "post"`:                                                     true,
		`request.path.substring(1, 4) == "api"`:                                                     true,
		`request.path.indexOf("v2") == 5 && size(request.path) == 14`:                               true,
		`{"gold": 10, "silver": 5}[request.header["x-tier"]] > 5`:                                   true,
		`request.descriptors["longest"].size() == 256`:                                              true,
		`double(request.cost) > 2.5 && uint(request.cost) == 3u && string(request.cost) == "3"`:     true,
		`bool("true") && math.greatest(1, request.cost) == 3 && math.least(request.cost, 7, 5) > 2`: true,
		"true && // why\n  request.cost == 3":                                                       true,
		strings.Repeat("(", 40) + "true" + strings.Repeat(")", 40):                                  true,
		"false" + strings.Repeat(" || request.cost == 4", 40):                                       false,
	} {
		t.Run(text, func(t *testing.T) {
			c, err := CompileCondition(text)
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.Holds(request())
			if err != nil || got != want {
				t.Errorf("%v, %v, want %v", got, err, want)
			}
		})
	}
}

func TestCosts(t *testing.T) {
	for text, want := range map[string]int64{
		`1`:                         1,
		`0`:                         0,
		`request.cost * 10`:         30,
		`9007199254740991`:          MaxCost,
		`size(request.path)`:        14,
		`int(2.9) + 1 + int("4")`:   7,
		`math.least(10, 20)`:        10,
		`true ? 5 : request.cost`:   5,
		`[4, 5, 6][request.cost-1]`: 6,
		`(int(request.header["content-length"]) + 1023) / 1024`:                                5,
		`"x-tier" in request.header && request.header["x-tier"] == "gold" ? 1 : 10`:            1,
		`{"GET": 1, "POST": 5}[request.method]`:                                                5,
		`request.path.split("/").filter(p, p == "v2").size() + request.path.split("/").size()`: 5,
	} {
		t.Run(text, func(t *testing.T) {
			c, err := CompileCost(text)
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.Of(request())
			if err != nil || got != want {
				t.Errorf("%v, %v, want %v", got, err, want)
			}
		})
	}
}

func TestWhatIsRefused(t *testing.T) {
	condition := func(text string) error { _, err := CompileCondition(text); return err }
	cost := func(text string) error { _, err := CompileCost(text); return err }
	for name, tt := range map[string]struct {
		compile func(string) error
		text    string
		// want begins with where it is; a part of the text that Error gives.
		want string
	}{
		"nothing":                      {condition, ``, `1:1: it is empty, want an expression of type bool`},
		"spaces":                       {cost, " \n ", `1:1: it is empty, want an expression of type int`},
		"too long":                     {condition, `"` + strings.Repeat("x", MaxBytes) + `" == ""`, `1:1: 1032 bytes, want at most 1024`},
		"too long in bytes":            {condition, `"` + strings.Repeat("é", MaxBytes/2) + `" == ""`, `want at most 1024`},
		"no end":                       {condition, `request.cost >`, `1:15: Syntax error: it ends too early`},
		"no end of a string":           {condition, `request.method == "GET`, `1:19: Syntax error: token recognition error`},
		"not CEL":                      {condition, `request.cost > 1 and true`, `1:18: Syntax error: mismatched input 'and'`},
		"nothing like it":              {condition, strings.Repeat(`"a`, 500), `1:1: it is not CEL`},
		"an assignment":                {condition, `request.domain = "shop"`, `1:16: Syntax error`},
		"NUL":                          {condition, "\x00", `1:1: Syntax error`},
		"a misspelt field":             {condition, `request.methd == "GET"`, `1:8: undefined field 'methd': request has domain, cost, remote_address, method, path, host, header, descriptors`},
		"has of a misspelt field":      {condition, `has(request.methd)`, `undefined field 'methd'`},
		"a field without request":      {condition, "true &&\n  method == \"GET\"", `2:3: undeclared reference to 'method': write request.method`},
		"an unknown name":              {condition, `req.method == "GET"`, `1:1: undeclared reference to 'req': there is no such function, and the only variable is request`},
		"an unknown function":          {condition, `request.method.lower() == "get"`, `1:21: undeclared reference to 'lower'`},
		"dyn":                          {condition, `dyn(1) == dyn("1")`, `undeclared reference to 'dyn'`},
		"the clock":                    {condition, `timestamp("2026-01-01T00:00:00Z") < now()`, `undeclared reference to 'timestamp'`},
		"a protocol buffer":            {condition, `google.protobuf.Struct{} == 1`, `undeclared reference`},
		"a request of its own":         {condition, `request{}.domain == ""`, `undeclared reference`},
		"optional syntax":              {condition, `request.?method == "GET"`, `1:8: unsupported syntax '.?'`},
		"null":                         {condition, `request.method == null`, `1:19: there is no null: what is absent is asked for by has(request.method)`},
		"a condition of type int":      {condition, `request.cost`, `1:1: a condition is of type int, want bool`},
		"a condition of type list":     {condition, `[true]`, `1:1: a condition is of type list(bool), want bool`},
		"a condition of no type":       {condition, `[][0]`, `1:1: a condition is of type dyn, want bool`},
		"a cost of type bool":          {cost, `true`, `1:1: a cost is of type bool, want int`},
		"a cost of type string":        {cost, `request.path`, `1:1: a cost is of type string, want int`},
		"a cost of type double":        {cost, `request.cost > 1 ? 1.5 : 2.5`, `1:1: a cost is of type double, want int: put int(...) around it`},
		"a cost of type uint":          {cost, `1u`, `1:1: a cost is of type uint, want int: put int(...) around it`},
		"a number and a text":          {condition, `request.cost == "1"`, `1:14: found no matching overload for '_==_' applied to '(int, string)'`},
		"a list of two types":          {condition, `request.method in ["GET", 1]`, `1:27: expected type 'string' but found 'int'`},
		"a name that is no string":     {condition, `request.header[1] == "x"`, `1:15: found no matching overload`},
		"a loop over headers":          {condition, `request.header.exists(h, h == "x")`, `1:8: expression of type 'request.header (looked up by name)' cannot be range of a comprehension`},
		"a loop over descriptors":      {condition, `request.descriptors.exists(h, h == "x")`, `: ask for one by its name, as in request.header["x-user"] or "x-user" in request.header`},
		"the number of headers":        {condition, `size(request.header) > 1`, `1:5: found no matching overload for 'size'`},
		"headers compared":             {condition, `request.header == request.header`, `1:16: request.header (looked up by name) cannot be compared`},
		"lists compared":               {condition, `[1] == [1]`, `1:5: list(int) cannot be compared: compare single values`},
		"lists compared by in":         {condition, `[1] in [[1]]`, `1:5: list(int) cannot be compared`},
		"maps compared":                {condition, `{1: 1} != {1: 1}`, `1:8: map(int, int) cannot be compared`},
		"no types compared":            {condition, `[][0] == [][0]`, `1:7: nothing is known of one side`},
		"lists joined":                 {condition, `1 in [1] + [2]`, `1:10: lists cannot be joined: write one list`},
		"replace":                      {condition, `request.path.replace("a", request.path) == ""`, `1:21: replace is not available: strings are examined here, not built`},
		"join":                         {condition, `["a"].join() == ""`, `join is not available`},
		"format":                       {condition, `"%s".format(["a"]) == ""`, `format is not available`},
		"quote":                        {condition, `strings.quote("a") == ""`, `quote is not available`},
		"a regular expression":         {condition, `request.path.matches("(")`, "1:22: error parsing regexp: missing closing ): `(`"},
		"a function's":                 {condition, `matches(request.path, "a{1001}")`, `1:23: error parsing regexp: invalid repeat count`},
		"look-ahead":                   {condition, `request.path.matches("(?=a)")`, `1:22: error parsing regexp: invalid or unsupported Perl syntax`},
		"a request's":                  {condition, `request.path.matches(request.header["x"])`, `1:21: the regular expression has to be a constant`},
		"a regular expression, huge":   {condition, `request.path.matches("(.{100}){10}")`, `1:1: too expensive: at worst it costs`},
		"a constant overflow":          {cost, `int(1e300)`, `1:4: integer overflow`},
		"a constant conversion":        {cost, `int("x")`, `1:4: type conversion error`},
		"strings put together":         {condition, `"" == request.path + request.path + request.path + request.path + request.path`, `1:1: too expensive: it puts together a string of more than 1024 characters`},
		"loops in loops in loops":      {condition, `[1].all(a, [1].all(b, [1].all(c, a + b + c > 0)))`, `loops are nested too deep, want at most 2 within each other`},
		"many loops":                   {condition, strings.Repeat("[].map(x, ", 9) + "x" + strings.Repeat(")", 9), `too many loops, want at most 8`},
		"loops over much":              {condition, `request.path.split("").all(a, request.path.split("").all(b, a == b))`, `1:1: too expensive: at worst it costs`},
		"loops over literal lists":     {condition, loops(30), `1:1: too expensive: at worst it costs`},
		"work in a loop":               {condition, `request.path.split("").all(a, request.path.contains(request.host))`, `1:1: too expensive`},
		"a string that grows in a map": {condition, `request.path.split("").map(a, "` + strings.Repeat("x", 500) + `").all(b, b.contains("` + strings.Repeat("y", 400) + `"))`, `1:1: too expensive`},
		"parentheses":                  {condition, strings.Repeat("(", 100) + "true" + strings.Repeat(")", 100), `1:1: it is nested too deep, want at most 64`},
		"a long sum":                   {cost, "1" + strings.Repeat("+request.cost", 70), `1:1: it is nested too deep`},
	} {
		t.Run(name, func(t *testing.T) {
			err := tt.compile(tt.text)
			if err == nil {
				t.Fatalf("accepted, want %q", tt.want)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%q, want %q", err, tt.want)
			}
			if e, ok := errors.AsType[*SyntaxError](err); !ok || e.Line < 1 || e.Column < 1 {
				t.Errorf("%#v, want a SyntaxError with a position", err)
			}
		})
	}
}

// loops goes over a list of n numbers in a loop over the same.
func loops(n int) string {
	list := "[" + strings.Repeat("1, ", n) + "1]"
	return fmt.Sprintf("%s.all(a, %s.all(b, a == b))", list, list)
}

func TestWhatCannotBeEvaluatedHasAClassAndNoValues(t *testing.T) {
	for name, tt := range map[string]struct {
		text   string
		lookup func(string) (string, bool)
		want   string
	}{
		"an absent field":             {text: `size(request.remote_address)`, lookup: values(nil), want: "1:13: no such attribute"},
		"an absent header":            {text: `size(request.header["x-nobody"])`, want: "1:20: no such attribute"},
		"an absent computed header":   {text: `size(request.header[request.host])`, want: "1:20: no such attribute"},
		"an absent descriptor":        {text: `size(request.descriptors.tenant)`, want: "1:25: no such attribute"},
		"a key that a map has not":    {text: `{"gold": 1}[request.header["x-secret"]]`, want: "no such attribute"},
		"a value that is too long":    {text: "1 +\n size(request.descriptors.long)", want: "2:26: value too long"},
		"a number that is none":       {text: `int(request.header["x-secret"])`, want: "1:4: bad conversion"},
		"a double that is none":       {text: `int(double(request.header["x-secret"]))`, want: "1:11: bad conversion"},
		"a bool that is none":         {text: `bool(request.host) ? 1 : 0`, want: "1:5: bad conversion"},
		"bytes that are no text":      {text: `size(string(request.cost > 5 ? b"" : b"\xff"))`, want: "1:12: bad conversion"},
		"a sum":                       {text: `9223372036854775807 + request.cost`, want: "1:21: overflow"},
		"a product":                   {text: `9223372036854775807 * request.cost`, want: "1:21: overflow"},
		"a large double":              {text: `int(double(request.cost) * 1e300)`, want: "1:4: overflow"},
		"a negative uint":             {text: `int(uint(-request.cost))`, want: "1:9: overflow"},
		"a small uint":                {text: `int(uint(request.cost) - 4u)`, want: "1:24: overflow"},
		"a division":                  {text: `1 / (request.cost - 3)`, want: "1:3: division by zero"},
		"a remainder":                 {text: `1 % (request.cost - 3)`, want: "1:3: division by zero"},
		"an index":                    {text: `[1, 2][request.cost]`, want: "1:7: out of range"},
		"a place in a string":         {text: `size(request.host.charAt(1000))`, want: "1:25: out of range"},
		"an end before the beginning": {text: `size(request.host.substring(5, 4))`, want: "1:28: out of range"},
		"a negative cost":             {text: `-request.cost`, want: "out of range"},
		"a cost above 2^53-1":         {text: `9007199254740991 + request.cost`, want: "out of range"},
		"no number":                   {text: `0.0 / double(request.cost - 3) < 1.0 ? 1 : 0`, want: "1:32: evaluation failed"},
		"a panic":                     {text: `size(request.header.x)`, lookup: func(string) (string, bool) { panic(secret) }, want: "evaluation failed"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := CompileCost(tt.text)
			if err != nil {
				t.Fatal(err)
			}
			r := request()
			if tt.lookup != nil {
				r.Lookup = tt.lookup
			}
			got, err := c.Of(r)
			if e, ok := errors.AsType[*EvaluationError](err); !ok || e.Class == "" || got != 0 {
				t.Fatalf("%d, %#v, want an EvaluationError", got, err)
			}
			if !strings.HasSuffix(err.Error(), tt.want) || strings.Contains(err.Error(), secret) {
				t.Errorf("%q, want %q", err, tt.want)
			}
		})
	}
}

func TestARequestWithoutLookupHasNoAttributes(t *testing.T) {
	for text, want := range map[string]string{
		`"x" in request.header || has(request.path) ? 1 : 2`: "2 <nil>",
		`size(request.path)`: "0 1:13: no such attribute",
	} {
		c, err := CompileCost(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.Of(&Request{}); fmt.Sprint(got, " ", err) != want {
			t.Errorf("%s: %d %v, want %s", text, got, err, want)
		}
	}
}

func TestConditionsFailLikeCosts(t *testing.T) {
	c, err := CompileCondition(`request.header["x-nobody"] == "x"`)
	if err != nil {
		t.Fatal(err)
	}
	holds, err := c.Holds(request())
	if e, ok := errors.AsType[*EvaluationError](err); !ok || e.Class != NoSuchAttribute || holds {
		t.Errorf("%v, %v, want %s", holds, err, NoSuchAttribute)
	}
}

// The estimate holds for all that is accepted (see FuzzCompile), so a smaller limit stands in for a wrong estimate.
func TestALoopIsStoppedByItsCost(t *testing.T) {
	checked, err := check(`request.path.split("/").exists(p, p == "x")`)
	if err != nil {
		t.Fatal(err)
	}
	r := newReview(checked.NativeRep())
	stopped, err := environment().Program(checked, cel.CostTracking(&costs{review: r}), cel.CostLimit(20))
	if err != nil {
		t.Fatal(err)
	}
	p := program{plan: stopped, source: checked.NativeRep().SourceInfo()}
	_, err = p.evaluate(request())
	if e, ok := errors.AsType[*EvaluationError](err); !ok || e.Class != CostExceeded {
		t.Errorf("%v, want %s", err, CostExceeded)
	}
}

func TestWhatAnExpressionCostsAtWorstIsKnown(t *testing.T) {
	const loop = `request.path.split("/").exists(p, p == "admin" || p == "internal")`
	for text, want := range map[string]struct{ least, most uint64 }{
		`true`:                       {0, 0},
		`request.method == "POST"`:   {1, 10},
		loop:                         {2000, 3000},
		loop + ` && ` + loop:         {4000, CostLimit},
		`request.path.matches("^a")`: {50, 1000},
	} {
		condition, err := CompileCondition(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := condition.MostCost(); got < want.least || got > want.most {
			t.Errorf("%s costs %d, want %d to %d", text, got, want.least, want.most)
		}
		cost, err := CompileCost(text + " ? 2 : 1")
		if err != nil {
			t.Fatal(err)
		}
		if got := cost.MostCost(); got < want.least || got > want.most+1 {
			t.Errorf("%s ? 2 : 1 costs %d, want %d to %d", text, got, want.least, want.most+1)
		}
	}
}

func TestOneExpressionServesManyAtOnce(t *testing.T) {
	c, err := CompileCost(`request.path.split("/").exists(p, p == request.descriptors["user"]) ? request.cost : -1`)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range int64(8) {
		all.Go(func() {
			user := fmt.Sprintf("user-%d", i)
			r := &Request{Cost: i, Lookup: values(map[string]string{"path": "/a/" + user + "/b", "user": user})}
			other := &Request{Cost: i, Lookup: values(map[string]string{"path": "/a/b", "user": user})}
			for range 500 {
				if got, err := c.Of(r); err != nil || got != i {
					t.Errorf("%d, %v, want %d", got, err, i)
					return
				}
				if _, err := c.Of(other); err == nil {
					t.Error("the cost of another request")
					return
				}
			}
		})
	}
	all.Wait()
}

func TestOnlyWhatIsReadIsLookedUp(t *testing.T) {
	c, err := CompileCondition(`request.header["X-User"] == "bob" || request.path == "/"`)
	if err != nil {
		t.Fatal(err)
	}
	var asked []string
	r := &Request{Lookup: func(key string) (string, bool) {
		asked = append(asked, key)
		return "bob", true
	}}
	if holds, err := c.Holds(r); !holds || err != nil {
		t.Fatal(holds, err)
	}
	if got := strings.Join(asked, ","); got != "header.x-user" {
		t.Errorf("looked up %s, want header.x-user", got)
	}
}
