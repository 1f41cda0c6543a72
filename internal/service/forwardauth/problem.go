package forwardauth

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/http"
	"strconv"
)

// problem is a body of application/problem+json (RFC 9457). It holds nothing that the request brought.
type problem struct {
	// Type is a reference to what explains the problem; empty is about:blank.
	Type string `json:"type,omitempty"`
	// Title is that of the status when it is empty.
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	// Policy is the RateLimit that denied, as <namespace>/<name>.
	Policy string `json:"policy,omitempty"`
	// RetryAfter is the header of that name, in seconds.
	RetryAfter int64 `json:"retryAfter,omitempty"`
}

func writeProblem(w http.ResponseWriter, p problem) {
	p.Title = cmp.Or(p.Title, http.StatusText(p.Status), "Denied") // not every status has a text
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false) // it is no HTML, and people read it
	if err := encoder.Encode(p); err != nil {
		http.Error(w, p.Title, p.Status) // not to be met: strings and integers always encode
		return
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Content-Length", strconv.Itoa(body.Len()))
	w.WriteHeader(p.Status)
	_, _ = w.Write(body.Bytes())
}
