// Package check decides about manifests: first by the API server's rules, then by what the operator checks when it
// compiles them.
package check

import (
	"context"
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/config/crd"
	"github.com/penstock-dev/penstock/internal/cli/manifest"
	"github.com/penstock-dev/penstock/internal/cli/offline"
	"github.com/penstock-dev/penstock/internal/translate"
)

// Checker checks manifests of the kinds whose CustomResourceDefinitions are built in. It may be used by several
// goroutines.
type Checker struct {
	rules *offline.Rules
}

// builtin are the rules of what is built in. They are compiled once, which takes a good part of a second.
var builtin = sync.OnceValues(func() (*offline.Rules, error) { return offline.NewRules(crd.Bases) })

// NewChecker compiles the rules. It fails only when what is built in is broken.
func NewChecker() (*Checker, error) {
	rules, err := builtin()
	if err != nil {
		return nil, fmt.Errorf("reading the built-in CustomResourceDefinitions: %w", err)
	}
	return &Checker{rules: rules}, nil
}

// Result is what became of manifests.
type Result struct {
	// Valid, Refused and Skipped count objects.
	Valid, Refused, Skipped int
	// Problems are why some were refused, at least one for each.
	Problems []manifest.Problem
	// RateLimits are the valid ones, with their defaults.
	RateLimits []v1.RateLimit
	// RedisStores are the valid ones, with their defaults.
	RedisStores []v1.RedisStore

	sources map[identity]*manifest.Object
}

type identity struct {
	kind string
	types.NamespacedName
}

// Objects checks each manifest by itself. Objects get their defaults.
func (c *Checker) Objects(ctx context.Context, objects []*manifest.Object) Result {
	result := Result{sources: make(map[identity]*manifest.Object)}
	for _, o := range objects {
		verdict, errs := c.rules.Check(ctx, o.Content)
		if verdict == offline.Valid {
			errs = result.compile(o)
		}
		switch {
		case verdict == offline.Skipped:
			result.Skipped++
		case len(errs) > 0:
			result.Refused++
			for _, err := range errs {
				result.Problems = append(result.Problems, o.Problem(fieldOf(err), err.ErrorBody()))
			}
		default:
			result.Valid++
		}
	}
	return result
}

// Together checks what manifests must be to be applied at once: no object may be there twice.
func (c *Checker) Together(ctx context.Context, objects []*manifest.Object) Result {
	result := c.Objects(ctx, objects)
	first := make(map[identity]*manifest.Object)
	for _, o := range objects {
		u := o.Unstructured()
		id := identity{kind: u.GetKind(), NamespacedName: types.NamespacedName{Namespace: u.GetNamespace(), Name: u.GetName()}}
		if u.GroupVersionKind().Group != v1.GroupVersion.Group || result.sources[id] == nil {
			continue
		}
		if earlier := first[id]; earlier != nil {
			result.Problems = append(result.Problems, o.Problem("metadata.name", fmt.Sprintf("is declared at %s:%d already; remove one, or rename it", earlier.File, earlier.Line)))
			continue
		}
		first[id] = o
	}
	return result
}

// compile translates an object that the rules accept: this sees what a schema cannot say.
func (r *Result) compile(o *manifest.Object) field.ErrorList {
	u := o.Unstructured()
	switch kind := u.GetKind(); kind {
	case "RateLimit":
		var rl v1.RateLimit
		if errs := convert(o, &rl); len(errs) > 0 {
			return errs
		}
		if _, errs := translate.RateLimit(&rl); len(errs) > 0 {
			return errs
		}
		r.RateLimits = append(r.RateLimits, rl)
	case "RedisStore":
		var rs v1.RedisStore
		if errs := convert(o, &rs); len(errs) > 0 {
			return errs
		}
		if _, errs := translate.RedisStore(&rs); len(errs) > 0 {
			return errs
		}
		r.RedisStores = append(r.RedisStores, rs)
	default:
		// The rules know each kind that has a CustomResourceDefinition; one that is missing here is our mistake.
		return field.ErrorList{field.InternalError(field.NewPath("kind"), fmt.Errorf("kind %s is not compiled by this version", kind))}
	}
	r.sources[identity{kind: u.GetKind(), NamespacedName: types.NamespacedName{Namespace: u.GetNamespace(), Name: u.GetName()}}] = o
	return nil
}

func convert(o *manifest.Object, into any) field.ErrorList {
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Content, into); err != nil {
		return field.ErrorList{field.Invalid(nil, field.OmitValueType{}, err.Error())}
	}
	return nil
}

// fieldOf gives the path of the field, empty for an error that is about none.
func fieldOf(err *field.Error) string {
	var none *field.Path
	if err.Field == none.String() {
		return ""
	}
	return err.Field
}
