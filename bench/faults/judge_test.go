package main

import (
	"testing"
	"time"
)

// answersOf gives an answer every 100 ms, each of 10 ms: E enforced, D degraded, F failed.
func answersOf(outcomes string) []answer {
	var all []answer
	for i, o := range outcomes {
		all = append(all, answer{
			sent: time.Duration(i) * 100 * time.Millisecond, latency: 10 * time.Millisecond,
			outcome: map[rune]outcome{'E': enforced, 'D': degraded, 'F': failed}[o],
		})
	}
	return all
}

func TestNormalIsWhenAllOfASecondIsEnforced(t *testing.T) {
	const second = "EEEEEEEEEEE"
	for name, test := range map[string]struct {
		answers      string
		event        time.Duration
		want         time.Duration
		wantHappened bool
	}{
		"at once":                     {answers: "DDD" + second, event: 300 * time.Millisecond, want: 0, wantHappened: true},
		"after two that are degraded": {answers: "DDD" + second, event: 100 * time.Millisecond, want: 110 * time.Millisecond, wantHappened: true},
		"after a failure":             {answers: "F" + second, want: 10 * time.Millisecond, wantHappened: true},
		"not in between":              {answers: "DEEEED" + second, want: 510 * time.Millisecond, wantHappened: true},
		"whatever comes later":        {answers: "D" + second + "DDD", want: 10 * time.Millisecond, wantHappened: true},
		"never":                       {answers: "DEEED"},
		"watched too shortly":         {answers: "DEEEEE"},
		"nothing was answered":        {answers: ""},
		"everything came before":      {answers: second, event: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			got, happened := normalAfter(answersOf(test.answers), test.event)
			if got != test.want || happened != test.wantHappened {
				t.Errorf("got %v, %v; want %v, %v", got, happened, test.want, test.wantHappened)
			}
		})
	}
}

func TestAnAnswerThatComesLateCountsWhenItCame(t *testing.T) {
	all := answersOf("DEEEEEEEEEEEEEEE")
	all[0].latency = 350 * time.Millisecond
	if got, happened := normalAfter(all, 0); got != 350*time.Millisecond || !happened {
		t.Errorf("got %v, %v", got, happened)
	}
}

func TestAnswersAreCountedInTheirSpan(t *testing.T) {
	all := answersOf("EDFEDF")
	in := between(all, span{100 * time.Millisecond, 400 * time.Millisecond})
	if len(in) != 3 || count(in, enforced) != 1 || count(in, degraded) != 1 || count(in, failed) != 1 {
		t.Errorf("got %+v", in)
	}
	if len(all) != 6 {
		t.Error("the answers themselves were changed")
	}
}

func TestQuantilesAreOfTheAnswersThemselves(t *testing.T) {
	var all []answer
	for i := range 200 {
		all = append(all, answer{latency: time.Duration(200-i) * time.Millisecond})
	}
	for share, want := range map[float64]time.Duration{0.5: 100 * time.Millisecond, 0.99: 198 * time.Millisecond, 1: 200 * time.Millisecond} {
		if got := quantile(all, share); got != want {
			t.Errorf("%v gives %v, want %v", share, got, want)
		}
	}
	if got := longest(all[:3]); got != 200*time.Millisecond {
		t.Errorf("the longest is %v", got)
	}
	if got := quantile(nil, 0.99); got != 0 {
		t.Errorf("of nothing %v", got)
	}
}

func TestTheFirstEnforcedAnswerAfterAnEventIsFound(t *testing.T) {
	all := answersOf("EDDED")
	if got, happened := firstAfter(all, 50*time.Millisecond); got != 260*time.Millisecond || !happened {
		t.Errorf("got %v, %v; want 260ms", got, happened)
	}
	if _, happened := firstAfter(all, 350*time.Millisecond); happened {
		t.Error("one was found where there is none")
	}
}
