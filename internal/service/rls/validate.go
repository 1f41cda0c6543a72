package rls

import (
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/penstock-dev/penstock/internal/policy"
)

// Bounds of a request. What goes beyond them is refused before any work is done for it. They are about what the configuration
// of Envoy says: values have none here, since an error would let the request of an end user pass who sends a long one.
const (
	maxDescriptors = 16
	maxEntries     = 16
	maxBytes       = 256
)

// validate refuses, by an InvalidArgument that names the field and its bound, what no proxy in its senses sends. It never
// repeats what the request holds, which may be secret.
func validate(request *ratelimitv3.RateLimitRequest) error {
	if n := len(request.GetDomain()); n < 1 || n > maxBytes {
		return invalid("domain: %d bytes, want 1 to %d", n, maxBytes)
	}
	if n := len(request.GetDescriptors()); n < 1 || n > maxDescriptors {
		return invalid("descriptors: %d, want 1 to %d", n, maxDescriptors)
	}
	for i, descriptor := range request.GetDescriptors() {
		if n := len(descriptor.GetEntries()); n > maxEntries {
			return invalid("descriptors[%d].entries: %d, want at most %d", i, n, maxEntries)
		}
		for j, entry := range descriptor.GetEntries() {
			if n := len(entry.GetKey()); n > maxBytes {
				return invalid("descriptors[%d].entries[%d].key: %d bytes, want at most %d", i, j, n, maxBytes)
			}
		}
		if n := descriptor.GetHitsAddend().GetValue(); n > policy.MaxInteger {
			return invalid("descriptors[%d].hits_addend: %d, want at most %d", i, n, uint64(policy.MaxInteger))
		}
	}
	return nil
}

// windowOf gives the window of a limit that the descriptor at that index brings along.
func windowOf(unit typev3.RateLimitUnit, descriptor int) (time.Duration, error) {
	switch unit {
	case typev3.RateLimitUnit_SECOND:
		return time.Second, nil
	case typev3.RateLimitUnit_MINUTE:
		return time.Minute, nil
	case typev3.RateLimitUnit_HOUR:
		return time.Hour, nil
	case typev3.RateLimitUnit_DAY:
		return day, nil
	case typev3.RateLimitUnit_MONTH: // as envoyproxy/ratelimit counts a month
		return 30 * day, nil
	case typev3.RateLimitUnit_YEAR:
		return 0, invalid("descriptors[%d].limit.unit: YEAR is longer than the longest window, %d hours; want SECOND, MINUTE, HOUR, DAY or MONTH",
			descriptor, int64(policy.MaxWindow.Hours()))
	default:
		return 0, invalid("descriptors[%d].limit.unit: want SECOND, MINUTE, HOUR, DAY or MONTH", descriptor)
	}
}

// hasUnknownFields tells whether the request has fields that this version of the protocol does not know.
func hasUnknownFields(request *ratelimitv3.RateLimitRequest) bool {
	if unknown(request) {
		return true
	}
	for _, descriptor := range request.GetDescriptors() {
		if unknown(descriptor) {
			return true
		}
		if own := descriptor.GetLimit(); own != nil && unknown(own) {
			return true
		}
		for _, entry := range descriptor.GetEntries() {
			if unknown(entry) {
				return true
			}
		}
	}
	return false
}

func unknown(message proto.Message) bool {
	return len(message.ProtoReflect().GetUnknown()) > 0
}

func invalid(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}
