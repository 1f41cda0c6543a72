package main

import (
	"strings"
	"testing"
)

func TestOnlyTheOperatorsWritesAreCountedAndItsLeaseByItself(t *testing.T) {
	const before = `{"verb":"create","user":{"username":"penstock-operator"},"objectRef":{"resource":"leases"}}
{"verb":"patch","user":{"username":"penstock-operator"},"objectRef":{"resource":"ratelimits","subresource":"status"}}
`
	const after = before + `{"verb":"update","user":{"username":"penstock-operator"},"objectRef":{"resource":"leases"}}
{"verb":"patch","user":{"username":"penstock-operator"},"objectRef":{"resource":"ratelimits","subresource":"status"}}
{"verb":"create","user":{"username":"penstock-operator"},"objectRef":{"resource":"events"}}
{"verb":"update","user":{"username":"system:apiserver"},"objectRef":{"resource":"leases"}}
`
	first, err := readAudit(strings.NewReader(before))
	if err != nil {
		t.Fatal(err)
	}
	second, err := readAudit(strings.NewReader(after))
	if err != nil {
		t.Fatal(err)
	}
	more := second.since(first)
	if got, want := more.String(), "create events 1, patch ratelimits/status 1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if more.total(false) != 2 || more.total(true) != 1 {
		t.Errorf("%d writes and %d of the lease, want 2 and 1", more.total(false), more.total(true))
	}
	if got := second.since(second); len(got) != 0 {
		t.Errorf("nothing happened, and %v was counted", got)
	}
	if _, err := readAudit(strings.NewReader("no JSON\n")); err == nil {
		t.Error("a line that is no JSON was accepted")
	}
}

func TestCallsOfSomeCommandsAreAdded(t *testing.T) {
	const stats = "# Commandstats\r\ncmdstat_set:calls=3,usec=9\r\ncmdstat_get:calls=100,usec=9\r\n" +
		"cmdstat_function|load:calls=2,usec=1\r\ncmdstat_function|list:calls=7,usec=1\r\n"
	if got := countCalls(stats, []string{"set", "function|load", "hset"}); got != 5 {
		t.Errorf("got %d, want 5", got)
	}
}
