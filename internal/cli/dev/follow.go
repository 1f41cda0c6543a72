package dev

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"time"
)

const (
	// DefaultRetry is the pause after a publication that failed.
	DefaultRetry = 2 * time.Second
	// DefaultUpkeep is how often the policies are published again while all is well: Redis may have lost them, which only
	// looking tells. Nothing is written when they are there.
	DefaultUpkeep = 30 * time.Second
)

// followChanges publishes what the files say after each change of them, and what they last said again and again, until
// the context ends.
func (s *session) followChanges(ctx context.Context, changed <-chan struct{}) {
	again := time.NewTimer(s.pause())
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			s.reload(ctx)
		case <-again.C:
			s.apply(ctx)
		}
		again.Reset(s.pause())
	}
}

func (s *session) pause() time.Duration {
	if s.failure != "" {
		return s.retry
	}
	return s.upkeep
}

// reload applies the files, if all of them are in order.
func (s *session) reload(ctx context.Context) {
	l, err := s.files.load(ctx)
	if err != nil {
		l.problems = []string{err.Error()}
	}
	if len(l.problems) > 0 {
		if text := strings.Join(l.problems, "\n"); text != s.refusal {
			s.refusal = text
			s.out.refused(l.problems)
		}
		return
	}
	s.mended = s.mended || s.refusal != ""
	s.refusal = ""
	s.good = l
	s.apply(ctx)
}

// apply publishes the last good files, and tells what is new of it.
func (s *session) apply(ctx context.Context) {
	result, err := s.publish(ctx, s.good)
	if err == nil {
		err = s.awaitInForce(ctx)
	}
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		if failure := nature(err); failure != s.failure {
			s.failure = failure
			s.out.failing(err, s.retry)
		}
		return
	}
	changes := compare(s.shown, s.set)
	switch {
	case len(changes) > 0 || s.mended || !slices.Equal(s.shownNotes, s.notes):
		s.out.reloaded(s.set, changes, s.notes)
	case result.Changed && result.Previous != nil && result.Previous.Hash != s.set.Hash:
		s.out.replaced(s.store.name)
	case result.Changed || s.failure != "":
		s.out.restored(s.store.name, s.set)
	}
	s.failure, s.mended = "", false
	s.shown, s.shownNotes = s.set, s.notes
}

// nature is the same for errors of which the second would tell the developer nothing new: while Redis is away, texts
// differ by ports, and by how far an attempt came.
func nature(err error) string {
	var network net.Error
	if errors.As(err, &network) || errors.Is(err, io.EOF) {
		return "unreachable"
	}
	return err.Error()
}
