package translate

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/internal/policy"
)

const (
	maxTextBytes   = 256
	defaultSlotTTL = v1.Duration("1m")
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
	overrides, more := overrides(spec, path.Child("overrides"))
	errs = append(errs, more...)
	fixedCost, costExpression, more := expressions(spec, path)
	errs = append(errs, more...)
	shadowPercent, more := shadowPercent(spec, path)
	errs = append(errs, more...)
	penalty, more := penalty(spec.Penalty, hasConcurrency(spec.Limits), path.Child("penalty"))
	errs = append(errs, more...)
	response, more := response(spec.Response, path.Child("response"))
	errs = append(errs, more...)
	onStoreFailure, err := failureMode(spec, path.Child("onStoreFailure"))
	if err != nil {
		errs = append(errs, err)
	}

	compiled := policy.RateLimit{
		Name:           PolicyName(rl.Namespace, rl.Name),
		Domain:         Domain(rl),
		Descriptors:    descriptors,
		Limits:         limits,
		Overrides:      overrides,
		When:           spec.When,
		Cost:           fixedCost,
		CostExpression: costExpression,
		ShadowPercent:  shadowPercent,
		Penalty:        penalty,
		Response:       response,
		OnStoreFailure: onStoreFailure,
	}
	errs = append(errs, addTimeZones(&compiled, path)...)
	if len(errs) > 0 {
		return policy.RateLimit{}, errs
	}
	compiled = compiled.Sealed()
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

// value checks a pattern that a descriptor's value must match.
func value(pattern string, path *field.Path) *field.Error {
	if err := text(pattern, path); err != nil {
		return err
	}
	if strings.Count(pattern, "*") > policy.MaxWildcards {
		return field.Invalid(path, pattern, "value may hold at most 8 wildcards (*); use a shorter pattern")
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
			if err := value(d.Value, at.Child("value")); err != nil {
				errs = append(errs, err)
			}
		}
		shared := d.Shared != nil && *d.Shared
		if shared && !strings.Contains(d.Value, "*") {
			errs = append(errs, field.Invalid(at.Child("shared"), shared,
				"shared is for a value with a wildcard (*), whose matches then have one budget together; put a * into value, or remove shared"))
		}
		compiled = append(compiled, policy.Descriptor{Key: d.Key, Value: d.Value, Shared: shared})
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
	if len(list) > 1 && hasConcurrency(list) {
		errs = append(errs, field.Invalid(path, field.OmitValueType{}, "a Concurrency must be the only limit; remove the others, or move them to a RateLimit of their own"))
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

	errs = append(errs, window(l, &compiled, path)...)
	errs = append(errs, slotTTL(l, &compiled, path)...)
	if l.Burst != nil && compiled.Algorithm != policy.TokenBucket {
		errs = append(errs, field.Forbidden(path.Child("burst"), "burst is for algorithm TokenBucket only; remove burst or set algorithm: TokenBucket"))
	}
	atMost := func(most int64, remedy string) {
		if compiled.Requests > most {
			errs = append(errs, field.Invalid(path.Child("requests"), compiled.Requests, remedy))
		}
	}
	switch compiled.Algorithm {
	case policy.SlidingLog:
		atMost(policy.MaxSlidingLogRequests,
			"SlidingLog keeps one entry per request, so requests may be at most 1000; use algorithm SlidingCounter, FixedWindow or TokenBucket for more")
	case policy.SlidingCounter:
		atMost(policy.MaxSlidingCounterRequests,
			"a SlidingCounter counts exactly up to 8589934592 (2^33) requests; use algorithm FixedWindow or TokenBucket for more")
	case policy.Concurrency:
		atMost(policy.MaxSlots, "a Concurrency keeps one entry per slot, so requests may be at most 100000; use a more specific descriptor")
	case policy.FixedWindow, policy.Balance:
	case policy.TokenBucket:
		errs = append(errs, tokenBucket(l, &compiled, path)...)
	default:
		errs = append(errs, field.NotSupported(path.Child("algorithm"), l.Algorithm, []v1.Algorithm{
			v1.AlgorithmSlidingLog, v1.AlgorithmSlidingCounter, v1.AlgorithmFixedWindow,
			v1.AlgorithmTokenBucket, v1.AlgorithmConcurrency, v1.AlgorithmBalance,
		}))
	}
	return compiled, errs
}

// window fills in the windows of a limit: of a length, or of a calendar; some algorithms have none.
func window(l *v1.Limit, compiled *policy.Limit, path *field.Path) field.ErrorList {
	errs := calendar(l, compiled, path)
	switch {
	case l.Calendar != "":
	case compiled.Algorithm == policy.Concurrency || compiled.Algorithm == policy.Balance:
		if l.Window != "" {
			errs = append(errs, field.Forbidden(path.Child("window"),
				"a Concurrency counts what is under way, and a Balance is not refilled: neither has a window; remove window"))
		}
	case l.Window == "":
		errs = append(errs, field.Required(path.Child("window"),
			"want the length of time that requests speaks of, such as 1m (a FixedWindow may have a calendar in its place)"))
	default:
		length, err := duration(l.Window, policy.MinWindow, policy.MaxWindow, path.Child("window"))
		if err != nil {
			errs = append(errs, err)
		}
		compiled.WindowMs = length.Milliseconds()
	}
	return errs
}

// slotTTL fills in how long a slot of a Concurrency is held at most.
func slotTTL(l *v1.Limit, compiled *policy.Limit, path *field.Path) field.ErrorList {
	if compiled.Algorithm != policy.Concurrency {
		if l.SlotTTL != "" {
			return field.ErrorList{field.Forbidden(path.Child("slotTTL"), "slotTTL is for algorithm Concurrency only; remove slotTTL or set algorithm: Concurrency")}
		}
		return nil
	}
	length, err := durationOr(l.SlotTTL, defaultSlotTTL, policy.MinWindow, policy.MaxWindow, path.Child("slotTTL"))
	if err != nil {
		return field.ErrorList{err}
	}
	compiled.SlotTTLMs = length.Milliseconds()
	return nil
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

// shadowPercent gives the share of subjects that are never denied.
func shadowPercent(spec *v1.RateLimitSpec, path *field.Path) (int64, field.ErrorList) {
	var errs field.ErrorList
	if spec.Mode != "" && spec.Mode != v1.ModeEnforce && spec.Mode != v1.ModeShadow {
		errs = append(errs, field.NotSupported(path.Child("mode"), spec.Mode, []v1.Mode{v1.ModeEnforce, v1.ModeShadow}))
	}
	enforced := int64(100)
	if spec.EnforcePercent != nil {
		enforced = int64(*spec.EnforcePercent)
	}
	if enforced < 0 || enforced > 100 {
		errs = append(errs, field.Invalid(path.Child("enforcePercent"), enforced, "must be from 0 to 100"))
	}
	if spec.Mode == v1.ModeShadow {
		return 100, errs
	}
	return 100 - enforced, errs
}

func failureMode(spec *v1.RateLimitSpec, path *field.Path) (string, *field.Error) {
	switch mode := spec.OnStoreFailure; mode {
	case v1.FailureModeAllow, "":
		return policy.FailureAllow, nil
	case v1.FailureModeDeny:
		return policy.FailureDeny, nil
	case v1.FailureModeLocalShare:
		if !refills(spec) {
			return "", field.Invalid(path, mode, "LocalShare is for limits that refill with time, not for a Balance or a Concurrency; use Allow or Deny")
		}
		return policy.FailureLocalShare, nil
	default:
		return "", field.NotSupported(path, mode, []v1.FailureMode{v1.FailureModeAllow, v1.FailureModeDeny, v1.FailureModeLocalShare})
	}
}

// refills tells whether all limits of the object and of its overrides have room again when time has passed.
func refills(spec *v1.RateLimitSpec) bool {
	lasts := func(l v1.Limit) bool {
		return l.Algorithm == v1.AlgorithmBalance || l.Algorithm == v1.AlgorithmConcurrency
	}
	return !slices.ContainsFunc(spec.Limits, lasts) &&
		!slices.ContainsFunc(spec.Overrides, func(o v1.Override) bool { return slices.ContainsFunc(o.Limits, lasts) })
}
