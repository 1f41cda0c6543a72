package service

import (
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"time"
)

// aging ends connections over HTTP that have become old, so that callers dial again and new replicas get load, as
// MaxConnectionAge does for gRPC: the answer that finds its connection too old is its last. Over HTTP/2 that is a GOAWAY,
// after which what is under way ends in peace.
type aging struct {
	// age is spread by a tenth, so that connections that began together do not end together.
	age time.Duration
	now func() time.Time
}

// endKey is of the context of a connection: when it is old.
type endKey struct{}

// begin is the server's ConnContext.
func (a aging) begin(ctx context.Context, _ net.Conn) context.Context {
	spread := time.Duration((rand.Float64()*0.2 - 0.1) * float64(a.age))
	return context.WithValue(ctx, endKey{}, a.now().Add(a.age+spread))
}

func (a aging) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if end, known := r.Context().Value(endKey{}).(time.Time); known && a.now().After(end) {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}
