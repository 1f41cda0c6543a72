package translate

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/internal/policy"
)

// overrides compiles other limits for some subjects, in the order in which they are tried.
func overrides(spec *v1.RateLimitSpec, path *field.Path) ([]policy.Override, field.ErrorList) {
	if len(spec.Overrides) > policy.MaxOverrides {
		return nil, field.ErrorList{field.TooMany(path, len(spec.Overrides), policy.MaxOverrides)}
	}
	concurrency := hasConcurrency(spec.Limits)
	var compiled []policy.Override
	var errs field.ErrorList
	seen := make(map[string]bool, len(spec.Overrides))
	for i := range spec.Overrides {
		o, at := &spec.Overrides[i], path.Index(i)
		values, more := match(o.Match, spec.Descriptors, at.Child("match"))
		errs = append(errs, more...)
		if len(more) == 0 {
			tuple := fmt.Sprintf("%q", values)
			if seen[tuple] {
				errs = append(errs, field.Duplicate(at.Child("match"), field.OmitValueType{}))
			}
			seen[tuple] = true
		}
		limits, more := otherLimits(o, concurrency, at)
		errs = append(errs, more...)
		compiled = append(compiled, policy.Override{Values: values, Limits: limits, Unlimited: len(limits) == 0})
	}
	policy.SortOverrides(compiled)
	return compiled, errs
}

// match gives a pattern for each descriptor, empty where any value will do.
func match(entries []v1.DescriptorMatch, descriptors []v1.Descriptor, path *field.Path) ([]string, field.ErrorList) {
	if len(entries) == 0 {
		return nil, field.ErrorList{field.Required(path, "want at least one key and value that the override is for")}
	}
	values := make([]string, len(descriptors))
	var errs field.ErrorList
	for i, entry := range entries {
		at := path.Index(i)
		if err := value(entry.Value, at.Child("value")); err != nil {
			errs = append(errs, err)
		}
		position, problem := position(entry.Key, descriptors)
		if problem != "" {
			errs = append(errs, field.Invalid(at.Child("key"), entry.Key, problem))
			continue
		}
		if values[position] != "" {
			errs = append(errs, field.Duplicate(at.Child("key"), entry.Key))
		}
		values[position] = entry.Value
	}
	return values, errs
}

// position finds the descriptor of a key, or tells what stands against it.
func position(key string, descriptors []v1.Descriptor) (int, string) {
	of := func(d v1.Descriptor) bool { return d.Key == key }
	first := slices.IndexFunc(descriptors, of)
	switch {
	case first < 0:
		return 0, "match names a key that is none of spec.descriptors; use one of theirs, or add a descriptor"
	case slices.ContainsFunc(descriptors[first+1:], of):
		return 0, "match names a key that spec.descriptors has twice; use one that is there once"
	case descriptors[first].Shared != nil && *descriptors[first].Shared:
		return 0, "match names a shared descriptor, whose values have one budget and so the same limits; match another descriptor, or remove shared"
	}
	return first, ""
}

// otherLimits compiles the limits of an override: none when it is unlimited.
func otherLimits(o *v1.Override, concurrency bool, path *field.Path) ([]policy.Limit, field.ErrorList) {
	unlimited := o.Unlimited != nil && *o.Unlimited
	if unlimited == (len(o.Limits) > 0) {
		return nil, field.ErrorList{field.Invalid(path, field.OmitValueType{}, "an override has either limits, or unlimited: true; add one of them, or remove one")}
	}
	if unlimited {
		return nil, nil
	}
	compiled, errs := limits(o.Limits, path.Child("limits"))
	if hasConcurrency(o.Limits) != concurrency {
		errs = append(errs, field.Invalid(path.Child("limits"), field.OmitValueType{},
			"overrides of a Concurrency have one limit, of algorithm Concurrency, and no other overrides have such a limit; set the algorithm that spec.limits has"))
	}
	return compiled, errs
}

func hasConcurrency(list []v1.Limit) bool {
	return slices.ContainsFunc(list, func(l v1.Limit) bool { return l.Algorithm == v1.AlgorithmConcurrency })
}
