package expr

import (
	"github.com/google/cel-go/checker"
	"github.com/google/cel-go/common"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/overloads"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
)

// CostLimit is what an evaluation may cost at worst, in CEL's units: about one for each operation and for ten characters
// that are read, and one for ten steps of a regular expression. What may cost more is refused when it is compiled, for
// values of MaxValueBytes each. BenchmarkWorst has what was found to take longest of all that is accepted: 0.7 ms of a core.
// An ordinary condition takes less than 1 µs. What is written for one policy is bounded by it together (see MostCost),
// since all of it may be evaluated for a request.
const CostLimit = 5_000

// runtimeLimit is where an evaluation stops, if the estimate were ever wrong. It is counted where there are loops within
// loops only: nothing else can go on for long, and counting takes several times as long as evaluating. It is above
// CostLimit because estimates are a little low, of 256 characters split into 257 pieces for one, and no request must be
// able to stop an expression that was accepted.
const runtimeLimit = CostLimit * 5 / 4

// maxString bounds the characters of a string put together by +.
const maxString = 4 * MaxValueBytes

// tooMuch is above every limit, and far from an overflow when it is added to.
const tooMuch = 1 << 32

// costs tells CEL what things cost here; where it answers nil, CEL's own answer holds.
type costs struct{ *review }

// EstimateSize implements checker.CostEstimator: how many characters has what CEL knows no size of?
func (c *costs) EstimateSize(node checker.AstNode) *checker.SizeEstimate {
	e := node.Expr()
	switch kind := node.Type().Kind(); {
	case kind != types.StringKind && kind != types.BytesKind:
		return nil
	case e.Kind() == ast.IdentKind:
		return c.variable(e)
	case c.element(e):
		return &checker.SizeEstimate{Max: maxString}
	default:
		return &checker.SizeEstimate{Max: MaxValueBytes}
	}
}

// variable gives the size of a loop's variable.
func (c *costs) variable(e ast.Expr) *checker.SizeEstimate {
	switch c.variables[e.ID()] {
	case ofPieces:
		// Pieces of a string are many or long, never both: all of them together cost what its characters cost, since
		// nothing takes longer than in proportion to one of them (see search).
		return &checker.SizeEstimate{Max: 1}
	case ofWritten:
		return nil
	default:
		return &checker.SizeEstimate{Max: maxString}
	}
}

// element tells whether the expression is an element of a list or a map.
func (c *costs) element(e ast.Expr) bool {
	if e.Kind() == ast.SelectKind {
		return c.tree.GetType(e.AsSelect().Operand().ID()).Kind() == types.MapKind
	}
	if e.Kind() != ast.CallKind || e.AsCall().FunctionName() != operators.Index {
		return false
	}
	return c.tree.GetType(e.AsCall().Args()[0].ID()).Kind() != types.StructKind
}

// EstimateCallCost implements checker.CostEstimator.
func (c *costs) EstimateCallCost(_, overload string, target *checker.AstNode, args []checker.AstNode) *checker.CallEstimate {
	if target != nil {
		args = append([]checker.AstNode{*target}, args...)
	}
	switch overload {
	case overloads.AddString, overloads.AddBytes:
		if sum := sizeOf(c, args[0]) + sizeOf(c, args[1]); sum > maxString {
			return estimate(tooMuch, &checker.SizeEstimate{Max: sum})
		}
	case overloads.ContainsString:
		return estimate(scan(sizeOf(c, args[0])+sizeOf(c, args[1])), nil)
	case overloads.SizeString, overloads.SizeStringInst:
		return estimate(scan(sizeOf(c, args[0])), nil)
	case overloads.Matches, overloads.MatchesString:
		pattern, _ := args[1].Expr().AsLiteral().(types.String)
		return estimate(c.match(sizeOf(c, args[0]), pattern), nil)
	}
	return nil
}

// corrections are in the place of the strings extension's own estimates.
var corrections = []checker.CostOption{
	checker.OverloadCostEstimate("string_substring_int", substring),
	checker.OverloadCostEstimate("string_substring_int_int", substring),
	checker.OverloadCostEstimate("string_index_of_string", search),
	checker.OverloadCostEstimate("string_index_of_string_int", search),
	checker.OverloadCostEstimate("string_last_index_of_string", search),
	checker.OverloadCostEstimate("string_last_index_of_string_int", search),
	checker.OverloadCostEstimate("string_split_string", split),
	checker.OverloadCostEstimate("string_split_string_int", split),
}

// substring knows that the result is never longer than the string, even with a start beyond the end.
func substring(estimator checker.CostEstimator, target *checker.AstNode, _ []checker.AstNode) *checker.CallEstimate {
	most := sizeOf(estimator, *target)
	return estimate(scan(most)+most, &checker.SizeEstimate{Max: most})
}

// search takes each character at each of what is sought. Both could be one long piece of a loop, which is not what
// variable supposes: so what is sought is known, or as long as may be.
func search(estimator checker.CostEstimator, target *checker.AstNode, args []checker.AstNode) *checker.CallEstimate {
	in, sought := sizeOf(estimator, *target), sizeOf(estimator, args[0])
	if args[0].Expr().Kind() != ast.LiteralKind {
		in, sought = max(in, MaxValueBytes), max(sought, MaxValueBytes)
	}
	return estimate(scan(in*sought)+1, nil)
}

// split knows that there is one piece more than there are separators.
func split(estimator checker.CostEstimator, target *checker.AstNode, _ []checker.AstNode) *checker.CallEstimate {
	most := sizeOf(estimator, *target)
	return estimate(scan(most)+most+common.ListCreateBaseCost+2, &checker.SizeEstimate{Max: most + 1})
}

// sizeOf gives the most characters that a string has.
func sizeOf(estimator checker.CostEstimator, node checker.AstNode) uint64 {
	size := node.ComputedSize()
	if size == nil {
		size = estimator.EstimateSize(node)
	}
	if size == nil {
		return maxString
	}
	// What is too much stays so, and does not overflow.
	return min(size.Max, tooMuch)
}

func estimate(most uint64, size *checker.SizeEstimate) *checker.CallEstimate {
	return &checker.CallEstimate{CostEstimate: checker.CostEstimate{Min: 1, Max: most}, ResultSize: size}
}

// CallCost implements interpreter.ActualCostEstimator.
func (c *costs) CallCost(_, overload string, args []ref.Val, result ref.Val) *uint64 {
	var cost uint64
	switch overload {
	case overloads.AddString, overloads.AddBytes:
		if actualSize(result) <= maxString {
			return nil
		}
		cost = tooMuch
	case overloads.ContainsString:
		cost = scan(actualSize(args[0]) + actualSize(args[1]))
	case overloads.SizeString, overloads.SizeStringInst:
		cost = scan(actualSize(args[0]))
	case overloads.Matches, overloads.MatchesString:
		pattern, _ := args[1].(types.String)
		cost = c.match(actualSize(args[0]), pattern)
	default:
		return nil
	}
	return &cost
}

// match is what a regular expression takes at worst: each character at each instruction.
func (c *costs) match(characters uint64, pattern types.String) uint64 {
	return 1 + (characters+1)*c.instructions[string(pattern)]/10
}

func scan(characters uint64) uint64 { return 1 + characters/10 }

func actualSize(value ref.Val) uint64 {
	if sizer, ok := value.(traits.Sizer); ok {
		if size, ok := sizer.Size().(types.Int); ok {
			return uint64(size)
		}
	}
	return 1
}
