package conditions

import (
	"errors"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime"
)

// conflictRetry is the pause after a write met a newer object: the cache has it by then.
const conflictRetry = 100 * time.Millisecond

// Stalling is an outcome that somebody has to change something for: a spec, a Secret, a permission.
type Stalling struct {
	// Reason is a reason of api/v1, Message names what is wrong and the remedy.
	Reason, Message string
}

func (s *Stalling) Error() string { return s.Message }

// Waiting is an outcome that passes without anybody's help: an outage.
type Waiting struct {
	// Reason is a reason of api/v1, Message tells what is waited for.
	Reason, Message string
	// After is the pause before the next attempt.
	After time.Duration
}

func (w *Waiting) Error() string { return w.Message }

// Result turns the outcome of a reconciliation into what controller-runtime is to do next; resync is the pause before an
// object is looked at again although nothing changed, 0 for never.
//
// Nothing is retried for what stalls: the change that it waits for is either watched, or found by the resync. Outages
// wait for their own pause, and are no errors of ours. Everything else is returned, for the queue to repeat with its
// backoff and for the log.
func Result(outcome error, resync time.Duration) (ctrl.Result, error) {
	var wait *Waiting
	var stall *Stalling
	switch {
	case outcome == nil, errors.As(outcome, &stall):
		return ctrl.Result{RequeueAfter: resync}, nil
	case errors.As(outcome, &wait):
		return ctrl.Result{RequeueAfter: wait.After}, nil
	case apierrors.IsConflict(outcome):
		return ctrl.Result{RequeueAfter: conflictRetry}, nil
	default:
		return ctrl.Result{}, outcome
	}
}

type class int

const (
	none class = iota
	waiting
	stalling
)

func explain(outcome error) (reason, message string, _ class) {
	var wait *Waiting
	var stall *Stalling
	switch {
	case errors.As(outcome, &stall):
		return stall.Reason, stall.Message, stalling
	case errors.As(outcome, &wait):
		return wait.Reason, wait.Message, waiting
	}
	return "", "", none
}
