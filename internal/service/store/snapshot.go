package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/penstock-dev/penstock/internal/policy"
)

// snapshot keeps the last good set in a file, as policy.Set.Marshal writes it. A zero one keeps nothing.
type snapshot struct {
	store *Store
	path  string
	// latest holds the set that is to be written next.
	latest chan *policy.Set
	// written is what the file holds; nil when that is not known.
	written []byte
	told    string // why it could not be written, as the log has it
}

func (s *Store) newSnapshot() *snapshot {
	return &snapshot{store: s, path: s.options.Snapshot, latest: make(chan *policy.Set, 1)}
}

// read gives the set of the file, or nil. What cannot be used is said and left as it is: it will be replaced.
func (f *snapshot) read() *policy.Set {
	if f.path == "" {
		return nil
	}
	log := f.store.log.With("file", f.path)
	document, err := os.ReadFile(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		log.Info("there is no snapshot of the policies yet")
		return nil
	case err != nil:
		log.Warn("cannot read the snapshot of the policies; starting without it", "error", err.Error())
		return nil
	}
	set, err := policy.Parse(document)
	if err != nil {
		log.Warn("the snapshot of the policies cannot be used; starting without it", "error", err.Error())
		return nil
	}
	f.written = document
	return set
}

// keep has the set written soon. It does not wait for it; a set that waits still is not needed any more.
func (f *snapshot) keep(set *policy.Set) {
	if f.path == "" {
		return
	}
	for {
		select {
		case f.latest <- set:
			return
		default:
		}
		select {
		case <-f.latest:
		default:
		}
	}
}

// run writes sets until the context ends, and what is waiting then.
func (f *snapshot) run(ctx context.Context) {
	for {
		select {
		case set := <-f.latest:
			f.write(set)
		case <-ctx.Done():
			select {
			case set := <-f.latest:
				f.write(set)
			default:
			}
			return
		}
	}
}

// write replaces the file if it holds another set.
func (f *snapshot) write(set *policy.Set) {
	document := set.Marshal()
	if bytes.Equal(document, f.written) {
		return
	}
	log := f.store.log.With("file", f.path)
	if err := replaceFile(f.path, document); err != nil {
		if reason := reasonOf(err); reason != f.told {
			f.told = reason
			log.Warn("cannot write the snapshot of the policies; a start without redis will have older ones or none", "error", reason)
		}
		return
	}
	f.written = document
	if f.told != "" {
		f.told = ""
		log.Info("the snapshot of the policies can be written again", "set", set.Hash)
	}
}

// reasonOf leaves the path away, which has a random name of each attempt.
func reasonOf(err error) string {
	if inner, is := errors.AsType[*fs.PathError](err); is {
		return fmt.Sprintf("%s: %v", inner.Op, inner.Err)
	}
	if inner, is := errors.AsType[*os.LinkError](err); is {
		return fmt.Sprintf("%s: %v", inner.Op, inner.Err)
	}
	return err.Error()
}

// replaceFile writes the file so that whoever reads it, and whoever starts after a crash, finds what it held before or
// what it is to hold, as a whole. Only its owner may read it.
func replaceFile(path string, content []byte) error {
	folder := filepath.Dir(path)
	temporary, err := os.CreateTemp(folder, filepath.Base(path)+".*.tmp") // 0600
	if err != nil {
		return err
	}
	_, err = temporary.Write(content)
	if err == nil {
		err = temporary.Sync()
	}
	if closing := temporary.Close(); err == nil {
		err = closing
	}
	if err == nil {
		err = os.Rename(temporary.Name(), path)
	}
	if err != nil {
		_ = os.Remove(temporary.Name())
		return err
	}
	// The new name, too, is to outlast a crash. Not every file system can do that.
	if directory, err := os.Open(folder); err == nil {
		_ = directory.Sync()
		_ = directory.Close()
	}
	return nil
}
