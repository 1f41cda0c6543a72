package redisstore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/controllers/outcomes"
	"github.com/penstock-dev/penstock/internal/conditions"
)

// maxFact bounds what a server says of itself as the schema of the status does.
const maxFact = 64

// report writes the status of a store where it differs, and then tells its transitions.
func (r *Reconciler) report(ctx context.Context, store *v1.RedisStore, site *site, seen *observation) error {
	before := store.DeepCopy()
	store.Status = r.status(before, seen)
	if !equality.Semantic.DeepEqual(before.Status, store.Status) {
		// With the version that was read: what was computed from a stale cache must not win.
		err := r.client.Status().Patch(ctx, store, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("write status: %w", err)
		}
		site.replaced = before.ResourceVersion
	}
	r.tell(before, store, site)
	return nil
}

// status gives the status of a store from what was seen. What cannot be seen while Redis is gone stays as it was last.
func (r *Reconciler) status(store *v1.RedisStore, seen *observation) v1.RedisStoreStatus {
	status := *store.Status.DeepCopy()
	w := conditions.New(&status.Conditions, store.Generation, r.now())
	if seen.paused {
		w.True(v1.ConditionPaused, v1.ReasonPaused, "annotation "+v1.AnnotationPaused+" holds the store still: nothing is written into its Redis")
		return status
	}
	w.Remove(v1.ConditionPaused)
	status.ObservedGeneration = store.Generation

	seen.describeReachable(w)
	seen.describeLibrary(w)
	seen.describeDegraded(w)
	seen.describeAdvice(w, status.Conditions)
	w.Summarize(v1.ReasonReady, "Redis can be reached and serves the policies", v1.ConditionReachable, v1.ConditionLibraryLoaded)
	w.Progress(seen.outcome())

	if facts := seen.facts; seen.lasting() != nil || facts != nil && status.Version == "" {
		status.Engine, status.Version, status.Identity = clip(facts.Engine), clip(facts.Version), clip(facts.Identity)
		status.MaxmemoryPolicy, status.Persistence = clip(facts.MaxmemoryPolicy), facts.Persistence
		status.Capabilities = facts.Capabilities
	}
	if seen.known {
		status.ProgrammedHash, status.Policies = "", new(int32(0))
		if seen.inForce != nil {
			status.ProgrammedHash = seen.inForce.Hash
			*status.Policies = int32(len(seen.inForce.RateLimits))
		}
	}
	return status
}

// lasting gives the facts unless they are those of a part, or of a Redis that comes and goes, which would come and go with it.
func (o *observation) lasting() *Facts {
	if o.facts == nil || len(o.facts.Unreached) > 0 || o.unsteady {
		return nil
	}
	return o.facts
}

func (o *observation) describeReachable(w conditions.Writer) {
	if reason, message := explain(o.shown); reason != "" {
		w.False(v1.ConditionReachable, reason, message)
		return
	}
	message := "Redis answers"
	if o.facts != nil && len(o.facts.Primaries) > 1 {
		message += fmt.Sprintf(" at all %d primaries", len(o.facts.Primaries))
	}
	if len(o.trimmed) > 0 {
		message += fmt.Sprintf("; the newline at the end of %s was left out", strings.Join(o.trimmed, " and "))
	}
	w.True(v1.ConditionReachable, v1.ReasonReachable, message)
}

func (o *observation) describeLibrary(w conditions.Writer) {
	reason, message := explain(o.load)
	switch {
	case o.shown != nil && (o.facts == nil || o.unsteady):
		w.Unknown(v1.ConditionLibraryLoaded, v1.ReasonUnknown, "Redis could not be asked")
	case reason != "" && (o.full == nil || o.inForce == nil):
		w.False(v1.ConditionLibraryLoaded, reason, message)
	case o.shown != nil:
		answer := len(o.facts.Primaries)
		w.Unknown(v1.ConditionLibraryLoaded, v1.ReasonUnknown, fmt.Sprintf("set %s was published to %d of %d primaries, and the others could not be asked",
			o.assembly.Set.Hash, answer, answer+len(o.facts.Unreached)))
	case o.inForce == nil:
		w.Unknown(v1.ConditionLibraryLoaded, v1.ReasonUnknown, "somebody changed the published set while it was looked at")
	default:
		message := fmt.Sprintf("%d policies are in force", len(o.inForce.RateLimits))
		if o.facts != nil && len(o.facts.Primaries) > 1 {
			message += fmt.Sprintf(" on all %d primaries", len(o.facts.Primaries))
		}
		w.True(v1.ConditionLibraryLoaded, v1.ReasonLoaded, fmt.Sprintf("%s (set %s)", message, o.inForce.Hash))
	}
}

func (o *observation) describeDegraded(w conditions.Writer) {
	full := 0
	for _, outcome := range o.assembly.Outcomes {
		if outcome.Reason == v1.ReasonStoreFull {
			full++
		}
	}
	switch {
	case o.held != nil:
		w.True(v1.ConditionDegraded, v1.ReasonShrinkHeld, fmt.Sprintf(
			"the new set drops %d of %d policies (with those dropped in the last 10 minutes) and is held back, the one in force stays; "+
				"if that is meant, annotate this RedisStore with %s: %s",
			o.held.Removed, o.held.Of, v1.AnnotationConfirmShrink, o.held.Hash))
	case o.full != nil:
		_, message := explain(o.load)
		w.True(v1.ConditionDegraded, v1.ReasonStoreFull, message)
	case o.secret != nil:
		w.True(v1.ConditionDegraded, o.secret.Reason, "what was read before serves on until the connection is lost or the operator restarts: "+o.secret.Message)
	case full > 0:
		w.True(v1.ConditionDegraded, v1.ReasonStoreFull, fmt.Sprintf(
			"%d of the newest policies do not fit into what one store may hold; remove policies, or use a further RedisStore", full))
	default:
		w.Remove(v1.ConditionDegraded)
	}
}

