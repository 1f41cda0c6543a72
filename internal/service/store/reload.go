package store

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"time"

	"github.com/penstock-dev/penstock/internal/redisops"
)

const (
	// reloadEvery is how often Load is asked again. Mounted Secrets tell nothing of their changes.
	reloadEvery = 10 * time.Second
	// reloadPause is how soon it may be asked again because of a refusal: there may be thousands of them in a second.
	reloadPause = time.Second
)

// keep goes over to other settings when there are some, until the context ends.
func (s *Store) keep(ctx context.Context) {
	var told string // why the latest settings are not in force, as the log has it
	pause, again := s.options.Reload, s.current.Load().cfg.MinBackoff
	for last := time.Now(); ; last = time.Now() {
		refused := false
		select {
		case <-time.After(pause):
		case <-s.refusals:
			refused = true
			if !sleep(ctx, reloadPause-time.Since(last)) {
				return
			}
		case <-ctx.Done():
			return
		}
		changed, err := s.reload(ctx)
		pause = s.options.Reload
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if reason := reasonOfRefusal(err); reason != told {
				told = reason
				s.log.Error("cannot use the new settings of redis; the last good ones stay in force", "error", err.Error())
			}
			// The servers may be away for a moment, or get to know the new credentials later than we do.
			pause = min(pause, again)
			again = min(2*again, s.options.Reload)
			continue
		case told != "" && !changed:
			s.log.Info("the settings of redis are again those in force")
		}
		told, again = "", s.current.Load().cfg.MinBackoff
		if refused && !changed {
			// It may also be that the server lacks a command that it had.
			g := s.enter()
			if g.reached.Load() {
				s.probeAgain(ctx, g)
			}
			g.leave()
		}
	}
}

// sleep tells whether the context did not end before.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// reload puts the settings of now into force if they are others, and tells whether it did. What does not work does not take
// the place of what did.
func (s *Store) reload(ctx context.Context) (bool, error) {
	cfg, err := s.options.Load()
	if err != nil {
		return false, err
	}
	old := s.current.Load()
	if reflect.DeepEqual(cfg.WithDefaults(), old.cfg) {
		return false, nil
	}
	next, err := s.open(cfg)
	if err != nil {
		return false, err
	}
	if old.reached.Load() {
		if err := s.prove(ctx, next); err != nil {
			next.abandon()
			return false, &unprovenError{err}
		}
	}
	if !s.replace(next) {
		next.abandon()
		return false, nil
	}
	old.close()
	// Only now may somebody take the old ones out of force in Redis.
	s.log.Info("other settings of redis are in force", "changed", differences(old.cfg, next.cfg))
	return true, nil
}

// unprovenError is what the servers did to a generation that was not in force yet.
type unprovenError struct{ error }

// Unwrap gives the error of the servers.
func (e *unprovenError) Unwrap() error { return e.error }

// reasonOfRefusal is the same for errors that are worth one line: those of the network have an address in them that changes.
func reasonOfRefusal(err error) string {
	class := redisops.Classify(err)
	if errors.As(err, new(*unprovenError)) && (class == redisops.NotExecuted || class == redisops.UnknownOutcome) {
		return class.String()
	}
	return err.Error()
}

// prove sees that decisions can go over to the generation, with connections that stand.
func (s *Store) prove(ctx context.Context, g *generation) error {
	bounded, cancel := context.WithTimeout(ctx, 2*g.cfg.DialTimeout)
	defer cancel()
	if err := s.probe(bounded, g); err != nil {
		return err
	}
	s.warm(ctx, g)
	return nil
}

// replace puts the generation into force, unless the store was closed.
func (s *Store) replace(next *generation) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.current.Store(next)
	return true
}

// differences names what differs, and tells nothing of what it is.
func differences(a, b redisops.Config) []string {
	var names []string
	note := func(name string, differs bool) {
		if differs {
			names = append(names, name)
		}
	}
	note("username", a.Username != b.Username)
	note("password", a.Password != b.Password)
	note("sentinel username", a.SentinelUsername != b.SentinelUsername)
	note("sentinel password", a.SentinelPassword != b.SentinelPassword)
	if a.TLS != nil && b.TLS != nil {
		note("CA", !bytes.Equal(a.TLS.CA, b.TLS.CA))
		note("client certificate", !bytes.Equal(a.TLS.ClientCert, b.TLS.ClientCert) || !bytes.Equal(a.TLS.ClientKey, b.TLS.ClientKey))
	}
	if len(names) == 0 {
		return []string{"servers"}
	}
	return names
}

// probeAgain finds out whether the servers decide in the way that they did: they may have been replaced by older or newer
// ones. That they cannot be asked now, others notice.
func (s *Store) probeAgain(ctx context.Context, g *generation) {
	bounded, cancel := context.WithTimeout(ctx, 2*g.cfg.DialTimeout)
	defer cancel()
	if err := s.probe(bounded, g); err != nil {
		s.log.DebugContext(ctx, "cannot find out how redis decides", "error", err.Error())
	}
}
