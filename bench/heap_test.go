package main

import (
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func TestHeapsAreReadAsTheTargetsTellThem(t *testing.T) {
	const prometheus = "# TYPE go_memstats_mallocs_total counter\ngo_memstats_mallocs_total 1.2345e+06\n" +
		"go_memstats_alloc_bytes 7\ngo_memstats_alloc_bytes_total 98765432\n"
	for name, test := range map[string]struct {
		parse   func([]byte) (heap, error)
		page    string
		want    heap
		wantErr string
	}{
		"prometheus": {parse: prometheusHeap, page: prometheus, want: heap{objects: 1234500, bytes: 98765432}},
		"prometheus without the Go collector": {
			parse: prometheusHeap, page: "go_memstats_alloc_bytes_total 1\n", wantErr: "it does not tell go_memstats_mallocs_total",
		},
		"prometheus with garbage": {
			parse: prometheusHeap, page: "go_memstats_mallocs_total many\n", wantErr: "go_memstats_mallocs_total: ",
		},
		"expvar": {
			parse: expvarHeap, page: "cmdline: [\"x\"]\nmemstats: {\"Alloc\":1,\"TotalAlloc\":500,\"Mallocs\":20,\"Frees\":3}\nother: 1\n",
			want: heap{objects: 20, bytes: 500},
		},
		"expvar without memstats": {parse: expvarHeap, page: "cmdline: []\n", wantErr: "it does not tell memstats"},
		"expvar with garbage":     {parse: expvarHeap, page: "memstats: {\n", wantErr: "memstats: "},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := test.parse([]byte(test.page))
			if got != test.want || (err == nil) != (test.wantErr == "") {
				t.Fatalf("got %+v, %v; want %+v, %q", got, err, test.want, test.wantErr)
			}
			if err != nil && !strings.HasPrefix(err.Error(), test.wantErr) {
				t.Errorf("got %v, want %q", err, test.wantErr)
			}
		})
	}
}

var kept [][]byte

func TestHeapGrowsByWhatAProcessAllocates(t *testing.T) {
	server := httptest.NewServer(promhttp.Handler())
	defer server.Close()
	source := heapSource{url: server.URL, parse: prometheusHeap}
	before, err := source.read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const objects, size = 50_000, 128
	for range objects {
		kept = append(kept, make([]byte, size))
	}
	runtime.KeepAlive(kept)
	after, err := source.read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if grown := after.since(before); grown.objects < objects || grown.objects > 2*objects || grown.bytes < objects*size {
		t.Errorf("grew by %+v, want at least %d objects of %d bytes", grown, objects, size)
	}
}

func TestAHeapThatCannotBeReadSaysWhy(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	if _, err := (heapSource{url: server.URL, parse: prometheusHeap}).read(t.Context()); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("got %v, want the status", err)
	}
	server.Close()
	if _, err := (heapSource{url: server.URL, parse: prometheusHeap}).read(t.Context()); err == nil {
		t.Error("a server that is gone was read")
	}
}
