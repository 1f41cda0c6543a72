package translate

import (
	"fmt"
	"math"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/internal/policy"
)

const (
	maxTextBytes = 256
	maxWildcards = 8
)

var (
	limitName      = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	storeName      = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
	storeNamespace = limitName
)

// PolicyName gives the name under which an object's policy stands in the set of its store: <namespace>/<name>.
func PolicyName(namespace, name string) string { return namespace + "/" + name }

// Domain gives the Envoy rate limit domain that a RateLimit answers for: spec.domain, or its namespace.
func Domain(rl *v1.RateLimit) string {
	if rl.Spec.Domain != "" {
		return rl.Spec.Domain
	}
	return rl.Namespace
}

// RateLimit compiles a RateLimit, sealed with its content hash. Each error has the path of the field and the remedy;
// the policy is of use only when there are none.
func RateLimit(rl *v1.RateLimit) (policy.RateLimit, field.ErrorList) {
	spec, path := &rl.Spec, field.NewPath("spec")

	errs := storeRef(spec.StoreRef, path.Child("storeRef"))
	if err := text(Domain(rl), path.Child("domain")); err != nil {
		errs = append(errs, err)
	}
	descriptors, more := descriptors(spec.Descriptors, path.Child("descriptors"))
	errs = append(errs, more...)
	limits, more := limits(spec.Limits, path.Child("limits"))
	errs = append(errs, more...)
	onStoreFailure, err := failureMode(spec.OnStoreFailure, path.Child("onStoreFailure"))
	if err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return policy.RateLimit{}, errs
	}

	compiled := policy.RateLimit{
		Name:           PolicyName(rl.Namespace, rl.Name),
		Domain:         Domain(rl),
		Descriptors:    descriptors,
		Limits:         limits,
		OnStoreFailure: onStoreFailure,
	}.Sealed()
	// The set refuses as a whole what it cannot hold, so nothing may enter it that this check does not pass: one bad
	// object never blocks the others.
	if err := compiled.Validate(); err != nil {
		return policy.RateLimit{}, field.ErrorList{field.Invalid(path, field.OmitValueType{}, err.Error())}
	}
	return compiled, nil
}

func storeRef(ref *v1.StoreReference, path *field.Path) field.ErrorList {
	if ref == nil {
		return nil
	}
	var errs field.ErrorList
	if !storeName.MatchString(ref.Name) {
		errs = append(errs, field.Invalid(path.Child("name"), ref.Name, "want the name of a RedisStore, or remove storeRef to use the RedisStore default"))
	}
	if ref.Namespace != "" && !storeNamespace.MatchString(ref.Namespace) {
		errs = append(errs, field.Invalid(path.Child("namespace"), ref.Namespace, "want the name of a namespace, or remove it to use that of this object"))
	}
	return errs
}

// text checks a string of the user's. The schema counts characters; what travels and what penstockd accepts is bytes.
func text(value string, path *field.Path) *field.Error {
	switch {
	case value == "":
		return field.Required(path, "must not be empty")
	case len(value) > maxTextBytes:
		return field.TooLong(path, field.OmitValueType{}, maxTextBytes)
	}
	return nil
}

func descriptors(list []v1.Descriptor, path *field.Path) ([]policy.Descriptor, field.ErrorList) {
	if len(list) > policy.MaxDescriptors {
		return nil, field.ErrorList{field.TooMany(path, len(list), policy.MaxDescriptors)}
	}
	var compiled []policy.Descriptor
	var errs field.ErrorList
	for i, d := range list {
		at := path.Index(i)
		if err := text(d.Key, at.Child("key")); err != nil {
			errs = append(errs, err)
		}
		if d.Value != "" {
			if err := text(d.Value, at.Child("value")); err != nil {
				errs = append(errs, err)
			}
		}
		if strings.Count(d.Value, "*") > maxWildcards {
			errs = append(errs, field.Invalid(at.Child("value"), d.Value, "value may hold at most 8 wildcards (*); use a shorter pattern"))
		}
		compiled = append(compiled, policy.Descriptor{Key: d.Key, Value: d.Value})
	}
	return compiled, errs
}

func limits(list []v1.Limit, path *field.Path) ([]policy.Limit, field.ErrorList) {
	if len(list) == 0 {
		return nil, field.ErrorList{field.Required(path, "want at least one limit")}
	}
	if len(list) > policy.MaxLimits {
		return nil, field.ErrorList{field.TooMany(path, len(list), policy.MaxLimits)}
	}
	compiled := make([]policy.Limit, 0, len(list))
	names := make(map[string]bool, len(list))
	var errs field.ErrorList
	for i := range list {
		at := path.Index(i)
		l, more := limit(&list[i], at)
		errs = append(errs, more...)
		if names[l.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), l.Name))
		}
		names[l.Name] = true
		compiled = append(compiled, l)
	}
	return compiled, errs
}

