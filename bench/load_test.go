package main

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"
)

func nothing() error { return nil }

func TestLoadAccountsForEveryCall(t *testing.T) {
	server := &fakeServer{}
	fake := server.serve(t)
	l := load{callers: 8, requests: subjects(5)}
	// With a ninth call at the server, one of the eight callers has had an answer.
	warm := func() error {
		for server.total() < 9 && t.Context().Err() == nil {
			runtime.Gosched()
		}
		return nil
	}

	m, err := l.run(t.Context(), fake.clients, 0, 200*time.Millisecond, warm, nothing)
	if err != nil {
		t.Fatal(err)
	}
	if m.all.total() != server.total() || m.all.ok != server.total() {
		t.Errorf("the callers report %+v, the server saw %d calls", m.all, server.total())
	}
	if m.measured.ok == 0 || m.measured.ok >= m.all.ok {
		t.Errorf("measured %d of %d: want some, without those of the warm-up", m.measured.ok, m.all.ok)
	}
	if int64(len(m.latencies)) != m.measured.total() {
		t.Errorf("%d latencies for %d answers", len(m.latencies), m.measured.total())
	}
	if m.elapsed < 200*time.Millisecond {
		t.Errorf("measured for %v, want 200ms", m.elapsed)
	}
	if len(server.counters) != 5 {
		t.Errorf("asked about %d subjects, want 5", len(server.counters))
	}
}

func TestLoadCountsFailuresAndKeepsOneOfThem(t *testing.T) {
	server := &fakeServer{failing: true}
	fake := server.serve(t)
	l := load{callers: 2, requests: subjects(1)}

	m, err := l.run(t.Context(), fake.clients, 0, 100*time.Millisecond, nothing, nothing)
	if err != nil {
		t.Fatal(err)
	}
	if m.all.failed != server.total() || m.all.ok != 0 || len(m.latencies) != 0 {
		t.Errorf("got %+v and %d latencies; the server refused %d calls", m.all, len(m.latencies), server.total())
	}
	if m.firstError == nil || !strings.Contains(m.firstError.Error(), "out of order") {
		t.Errorf("the failure kept is %v", m.firstError)
	}
}

func TestLoadEndsWithItsContext(t *testing.T) {
	fake := (&fakeServer{}).serve(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	started := time.Now()
	_, err := load{callers: 4, requests: subjects(1)}.run(ctx, fake.clients, 0, time.Hour, nothing, nothing)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the end of the context", err)
	}
	if passed := time.Since(started); passed > 10*time.Second {
		t.Errorf("it took %v to end", passed)
	}
}

func TestLoadFailsWhenTheClocksCannotBeRead(t *testing.T) {
	fake := (&fakeServer{}).serve(t)
	broken := errors.New("no /proc")
	_, err := load{callers: 1, requests: subjects(1)}.run(t.Context(), fake.clients, 0, time.Hour,
		func() error { return broken }, nothing)
	if !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}

func TestSubjectsAreDistinct(t *testing.T) {
	seen := map[string]bool{}
	for _, request := range subjects(70_000) {
		seen[request.GetDescriptors()[0].GetEntries()[0].GetValue()] = true
	}
	if len(seen) != 70_000 {
		t.Errorf("%d different subjects, want 70000", len(seen))
	}
}
