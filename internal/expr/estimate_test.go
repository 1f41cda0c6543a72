package expr

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	"pgregory.net/rapid"
)

// writer writes expressions at random that have the types they should.
type writer struct {
	t *rapid.T
	// variables are those of the loops around.
	variables []string
	loops     int
}

func (w *writer) pick(what string, of ...string) string { return rapid.SampledFrom(of).Draw(w.t, what) }

func (w *writer) text(depth int) string {
	simple := append([]string{`request.path`, `request.host`, `request.method`, `request.header["x"]`, `"a/b"`, `""`}, w.variables...)
	if depth == 0 {
		return w.pick("text", simple...)
	}
	s := func() string { return w.text(depth - 1) }
	switch rapid.IntRange(0, 7).Draw(w.t, "kind of text") {
	case 0:
		return fmt.Sprintf("(%s + %s)", s(), s())
	case 1:
		return fmt.Sprintf("(%s ? %s : %s)", w.condition(depth-1), s(), s())
	case 2:
		return fmt.Sprintf("%s[%s]", w.list(depth-1), w.pick("index", "0", "1"))
	case 3:
		return fmt.Sprintf("%s.substring(%s)", s(), w.pick("range", "0", "1", "0, 1", "2, 9"))
	case 4:
		return fmt.Sprintf(`{"a/b": %s, "": %s}[%s]`, s(), s(), s())
	case 5:
		return s() + w.pick("function", ".lowerAscii()", ".upperAscii()", ".trim()", ".reverse()", ".charAt(0)")
	default:
		return w.pick("text", simple...)
	}
}

func (w *writer) list(depth int) string {
	pieces := func(of string) string {
		return fmt.Sprintf("%s.split(%s)", of, w.pick("separator", `"/"`, `""`, `"a"`))
	}
	kinds := 3
	if w.loops == maxNested {
		kinds = 1
	}
	if depth == 0 {
		return pieces(w.text(0))
	}
	switch rapid.IntRange(0, kinds).Draw(w.t, "kind of list") {
	case 0:
		return pieces(w.text(depth - 1))
	case 1:
		return fmt.Sprintf("[%s, %s, %s]", w.text(depth-1), w.text(depth-1), w.text(depth-1))
	case 2:
		return w.loop("map", depth-1, w.text)
	default:
		return w.loop("filter", depth-1, w.condition)
	}
}

func (w *writer) loop(macro string, depth int, body func(int) string) string {
	list := w.list(depth)
	// Few names, so that an inner variable often hides an outer one.
	v := w.pick("variable", "x", "y")
	outer := w.variables
	w.variables, w.loops = append([]string{v, v, v}, outer...), w.loops+1
	defer func() { w.variables, w.loops = outer, w.loops-1 }()
	return fmt.Sprintf("%s.%s(%s, %s)", list, macro, v, body(depth))
}

func (w *writer) condition(depth int) string {
	if depth == 0 {
		return fmt.Sprintf("%s == %s", w.text(0), w.text(0))
	}
	s := func() string { return w.text(depth - 1) }
	kinds := 7
	if w.loops == maxNested {
		kinds = 5
	}
	switch rapid.IntRange(0, kinds).Draw(w.t, "kind of condition") {
	case 0:
		return fmt.Sprintf("%s.%s(%s)", s(), w.pick("function", "contains", "startsWith", "endsWith"), s())
	case 1:
		return fmt.Sprintf("%s.matches(%q)", s(), w.pick("pattern", "^a", "(a|b)*c", "[^/]{3}$"))
	case 2:
		return fmt.Sprintf("%s in %s", s(), w.list(depth-1))
	case 3:
		return fmt.Sprintf("(%s %s %s)", w.condition(depth-1), w.pick("operator", "&&", "||"), w.condition(depth-1))
	case 4:
		return fmt.Sprintf("size(%s) > %s.indexOf(%s)", s(), s(), s())
	case 5:
		return fmt.Sprintf("%s < %s", s(), s())
	default:
		return w.loop(w.pick("macro", "all", "exists", "exists_one"), depth-1, w.condition)
	}
}

// Evaluations without loops in loops are not counted, so the estimate has to be right: no request may cost more.
func TestNoRequestCostsMoreThanWasEstimated(t *testing.T) {
	requests := []*Request{
		worstRequest(),
		{Lookup: func(string) (string, bool) { return strings.Repeat("/", MaxValueBytes), true }},
		{Lookup: func(string) (string, bool) { return strings.Repeat("a/b/", MaxValueBytes/4), true }},
		{Lookup: func(string) (string, bool) { return "a/b", true }},
	}
	estimated := 0
	rapid.Check(t, func(rt *rapid.T) {
		text := (&writer{t: rt}).condition(rapid.IntRange(1, 4).Draw(rt, "depth"))
		checked, err := check(text)
		if err != nil {
			rt.Skip(err)
		}
		r := newReview(checked.NativeRep())
		ast.PreOrderVisit(r.tree.Expr(), ast.NewExprVisitor(r.visit))
		if r.refusal != nil {
			rt.Skip(r.refusal)
		}
		c := &costs{review: r}
		estimate, err := environment().EstimateCost(checked, c)
		if err != nil {
			rt.Fatal(text, err)
		}
		// What may cost more than that takes too long to try; it is refused long before.
		const trying = 50 * CostLimit
		if estimate.Max > trying {
			rt.Skip("too expensive")
		}
		estimated++
		counted, err := environment().Program(checked, cel.EvalOptions(cel.OptOptimize), cel.CostTracking(c), cel.CostLimit(tooMuch-1))
		if err != nil {
			return
		}
		for _, request := range requests {
			e := begin(request)
			_, details, err := counted.Eval(e)
			e.end()
			if err != nil {
				continue // An error counts as one character, and does no work.
			}
			if cost := *details.ActualCost(); cost > estimate.Max*5/4+2 {
				rt.Fatalf("%s\ncosts %d, estimated %d", text, cost, estimate.Max)
			}
		}
	})
	if estimated == 0 {
		t.Error("nothing was estimated")
	}
}
