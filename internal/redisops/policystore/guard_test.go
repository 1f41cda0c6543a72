package policystore_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
)

func TestForeignOwnerKeepsItsRedis(t *testing.T) {
	servers := newServers(t, redistest.Start(t).Addr)
	client := servers.Client()
	const other = "cluster-b/shop/default"
	publish(t, servers, policystore.Publication{Owner: other, Set: setOf(1, 1)})
	before := snapshot(t, client)
	for name, takeOver := range map[string]string{"no take-over": "", "take-over of somebody else": "cluster-c/shop/default"} {
		_, err := policystore.Publish(t.Context(), servers, policystore.Publication{Owner: owner, TakeOver: takeOver, Set: setOf(2, 2)})
		var owned *policystore.OwnedError
		if !errors.As(err, &owned) || owned.Owner != other {
			t.Errorf("%s: error %v, want an OwnedError that names %s", name, err, other)
		}
	}
	if after := snapshot(t, client); after != before {
		t.Errorf("something was written:\n%s\nbefore:\n%s", after, before)
	}
}

func TestTakeOverOfThePresentOwnerSucceeds(t *testing.T) {
	servers := newServers(t, redistest.Start(t).Addr)
	client := servers.Client()
	const other = "cluster-b/shop/default"
	publish(t, servers, policystore.Publication{Owner: other, Set: setOf(1, 1)})
	p := policystore.Publication{TakeOver: other, Set: setOf(1, 1)}
	if result := publish(t, servers, p); !result.Changed {
		t.Error("the owner was not changed")
	}
	if got := client.Get(t.Context(), policystore.OwnerKey).Val(); got != owner {
		t.Errorf("owner = %q, want %q", got, owner)
	}
	if result := publish(t, servers, p); result.Changed {
		t.Error("the annotation that stayed made it write again")
	}
	if _, err := policystore.Publish(t.Context(), servers, policystore.Publication{Owner: other, Set: setOf(1, 1)}); !errors.As(err, new(*policystore.OwnedError)) {
		t.Errorf("the former owner got %v, want an OwnedError", err)
	}
}

func TestTwoPublishersAtOnceLeaveOneOwner(t *testing.T) {
	server := redistest.Start(t)
	results := make(chan error, 8)
	for i := range cap(results) {
		servers := newServers(t, server.Addr)
		go func() {
			_, err := policystore.Publish(context.Background(), servers,
				policystore.Publication{Owner: fmt.Sprintf("cluster-%d/shop/default", i), Set: setOf(i+1, 1)})
			results <- err
		}()
	}
	published := 0
	for range cap(results) {
		err := <-results
		switch {
		case err == nil:
			published++
		case errors.As(err, new(*policystore.OwnedError)):
		default:
			t.Errorf("unexpected error: %v", err)
		}
	}
	if published != 1 {
		t.Errorf("%d publishers believe that they own it, want 1", published)
	}
}

func TestShrinkGuard(t *testing.T) {
	for name, tc := range map[string]struct {
		published, next int
		confirm         bool
		wantHeld        bool
	}{
		"11 of 11 gone":                  {11, 0, false, true},
		"11 of 21 gone":                  {21, 10, false, true},
		"11 of 22 gone, exactly half":    {22, 11, false, false},
		"10 of 10 gone, ten are free":    {10, 0, false, false},
		"40 of 100 gone, less than half": {100, 60, false, false},
		"60 of 100 gone":                 {100, 40, false, true},
		"60 of 100 gone, confirmed":      {100, 40, true, false},
		"grown":                          {100, 200, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			servers := newServers(t, redistest.Start(t).Addr)
			client := servers.Client()
			publish(t, servers, policystore.Publication{Set: setOf(tc.published, 1)})
			before := snapshot(t, client)
			p := policystore.Publication{Owner: owner, Set: setOf(tc.next, 1), ConfirmShrink: setOf(tc.next+1, 1).Hash}
			if tc.confirm {
				p.ConfirmShrink = p.Set.Hash
			}
			_, err := policystore.Publish(t.Context(), servers, p)
			var held *policystore.ShrinkHeldError
			if !tc.wantHeld {
				if err != nil {
					t.Fatalf("error %v, want it published", err)
				}
				return
			}
			if !errors.As(err, &held) || held.Hash != p.Set.Hash || held.Removed != tc.published-tc.next || held.Of != tc.published {
				t.Fatalf("error %v, want %d of %d held under %s", err, tc.published-tc.next, tc.published, p.Set.Hash)
			}
			if after := snapshot(t, client); after != before {
				t.Error("something was written")
			}
		})
	}
}

func TestManySmallStepsAreHeldLikeALargeOne(t *testing.T) {
	servers := newServers(t, redistest.Start(t).Addr)
	publish(t, servers, policystore.Publication{Set: setOf(100, 1)})
	var dropped []string
	for left := 99; left >= 50; left-- {
		p := policystore.Publication{Set: setOf(left, 1), Dropped: dropped}
		result := publish(t, servers, p)
		if want := fmt.Sprintf("shop/p%04d", left); len(result.Dropped) != 1 || result.Dropped[0] != want {
			t.Fatalf("%d left: dropped %v, want %s", left, result.Dropped, want)
		}
		dropped = append(dropped, result.Dropped...)
	}
	p := policystore.Publication{Owner: owner, Set: setOf(49, 1), Dropped: dropped}
	_, err := policystore.Publish(t.Context(), servers, p)
	var held *policystore.ShrinkHeldError
	if !errors.As(err, &held) || held.Removed != 51 || held.Of != 100 {
		t.Fatalf("error %v, want 51 of 100 held", err)
	}
	// What came back counts as published, and what was dropped long ago does not count.
	publish(t, servers, policystore.Publication{Set: setOf(60, 1), Dropped: dropped})
	publish(t, servers, policystore.Publication{Set: setOf(50, 1), Dropped: nil})
	p.ConfirmShrink = p.Set.Hash
	if result := publish(t, servers, p); len(result.Dropped) != 1 {
		t.Errorf("confirmed: dropped %v, want one", result.Dropped)
	}
	if result := publish(t, servers, p); result.Changed || result.Dropped != nil {
		t.Errorf("again: %+v, want nothing changed and nothing dropped", result)
	}
}

// Without the document the guard knows what it would drop by the libraries.
func TestShrinkIsHeldWhenTheDocumentIsLost(t *testing.T) {
	for name, damage := range map[string][][]any{
		"policies deleted":                {{"DEL", policystore.PoliciesKey}},
		"policies garbage":                {{"SET", policystore.PoliciesKey, "{"}},
		"everything but the library lost": {{"FLUSHALL"}},
		"only the library's document left": {
			{"DEL", policystore.PoliciesKey}, {"FUNCTION", "FLUSH"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			servers := newServers(t, server.Addr)
			client := servers.Client()
			publish(t, servers, policystore.Publication{Set: setOf(40, 1)})
			for _, command := range damage {
				server.Do(command...)
			}
			before := snapshot(t, client)
			_, err := policystore.Publish(t.Context(), servers, policystore.Publication{Owner: owner, Set: setOf(0, 1)})
			var held *policystore.ShrinkHeldError
			if !errors.As(err, &held) || held.Removed != 40 || held.Of != 40 {
				t.Errorf("error %v, want 40 of 40 held", err)
			}
			if after := snapshot(t, client); after != before {
				t.Error("something was written")
			}
			publish(t, servers, policystore.Publication{Set: setOf(40, 1)})
		})
	}
}
