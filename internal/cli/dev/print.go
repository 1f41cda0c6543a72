package dev

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/service"
)

// printer writes what the developer reads, a whole message at a time. That nobody reads it any more is no reason to end.
type printer struct {
	mu  sync.Mutex
	out io.Writer
}

func (p *printer) printf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = fmt.Fprintf(p.out, format, args...)
}

// banner tells where to ask, what is in force, and how to see a denial.
func (p *printer) banner(s *session, addresses service.Addresses, files []string) {
	var b strings.Builder
	base := "http://" + reachable(addresses.HTTP)
	fmt.Fprintf(&b, "penstock dev: %s from %s\n\n", count(len(s.set.RateLimits)), strings.Join(files, ", "))
	fmt.Fprintf(&b, "  http   %s/auth/<namespace>/<name>, /json, LimiterService\n", base)
	fmt.Fprintf(&b, "  grpc   %s (Envoy Rate Limit Service v3, ext_authz v3)\n", reachable(addresses.GRPC))
	fmt.Fprintf(&b, "  redis  %s", s.store.address)
	if s.store.embedded {
		b.WriteString(" (embedded: gone when this ends)")
	}
	b.WriteString("\n\n")
	for i := range s.set.RateLimits {
		fmt.Fprintf(&b, "  %s\n", describe(&s.set.RateLimits[i]))
	}
	list := s.notes
	if s.store.mode == library.ModeScripts && len(s.set.RateLimits) > 0 {
		list = append([]string{"RateLimit: this Redis has no functions, so everything works but FCALL from your own clients (--redis URL of a Redis 7 has them)."}, list...)
	}
	writeNotes(&b, list)
	line, note := demonstrate(base, s.set.RateLimits)
	if line != "" {
		fmt.Fprintf(&b, "\nTo see a 429:\n\n  %s\n", line)
	} else {
		fmt.Fprintf(&b, "\n%s\n", note)
	}
	b.WriteString("\nEdit a file, and the next request is decided by it. Ctrl-C ends this.\n")
	p.printf("%s", b.String())
}

// reloaded tells what a change of files changed.
func (p *printer) reloaded(set *policy.Set, changes, list []string) {
	var b strings.Builder
	fmt.Fprintf(&b, "\nreloaded: %s\n", count(len(set.RateLimits)))
	for _, line := range changes {
		fmt.Fprintf(&b, "  %s\n", line)
	}
	writeNotes(&b, list)
	p.printf("%s", b.String())
}

// problems are why nothing is served.
func (p *printer) problems(list []string) {
	p.printf("%s\n", strings.Join(list, "\n"))
}

// refused are why a change of files changed nothing.
func (p *printer) refused(list []string) {
	p.printf("\nnot reloaded, the policies in force stay as they were:\n  %s\n", strings.Join(list, "\n  "))
}

// failing is why what the files say is not in force, or may not be for long. It is tried again after a pause.
func (p *printer) failing(err error, pause time.Duration) {
	p.printf("\nnot published, tried again every %s:\n  %v\n", pause, err)
}

// restored tells that the same policies are in force again.
func (p *printer) restored(store string, set *policy.Set) {
	p.printf("\nrestored: %s holds %s again\n", store, count(len(set.RateLimits)))
}

// replaced tells that somebody else's policies were there.
func (p *printer) replaced(store string) {
	p.printf("\nrestored: %s had other policies than the files; does another penstock dev publish there?\n", store)
}

func writeNotes(b *strings.Builder, list []string) {
	for _, note := range list {
		fmt.Fprintf(b, "  note: %s\n", note)
	}
}

func count(n int) string {
	if n == 1 {
		return "1 policy"
	}
	return fmt.Sprintf("%d policies", n)
}

// reachable gives an address that can be asked: one that listens everywhere is asked on this machine.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = loopback
	}
	return net.JoinHostPort(host, port)
}
