package tracing

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"
)

// Variables of the OpenTelemetry specification. The SDK reads them, too, and falls back to all traces where it does not
// understand them.
const (
	samplerVariable  = "OTEL_TRACES_SAMPLER"
	argumentVariable = "OTEL_TRACES_SAMPLER_ARG"
)

// mostForeign is how many traces in a second are recorded because of what callers sent.
const mostForeign = 100

// samplerOf gives the sampler of the variables' values; empty is parentbased_always_on, as specified.
func samplerOf(name, argument string) (sdktrace.Sampler, error) {
	switch strings.ToLower(strings.TrimSpace(name)) {
	case "", "parentbased_always_on":
		return sdktrace.ParentBased(sdktrace.AlwaysSample()), nil
	case "always_on":
		return sdktrace.AlwaysSample(), nil
	case "always_off":
		return sdktrace.NeverSample(), nil
	case "traceidratio":
		ratio, err := ratioOf(argument)
		return newBounded(ratio), err
	case "parentbased_always_off":
		return newBounded(sdktrace.ParentBased(sdktrace.NeverSample())), nil
	case "parentbased_traceidratio":
		ratio, err := ratioOf(argument)
		return newBounded(sdktrace.ParentBased(ratio)), err
	default:
		return nil, errors.New(samplerVariable +
			": want always_on, always_off, traceidratio, or one of these with parentbased_ before it")
	}
}

func ratioOf(argument string) (sdktrace.Sampler, error) {
	argument = strings.TrimSpace(argument)
	if argument == "" {
		return sdktrace.TraceIDRatioBased(1), nil
	}
	ratio, err := strconv.ParseFloat(argument, 64)
	if err != nil || !(ratio >= 0 && ratio <= 1) {
		return sdktrace.NeverSample(), fmt.Errorf("%s: want a number from 0 to 1", argumentVariable)
	}
	return sdktrace.TraceIDRatioBased(ratio), nil
}

// bounded is a sampler for those who do not want all traces. A caller says whether its trace is to be recorded, and chooses
// the id by which a share of them is taken; so at most mostForeign traces in a second are begun by callers, or anybody could
// have all of them recorded.
type bounded struct {
	sdktrace.Sampler
	foreign *rate.Limiter
}

func newBounded(sampler sdktrace.Sampler) bounded {
	return bounded{Sampler: sampler, foreign: rate.NewLimiter(mostForeign, mostForeign)}
}

// ShouldSample is the sampler's.
func (b bounded) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	result := b.Sampler.ShouldSample(p)
	if result.Decision == sdktrace.RecordAndSample && trace.SpanContextFromContext(p.ParentContext).IsRemote() &&
		!b.foreign.AllowN(time.Now(), 1) {
		result.Decision = sdktrace.Drop
	}
	return result
}

// Description is the sampler's.
func (b bounded) Description() string {
	return "Bounded{" + b.Sampler.Description() + "}"
}
