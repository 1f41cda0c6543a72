package dev

import (
	"context"
	"strings"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/internal/cli/check"
	"github.com/penstock-dev/penstock/internal/cli/manifest"
)

// source is where the policies come from.
type source struct {
	paths     []string
	recursive bool
	checker   *check.Checker
}

// loaded is what stands in the files now.
type loaded struct {
	rateLimits []v1.RateLimit
	stores     int
	// problems are why nothing of it can be used.
	problems []string
}

// load reads and checks the files. It fails with *UsageError when they are not there.
func (s *source) load(ctx context.Context) (loaded, error) {
	objects, unreadable, err := manifest.Read(s.paths, s.recursive, strings.NewReader(""))
	if err != nil {
		return loaded{}, &UsageError{err}
	}
	result := s.checker.Together(ctx, objects)
	l := loaded{rateLimits: result.RateLimits, stores: len(result.RedisStores)}
	for _, p := range append(unreadable, result.Problems...) {
		l.problems = append(l.problems, p.String())
	}
	return l, nil
}