func limit(l *v1.Limit, path *field.Path) (policy.Limit, field.ErrorList) {
	var errs field.ErrorList
	compiled := policy.Limit{Name: l.Name, Algorithm: string(l.Algorithm)}
	if compiled.Name == "" {
		compiled.Name = "default"
	}
	if !limitName.MatchString(compiled.Name) {
		errs = append(errs, field.Invalid(path.Child("name"), l.Name, "want up to 63 lower-case letters, digits and -, beginning and ending with a letter or digit"))
	}
	if compiled.Algorithm == "" {
		compiled.Algorithm = policy.SlidingLog
	}

	switch {
	case l.Requests == nil:
		errs = append(errs, field.Required(path.Child("requests"), "want how many requests may pass in one window; 0 denies all"))
	case *l.Requests < 0 || *l.Requests > policy.MaxInteger:
		errs = append(errs, field.Invalid(path.Child("requests"), *l.Requests, fmt.Sprintf("must be from 0 to %d (2^53-1)", int64(policy.MaxInteger))))
	default:
		compiled.Requests = *l.Requests
	}

	window, err := duration(l.Window, policy.MinWindow, policy.MaxWindow, path.Child("window"))
	if err != nil {
		errs = append(errs, err)
	}
	compiled.WindowMs = window.Milliseconds()

	if l.Burst != nil && compiled.Algorithm != policy.TokenBucket {
		errs = append(errs, field.Forbidden(path.Child("burst"), "burst is for algorithm TokenBucket only; remove burst or set algorithm: TokenBucket"))
	}
	switch compiled.Algorithm {
	case policy.SlidingLog:
		if compiled.Requests > policy.MaxSlidingLogRequests {
			errs = append(errs, field.Invalid(path.Child("requests"), compiled.Requests,
				"SlidingLog keeps one entry per request, so requests may be at most 1000; use algorithm FixedWindow or TokenBucket for more"))
		}
	case policy.FixedWindow:
	case policy.TokenBucket:
		errs = append(errs, tokenBucket(l, &compiled, path)...)
	default:
		errs = append(errs, field.NotSupported(path.Child("algorithm"), l.Algorithm,
			[]v1.Algorithm{v1.AlgorithmSlidingLog, v1.AlgorithmFixedWindow, v1.AlgorithmTokenBucket}))
	}
	return compiled, errs
}

// tokenBucket fills in the capacity and the unit of time of a bucket. Its largest capacity depends on its window, which
// no bound of one field in the schema can tell.
func tokenBucket(l *v1.Limit, compiled *policy.Limit, path *field.Path) field.ErrorList {
	most := int64(math.MaxInt64)
	if compiled.WindowMs > 0 {
		most = policy.MaxBurst(compiled.WindowMs)
		compiled.TickUs = policy.TickFor(compiled.WindowMs)
	}
	// A bucket of requests 0 denies all whatever it could hold; its capacity is only never zero.
	compiled.Burst = max(1, compiled.Requests)

	var errs field.ErrorList
	if compiled.Requests > most {
		errs = append(errs, tooManyTokens(path.Child("requests"), compiled.Requests, l.Window, most))
	}
	if l.Burst == nil {
		return errs
	}
	compiled.Burst = *l.Burst
	switch {
	case *l.Burst < 1 || *l.Burst > policy.MaxInteger:
		errs = append(errs, field.Invalid(path.Child("burst"), *l.Burst, fmt.Sprintf("must be from 1 to %d (2^53-1)", int64(policy.MaxInteger))))
	case *l.Burst > most:
		errs = append(errs, tooManyTokens(path.Child("burst"), *l.Burst, l.Window, most))
	}
	return errs
}

func tooManyTokens(path *field.Path, tokens int64, window v1.Duration, most int64) *field.Error {
	return field.Invalid(path, tokens, fmt.Sprintf(
		"a TokenBucket with window %s counts exactly up to %d tokens; use at most %d, a shorter window, or algorithm FixedWindow", window, most, most))
}

func failureMode(mode v1.FailureMode, path *field.Path) (string, *field.Error) {
	switch mode {
	case v1.FailureModeAllow, "":
		return policy.FailureAllow, nil
	case v1.FailureModeDeny:
		return policy.FailureDeny, nil
	}
	return "", field.NotSupported(path, mode, []v1.FailureMode{v1.FailureModeAllow, v1.FailureModeDeny})
}
