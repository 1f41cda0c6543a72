package process

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestStopEndsAChildThatIgnoresSIGTERM(t *testing.T) {
	p, err := Start("stubborn", nil, "/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done")
	if err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	for !strings.Contains(p.output.String(), "ready") {
		if time.Since(started) > 10*time.Second {
			t.Fatal("the child did not get ready")
		}
	}
	p.Stop()
	p.Stop()
	if err := p.Alive(); err == nil {
		t.Error("it lives")
	}
}

func TestAChildThatEndsIsReportedWithItsOutput(t *testing.T) {
	p, err := Start("short", nil, "/bin/sh", "-c", "echo no port for me >&2; exit 3")
	if err != nil {
		t.Fatal(err)
	}
	<-p.ended
	err = p.Eventually(t.Context(), func(context.Context) error { return errors.New("not ready") })
	if err == nil || !strings.Contains(err.Error(), "no port for me") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("got %v, want the exit status and the output", err)
	}
}

func TestARedisThatWasKilledStartsAgainOnItsPortWithWhatItHad(t *testing.T) {
	server, err := StartRedis(t.Context(), "redis-server", t.TempDir(), "--appendonly", "yes")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	if err := server.Client.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	server.Process.Kill()
	if err := server.Process.Alive(); err == nil {
		t.Error("it lives")
	}
	if err := server.Again(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := server.Client.Get(t.Context(), "k").Result(); err != nil || got != "v" {
		t.Errorf("got %q, %v; want what it had", got, err)
	}
}
