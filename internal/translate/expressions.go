package translate

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/internal/expr"
	"github.com/penstock-dev/penstock/internal/policy"
)

// integer is an expression that is the same for each request.
var integer = regexp.MustCompile(`^-?[0-9]+$`)

// expressions checks spec.when and spec.cost, and gives what a request costs: an integer, 0 for the default, or an
// expression. Each expression is bounded by itself, and all of them together: a request may have to evaluate them all.
func expressions(spec *v1.RateLimitSpec, path *field.Path) (int64, string, field.ErrorList) {
	whenMost, errs := conditions(spec.When, path.Child("when"))
	fixed, text, costMost, err := charge(spec.Cost, path.Child("cost"))
	if err != nil {
		errs = append(errs, err)
	}
	switch sum := whenMost + costMost; {
	case whenMost > expr.CostLimit:
		errs = append(errs, tooExpensive(path.Child("when"), "all conditions", whenMost))
	case sum > expr.CostLimit:
		errs = append(errs, tooExpensive(path.Child("cost"), "spec.cost and the conditions of spec.when", sum))
	}
	return fixed, text, errs
}

func tooExpensive(path *field.Path, what string, most uint64) *field.Error {
	return field.Invalid(path, field.OmitValueType{}, fmt.Sprintf(
		"too expensive: %s together cost %d at worst, want at most %d; loop less, match by simpler patterns, or have fewer of them",
		what, most, expr.CostLimit))
}

// conditions checks the conditions of a policy: that each is CEL, and gives a bool. It gives what they cost together at
// worst.
func conditions(texts []string, path *field.Path) (uint64, field.ErrorList) {
	if len(texts) > policy.MaxWhen {
		return 0, field.ErrorList{field.TooMany(path, len(texts), policy.MaxWhen)}
	}
	var sum uint64
	var errs field.ErrorList
	for i, text := range texts {
		err := expression(text, path.Index(i), func(text string) error {
			condition, err := expr.CompileCondition(text)
			if err == nil {
				sum += condition.MostCost()
			}
			return err
		})
		if err != nil {
			errs = append(errs, err)
		}
	}
	return sum, errs
}

// charge gives what a request costs, as expressions does, and what an evaluation of it costs at worst.
func charge(value *intstr.IntOrString, path *field.Path) (fixed int64, text string, most uint64, err *field.Error) {
	if value == nil {
		return 0, "", 0, nil
	}
	if value.Type == intstr.Int {
		fixed, err = fixedCost(int64(value.IntVal), math.MaxInt32, path)
		return fixed, "", 0, err
	}
	if text := strings.TrimSpace(value.StrVal); integer.MatchString(text) {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			n = math.MaxInt64
		}
		fixed, invalid := fixedCost(n, policy.MaxInteger, path)
		return fixed, "", 0, invalid
	}
	err = expression(value.StrVal, path, func(text string) error {
		cost, err := expr.CompileCost(text)
		if err == nil {
			most = cost.MostCost()
		}
		return err
	})
	return 0, value.StrVal, most, err
}

func fixedCost(n, most int64, path *field.Path) (int64, *field.Error) {
	switch {
	case n < 1 || n > most:
		return 0, field.Invalid(path, field.OmitValueType{}, fmt.Sprintf(
			"want an integer from 1 to %d, or a CEL expression, such as 'x-items' in request.header ? math.greatest(1, math.least(int(request.header['x-items']), 100)) : 1",
			most))
	case n == 1:
		// As if it were not said, so that policies are alike that mean the same.
		return 0, nil
	}
	return n, nil
}

// expression checks the text of a CEL expression. What is wrong with it is told with its line and column.
func expression(text string, path *field.Path, compile func(string) error) *field.Error {
	if text == "" {
		return field.Required(path, "want a CEL expression, or remove it")
	}
	if len(text) > policy.MaxExpressionBytes {
		return field.TooLong(path, field.OmitValueType{}, policy.MaxExpressionBytes)
	}
	err := compile(text)
	if syntax, is := errors.AsType[*expr.SyntaxError](err); is {
		return field.Invalid(path, text, fmt.Sprintf("line %d, column %d: %s", syntax.Line, syntax.Column, syntax.Message))
	}
	if err != nil {
		return field.Invalid(path, text, err.Error())
	}
	return nil
}
