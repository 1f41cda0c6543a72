package engine

import (
	"errors"
	"strconv"
	"time"

	"github.com/penstock-dev/penstock/internal/expr"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
)

// PolicyCost stands in the place of a cost for what the policy has a request cost.
const PolicyCost = -1

// rules are the expressions of a policy.
type rules struct {
	when []*expr.Condition
	cost *expr.Cost // nil: the policy's FixedCost
	// broken is why they do not compile: somebody else's writer, or a newer one. Then the policy applies to nothing.
	broken error
}

// compileRules gives nil for a policy without expressions.
func compileRules(rl *policy.RateLimit) *rules {
	if !rl.NeedsDoor() {
		return nil
	}
	r := &rules{}
	for _, text := range rl.When {
		condition, err := expr.CompileCondition(text)
		if err != nil {
			return &rules{broken: err}
		}
		r.when = append(r.when, condition)
	}
	if rl.CostExpression != "" {
		cost, err := expr.CompileCost(rl.CostExpression)
		if err != nil {
			return &rules{broken: err}
		}
		r.cost = cost
	}
	return r
}

// match is a policy that applies, and what it charges.
type match struct {
	policy *compiled
	cost   int64
}

// view is a request, or one descriptor of it, as the expressions of policies see it.
type view struct {
	engine *Engine
	domain string
	// entries are looked up, the first of a key counts; with lookup they are not.
	entries []redisops.Entry
	lookup  func(key string) (string, bool)
	// said is the largest cost that the caller asks for, and unsaid whether it leaves some of it to the policy.
	said   int64
	unsaid bool
	// tooLong is the value of more than MaxValueBytes that was looked at last, and refused the policy that could not be
	// decided because of one.
	tooLong ValueTooLongError
	refused *compiled
}

func (v *view) setCost(cost int64) { v.said, v.unsaid = cost, cost == PolicyCost }

// applies tells whether the policy, whose descriptors fit, applies, and what it charges.
func (v *view) applies(c *compiled) (cost int64, applies bool) {
	switch {
	case c.rules != nil:
		return v.evaluate(c)
	case v.unsaid:
		return max(v.said, c.policy.FixedCost()), true
	default:
		return v.said, true
	}
}

// evaluate is applies for a policy with expressions.
func (v *view) evaluate(c *compiled) (cost int64, applies bool) {
	if c.rules.broken != nil {
		v.engine.metrics.expressionFailed(c)
		v.engine.tell(c, c.rules.broken.Error())
		return 0, false
	}
	request := expr.Request{Domain: v.domain, Cost: v.said, Lookup: v.find}
	if v.unsaid {
		request.Cost = max(v.said, 1)
	}
	for i, condition := range c.rules.when {
		holds, err := condition.Holds(&request)
		if err != nil {
			v.failed(c, i, err)
			return 0, false
		}
		if !holds {
			return 0, false
		}
	}
	cost, err := v.cost(c, &request)
	if err != nil {
		// The policy is about the request, so that it applies all the same: what a client sends may be no way around it.
		v.failed(c, costExpression, err)
		return max(v.said, c.policy.FixedCost()), true
	}
	if c.trouble.expression.Succeeded(v.engine.now()) {
		v.engine.log.Info("the expressions of the policy have a value again for all requests", "policy", c.policy.Name)
	}
	return cost, true
}

// cost is what the policy charges. What the caller asks for replaces the policy's, which is then not evaluated.
func (v *view) cost(c *compiled, request *expr.Request) (int64, error) {
	switch {
	case !v.unsaid:
		return v.said, nil
	case c.rules.cost == nil:
		return max(v.said, c.policy.FixedCost()), nil
	}
	request.Cost = 1
	own, err := c.rules.cost.Of(request)
	return max(v.said, own), err
}

// ownCost is what the policy charges, whether its conditions hold or not.
func (v *view) ownCost(c *compiled) int64 {
	if c.rules == nil || c.rules.broken != nil {
		return c.policy.FixedCost()
	}
	cost, err := v.cost(c, &expr.Request{Domain: v.domain, Lookup: v.find})
	if err != nil {
		return c.policy.FixedCost()
	}
	return cost
}

// costExpression stands for the index of a condition.
const costExpression = -1

// failed notes that an expression has no value for the request. Where it is a condition the policy then does not apply; a
// value that is too long to look at is the exception: by sending one, nobody shall get out of a limit.
func (v *view) failed(c *compiled, condition int, err error) {
	e := v.engine
	e.metrics.expressionFailed(c)
	if c.trouble.expression.Failed(e.now()) {
		e.log.Warn("an expression of the policy has no value for a request: of a condition, the policy does not apply to it, of the cost, it is charged 1; guard the expression, with has(…) or in, for example",
			"policy", c.policy.Name, "expression", expressionName(condition), "error", err.Error())
	}
	e.tell(c, expressionName(condition)+": "+err.Error())
	var evaluation *expr.EvaluationError
	if errors.As(err, &evaluation) && evaluation.Class == expr.ValueTooLong && v.tooLong.Bytes > 0 {
		v.refused = c
	}
}

func expressionName(condition int) string {
	if condition == costExpression {
		return "cost"
	}
	return "when[" + strconv.Itoa(condition) + "]"
}

// tellPause is how often a failing expression is told of, so that what was told is known for as long as it fails.
const tellPause = time.Minute

// tell passes on, from time to time, that an expression of the policy fails.
func (e *Engine) tell(c *compiled, message string) {
	now := e.now().UnixNano()
	last := c.trouble.told.Load()
	if (last == 0 || now-last >= int64(tellPause)) && c.trouble.told.CompareAndSwap(last, now) {
		e.expressionFailed(c.policy, message)
	}
}

// err is the error of the request, or nil.
func (v *view) err(r *Request, door Door) error {
	if v.refused == nil {
		return nil
	}
	if r.operation != opPeek {
		v.engine.metrics.count(v.refused, door, outcomeError)
	}
	tooLong := v.tooLong
	return &tooLong
}

// find is the Lookup of expressions.
func (v *view) find(key string) (value string, found bool) {
	if v.lookup != nil {
		value, found = v.lookup(key)
	} else {
		for i := range v.entries {
			if v.entries[i].Key == key {
				value, found = v.entries[i].Value, true
				break
			}
		}
	}
	if len(value) > MaxValueBytes {
		v.tooLong = ValueTooLongError{Key: key, Bytes: len(value)}
	}
	return value, found
}
