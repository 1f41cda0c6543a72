package translate

import (
	"fmt"

	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/internal/policy"
)

// penalty compiles how subjects are blocked that go on after they were denied.
func penalty(p *v1.Penalty, concurrency bool, path *field.Path) (*policy.Penalty, field.ErrorList) {
	if p == nil {
		return nil, nil
	}
	var errs field.ErrorList
	if concurrency {
		errs = append(errs, field.Forbidden(path, "penalty is not for a Concurrency, whose callers wait for slots; remove penalty"))
	}
	if p.Denials < 1 || p.Denials > policy.MaxPenaltyDenials {
		errs = append(errs, field.Invalid(path.Child("denials"), p.Denials, fmt.Sprintf("must be from 1 to %d", policy.MaxPenaltyDenials)))
	}
	milliseconds := func(d v1.Duration, name string) int64 {
		length, err := duration(d, policy.MinWindow, policy.MaxWindow, path.Child(name))
		if err != nil {
			errs = append(errs, err)
		}
		return length.Milliseconds()
	}
	compiled := &policy.Penalty{Denials: int64(p.Denials), WithinMs: milliseconds(p.Within, "within"), ForMs: milliseconds(p.For, "for")}
	if p.Max == "" {
		compiled.MaxMs = compiled.ForMs
		return compiled, errs
	}
	compiled.MaxMs = milliseconds(p.Max, "max")
	if compiled.MaxMs > 0 && compiled.MaxMs < compiled.ForMs {
		errs = append(errs, field.Invalid(path.Child("max"), string(p.Max), "max must not be shorter than for; raise max, or remove it"))
	}
	return compiled, errs
}
