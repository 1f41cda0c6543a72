package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// auditPolicy has kube-apiserver write a line for each request of the operator that changes something.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted, Panic]
rules:
- level: Metadata
  users: [` + operatorUser + `]
  verbs: [create, update, patch, delete, deletecollection]
- level: None
`

// operatorUser is who the operator is at the API server.
const operatorUser = "penstock-operator"

// leaseResource is what the leader writes every two seconds as long as it lives.
const leaseResource = "leases"

// writes counts what was written at the API server, by verb and resource ("update ratelimits/status").
type writes map[string]int

// readAudit counts the lines of an audit log. Refused requests count too.
func readAudit(log io.Reader) (writes, error) {
	counted := writes{}
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var event struct {
			Verb      string `json:"verb"`
			ObjectRef struct {
				Resource    string `json:"resource"`
				Subresource string `json:"subresource"`
			} `json:"objectRef"`
			User struct {
				Username string `json:"username"`
			} `json:"user"`
		}
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			return nil, fmt.Errorf("reading the audit log: %w", err)
		}
		if event.User.Username != operatorUser {
			continue
		}
		name := event.Verb + " " + event.ObjectRef.Resource
		if event.ObjectRef.Subresource != "" {
			name += "/" + event.ObjectRef.Subresource
		}
		counted[name]++
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", err)
	}
	return counted, nil
}

// since gives what was written after an earlier count.
func (w writes) since(earlier writes) writes {
	more := writes{}
	for name, n := range w {
		if n > earlier[name] {
			more[name] = n - earlier[name]
		}
	}
	return more
}

// total counts all, without the lease or the lease alone.
func (w writes) total(lease bool) int {
	sum := 0
	for name, n := range w {
		if strings.HasSuffix(name, " "+leaseResource) == lease {
			sum += n
		}
	}
	return sum
}

// String gives what was written, without the lease: "patch ratelimits/status 1".
func (w writes) String() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(w)) {
		if !strings.HasSuffix(name, " "+leaseResource) {
			parts = append(parts, fmt.Sprintf("%s %d", name, w[name]))
		}
	}
	return strings.Join(parts, ", ")
}
