// Package outcomes carries what the controller of a store found out about each policy to the controllers of the policies.
//
// A store is assembled and published as a whole; the statuses of its policies are written one by one, by their own
// controllers. Were those to ask for the whole assembly again, n policies would cost n² steps; so the store's controller
// leaves the outcomes in a table in memory, and only policies whose outcome changed are woken.
package outcomes

import (
	"context"
	"maps"
	"reflect"
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/penstock-dev/penstock/internal/translate"
)

// Serving tells whether Redis serves the content of a policy.
type Serving int

// Whether Redis serves the content of a policy.
const (
	// Unknown: Redis was not asked, or did not answer, and nothing is remembered.
	Unknown Serving = iota
	// Yes: it was in the set that Redis last held.
	Yes
	// No: it was not.
	No
)

// Outcome is what became of one policy in its store.
type Outcome struct {
	translate.Outcome
	// Serving tells whether Redis serves the entry with Outcome.ContentHash.
	Serving Serving
	// Holdup tells why an accepted policy is not served, for its status; empty while Serving is Yes.
	Holdup string
	// Failure tells which expression of the content could not be evaluated for a request lately, and why; else empty.
	Failure string
}

type objects map[types.NamespacedName]Outcome

// Table holds the outcomes of all stores. It is safe for concurrent use.
type Table struct {
	mu     sync.Mutex
	stores map[types.NamespacedName]objects
	queue  workqueue.TypedRateLimitingInterface[reconcile.Request]
}

// NewTable makes an empty table.
func NewTable() *Table {
	return &Table{stores: make(map[types.NamespacedName]objects)}
}

// Get gives the outcome that an object had in a store.
func (t *Table) Get(store, object types.NamespacedName) (Outcome, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	outcome, found := t.stores[store][object]
	return outcome, found
}

// Replace sets all outcomes of a store, and wakes the objects whose outcome differs from before. The caller must not
// change the map afterwards.
func (t *Table) Replace(store types.NamespacedName, now map[types.NamespacedName]Outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.stores[store]
	t.stores[store] = now
	for object, outcome := range now {
		if was, found := before[object]; !found || !reflect.DeepEqual(was, outcome) {
			t.wake(object)
		}
	}
	for object := range before {
		if _, found := now[object]; !found {
			t.wake(object)
		}
	}
}

// Drop forgets a store that is gone, and wakes its objects.
func (t *Table) Drop(store types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for object := range maps.Keys(t.stores[store]) {
		t.wake(object)
	}
	delete(t.stores, store)
}

// Source wakes objects in the queue of their controller. Whom an outcome reached before the controller started is not
// woken: the controller begins with every object anyway.
func (t *Table) Source() source.Source {
	return source.Func(func(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.queue = queue
		return nil
	})
}

func (t *Table) wake(object types.NamespacedName) {
	if t.queue != nil {
		t.queue.Add(reconcile.Request{NamespacedName: object})
	}
}
