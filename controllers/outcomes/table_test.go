package outcomes_test

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/penstock-dev/penstock/controllers/outcomes"
	"github.com/penstock-dev/penstock/internal/translate"
)

var store = types.NamespacedName{Namespace: "shop", Name: "default"}

func object(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: "shop", Name: name}
}

func outcome(generation int64, restarts ...string) outcomes.Outcome {
	return outcomes.Outcome{Outcome: translate.Outcome{Generation: generation, Restarts: restarts}, Serving: outcomes.Yes}
}

// woken gives the names in the queue, and empties it.
func woken(queue workqueue.TypedRateLimitingInterface[reconcile.Request]) string {
	var names []string
	for queue.Len() > 0 {
		request, _ := queue.Get()
		names = append(names, request.Name)
		queue.Done(request)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func TestOnlyObjectsWhoseOutcomeChangedAreWoken(t *testing.T) {
	table := outcomes.NewTable()
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
	defer queue.ShutDown()

	// Before the controller has started, nobody listens, and nothing may block.
	table.Replace(store, map[types.NamespacedName]outcomes.Outcome{object("early"): outcome(1)})
	if err := table.Source().Start(t.Context(), queue); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name string
		do   func()
		want string
	}{
		{"new and gone", func() {
			table.Replace(store, map[types.NamespacedName]outcomes.Outcome{object("a"): outcome(1), object("b"): outcome(1, "x")})
		}, "a b early"},
		{"the same", func() {
			table.Replace(store, map[types.NamespacedName]outcomes.Outcome{object("a"): outcome(1), object("b"): outcome(1, "x")})
		}, ""},
		{"one of two", func() {
			table.Replace(store, map[types.NamespacedName]outcomes.Outcome{object("a"): outcome(2), object("b"): outcome(1, "x")})
		}, "a"},
		{"another store's", func() {
			table.Replace(types.NamespacedName{Namespace: "shop", Name: "big"}, map[types.NamespacedName]outcomes.Outcome{object("c"): outcome(1)})
		}, "c"},
		{"the store is gone", func() { table.Drop(store) }, "a b"},
	} {
		step.do()
		if got := woken(queue); got != step.want {
			t.Errorf("%s: woke %q, want %q", step.name, got, step.want)
		}
	}
	if _, found := table.Get(store, object("a")); found {
		t.Error("a dropped store still has outcomes")
	}
}
