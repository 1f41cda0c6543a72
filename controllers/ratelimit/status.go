package ratelimit

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/controllers/outcomes"
	"github.com/penstock-dev/penstock/internal/conditions"
	"github.com/penstock-dev/penstock/internal/translate"
)

// eventLimitRestarted tells that limits lost what they had counted.
const eventLimitRestarted = "LimitRestarted"

// report writes the status of a RateLimit where it differs, and then tells its transitions.
func (r *Reconciler) report(ctx context.Context, rl *v1.RateLimit, seen observation) error {
	before := rl.DeepCopy()
	rl.Status = r.status(before, seen)
	if equality.Semantic.DeepEqual(before.Status, rl.Status) {
		return nil
	}
	// With the version that was read: what was computed from a stale cache must not win.
	err := r.client.Status().Patch(ctx, rl, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("write status: %w", err)
	}
	r.tell(before, rl, seen)
	return nil
}

// status gives the status of a RateLimit from what was seen of it.
func (r *Reconciler) status(rl *v1.RateLimit, seen observation) v1.RateLimitStatus {
	status := *rl.Status.DeepCopy()
	w := conditions.New(&status.Conditions, rl.Generation, r.now())
	if seen.paused {
		// Nothing else: Ready stays as it was, and so does the generation that it speaks of.
		w.True(v1.ConditionPaused, v1.ReasonPaused, "annotation "+v1.AnnotationPaused+" holds the object still: its published entry stays")
		return status
	}
	w.Remove(v1.ConditionPaused)
	status.ObservedGeneration = rl.Generation

	outcome := seen.outcome
	if seen.storeError != nil {
		outcome = withoutStore(rl, seen.storeError)
	}
	status.Summary, status.Domain = outcome.Summary, outcome.Domain
	if outcome.Permitted {
		status.StoreRef = &v1.StoreReference{Name: outcome.Store.Name, Namespace: outcome.Store.Namespace}
	}
	if keptUnseen(rl, outcome) {
		outcome.ContentHash, outcome.Message = rl.Status.ContentHash, outcome.Message+translate.KeptNote
	}
	latched := meta.IsStatusConditionTrue(rl.Status.Conditions, v1.ConditionProgrammed) && rl.Status.ContentHash == outcome.ContentHash
	status.ContentHash = outcome.ContentHash

	if !outcome.Accepted {
		w.False(v1.ConditionAccepted, outcome.Reason, outcome.Message)
		w.False(v1.ConditionProgrammed, v1.ReasonNotAccepted, "the present content is not accepted, so it is not published")
		w.Progress(&conditions.Stalling{Reason: outcome.Reason, Message: outcome.Message})
	} else {
		w.True(v1.ConditionAccepted, v1.ReasonAccepted, outcome.Message)
		w.Progress(program(w, outcome, latched))
	}
	if outcome.Failure != "" {
		w.True(v1.ConditionDegraded, v1.ReasonExpressionFailed,
			"an expression failed for a request, to which the policy then did not apply: "+outcome.Failure+"; see docs/expressions.md")
	} else {
		w.Remove(v1.ConditionDegraded)
	}
	w.Summarize(v1.ReasonProgrammed, "in force on RedisStore "+outcome.Store.String(), v1.ConditionAccepted, v1.ConditionProgrammed)
	return status
}

// keptUnseen tells whether an invalid object had an entry that nobody can see now: with a restarted operator whose Redis is
// gone. That entry is in force there, or will be found missing when Redis is back.
func keptUnseen(rl *v1.RateLimit, outcome outcomes.Outcome) bool {
	unseen := outcome.Reason == v1.ReasonInvalid && outcome.Serving == outcomes.Unknown && outcome.ContentHash == ""
	// What was accepted and not yet programmed never came into force.
	was := meta.IsStatusConditionFalse(rl.Status.Conditions, v1.ConditionAccepted) || meta.IsStatusConditionTrue(rl.Status.Conditions, v1.ConditionProgrammed)
	return unseen && was && rl.Status.ContentHash != ""
}

// program sets Programmed of an accepted policy. It is latched: once its content was published, not knowing whether Redis
// still serves it (an outage, a restarted operator) changes nothing; new content, or seeing that it is gone, does.
func program(w conditions.Writer, outcome outcomes.Outcome, latched bool) error {
	if outcome.Serving == outcomes.Yes || outcome.Serving == outcomes.Unknown && latched {
		w.True(v1.ConditionProgrammed, v1.ReasonProgrammed, "published to RedisStore "+outcome.Store.String())
		return nil
	}
	w.False(v1.ConditionProgrammed, v1.ReasonPending, outcome.Holdup)
	return &conditions.Waiting{Reason: v1.ReasonPending, Message: outcome.Holdup}
}

// withoutStore is the outcome of an object that no RedisStore serves. What it resolved to before stays, and so does its
// description.
func withoutStore(rl *v1.RateLimit, cause error) outcomes.Outcome {
	var outcome outcomes.Outcome
	outcome.Reason, outcome.Message = v1.ReasonStoreNotFound, cause.Error()
	if compiled, errs := translate.RateLimit(rl); len(errs) == 0 {
		outcome.Summary, outcome.Domain = translate.Summary(&compiled), compiled.Domain
	}
	return outcome
}

// tell makes an event of each transition that somebody may want to know of.
func (r *Reconciler) tell(before, after *v1.RateLimit, seen observation) {
	for _, c := range conditions.Transitions(before.Status.Conditions, after.Status.Conditions, v1.ConditionReady, v1.ConditionDegraded) {
		kind := corev1.EventTypeWarning
		if c.Type == v1.ConditionReady && c.Status == metav1.ConditionTrue {
			kind = corev1.EventTypeNormal
		}
		r.recorder.Eventf(after, nil, kind, c.Reason, "Reconcile", "%s", c.Message)
	}
	if len(seen.outcome.Restarts) > 0 && before.Status.ContentHash != after.Status.ContentHash {
		r.recorder.Eventf(after, nil, corev1.EventTypeNormal, eventLimitRestarted, "Publish",
			"what these limits had counted does not fit their new algorithm or windows, so they start anew: %s", strings.Join(seen.outcome.Restarts, ", "))
	}
}
