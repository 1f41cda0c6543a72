package callers

import (
	"crypto/sha256"
	"crypto/x509"
	"strings"
	"sync"
)

// entry is one caller of the file.
type entry struct {
	name string
	// uris, emails and hosts are of the names in a certificate.
	uris, emails, hosts []pattern
	tokens              [][sha256.Size]byte
	accounts            []pattern // of "<namespace>/<name>"
	granted             grant
}

// roster is all callers of one reading of the file, with what was found out about those who came.
type roster struct {
	entries      []entry
	tokens       map[[sha256.Size]byte]*grant
	certificates memo[*x509.Certificate, *grant]
	accounts     memo[account, *grant]
}

// ofCertificate gives what the callers together may touch whose patterns match a name of the certificate; nil when none
// does.
func (r *roster) ofCertificate(certificate *x509.Certificate) *grant {
	if granted, known := r.certificates.get(certificate); known {
		return granted
	}
	granted := r.union("", func(e *entry) bool { return e.hasNameOf(certificate) })
	r.certificates.put(certificate, granted)
	return granted
}

func (e *entry) hasNameOf(certificate *x509.Certificate) bool {
	for _, uri := range certificate.URIs {
		if anyMatches(e.uris, uri.String()) {
			return true
		}
	}
	for _, email := range certificate.EmailAddresses {
		if anyMatches(e.emails, email) {
			return true
		}
	}
	for _, host := range certificate.DNSNames {
		if anyMatches(e.hosts, strings.ToLower(host)) {
			return true
		}
	}
	return false
}

// ofToken gives what the holder of a static token may touch; nil when it is unknown. It is looked up by its digest, which
// nobody can steer towards another one, so that how long it takes tells nothing of the tokens that there are.
func (r *roster) ofToken(digest *[sha256.Size]byte) *grant { return r.tokens[*digest] }

// ofAccount gives what a ServiceAccount may touch: its own namespace, and what the callers of the file that it matches may.
func (r *roster) ofAccount(a account) *grant {
	if granted, known := r.accounts.get(a); known {
		return granted
	}
	name := a.namespace + "/" + a.name
	granted := r.union(a.namespace, func(e *entry) bool { return anyMatches(e.accounts, name) })
	if granted == nil {
		granted = &grant{own: a.namespace}
	}
	r.accounts.put(a, granted)
	return granted
}

// union is what the callers may touch for which is is true; nil without one.
func (r *roster) union(own string, is func(*entry) bool) *grant {
	var all *grant
	for i := range r.entries {
		e := &r.entries[i]
		if !is(e) {
			continue
		}
		if all == nil {
			all = &grant{own: own}
		}
		all.namespaces = append(all.namespaces, e.granted.namespaces...)
		all.domains = append(all.domains, e.granted.domains...)
		all.administrative = all.administrative || e.granted.administrative
		all.overridesLimits = all.overridesLimits || e.granted.overridesLimits
	}
	return all
}

// mostRemembered bounds a memo.
const mostRemembered = 4096

// memo remembers, in bounded memory, what is found out again if it is forgotten.
type memo[K comparable, V any] struct {
	mu   sync.RWMutex
	held map[K]V
}

func (m *memo[K, V]) get(key K) (V, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	value, known := m.held[key]
	return value, known
}

func (m *memo[K, V]) put(key K, value V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.held == nil || len(m.held) >= mostRemembered {
		m.held = map[K]V{}
	}
	m.held[key] = value
}
