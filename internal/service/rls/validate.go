package rls

import (
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/penstock-dev/penstock/internal/policy"
)

// Bounds of a request. What goes beyond them is refused before any work is done for it.
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
			if n := len(entry.GetValue()); n > maxBytes {
				return invalid("descriptors[%d].entries[%d].value: %d bytes, want at most %d", i, j, n, maxBytes)
			}
		}
		if n := descriptor.GetHitsAddend().GetValue(); n > policy.MaxInteger {
			return invalid("descriptors[%d].hits_addend: %d, want at most %d", i, n, uint64(policy.MaxInteger))
		}
		if descriptor.GetIsNegativeHits() {
			// To charge them would be the opposite of what is asked for.
			return status.Errorf(codes.Unimplemented, "descriptors[%d].is_negative_hits: hits cannot be given back yet; leave it out", i)
		}
	}
	return nil
}

func invalid(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}
