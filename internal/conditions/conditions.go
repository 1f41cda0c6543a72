package conditions

import (
	"slices"
	"time"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What kstatus reads, and Ready; their meaning is told in api/v1, which this package is not to depend on.
const (
	ready       = "Ready"
	reconciling = "Reconciling"
	stalled     = "Stalled"

	reasonUnknown = "Unknown"
)

// maxMessage bounds a message in bytes: it may quote what a user or a server wrote.
const maxMessage = 2048

// Writer sets conditions of one object. A condition's time of transition changes with its status only.
type Writer struct {
	conditions *[]metav1.Condition
	generation int64
	now        metav1.Time
}

// New makes a Writer for the conditions of an object's status. What it sets speaks of that generation.
func New(conditions *[]metav1.Condition, generation int64, now time.Time) Writer {
	// The API server keeps whole seconds; with more, a condition would differ from what was read back.
	return Writer{conditions: conditions, generation: generation, now: metav1.NewTime(now.Truncate(time.Second))}
}

// Set sets a condition.
func (w Writer) Set(kind string, status metav1.ConditionStatus, reason, message string) {
	meta.SetStatusCondition(w.conditions, metav1.Condition{
		Type: kind, Status: status, Reason: reason, Message: clip(message),
		ObservedGeneration: w.generation, LastTransitionTime: w.now,
	})
}

// True sets a condition to True.
func (w Writer) True(kind, reason, message string) {
	w.Set(kind, metav1.ConditionTrue, reason, message)
}

// False sets a condition to False.
func (w Writer) False(kind, reason, message string) {
	w.Set(kind, metav1.ConditionFalse, reason, message)
}

// Unknown sets a condition to Unknown.
func (w Writer) Unknown(kind, reason, message string) {
	w.Set(kind, metav1.ConditionUnknown, reason, message)
}

// Remove removes a condition that is present only while it is True.
func (w Writer) Remove(kind string) { meta.RemoveStatusCondition(w.conditions, kind) }

// Summarize sets Ready from the conditions that it depends on, given in order of precedence: True with the reason and
// message given when all of them are, else the first that is not, word for word.
func (w Writer) Summarize(reason, message string, dependsOn ...string) {
	for _, kind := range dependsOn {
		c := meta.FindStatusCondition(*w.conditions, kind)
		if c == nil {
			w.Unknown(ready, reasonUnknown, kind+" is not known yet")
			return
		}
		if c.Status != metav1.ConditionTrue {
			w.Set(ready, c.Status, c.Reason, c.Message)
			return
		}
	}
	w.True(ready, reason, message)
}

// Progress sets Reconciling or Stalled as kstatus reads them: for an outcome that waits, for one that stalls, or neither.
func (w Writer) Progress(outcome error) {
	reason, message, class := explain(outcome)
	for _, c := range []struct {
		kind  string
		holds bool
	}{{reconciling, class == waiting}, {stalled, class == stalling}} {
		if c.holds {
			w.True(c.kind, reason, message)
		} else {
			w.Remove(c.kind)
		}
	}
}

// Transitions gives the conditions of the kinds given whose status or reason differs from before, in the order of kinds.
// One that went away is not among them.
func Transitions(before, after []metav1.Condition, kinds ...string) []metav1.Condition {
	var changed []metav1.Condition
	for _, kind := range kinds {
		now := meta.FindStatusCondition(after, kind)
		if now == nil {
			continue
		}
		was := meta.FindStatusCondition(before, kind)
		if was == nil || was.Status != now.Status || was.Reason != now.Reason {
			changed = append(changed, *now)
		}
	}
	return slices.Clip(changed)
}

func clip(message string) string {
	if len(message) <= maxMessage {
		return message
	}
	cut := maxMessage - len("…")
	for cut > 0 && !utf8.RuneStart(message[cut]) {
		cut--
	}
	return message[:cut] + "…"
}
