package main

import (
	"errors"
	"flag"
	"slices"
	"strings"
	"testing"
)

func TestBadSettingsAreRefusedWithTheirName(t *testing.T) {
	for setting, want := range map[string]string{
		"-callers=0":             "-callers 0: want 1 to 4096",
		"-rate=1001":             "-rate 1001: want 1 to 1000",
		"-policies=0":            "-policies 0: want 1 to 100000",
		"-quiet=10ms":            "-quiet 10ms: want 1s to 1h",
		"-scenarios=kill,typhon": `there is no scenario "typhon"`,
		"kill":                   `"kill" is not a flag`,
	} {
		t.Run(setting, func(t *testing.T) {
			_, err := parse([]string{setting})
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		})
	}
	if _, err := parse([]string{"-help"}); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-help gave %v", err)
	}
	if o, err := parse(nil); err != nil || !slices.Equal(o.scenarios, names()) {
		t.Errorf("without flags %v is measured, %v", o.scenarios, err)
	}
}

func TestQuestionsSpreadOverAllPrimaries(t *testing.T) {
	all := questions(subjects)
	var of [primaries]int
	for _, q := range all {
		for i := range of {
			if first, last := slotsOf(i); first <= q.slot && q.slot <= last {
				of[i]++
			}
		}
	}
	if of[0]+of[1]+of[2] != subjects || slices.Min(of[:]) < subjects/4 {
		t.Errorf("the primaries have %v of %d subjects", of, subjects)
	}
}
