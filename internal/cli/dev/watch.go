package dev

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/penstock-dev/penstock/internal/cli/manifest"
)

const (
	// DefaultSettle is how long files must be left alone before they are read again: an editor writes a new file and
	// renames it, and a checkout changes many.
	DefaultSettle = 100 * time.Millisecond
	// retryMissing is how soon to look again for a folder that is not there: nothing tells when it comes back.
	retryMissing = time.Second
)

// fileWatch calls changed after every change of what the paths lead to, once it has settled, until the context ends.
// Changes are seen in folders and not in files, since editors replace a file instead of changing it. onError gets what
// keeps changes from being seen; they are looked for again.
type fileWatch struct {
	paths     []string
	recursive bool
	settle    time.Duration
	changed   func()
	onError   func(error)
}

func (w *fileWatch) start(ctx context.Context) error {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watching files: %w", err)
	}
	if err := w.subscribe(notify); err != nil {
		_ = notify.Close()
		return err
	}
	go func() {
		defer func() { _ = notify.Close() }()
		w.run(ctx, notify)
	}()
	return nil
}

// subscribe watches all folders that there are now. It is repeated after each change: a folder may be new, or another
// one under the name of one that was removed.
func (w *fileWatch) subscribe(notify *fsnotify.Watcher) error {
	folders, err := manifest.Folders(w.paths, w.recursive)
	if err != nil {
		return err
	}
	for _, folder := range folders {
		if err := notify.Add(folder); err != nil {
			return fmt.Errorf("watching %s: %w", folder, err)
		}
	}
	return nil
}

func (w *fileWatch) run(ctx context.Context, notify *fsnotify.Watcher) {
	due := time.NewTimer(time.Hour)
	defer due.Stop()
	due.Stop() // until the first event
	for {
		select {
		case <-ctx.Done():
			return
		case <-notify.Events:
			due.Reset(w.settle)
		case err := <-notify.Errors:
			// Events were lost, so anything may have changed.
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				w.onError(err)
			}
			due.Reset(w.settle)
		case <-due.C:
			err := w.subscribe(notify)
			w.changed()
			if err != nil {
				due.Reset(retryMissing)
			}
		}
	}
}
