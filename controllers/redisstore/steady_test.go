package redisstore

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/conditions"
)

func TestStatusFollowsOneOutageAtOnceAndNoneOfThoseThatFollowEachOther(t *testing.T) {
	begin := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	out := &conditions.Waiting{Reason: "Unreachable", Message: "refused", After: time.Second}
	other := &conditions.Waiting{Reason: "Unavailable", Message: "LOADING", After: time.Second}
	wrong := &conditions.Stalling{Reason: "AuthenticationFailed", Message: "WRONGPASS"}
	type look struct {
		after time.Duration // since the beginning
		reach error
		want  string // "" for reachable, else the message or "unsteady"
	}
	const unsteady = "unsteady"
	for name, looks := range map[string][]look{
		"one outage":             {{0, nil, ""}, {time.Second, out, "refused"}, {2 * time.Second, other, "LOADING"}, {3 * time.Second, nil, ""}, {time.Hour, nil, ""}},
		"out from the beginning": {{0, out, "refused"}, {time.Second, nil, ""}},
		"another one after 30 s": {{0, out, "refused"}, {time.Second, nil, ""}, {31 * time.Second, out, "refused"}, {32 * time.Second, nil, ""}},
		"one second up, one down": {
			{0, out, "refused"}, {time.Second, nil, ""},
			{2 * time.Second, out, unsteady}, {3 * time.Second, nil, unsteady}, {4 * time.Second, other, unsteady}, {5 * time.Second, nil, unsteady},
			{34*time.Second + 999*time.Millisecond, nil, unsteady}, {35 * time.Second, nil, ""},
			// Its end was shown just now.
			{40 * time.Second, out, unsteady}, {41 * time.Second, nil, unsteady}, {71 * time.Second, nil, ""},
			{3 * time.Minute, out, "refused"}, {4 * time.Minute, nil, ""},
		},
		"what somebody has to put right": {
			{0, out, "refused"}, {time.Second, nil, ""}, {2 * time.Second, out, unsteady}, {3 * time.Second, wrong, "WRONGPASS"}, {4 * time.Second, nil, ""},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var s reachability
			words := ""
			for _, l := range looks {
				_, got := explain(s.see(begin.Add(l.after), l.reach))
				switch {
				case l.want != unsteady && got != l.want:
					t.Errorf("after %v: got %q, want %q", l.after, got, l.want)
				case l.want == unsteady && (!strings.HasPrefix(got, "Redis comes and goes") || s.unsteady == nil):
					t.Errorf("after %v: got %q", l.after, got)
				case l.want == unsteady && words != "" && got != words && l.after < time.Minute && l.after != 40*time.Second:
					t.Errorf("after %v: other words: %q, then %q", l.after, words, got)
				case l.want == unsteady:
					words = got
				}
			}
		})
	}
}

func TestARedisThatComesAndGoesIsLookedAtWhenItMayBeSteady(t *testing.T) {
	begin := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	var s reachability
	out := &conditions.Waiting{Reason: "Unreachable", After: 4 * time.Second}
	s.see(begin, out)
	s.see(begin.Add(time.Second), nil)
	after := func(reach error, at time.Duration) time.Duration {
		wait := (*conditions.Waiting)(nil)
		if !errors.As(s.see(begin.Add(at), reach), &wait) {
			t.Fatal("it is steady")
		}
		return wait.After
	}
	if got := after(out, 2*time.Second); got != 4*time.Second {
		t.Errorf("while it is gone: %v", got)
	}
	after(nil, 6*time.Second)
	if got := after(nil, 16*time.Second); got != 20*time.Second {
		t.Errorf("while it answers: %v", got)
	}
}
