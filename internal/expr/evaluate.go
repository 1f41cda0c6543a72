package expr

import (
	"errors"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/interpreter"
)

// program is an expression ready to evaluate.
type program struct {
	plan   cel.Program
	source *ast.SourceInfo
	// most is what an evaluation costs at worst.
	most uint64
}

// evaluate gives the value for a request. A panic in CEL or in Lookup ends as an error of the class Failed, since Eval
// recovers from all of them itself.
func (p *program) evaluate(r *Request) (ref.Val, error) {
	e := begin(r)
	defer e.end()
	value, _, err := p.plan.Eval(e)
	if err != nil {
		return nil, p.explain(err)
	}
	return value, nil
}

// explain gives what may be shown of an error of CEL: where it is, and what class of error. Its text is not, since many
// hold values.
func (p *program) explain(err error) *EvaluationError {
	explained := &EvaluationError{Class: classOf(err)}
	if at, ok := errors.AsType[*types.Err](err); ok && at.NodeID() != 0 {
		if l := p.source.GetStartLocation(at.NodeID()); l.Line() > 0 {
			explained.Line, explained.Column = l.Line(), l.Column()+1
		}
	}
	return explained
}

// classes are by how CEL's texts begin, since it has no types for them.
var classes = []struct {
	prefix string
	class  Class
}{
	{string(NoSuchAttribute), NoSuchAttribute},
	{string(ValueTooLong), ValueTooLong},
	{"no such key", NoSuchAttribute},
	{"division by zero", DivisionByZero},
	{"modulus by zero", DivisionByZero},
	{"integer overflow", Overflow},
	{"unsigned integer overflow", Overflow},
	{"index out of", OutOfRange},
	{"invalid substring range", OutOfRange},
	{"type conversion error", BadConversion},
	{"invalid UTF-8", BadConversion},
}

func classOf(err error) Class {
	if stopped, ok := errors.AsType[interpreter.EvalCancelledError](err); ok && stopped.Cause == interpreter.CostLimitExceeded {
		return CostExceeded
	}
	text := err.Error()
	for _, c := range classes {
		if strings.HasPrefix(text, c.prefix) {
			return c.class
		}
	}
	return Failed
}
