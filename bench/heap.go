package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// heap is what a Go program has allocated since it began, or between two moments.
type heap struct {
	// objects as Mallocs of runtime.MemStats counts them, and their bytes as TotalAlloc does.
	objects, bytes float64
}

// since gives what was allocated from then to h.
func (h heap) since(then heap) heap {
	return heap{objects: h.objects - then.objects, bytes: h.bytes - then.bytes}
}

// heapSource is where a target tells what it has allocated.
type heapSource struct {
	url   string
	parse func(page []byte) (heap, error)
}

// read asks the target. It allocates there too, some thousand objects: nothing beside the checks of a round.
func (s heapSource) read(ctx context.Context) (heap, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return heap{}, fmt.Errorf("reading allocations: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return heap{}, fmt.Errorf("reading allocations: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	page, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return heap{}, fmt.Errorf("reading allocations: %w", err)
	case response.StatusCode != http.StatusOK:
		return heap{}, fmt.Errorf("reading allocations: %s answers %s", s.url, response.Status)
	}
	h, err := s.parse(page)
	if err != nil {
		return heap{}, fmt.Errorf("reading allocations: %s: %w", s.url, err)
	}
	return h, nil
}

// prometheusHeap finds what the Go collector of Prometheus tells, in its text format.
func prometheusHeap(page []byte) (heap, error) {
	var h heap
	wanted := map[string]*float64{"go_memstats_mallocs_total": &h.objects, "go_memstats_alloc_bytes_total": &h.bytes}
	for lines := bufio.NewScanner(bytes.NewReader(page)); lines.Scan(); {
		name, text, _ := strings.Cut(lines.Text(), " ")
		figure := wanted[name]
		if figure == nil {
			continue
		}
		value, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
		if err != nil {
			return heap{}, fmt.Errorf("%s: %w", name, err)
		}
		*figure = value
		delete(wanted, name)
	}
	if len(wanted) > 0 {
		return heap{}, fmt.Errorf("it does not tell %s", strings.Join(slices.Sorted(maps.Keys(wanted)), " and "))
	}
	return h, nil
}

// expvarHeap finds runtime.MemStats among the expvar variables as the peer's debug port lists them, "name: value" in lines.
func expvarHeap(page []byte) (heap, error) {
	for line := range bytes.Lines(page) {
		value, found := bytes.CutPrefix(line, []byte("memstats: "))
		if !found {
			continue
		}
		var stats struct{ Mallocs, TotalAlloc float64 }
		if err := json.Unmarshal(value, &stats); err != nil {
			return heap{}, fmt.Errorf("memstats: %w", err)
		}
		return heap{objects: stats.Mallocs, bytes: stats.TotalAlloc}, nil
	}
	return heap{}, errors.New("it does not tell memstats")
}
