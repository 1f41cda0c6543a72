package api

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	penstockv1 "github.com/penstock-dev/penstock/proto/penstock/v1"
)

// Bounds of a request. What goes beyond them is refused before any work is done for it.
const (
	maxNamespaceBytes = 63
	maxPolicyBytes    = 253
	maxSubjectEntries = 16
	maxSubjectBytes   = 256
	minTTL            = time.Millisecond
)

// addressed is a request to a policy about a subject; all are.
type addressed interface {
	GetNamespace() string
	GetPolicy() string
	GetSubject() map[string]string
}

// overHTTP is a request that may be about one over HTTP, whose values are not all for its server to choose.
type overHTTP interface {
	GetHttp() bool
}

// subject is what is known of a request.
type subject map[string]string

func (s subject) lookup(key string) (string, bool) {
	value, found := s[key]
	return value, found
}

// charge makes the call of a request whose fields are all within their bounds. A cost of nil is the policy's, and an
// empty id is none.
func charge(r addressed, cost *int64, id string) (engine.Call, error) {
	if err := validate(r); err != nil {
		return engine.Call{}, err
	}
	call := engine.Call{Policy: name(r), Lookup: subject(r.GetSubject()).lookup, Cost: engine.PolicyCost, ID: id}
	if cost != nil {
		if *cost < 0 || *cost > policy.MaxInteger {
			return engine.Call{}, violation("cost", fmt.Sprintf("want 0 to %d", int64(policy.MaxInteger)))
		}
		call.Cost = *cost
	}
	if id != "" && !limit.ValidID(id) {
		return engine.Call{}, invalidID("id")
	}
	return call, nil
}

func credit(r *penstockv1.CreditRequest) (engine.Call, error) {
	amount := r.GetAmount()
	if amount < 1 || amount > policy.MaxInteger {
		return engine.Call{}, violation("amount", fmt.Sprintf("want 1 to %d", int64(policy.MaxInteger)))
	}
	return charge(r, &amount, r.GetId())
}

// slot makes the call of a request about a slot. A ttl of nil is the policy's.
func slot(r addressed, id string, ttl *durationpb.Duration) (engine.SlotCall, error) {
	if err := validate(r); err != nil {
		return engine.SlotCall{}, err
	}
	if !limit.ValidID(id) {
		return engine.SlotCall{}, invalidID("slot_id")
	}
	call := engine.SlotCall{Policy: name(r), Lookup: subject(r.GetSubject()).lookup, ID: id}
	if ttl != nil {
		call.TTL = ttl.AsDuration()
		if !ttl.IsValid() || call.TTL < minTTL {
			return engine.SlotCall{}, violation("ttl", "want at least 1 ms, or leave it out for the slotTTL of the policy")
		}
	}
	return call, nil
}

// name is the policy as the engine has it.
func name(r addressed) string { return r.GetNamespace() + "/" + r.GetPolicy() }

// validate refuses what no caller in its senses sends. It never repeats what the request holds, which may be secret.
func validate(r addressed) error {
	if n := r.GetNamespace(); len(n) > maxNamespaceBytes || !dnsName(n, false) {
		return violation("namespace", fmt.Sprintf(
			"want the namespace of a RateLimit: 1 to %d lower-case letters, digits and hyphens", maxNamespaceBytes))
	}
	if n := r.GetPolicy(); len(n) > maxPolicyBytes || !dnsName(n, true) {
		return violation("policy", fmt.Sprintf(
			"want the name of a RateLimit: 1 to %d lower-case letters, digits, dots and hyphens", maxPolicyBytes))
	}
	if n := len(r.GetSubject()); n > maxSubjectEntries {
		return violation("subject", fmt.Sprintf("%d entries, want at most %d", n, maxSubjectEntries))
	}
	// The engine refuses a value that is too long if the policy looks at it.
	anyLength := anyValues(r)
	for key, value := range r.GetSubject() {
		if n := len(key); n < 1 || n > maxSubjectBytes {
			return violation("subject", fmt.Sprintf("a key of %d bytes, want 1 to %d", n, maxSubjectBytes))
		}
		if n := len(value); n > maxSubjectBytes && !anyLength {
			return violated("subject", fmt.Sprintf("a value of %d bytes, want at most %d", n, maxSubjectBytes), reasonTooLong)
		}
	}
	return nil
}

// anyValues tells whether values may be longer than what a policy can count by. What is given back is asked for with the
// subject that was charged, also when that was a request over HTTP.
func anyValues(r addressed) bool {
	switch r := r.(type) {
	case overHTTP:
		return r.GetHttp()
	case *penstockv1.RefundRequest, *penstockv1.ReleaseSlotRequest:
		return true
	default:
		return false
	}
}

// dnsName tells whether a name begins and ends with a lower-case letter or digit and has nothing else but hyphens, and
// dots if it may, in between.
func dnsName(n string, dots bool) bool {
	for i := range len(n) {
		switch c := n[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case i == 0 || i == len(n)-1:
			return false
		case c != '-' && (c != '.' || !dots):
			return false
		}
	}
	return n != ""
}

func invalidID(field string) error {
	return violation(field, fmt.Sprintf("want 1 to %d visible ASCII characters without spaces", limit.MaxIDBytes))
}
