package policystore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
)

// undoWithin bounds how long it is tried to put back what was there.
const undoWithin = 5 * time.Second

// documentKeys are the keys of all documents, of both modes.
var documentKeys = []string{OwnerKey, PoliciesKey, NamesKey, library.DocumentKey}

// publishServer publishes on one server that holds all: documents and library, in one transaction.
func (w *publishing) publishServer(ctx context.Context, node redisops.Node) (Result, error) {
	var result Result
	changed := false
	err := node.Client.Watch(ctx, func(tx *redis.Tx) error {
		found, err := w.look(ctx, tx)
		result.Previous = found.previous
		if err != nil || len(differences(found.have, w.want, w.Mode)) == 0 {
			return err
		}
		if err := checkRole(ctx, tx, node.Address); err != nil {
			return err
		}
		err = w.write(ctx, tx, found.have)
		if err == nil || redisops.Classify(err) == redisops.UnknownOutcome {
			result.Dropped = missing(found.published, w.Set)
		}
		changed = err == nil
		return err
	}, documentKeys...)
	if err != nil {
		if away(err) {
			result.addMissing(node.Address)
		}
		return result, err
	}
	if !changed {
		return result, nil
	}
	result.Changed = true
	return result, w.readBack(ctx, node.Client)
}

// look reads what the server holds and tells whether it may be published there.
func (w *publishing) look(ctx context.Context, server redis.Cmdable) (finding, error) {
	have, err := readState(ctx, server, w.Mode, w.Mode == library.ModeFunctions)
	if err != nil {
		return finding{}, err
	}
	return w.examine(have, func() ([]string, error) {
		text, _, err := library.Loaded(ctx, server)
		if err != nil {
			return nil, fmt.Errorf("read the library: %w", err)
		}
		return []string{text}, nil
	})
}

func (w *publishing) readBack(ctx context.Context, server redis.Cmdable) error {
	got, err := readState(ctx, server, w.Mode, w.Mode == library.ModeFunctions)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if differ := differences(got, w.want, w.Mode); len(differ) > 0 {
		return fmt.Errorf("%w: %v differ", ErrReadBack, differ)
	}
	return nil
}

// write puts into Redis what differs, all or nothing.
func (w *publishing) write(ctx context.Context, tx *redis.Tx, have state) error {
	var load *redis.StringCmd
	commands, err := tx.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
		setDocuments(ctx, pipe, w.Mode, have, w.want)
		if have.told != w.want.told {
			load = pipe.FunctionLoadReplace(ctx, w.text)
		}
		// Also for a repair: a set that penstockd could not read may be readable now.
		pipe.Publish(ctx, Channel, w.want.hash)
		return nil
	})
	if err == nil {
		return nil
	}
	if load == nil || load.Err() == nil || redisops.Classify(err) == redisops.UnknownOutcome || !executed(commands, load) {
		return firstError(commands, err)
	}
	// The transaction ran, all but the library: the server refuses it. The documents follow the library that is in force.
	err = fmt.Errorf("load the library: %w", load.Err())
	if restoring := w.putBack(ctx, tx, have); restoring != nil {
		return errors.Join(err, fmt.Errorf("and put the former documents back: %w", restoring))
	}
	return err
}

// putBack makes the documents what they were, unless somebody has written one of them since.
func (w *publishing) putBack(ctx context.Context, tx *redis.Tx, have state) error {
	ctx, done := undoing(ctx)
	defer done()
	if err := tx.Watch(ctx, documentKeys...).Err(); err != nil {
		return err
	}
	now, err := readState(ctx, tx, w.Mode, false)
	if err != nil {
		return err
	}
	now.told = w.want.told
	if len(differences(now, w.want, w.Mode)) > 0 {
		return redis.TxFailedErr
	}
	_, err = tx.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
		setDocuments(ctx, pipe, w.Mode, w.want, have)
		if have.hash != "" {
			pipe.Publish(ctx, Channel, have.hash)
		}
		return nil
	})
	return err
}

// undoing gives a context for putting back what was there, which has to be done though the other one may have ended.
func undoing(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), undoWithin)
}

// executed tells whether the transaction ran: then no command but the refused one has an error.
func executed(commands []redis.Cmder, refused redis.Cmder) bool {
	for _, command := range commands {
		if command != refused && command.Err() != nil {
			return false
		}
	}
	return true
}

// firstError gives the error that made the server discard a transaction, where it is known: EXECABORT alone does not tell
// that Redis is full.
func firstError(commands []redis.Cmder, err error) error {
	for _, command := range commands {
		if cause := command.Err(); cause != nil && !redis.IsExecAbortError(cause) && redisops.Classify(cause) != redisops.UnknownOutcome {
			return fmt.Errorf("%s: %w", command.Name(), cause)
		}
	}
	return err
}

func setDocuments(ctx context.Context, pipe redis.Cmdable, mode library.Mode, from, to state) {
	goals := to.entries(mode)
	for i, e := range from.entries(mode) {
		setDocument(ctx, pipe, e.key, *e.document, *goals[i].document)
	}
}

// setDocument sends what makes one document of another.
func setDocument(ctx context.Context, pipe redis.Cmdable, key string, from, to document) {
	switch {
	case from.fits(to):
	case to.text == nil:
		pipe.Del(ctx, key)
	case equal(from.text, to.text):
		pipe.Persist(ctx, key)
	default:
		pipe.Set(ctx, key, *to.text, 0)
	}
}
