package machine

import (
	"testing"
	"time"
)

func TestParseProcessStatAddsUserAndSystemTime(t *testing.T) {
	for name, test := range map[string]struct {
		stat    string
		want    time.Duration
		wantErr bool
	}{
		"a plain command": {
			stat: "4467 (bench) S 1 4467 1 0 -1 4194560 2000 0 0 0 123 45 9 9 20 0 8 0 100 1 2",
			want: 1680 * time.Millisecond,
		},
		"a command with spaces and parentheses": {
			stat: "4467 (a) R (b c) S 1 4467 1 0 -1 4194560 2000 0 0 0 1 2 9 9 20 0 8 0 100 1 2",
			want: 30 * time.Millisecond,
		},
		"too short":    {stat: "4467 (bench) S 1 4467", wantErr: true},
		"no command":   {stat: "4467 bench S 1 2 3 4 5 6 7 8 9 10 11 12 13 14", wantErr: true},
		"not a number": {stat: "4467 (bench) S 1 4467 1 0 -1 4194560 2000 0 0 0 x 45 9 9", wantErr: true},
		"nothing":      {stat: "", wantErr: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseProcessStat([]byte(test.stat))
			if got != test.want || (err != nil) != test.wantErr {
				t.Errorf("got %v, %v; want %v, error %v", got, err, test.want, test.wantErr)
			}
		})
	}
}

func TestParseMachineStatLeavesOutIdleTime(t *testing.T) {
	got, err := parseMachineStat([]byte("cpu  10 20 30 4000 500 6 7 8 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n"))
	if err != nil {
		t.Fatal(err)
	}
	if want := (Time{Busy: 730 * time.Millisecond, Stolen: 80 * time.Millisecond}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, bad := range []string{"", "intr 1 2 3 4 5 6 7 8 9", "cpu 1 2 3"} {
		if _, err := parseMachineStat([]byte(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
