package conditions_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/penstock-dev/penstock/internal/conditions"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 999, time.UTC)

func TestTransitionTimeChangesWithStatusOnly(t *testing.T) {
	var list []metav1.Condition
	conditions.New(&list, 1, noon).False("Accepted", "Invalid", "one")
	conditions.New(&list, 2, noon.Add(time.Minute)).False("Accepted", "Conflicted", "two")
	got := meta.FindStatusCondition(list, "Accepted")
	if !got.LastTransitionTime.Equal(new(metav1.NewTime(noon.Truncate(time.Second)))) {
		t.Errorf("another reason moved the transition time to %s", got.LastTransitionTime)
	}
	if got.ObservedGeneration != 2 || got.Reason != "Conflicted" || got.Message != "two" {
		t.Errorf("got %+v", got)
	}
	conditions.New(&list, 2, noon.Add(time.Hour)).True("Accepted", "Accepted", "three")
	got = meta.FindStatusCondition(list, "Accepted")
	if want := noon.Add(time.Hour).Truncate(time.Second); !got.LastTransitionTime.Time.Equal(want) {
		t.Errorf("another status left the transition time at %s", got.LastTransitionTime)
	}
}

func TestReadySumsUp(t *testing.T) {
	for name, tt := range map[string]struct {
		set                     func(conditions.Writer)
		wantStatus              metav1.ConditionStatus
		wantReason, wantMessage string
	}{
		"all true": {
			set:        func(w conditions.Writer) { w.True("A", "Fine", "a"); w.True("B", "Fine", "b") },
			wantStatus: metav1.ConditionTrue, wantReason: "Good", wantMessage: "all is well",
		},
		"the first that is false speaks": {
			set:        func(w conditions.Writer) { w.False("A", "Broken", "a is broken"); w.False("B", "Worse", "b") },
			wantStatus: metav1.ConditionFalse, wantReason: "Broken", wantMessage: "a is broken",
		},
		"unknown is not ready": {
			set:        func(w conditions.Writer) { w.True("A", "Fine", "a"); w.Unknown("B", "Unasked", "b?") },
			wantStatus: metav1.ConditionUnknown, wantReason: "Unasked", wantMessage: "b?",
		},
		"missing is not ready": {
			set:        func(w conditions.Writer) { w.True("A", "Fine", "a") },
			wantStatus: metav1.ConditionUnknown, wantReason: "Unknown", wantMessage: "B is not known yet",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var list []metav1.Condition
			w := conditions.New(&list, 1, noon)
			tt.set(w)
			w.Summarize("Good", "all is well", "A", "B")
			got := meta.FindStatusCondition(list, "Ready")
			if got == nil || got.Status != tt.wantStatus || got.Reason != tt.wantReason || got.Message != tt.wantMessage {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestReconcilingAndStalledArePresentOnlyWhileTrue(t *testing.T) {
	var list []metav1.Condition
	w := conditions.New(&list, 1, noon)
	for _, step := range []struct {
		outcome     error
		wantPresent string
	}{
		{&conditions.Waiting{Reason: "Unreachable", Message: "no answer"}, "Reconciling"},
		{fmt.Errorf("connect: %w", &conditions.Stalling{Reason: "SecretInvalid", Message: "no key"}), "Stalled"},
		{nil, ""},
		{errors.New("the API server said no"), ""},
	} {
		w.Progress(step.outcome)
		for _, kind := range []string{"Reconciling", "Stalled"} {
			c := meta.FindStatusCondition(list, kind)
			if (c != nil) != (kind == step.wantPresent) {
				t.Errorf("after %v: %s is %+v", step.outcome, kind, c)
			}
			if c != nil && c.Status != metav1.ConditionTrue {
				t.Errorf("after %v: %s is %s", step.outcome, kind, c.Status)
			}
		}
	}
}

func TestAnOutcomeThatStaysChangesNothing(t *testing.T) {
	var list []metav1.Condition
	outage := &conditions.Waiting{Reason: "Unreachable", Message: "no answer"}
	conditions.New(&list, 1, noon).Progress(outage)
	before := slices.Clone(list)
	conditions.New(&list, 1, noon.Add(time.Minute)).Progress(outage)
	if !reflect.DeepEqual(before, list) {
		t.Errorf("got %+v, want %+v", list, before)
	}
}

func TestTransitionsAreChangesOfStatusOrReason(t *testing.T) {
	before := []metav1.Condition{
		{Type: "Ready", Status: "True", Reason: "Ready", Message: "a"},
		{Type: "Degraded", Status: "True", Reason: "ShrinkHeld"},
	}
	for name, tt := range map[string]struct {
		after []metav1.Condition
		want  string
	}{
		"another message is none":  {[]metav1.Condition{{Type: "Ready", Status: "True", Reason: "Ready", Message: "b"}}, ""},
		"another reason":           {[]metav1.Condition{{Type: "Ready", Status: "True", Reason: "Other"}}, "Ready"},
		"a kind not asked for":     {[]metav1.Condition{{Type: "Paused", Status: "True", Reason: "Paused"}}, ""},
		"another status, and new":  {[]metav1.Condition{{Type: "Extra", Status: "True"}, {Type: "Ready", Status: "False", Reason: "Ready"}}, "Ready Extra"},
		"one that went away: none": {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, c := range conditions.Transitions(before, tt.after, "Ready", "Degraded", "Extra") {
				got = append(got, c.Type)
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestLongMessagesAreCutBetweenCharacters(t *testing.T) {
	var list []metav1.Condition
	conditions.New(&list, 1, noon).False("Accepted", "Invalid", "x"+strings.Repeat("ü", 40_000))
	if got := list[0].Message; len(got) > 2048 || !utf8.ValidString(got) || !strings.HasSuffix(got, "…") {
		t.Errorf("%d bytes, valid %t, ends %q", len(got), utf8.ValidString(got), got[len(got)-4:])
	}
}
