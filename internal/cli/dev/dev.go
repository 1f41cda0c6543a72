// Package dev runs policies from files in one process: files, rules, compilation, publication into a Redis and the doors
// of penstockd, on the same path as in a cluster, and again on each change of a file.
package dev

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/penstock-dev/penstock/internal/cli/check"
	"github.com/penstock-dev/penstock/internal/cli/manifest"
	"github.com/penstock-dev/penstock/internal/engine"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/connect"
	"github.com/penstock-dev/penstock/internal/redisops/limit"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/service"
)

// Options of a session.
type Options struct {
	// Files are files and folders with manifests.
	Files []string
	// Recursive reads the folders below them too.
	Recursive bool
	// Redis says how it is reached; a URL of Embedded (or none) is a server within this process.
	Redis connect.Settings
	// HTTP and GRPC are the addresses of the doors; port 0 takes a free one.
	HTTP, GRPC string
	// Settle is how long files must be left alone before they are read again; 0 is DefaultSettle.
	Settle time.Duration
	// Retry is the pause after a publication that failed; 0 is DefaultRetry.
	Retry time.Duration
	// Upkeep is how often the policies are published again while all is well; 0 is DefaultUpkeep.
	Upkeep time.Duration
	// Out gets what the developer reads; Log what goes wrong beneath.
	Out io.Writer
	Log *slog.Logger
}

// UsageError is a command line that cannot be carried out.
type UsageError struct{ error }

// Unwrap gives what is wrong.
func (e *UsageError) Unwrap() error { return e.error }

// ErrRefused tells that manifests were refused, as was printed.
var ErrRefused = errors.New("manifests were refused")

// drain bounds how long requests that are under way may take to end.
const drain = 2 * time.Second

// Run serves the policies until the context ends, which is no error. It fails when it cannot begin: with *UsageError, ErrRefused, or what
// went wrong. Later mistakes in files are printed, and the last good policies stay in force.
func Run(ctx context.Context, options Options) error {
	err := run(ctx, options)
	if ctx.Err() != nil {
		// Whatever could not be finished: ending was what was asked for.
		return nil //nolint:nilerr // see above
	}
	return err
}

func run(ctx context.Context, options Options) error {
	if slices.Contains(options.Files, manifest.Stdin) {
		return &UsageError{fmt.Errorf("-f %s: standard input has no changes to follow; name a file or a folder", manifest.Stdin)}
	}
	checker, err := check.NewChecker()
	if err != nil {
		return err
	}
	files := &source{paths: options.Files, recursive: options.Recursive, checker: checker}
	out := &printer{out: options.Out}

	// Requests that are under way when the context ends still need Redis and the policies: those end last.
	lifetime, end := context.WithCancel(context.WithoutCancel(ctx))
	ctx, cancel := context.WithCancel(ctx)
	defer end()
	defer cancel()

	// Watched before they are read, so that no change falls between.
	changed, err := follow(ctx, options)
	if err != nil {
		return err
	}
	loaded, err := files.load(ctx)
	if err != nil {
		return err
	}
	if len(loaded.problems) > 0 {
		out.problems(loaded.problems)
		return ErrRefused
	}

	store, err := openStore(lifetime, options.Redis)
	if err != nil {
		return err
	}
	defer func() { _ = store.servers.Close() }()
	caller := redisops.NewCaller(store.servers, redisops.CallerOptions{Logger: options.Log})
	defer caller.Close()
	var background sync.WaitGroup
	defer func() {
		cancel()
		end()
		background.Wait()
	}()

	registry := prometheus.NewRegistry()
	eng := engine.New(engine.Options{Limiter: limit.New(caller, store.client, store.mode), Logger: options.Log, Registerer: registry})
	doors, err := service.New(service.Config{HTTP: options.HTTP, GRPC: options.GRPC, Drain: drain}, eng, registry, options.Log)
	if err != nil {
		return portError(err, options)
	}

	s := &session{
		store: store, owner: ownerName(), engine: eng, files: files, out: out, inForce: make(chan string, 1),
		retry: cmp.Or(options.Retry, DefaultRetry), upkeep: cmp.Or(options.Upkeep, DefaultUpkeep),
	}
	if err := s.begin(ctx, loaded); err != nil {
		return errors.Join(err, shut(doors))
	}
	background.Go(func() {
		_ = policystore.Watch(lifetime, store.servers, policystore.WatchOptions{Logger: options.Log}, s.use)
	})
	if err := s.awaitInForce(ctx); err != nil {
		return errors.Join(err, shut(doors))
	}
	out.banner(s, doors.Addresses(), options.Files)
	background.Go(func() { s.followChanges(ctx, changed) })
	err = doors.Run(ctx)
	out.printf("\npenstock dev: ended\n")
	return err
}

// follow tells of changes of the files.
func follow(ctx context.Context, options Options) (<-chan struct{}, error) {
	changed := make(chan struct{}, 1)
	watch := &fileWatch{
		paths: options.Files, recursive: options.Recursive, settle: cmp.Or(options.Settle, DefaultSettle),
		changed: func() {
			select {
			case changed <- struct{}{}:
			default: // one is waiting already, and will see this change too
			}
		},
		onError: func(err error) { options.Log.Warn("changes of files may go unseen", "error", err) },
	}
	if err := watch.start(ctx); err != nil {
		return nil, &UsageError{err}
	}
	return changed, nil
}

// shut closes doors that were opened and never served.
func shut(doors *service.Service) error {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	return doors.Run(ended)
}

// portError names the flag that helps when a port is in use.
func portError(err error, options Options) error {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return &UsageError{fmt.Errorf("%w; see --http and --grpc", err)}
	}
	flag, address := "--http", options.HTTP
	var operation *net.OpError
	if errors.As(err, &operation) && operation.Addr != nil && samePort(operation.Addr.String(), options.GRPC) {
		flag, address = "--grpc", options.GRPC
	}
	return fmt.Errorf("%s is in use by another program: end that one, or choose another address with %s (port 0 takes a free one)", address, flag)
}

func samePort(a, b string) bool {
	_, one, errOne := net.SplitHostPort(a)
	_, two, errTwo := net.SplitHostPort(b)
	return errOne == nil && errTwo == nil && one == two
}

// session is what goes on while the doors are open.
type session struct {
	store   *store
	owner   string
	engine  *engine.Engine
	files   *source
	out     *printer
	inForce chan string // hashes of the sets that the engine was given
	retry   time.Duration
	upkeep  time.Duration

	// These are touched by one goroutine at a time: first Run, then followChanges.
	good       loaded // what the files said when they last were in order
	set        *policy.Set
	notes      []string
	shown      *policy.Set // what the output spoke of last
	shownNotes []string
	refusal    string // of the files, while they are not in order; it is not printed twice
	mended     bool   // they were not, and the output has not said yet that they are
	failure    string // the nature of what keeps the good files from being in force
}

// use is what policystore.Watch calls.
func (s *session) use(set *policy.Set) {
	s.engine.Use(set)
	select {
	case s.inForce <- set.Hash:
	default: // nobody waits
	}
}
