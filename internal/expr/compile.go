package expr

import (
	"fmt"
	"regexp/syntax"
	"slices"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/overloads"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/parser"
)

// compile checks the text and plans its evaluation. what names the expression in messages.
func compile(text, what string, want *cel.Type) (p *program, err error) {
	// The text is any tenant's, and penstockd compiles what others wrote into Redis. No input is known that makes cel-go
	// panic here, but one that is found later must cost a policy, not every replica.
	defer func() {
		if recover() != nil {
			p, err = nil, syntaxError("it cannot be compiled: write it in another way")
		}
	}()
	if len(text) > MaxBytes {
		return nil, syntaxError("%d bytes, want at most %d", len(text), MaxBytes)
	}
	if strings.TrimSpace(text) == "" {
		return nil, syntaxError("it is empty, want an expression of type %s", cel.FormatCELType(want))
	}
	checked, err := check(text)
	if err != nil {
		return nil, err
	}
	if got := checked.OutputType(); !got.IsExactType(want) {
		return nil, syntaxError("%s", typeMessage(what, want, got))
	}
	r := newReview(checked.NativeRep())
	ast.PreOrderVisit(r.tree.Expr(), ast.NewExprVisitor(r.visit))
	if r.refusal != nil {
		return nil, r.refusal
	}
	return plan(checked, r)
}

// check parses the text and finds the type of everything in it.
func check(text string) (*cel.Ast, error) {
	e := environment()
	parsed, issues := e.Parse(text)
	if issues.Err() != nil {
		return nil, firstOf(issues)
	}
	// Before the types: what they say of a call that is refused would lead astray.
	r := newReview(parsed.NativeRep())
	ast.PreOrderVisit(r.tree.Expr(), ast.NewExprVisitor(r.visitParsed))
	if r.refusal != nil {
		return nil, r.refusal
	}
	checked, issues := e.Check(parsed)
	if issues.Err() != nil {
		return nil, firstOf(issues)
	}
	return checked, nil
}

// plan refuses what costs too much at worst, and makes the rest ready to evaluate.
func plan(checked *cel.Ast, r *review) (*program, error) {
	e, c := environment(), &costs{review: r}
	cost, err := e.EstimateCost(checked, c)
	if err != nil {
		return nil, syntaxError("estimating what it costs: %v", err)
	}
	if cost.Max >= tooMuch {
		return nil, syntaxError("too expensive: it puts together a string of more than %d characters, or loops over a list of unknown length",
			maxString)
	}
	if cost.Max > CostLimit {
		return nil, syntaxError("too expensive: at worst it costs %d, want at most %d; loop less, or match by a simpler pattern",
			cost.Max, CostLimit)
	}
	options := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize)}
	if r.nested {
		options = append(options, cel.CostTracking(c), cel.CostLimit(runtimeLimit))
	}
	p := &program{source: r.tree.SourceInfo(), most: cost.Max}
	if p.plan, err = e.Program(checked, options...); err != nil {
		// A constant part of it that has no value, such as int("x"). Whatever the message shows is of the text.
		at := p.explain(err)
		return nil, &SyntaxError{Line: max(1, at.Line), Column: max(1, at.Column), Message: err.Error()}
	}
	return p, nil
}

// syntaxError is for what is wrong with the expression as a whole.
func syntaxError(format string, args ...any) *SyntaxError {
	return &SyntaxError{Line: 1, Column: 1, Message: fmt.Sprintf(format, args...)}
}

func typeMessage(what string, want, got *cel.Type) string {
	message := fmt.Sprintf("%s is of type %s, want %s", what, cel.FormatCELType(got), cel.FormatCELType(want))
	if want == cel.IntType && (got == cel.DoubleType || got == cel.UintType) {
		message += ": put int(...) around it"
	}
	return message
}

// firstOf gives the first of the issues by its place: the others often follow from it.
func firstOf(issues *cel.Issues) *SyntaxError {
	first := issues.Errors()[0]
	for _, other := range issues.Errors()[1:] {
		a, b := other.Location, first.Location
		if a.Line() < b.Line() || a.Line() == b.Line() && a.Column() < b.Column() {
			first = other
		}
	}
	// A text that is nested too deep has no place.
	line, column := max(1, first.Location.Line()), max(1, first.Location.Column()+1)
	return &SyntaxError{Line: line, Column: column, Message: withRemedy(first.Message)}
}

// withRemedy shortens what CEL says to what a reader can use, and adds what there is in the place of what is not.
func withRemedy(message string) string {
	message = strings.TrimSuffix(message, " (in container '')")
	// A list of all tokens that the grammar would take.
	message, _, _ = strings.Cut(message, " expecting {")
	message = strings.ReplaceAll(message, "mismatched input '<EOF>'", "it ends too early")
	switch {
	case strings.HasPrefix(message, "undefined field"):
		return message + ": request has " + strings.Join(fieldNames, ", ")
	case strings.HasPrefix(message, "undeclared reference"):
		if name := strings.Trim(strings.TrimPrefix(message, "undeclared reference to "), "'"); slices.Contains(fieldNames, name) {
			return message + ": write request." + name
		}
		return message + ": there is no such function, and the only variable is request"
	case strings.Contains(message, headerName), strings.Contains(message, descriptorsName):
		return message + `: ask for one by its name, as in request.header["x-user"] or "x-user" in request.header`
	case strings.Contains(message, "nesting limit"):
		return fmt.Sprintf("loops are nested too deep, want at most %d within each other", maxNested)
	case strings.Contains(message, "error recovery"):
		return "it is not CEL"
	case strings.Contains(message, "recursion"):
		return fmt.Sprintf("it is nested too deep, want at most %d operators and parentheses within each other", maxDepth)
	default:
		return message
	}
}

