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

	"github.com/penstock-dev/penstock/internal/expr"
	"github.com/penstock-dev/penstock/internal/policy"
)

// integer is an expression that is the same for each request.
var integer = regexp.MustCompile(`^-?[0-9]+$`)

// when checks the conditions of a policy: that each is CEL, and gives a bool.
func when(conditions []string, path *field.Path) field.ErrorList {
	if len(conditions) > policy.MaxWhen {
		return field.ErrorList{field.TooMany(path, len(conditions), policy.MaxWhen)}
	}
	var errs field.ErrorList
	for i, text := range conditions {
		err := expression(text, path.Index(i), func(text string) error {
			_, err := expr.CompileCondition(text)
			return err
		})
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// cost gives what a request costs: an integer, 0 for the default, or an expression.
func cost(value *intstr.IntOrString, path *field.Path) (int64, string, *field.Error) {
	if value == nil {
		return 0, "", nil
	}
	if value.Type == intstr.Int {
		fixed, err := fixedCost(int64(value.IntVal), math.MaxInt32, path)
		return fixed, "", err
	}
	if text := strings.TrimSpace(value.StrVal); integer.MatchString(text) {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			n = math.MaxInt64
		}
		fixed, invalid := fixedCost(n, policy.MaxInteger, path)
		return fixed, "", invalid
	}
	err := expression(value.StrVal, path, func(text string) error {
		_, err := expr.CompileCost(text)
		return err
	})
	return 0, value.StrVal, err
}

func fixedCost(n, most int64, path *field.Path) (int64, *field.Error) {
	switch {
	case n < 1 || n > most:
		return 0, field.Invalid(path, field.OmitValueType{}, fmt.Sprintf("want an integer from 1 to %d, or a CEL expression, such as int(request.header['x-items'])", most))
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
