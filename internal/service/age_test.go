package service

import (
	"context"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"testing"
	"time"
)

func TestAConnectionOverHTTPIsNotUsedAgainOnceItIsOld(t *testing.T) {
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			var now atomic.Int64
			aged := aging{age: time.Minute, now: func() time.Time { return time.Unix(now.Load(), 0) }}
			server := withHTTP2(&http.Server{Handler: aged.handler(empty), ReadHeaderTimeout: time.Second})
			server.ConnContext = aged.begin
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			go func() { _ = server.Serve(listener) }()
			t.Cleanup(func() { _ = server.Close() })

			transport := &http.Transport{Protocols: new(http.Protocols)}
			transport.Protocols.SetHTTP1(!http2)
			transport.Protocols.SetUnencryptedHTTP2(http2)
			t.Cleanup(transport.CloseIdleConnections)
			client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
			dialled := 0
			ask := func() {
				t.Helper()
				ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
					if !info.Reused {
						dialled++
					}
				}})
				request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+listener.Addr().String(), nil)
				if err != nil {
					t.Fatal(err)
				}
				response, err := client.Do(request)
				if err != nil {
					t.Fatal(err)
				}
				_ = response.Body.Close()
			}

			ask()
			now.Store(int64((53 * time.Second).Seconds()))
			ask()
			if dialled != 1 {
				t.Fatalf("%d connections while young, want 1", dialled)
			}
			now.Store(int64((67 * time.Second).Seconds()))
			ask() // the last on it
			ask()
			if dialled != 2 {
				t.Errorf("%d connections, want 2: the old one, and the one after it", dialled)
			}
		})
	}
}

// empty answers without a body, so that a client need not read one before it uses the connection again.
var empty = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })

func TestConnectionsThatBeganTogetherDoNotEndTogether(t *testing.T) {
	aged := aging{age: 100 * time.Second, now: func() time.Time { return time.Unix(0, 0) }}
	ends := map[time.Time]bool{}
	for range 100 {
		end, _ := aged.begin(context.Background(), nil).Value(endKey{}).(time.Time)
		if end.Before(time.Unix(90, 0)) || end.After(time.Unix(110, 0)) {
			t.Fatalf("ends after %v, want 90 to 110 s", end.Sub(time.Unix(0, 0)))
		}
		ends[end] = true
	}
	if len(ends) < 50 {
		t.Errorf("only %d different ends of 100", len(ends))
	}
}
