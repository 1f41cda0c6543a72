package rls

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/service/answers"
)

const degradedHeader = "x-penstock-degraded"

// usualHeaders is how many a response has unless a policy asks for more than the default.
const usualHeaders = 2

// headers are the response headers to add. The usual ones cost no allocation but for their values.
type headers struct {
	values [usualHeaders]corev3.HeaderValue
	list   [usualHeaders]*corev3.HeaderValue
	more   []*corev3.HeaderValue
	count  int
}

// set adds a header, by its name in lower case.
func (h *headers) set(name, value string) {
	if h.count >= usualHeaders {
		if h.more == nil {
			h.more = append(h.more, h.list[:]...)
		}
		h.more = append(h.more, &corev3.HeaderValue{Key: name, Value: value})
		return
	}
	of := &h.values[h.count]
	of.Key, of.Value = name, value
	h.list[h.count] = of
	h.count++
}

// add adds the headers of the binding verdict. That a policy's onStoreFailure had a part in the answer is said also where
// another verdict binds.
func (h *headers) add(binding *engine.Verdict, degraded bool) {
	if degraded {
		h.set(degradedHeader, "store")
	}
	answers.Headers(func(name, value string) {
		if name = answers.LowerName(name); name != degradedHeader {
			h.set(name, value)
		}
	}, binding)
}

// denial is the problem of a denial.
func (h *headers) denial(binding *engine.Verdict, verdicts []engine.Verdict) []byte {
	var violated []string
	for i := range verdicts {
		if !verdicts[i].Allowed {
			violated = append(violated, verdicts[i].Name)
		}
	}
	return h.problem(answers.Denial(binding, violated))
}

// problem gives the body, and adds the header that says what it is.
func (h *headers) problem(p answers.Problem) []byte {
	h.set("content-type", answers.ProblemContentType)
	return p.JSON()
}

// all are the headers; nil when there are none.
func (h *headers) all() []*corev3.HeaderValue {
	switch {
	case h.more != nil:
		return h.more
	case h.count == 0:
		return nil
	default:
		return h.list[:h.count:h.count]
	}
}
