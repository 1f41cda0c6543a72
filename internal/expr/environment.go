package expr

import (
	"fmt"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/env"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/ext"
)

// Bounds of an expression's form.
const (
	// MaxBytes bounds the text of an expression.
	MaxBytes = 1024
	// maxDepth bounds how deep an expression is nested: parentheses, calls, operators.
	maxDepth = 64
	// maxLoops bounds the number of all, exists, map and the like: many within each other take long to check.
	maxLoops = 8
	// maxNested bounds how deep they are nested.
	maxNested = 2
)

// standard are the functions of CEL's standard library that there are. Not among them: dyn and type, since every type is
// known here; timestamp and duration, since there is no clock, and a time zone would be read from disk.
var standard = []string{
	operators.Conditional, operators.LogicalAnd, operators.LogicalOr, operators.LogicalNot, operators.NotStrictlyFalse,
	operators.Equals, operators.NotEquals, operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals,
	operators.Add, operators.Subtract, operators.Multiply, operators.Divide, operators.Modulo, operators.Negate,
	operators.Index, operators.In,
	"bool", "double", "int", "string", "uint",
	"contains", "endsWith", "matches", "size", "startsWith",
}

// environment is made once, since that takes milliseconds.
var environment = sync.OnceValue(func() *cel.Env {
	functions := make([]*env.Function, len(standard))
	for i, name := range standard {
		functions[i] = env.NewFunction(name)
	}
	e, err := cel.NewCustomEnv(
		cel.StdLib(cel.StdLibSubset(&env.LibrarySubset{IncludeFunctions: functions})),
		// The versions are fixed: what an expression means must not change with the library.
		ext.Strings(ext.StringsVersion(5)),
		ext.Math(ext.MathVersion(0)),
		cel.CostEstimatorOptions(corrections...),
		cel.CustomTypeAdapter(types.DefaultTypeAdapter),
		cel.CustomTypeProvider(newProvider()),
		cel.Variable("request", requestType),
		byName(headerType, "header"),
		byName(descriptorsType, "descriptors"),
		cel.ParserExpressionSizeLimit(MaxBytes),
		cel.ParserRecursionLimit(maxDepth),
		cel.ASTValidators(
			cel.ValidateHomogeneousAggregateLiterals(),
			cel.ValidateComprehensionNestingLimit(maxNested),
		),
	)
	if err != nil {
		// Nothing of it comes from outside.
		panic(fmt.Sprintf("expr: environment: %v", err))
	}
	return e
})

// byName declares o["name"] and "name" in o. What they do is CEL's own, by the traits of the type.
func byName(of *cel.Type, id string) cel.EnvOption {
	return func(e *cel.Env) (*cel.Env, error) {
		for _, option := range []cel.EnvOption{
			cel.Function(operators.Index, cel.Overload("index_"+id, []*cel.Type{of, cel.StringType}, cel.StringType)),
			cel.Function(operators.In, cel.Overload("in_"+id, []*cel.Type{cel.StringType, of}, cel.BoolType)),
		} {
			var err error
			if e, err = option(e); err != nil {
				return nil, err
			}
		}
		return e, nil
	}
}