// describeAdvice tells what a store is not safe against. Without lasting facts it stays as it was.
func (o *observation) describeAdvice(w conditions.Writer, before []metav1.Condition) {
	facts := o.lasting()
	if facts == nil {
		for _, kind := range []string{v1.ConditionEvictionSafe, v1.ConditionDurabilitySafe} {
			if meta.FindStatusCondition(before, kind) == nil {
				w.Unknown(kind, v1.ReasonUnknown, "Redis was not reached yet, or not all of it")
			}
		}
		return
	}
	switch memory := facts.MaxmemoryPolicy; {
	case memory == "":
		w.Unknown(v1.ConditionEvictionSafe, v1.ReasonUnknown, "Redis does not permit INFO, which tells its maxmemory-policy")
	case memory == "noeviction":
		w.True(v1.ConditionEvictionSafe, v1.ReasonNoEviction, "maxmemory-policy is noeviction")
	case strings.HasPrefix(memory, "allkeys-"):
		w.False(v1.ConditionEvictionSafe, v1.ReasonMayEvict,
			"with maxmemory-policy "+memory+" Redis may evict counters, so that they start anew, balances, and the published policies; set it to noeviction")
	default:
		w.False(v1.ConditionEvictionSafe, v1.ReasonMayEvict,
			"with maxmemory-policy "+memory+" Redis may evict counters, so that they start anew; set it to noeviction")
	}
	switch facts.Persistence {
	case "":
		w.Unknown(v1.ConditionDurabilitySafe, v1.ReasonUnknown, "Redis does not permit INFO and CONFIG GET save, which tell how it persists")
	case "None":
		w.False(v1.ConditionDurabilitySafe, v1.ReasonNotPersistent,
			"Redis neither writes snapshots nor an append-only file: a restart starts every counter anew; policies are published again")
	default:
		w.True(v1.ConditionDurabilitySafe, v1.ReasonPersistent, "persistence: "+facts.Persistence)
	}
}

// outcomes gives what became of each policy.
func (o *observation) outcomes(store *v1.RedisStore) map[types.NamespacedName]outcomes.Outcome {
	holdup := o.holdup(client.ObjectKeyFromObject(store))
	all := make(map[types.NamespacedName]outcomes.Outcome, len(o.assembly.Outcomes))
	for name, assembled := range o.assembly.Outcomes {
		outcome := outcomes.Outcome{Outcome: assembled, Serving: o.serving(name, assembled.ContentHash)}
		if outcome.Serving != outcomes.Yes {
			outcome.Holdup = holdup
		}
		if failure, found := o.failures[name.String()]; found && failure.ContentHash == assembled.ContentHash {
			outcome.Failure = failure.Message
		}
		all[name] = outcome
	}
	return all
}

func (o *observation) serving(object types.NamespacedName, contentHash string) outcomes.Serving {
	if !o.known {
		return outcomes.Unknown
	}
	if o.inForce != nil {
		if entry := o.inForce.RateLimit(object.String()); entry != nil && entry.ContentHash == contentHash {
			return outcomes.Yes
		}
	}
	return outcomes.No
}

// holdup tells policies why they are not published. It has the reason only: with the store's message in every one of
// them, an outage would write as many statuses as there are policies whenever the words of an error change.
func (o *observation) holdup(store types.NamespacedName) string {
	reason, _ := explain(o.outcome())
	switch {
	case o.paused:
		reason = v1.ReasonPaused
	case o.held != nil:
		reason = v1.ReasonShrinkHeld
	}
	if reason == "" {
		return "not published yet"
	}
	return fmt.Sprintf("not published yet: see RedisStore %s (%s)", store, reason)
}

// tell makes an event of each transition that somebody may want to know of.
func (r *Reconciler) tell(before, after *v1.RedisStore, site *site) {
	for _, c := range conditions.Transitions(before.Status.Conditions, after.Status.Conditions, v1.ConditionReady, v1.ConditionDegraded) {
		kind := corev1.EventTypeWarning
		if c.Type == v1.ConditionReady && c.Status == metav1.ConditionTrue {
			kind = corev1.EventTypeNormal
		}
		r.recorder.Eventf(after, nil, kind, c.Reason, "Reconcile", "%s", c.Message)
	}
	if site.lost {
		r.recorder.Eventf(after, nil, corev1.EventTypeWarning, "StateLost", "Reconcile",
			"Redis has lost its data: counters start anew, and the policies are published again")
		site.lost = false
	}
}

// explain gives reason and message of an outcome; empty when there is nothing to explain.
func explain(outcome error) (reason, message string) {
	var wait *conditions.Waiting
	var stall *conditions.Stalling
	switch {
	case errors.As(outcome, &stall):
		return stall.Reason, stall.Message
	case errors.As(outcome, &wait):
		return wait.Reason, wait.Message
	}
	return "", ""
}

func clip(fact string) string {
	return strings.ToValidUTF8(fact[:min(len(fact), maxFact)], "")
}