// refused are functions of the strings extension whose result can be much larger than what they are given.
var refused = []string{"replace", "join", "format", "quote"}

// review looks for what the types allow and a bounded evaluation does not.
type review struct {
	tree *ast.AST
	// refusal is the first that was found.
	refusal *SyntaxError
	// instructions is the compiled size of each regular expression.
	instructions map[string]uint64
	// loops is how many there are.
	loops int
	// nested tells whether there are loops within loops.
	nested bool
	// variables are the mentions of the variable of a loop, by what the loop goes over.
	variables map[int64]origin
}

// origin is what a loop goes over.
type origin byte

const (
	// ofOthers is a list that another loop made, or one in a list.
	ofOthers origin = iota
	// ofPieces is what split gives.
	ofPieces
	// ofWritten is a list that is written down, whose elements CEL sees.
	ofWritten
)

func originOf(list ast.Expr) origin {
	switch {
	case list.Kind() == ast.ListKind:
		return ofWritten
	case list.Kind() == ast.CallKind && list.AsCall().FunctionName() == "split":
		return ofPieces
	default:
		return ofOthers
	}
}

func newReview(tree *ast.AST) *review {
	return &review{tree: tree, instructions: map[string]uint64{}, variables: map[int64]origin{}}
}

func (r *review) refuse(at ast.Expr, format string, args ...any) {
	if r.refusal == nil {
		l := r.tree.SourceInfo().GetStartLocation(at.ID())
		r.refusal = &SyntaxError{Line: max(1, l.Line()), Column: max(1, l.Column()+1), Message: fmt.Sprintf(format, args...)}
	}
}

// visitParsed looks at what has no types yet.
func (r *review) visitParsed(e ast.Expr) {
	switch e.Kind() {
	case ast.ComprehensionKind:
		if r.loops++; r.loops > maxLoops {
			r.refuse(e, "too many loops, want at most %d", maxLoops)
		}
	case ast.CallKind:
		if name := e.AsCall().FunctionName(); slices.Contains(refused, name) {
			r.refuse(e, "%s is not available: strings are examined here, not built", name)
		}
	case ast.LiteralKind:
		if e.AsLiteral() == types.NullValue {
			r.refuse(e, "there is no null: what is absent is asked for by has(request.method) or \"x-user\" in request.header")
		}
	}
}

// visit looks at what has types.
func (r *review) visit(e ast.Expr) {
	switch e.Kind() {
	case ast.ComprehensionKind:
		r.loop(e.AsComprehension())
	case ast.CallKind:
		call := e.AsCall()
		switch call.FunctionName() {
		case operators.Equals, operators.NotEquals:
			r.single(e, call.Args()[0])
			r.single(e, call.Args()[1])
		case operators.In:
			r.single(e, call.Args()[0])
		case operators.Add:
			r.noList(e, call.Args()[0])
		case overloads.Matches:
			r.pattern(e, call)
		}
	}
}

func (r *review) loop(l ast.ComprehensionExpr) {
	from := originOf(l.IterRange())
	// An inner loop with a variable of the same name is visited later, and has the last word about its own.
	ast.PreOrderVisit(l.LoopStep(), ast.NewExprVisitor(func(e ast.Expr) {
		switch {
		case e.Kind() == ast.ComprehensionKind:
			r.nested = true
		case e.Kind() == ast.IdentKind && e.AsIdent() == l.IterVar():
			r.variables[e.ID()] = from
		}
	}))
}

// single refuses to compare lists and maps: nested, they are compared in a time that no cost tells.
func (r *review) single(at, operand ast.Expr) {
	switch t := r.tree.GetType(operand.ID()); t.Kind() {
	case types.BoolKind, types.BytesKind, types.DoubleKind, types.IntKind, types.StringKind, types.UintKind:
	case types.DynKind:
		r.refuse(at, "nothing is known of one side: an element of an empty list or map cannot be compared")
	default:
		r.refuse(at, "%s cannot be compared: compare single values", cel.FormatCELType(t))
	}
}

// noList refuses to join lists, for the same reason. What map and filter are made of is no joining.
func (r *review) noList(at, operand ast.Expr) {
	if operand.Kind() == ast.IdentKind && operand.AsIdent() == parser.HiddenAccumulatorName {
		return
	}
	if r.tree.GetType(operand.ID()).Kind() == types.ListKind {
		r.refuse(at, "lists cannot be joined: write one list")
	}
}

// pattern refuses regular expressions that are not known now or do not compile, and measures the others.
func (r *review) pattern(at ast.Expr, call ast.CallExpr) {
	operand := call.Args()[len(call.Args())-1]
	if operand.Kind() != ast.LiteralKind {
		r.refuse(at, "the regular expression has to be a constant")
		return
	}
	text, _ := operand.AsLiteral().(types.String)
	parsed, err := syntax.Parse(string(text), syntax.Perl)
	if err != nil {
		r.refuse(operand, "%v", err)
		return
	}
	compiled, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		r.refuse(operand, "error compiling regexp: %v", err)
		return
	}
	r.instructions[string(text)] = uint64(len(compiled.Inst))
}
