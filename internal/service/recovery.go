package service

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"runtime/debug"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// recovery keeps a panic to the request that met it. Each is counted; the stack is logged once for each place in the code,
// so that a request sent a thousand times a second cannot fill a disk.
type recovery struct {
	log    *slog.Logger
	panics prometheus.Counter
	logged sync.Map // of uintptr: the places
}

func newRecovery(registry *prometheus.Registry, log *slog.Logger) *recovery {
	r := &recovery{log: log, panics: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "penstock_panics_total",
		Help: "Requests that met an error in the program and were answered with an internal error.",
	})}
	registry.MustRegister(r.panics)
	return r
}

// note is called by the function that recovered.
func (r *recovery) note(value any) {
	r.panics.Inc()
	// Of the callers, 0 is Callers, 1 is note, 2 is who recovered, 3 is the runtime's panic; 4 is where it happened, or for a
	// panic of the runtime's own (nil, index) a frame of the same place.
	var place [3]uintptr
	runtime.Callers(4, place[:])
	if _, known := r.logged.LoadOrStore(place, true); known {
		return
	}
	r.log.Error("panic while serving a request; reported once for this place", "panic", fmt.Sprint(value), "stack", string(debug.Stack()))
}

func (r *recovery) unary(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (reply any, err error) {
	defer func() {
		if value := recover(); value != nil {
			r.note(value)
			reply, err = nil, status.Error(codes.Internal, "internal error")
		}
	}()
	return handler(ctx, request)
}

func (r *recovery) stream(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer func() {
		if value := recover(); value != nil {
			r.note(value)
			err = status.Error(codes.Internal, "internal error")
		}
	}()
	return handler(server, stream)
}

func (r *recovery) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		defer func() {
			value := recover()
			if value == nil {
				return
			}
			if value == http.ErrAbortHandler { //nolint:errorlint // compared as net/http does: it is a value, not wrapped
				panic(value)
			}
			r.note(value)
			http.Error(w, "internal error", http.StatusInternalServerError)
		}()
		next.ServeHTTP(w, request)
	})
}
