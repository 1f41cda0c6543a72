package expr

import (
	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
)

// MaxCost is 2^53-1, the largest cost that can be charged.
const MaxCost = 1<<53 - 1

// Condition is one expression of spec.when, ready to evaluate by any number of goroutines at once.
type Condition struct{ program program }

// CompileCondition checks and compiles an expression whose value is a bool. It fails with a *SyntaxError.
func CompileCondition(text string) (*Condition, error) {
	p, err := compile(text, "a condition", cel.BoolType)
	if err != nil {
		return nil, err
	}
	return &Condition{program: *p}, nil
}

// Holds evaluates the condition for a request. It fails with an *EvaluationError.
func (c *Condition) Holds(r *Request) (bool, error) {
	value, err := c.program.evaluate(r)
	if err != nil {
		return false, err
	}
	return value == types.True, nil
}

// MostCost gives what an evaluation costs at worst, for values of MaxValueBytes each: 0 to CostLimit, in its units.
func (c *Condition) MostCost() uint64 { return c.program.most }

// Cost is the expression of spec.cost, ready to evaluate by any number of goroutines at once.
type Cost struct{ program program }

// CompileCost checks and compiles an expression whose value is an int. It fails with a *SyntaxError.
func CompileCost(text string) (*Cost, error) {
	p, err := compile(text, "a cost", cel.IntType)
	if err != nil {
		return nil, err
	}
	return &Cost{program: *p}, nil
}

// MostCost gives what an evaluation costs at worst, as that of a Condition does.
func (c *Cost) MostCost() uint64 { return c.program.most }

// Of evaluates the cost of a request: 0 to MaxCost. It fails with an *EvaluationError.
func (c *Cost) Of(r *Request) (int64, error) {
	value, err := c.program.evaluate(r)
	if err != nil {
		return 0, err
	}
	cost, _ := value.(types.Int)
	if cost < 0 || cost > MaxCost {
		return 0, &EvaluationError{Class: OutOfRange}
	}
	return int64(cost), nil
}
