package expr

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
)

// shown is all that the text of an EvaluationError may be. That a NaN has no order is the only thing without a class.
var shown = regexp.MustCompile(`^(\d+:\d+: )?(no such attribute|value too long|overflow|division by zero|out of range|bad conversion|evaluation failed)$`)

func mustBeAnEvaluationError(t *testing.T, text string, err error) {
	t.Helper()
	if e, ok := errors.AsType[*EvaluationError](err); err != nil && (!ok || !shown.MatchString(e.Error())) {
		t.Fatalf("%q: %#v: %v", text, err, err)
	}
}

func mustBeASyntaxError(t *testing.T, text string, err error) {
	t.Helper()
	if e, ok := errors.AsType[*SyntaxError](err); err != nil && (!ok || e.Line < 1 || e.Column < 1 || e.Message == "") {
		t.Fatalf("%q: %#v: %v", text, err, err)
	}
}

// mustHoldItsEstimate evaluates what was accepted and counts what it costs, with loops or without.
func mustHoldItsEstimate(t *testing.T, text string, requests []*Request) {
	t.Helper()
	checked, err := check(text)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	r := newReview(checked.NativeRep())
	ast.PreOrderVisit(r.tree.Expr(), ast.NewExprVisitor(r.visit))
	counted, err := environment().Program(checked, cel.EvalOptions(cel.OptOptimize), cel.CostTracking(&costs{review: r}),
		cel.CostLimit(runtimeLimit))
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	p := program{plan: counted, source: r.tree.SourceInfo()}
	for _, request := range requests {
		_, err := p.evaluate(request)
		mustBeAnEvaluationError(t, text, err)
	}
}

func FuzzCompile(f *testing.F) {
	for _, text := range []string{
		`request.method == "GET" && "x-user" in request.header`, `request.path.split("/").exists(p, p == "v2")`,
		`request.header[request.descriptors.user] in ["a", "b"] ? request.cost : size(request.path)`,
		`[1, 2].map(a, [a, 3].filter(b, b > a).size()).exists_one(x, x == 1)`, `{"a": [1]}["a"][0] + int(1.5) - -request.cost % 7`,
		`request.path.matches("(?i)^/a{2,3}.*$") || has(request.host)`, `math.greatest([1, request.cost]) / 3 * 2`,
		`request.path.lowerAscii().upperAscii().trim().reverse().substring(1, 3).charAt(0) + "x" != "" || 1u < 2u`,
		`(request.path + request.host).indexOf("a", 1) > request.path.lastIndexOf("b") || b"a" < b"b" || 0.5 >= 1e3`,
		`request.path.split("").map(p, p + p).filter(p, p.contains("aa")).size()`, `[[1], []][1][0] == 1 || "\u00e9" < '''x'''`,
		`bool("x") || string(b"\xff") == string(1.0 / 0.0)`, `((((`, `request.`, "\x00", `"\`, "`", `a.b.c{d: 1}`, `[].all(x, x == 1)`,
	} {
		f.Add(text, "/a/b", "GET")
	}
	for _, text := range worst {
		f.Add(text, strings.Repeat("/", MaxValueBytes), strings.Repeat("é", MaxValueBytes/2))
	}
	f.Fuzz(func(t *testing.T, text, one, other string) {
		condition, err := CompileCondition(text)
		mustBeASyntaxError(t, text, err)
		cost, err := CompileCost(text)
		mustBeASyntaxError(t, text, err)
		if condition == nil && cost == nil {
			return
		}
		requests := []*Request{request(), worstRequest(), {}, {Domain: one, Cost: -1, Lookup: func(key string) (string, bool) {
			if strings.HasPrefix(key, "header.") {
				return one, true
			}
			return other, key != "host"
		}}}
		for _, r := range requests {
			if condition != nil {
				_, err := condition.Holds(r)
				mustBeAnEvaluationError(t, text, err)
			}
			if cost != nil {
				n, err := cost.Of(r)
				mustBeAnEvaluationError(t, text, err)
				if n < 0 || n > MaxCost {
					t.Fatalf("%q costs %d", text, n)
				}
			}
		}
		mustHoldItsEstimate(t, text, requests)
	})
}

func FuzzEvaluate(f *testing.F) {
	texts := []string{
		`request.method == "GET" ? 1 : int(request.header["n"])`,
		`request.descriptors[request.header["n"]] in ["a", "b"] ? 1 : 2`,
		`request.path.split("/").exists(p, p == request.host) ? 1 : 2`,
		`{"a": 1, "b": 2}[request.host]`,
		`size(request.path.lowerAscii().trim()) / (size(request.host) - 3) % request.cost`,
		`request.path.matches("(?i)^/(a|b)*[^c]{1,3}\\pL+$") ? 1 : 2`,
		`int(double(request.host) * 1e18) + int(request.path)`,
		`request.path.indexOf("a", 1) - request.host.lastIndexOf("é")`,
		`size(request.path.substring(request.cost)) + size(request.path.charAt(3))`,
		`size((request.path + request.host).reverse())`,
	}
	var costs []*Cost
	for _, text := range texts {
		c, err := CompileCost(text)
		if err != nil {
			f.Fatal(text, err)
		}
		costs = append(costs, c)
	}
	f.Add("/a/b", "example.com", "n", int64(1))
	f.Add("\xff\xfe", "1.5", "é", int64(-1))
	f.Add(strings.Repeat("/", MaxValueBytes), strings.Repeat("é", MaxValueBytes/2), "a", int64(1)<<62)
	f.Fuzz(func(t *testing.T, path, host, header string, cost int64) {
		r := &Request{Cost: cost, Lookup: values(map[string]string{
			"path": path, "host": host, "header.n": header, "method": header, header: host,
		})}
		for i, c := range costs {
			n, err := c.Of(r)
			mustBeAnEvaluationError(t, texts[i], err)
			if n < 0 || n > MaxCost {
				t.Fatalf("%q costs %d", texts[i], n)
			}
		}
	})
}
