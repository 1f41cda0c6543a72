package translate

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/penstock-dev/penstock/api/v1"
)

// A loop over the pieces of a path costs some 2350 at worst: two of them may be, and three are too many.
const (
	dearCondition = `request.path.split("/").exists(p, p == "admin" || p == "internal")`
	dearCost      = `request.path.split("/").exists(p, p == "admin" || p == "internal") ? 2 : 1`
)

func TestAllExpressionsOfAPolicyTogetherAreBounded(t *testing.T) {
	expression := func(text string) *intstr.IntOrString { return new(intstr.FromString(text)) }
	for name, test := range map[string]struct {
		when []string
		cost *intstr.IntOrString
		// wantPath is empty for what is accepted.
		wantPath string
		wantText string
	}{
		"two dear conditions":               {[]string{dearCondition, dearCondition}, nil, "", ""},
		"with a cost that is an integer":    {[]string{dearCondition, dearCondition}, new(intstr.FromInt32(5)), "", ""},
		"with a cheap cost":                 {[]string{dearCondition, dearCondition}, expression("request.cost * 2"), "", ""},
		"a dear condition and a dear cost":  {[]string{dearCondition}, expression(dearCost), "", ""},
		"eight cheap conditions and a cost": {slices.Repeat([]string{`request.path.matches("^/api/v[0-9]+/")`}, 8), expression("request.cost * 2"), "", ""},
		"three dear conditions": {
			slices.Repeat([]string{dearCondition}, 3), nil, "spec.when", "all conditions together cost 7",
		},
		"three dear conditions and a cost": {
			slices.Repeat([]string{dearCondition}, 3), expression("request.cost * 2"), "spec.when", "all conditions together cost 7",
		},
		"two dear conditions and a dear cost": {
			slices.Repeat([]string{dearCondition}, 2), expression(dearCost), "spec.cost",
			"spec.cost and the conditions of spec.when together cost 7",
		},
		"too dear by itself": {
			nil, expression(strings.Repeat(dearCondition+" && ", 2) + dearCost), "spec.cost", "line 1, column 1: too expensive: at worst it costs",
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, errs := expressions(&v1.RateLimitSpec{When: test.when, Cost: test.cost}, field.NewPath("spec"))
			if test.wantPath == "" {
				if len(errs) > 0 {
					t.Error(errs.ToAggregate())
				}
				return
			}
			if len(errs) != 1 || errs[0].Field != test.wantPath || !strings.Contains(errs[0].Detail, test.wantText) ||
				!strings.Contains(errs[0].Detail, "want at most 5000; loop less") {
				t.Errorf("%v, want %s refused with %q", errs, test.wantPath, test.wantText)
			}
		})
	}
}

// What does not compile is told as such, and costs nothing.
func TestABrokenExpressionHidesNoneOfTheOthers(t *testing.T) {
	spec := &v1.RateLimitSpec{When: append(slices.Repeat([]string{dearCondition}, 3), "request.methud == 'GET'"), Cost: new(intstr.FromString("request.path"))}
	_, _, errs := expressions(spec, field.NewPath("spec"))
	var got []string
	for _, err := range errs {
		got = append(got, err.Field)
	}
	if want := "spec.when[3] spec.cost spec.when"; strings.Join(got, " ") != want {
		t.Errorf("refused %q, want %s", got, want)
	}
}
