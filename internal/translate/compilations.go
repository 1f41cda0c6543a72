package translate

import (
	"reflect"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/internal/policy"
)

// Compilations remember what objects were compiled to, for calls of Assemble that follow each other: of thousands of
// objects few differ from one call to the next. The zero value is ready. They keep the specs that they were given, which
// must not be changed, and are not for concurrent use.
type Compilations struct {
	before, now map[types.NamespacedName]*compilation
}

// compilation is what one object was compiled to.
type compilation struct {
	// spec is what it was made of, with the name. Not a generation: those go back when etcd is restored.
	spec v1.RateLimitSpec
	// policy, its size in a set and its summary, unless invalid says what is wrong with the spec.
	policy  policy.RateLimit
	size    int
	summary string
	invalid string
}

func (c *Compilations) begin(objects int) {
	c.before, c.now = c.now, make(map[types.NamespacedName]*compilation, objects)
}

// end forgets the objects that are gone.
func (c *Compilations) end() { c.before = nil }

// of compiles an object unless its spec is what it was.
func (c *Compilations) of(rl *v1.RateLimit) *compilation {
	name := types.NamespacedName{Namespace: rl.Namespace, Name: rl.Name}
	compiled := c.before[name]
	if compiled == nil || !reflect.DeepEqual(&compiled.spec, &rl.Spec) {
		compiled = compileSpec(rl)
	}
	c.now[name] = compiled
	return compiled
}

func compileSpec(rl *v1.RateLimit) *compilation {
	compiled := &compilation{spec: rl.Spec}
	var errs field.ErrorList
	if compiled.policy, errs = RateLimit(rl); len(errs) > 0 {
		compiled.invalid = errs.ToAggregate().Error()
		return compiled
	}
	compiled.size, compiled.summary = entrySize(&compiled.policy), Summary(&compiled.policy)
	return compiled
}
