package limit

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/singleflight"

	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
)

// loadTimeout bounds the loading of a library of 2 MiB over a slow network.
const loadTimeout = 5 * time.Second

// loader loads the published library into a server that has none (a new primary, a restart without persistence). All
// who meet that at once share one loading for each server, which goes on when one of them stops waiting.
type loader struct {
	caller    Caller
	documents redis.UniversalClient
	loading   singleflight.Group // by the server's address
}

// load loads it where calls for the key go now. It waits until AnswerMargin before the deadline of ctx, whose end does not
// end the loading. Its own error is an ErrNotExecuted: of the decision nothing ran.
func (l *loader) load(ctx context.Context, key string) error {
	server, err := l.caller.Primary(ctx, key)
	if err != nil {
		return err
	}
	detached := context.WithoutCancel(ctx)
	done := l.loading.DoChan(server.Options().Addr, func() (any, error) {
		// Not on the context of a request: see architecture.md, I/O and requests.
		ctx, cancel := context.WithTimeout(detached, loadTimeout)
		defer cancel()
		return nil, library.LoadPublished(ctx, l.documents, server)
	})
	if deadline, has := ctx.Deadline(); has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-redisops.AnswerMargin))
		defer cancel()
	}
	select {
	case result := <-done:
		return result.Err
	case <-ctx.Done():
		return fmt.Errorf("%w: the loading goes on, but nobody waits: %w", redisops.ErrNotExecuted, ctx.Err())
	}
}
