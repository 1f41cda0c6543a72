package main

import "testing"

func TestLedgerJudgesByAnExactWindow(t *testing.T) {
	type decision struct {
		at      int64
		allowed bool
	}
	for name, test := range map[string]struct {
		decisions                                    []decision
		wantMost, wantWronglyRefused, wantWronglyLet int64
	}{
		"nothing":                          {},
		"one":                              {decisions: []decision{{5, true}}, wantMost: 1},
		"the limit, and a right refusal":   {decisions: []decision{{0, true}, {3, true}, {9, false}}, wantMost: 2},
		"a request counts for a window":    {decisions: []decision{{0, true}, {0, true}, {9, true}}, wantMost: 3, wantWronglyLet: 1},
		"and no longer":                    {decisions: []decision{{0, true}, {0, true}, {10, true}, {10, true}}, wantMost: 2},
		"what was refused does not count":  {decisions: []decision{{0, false}, {0, true}, {1, true}}, wantMost: 2, wantWronglyRefused: 1},
		"at one time":                      {decisions: []decision{{7, true}, {7, true}, {7, true}, {7, true}}, wantMost: 4, wantWronglyLet: 2},
		"twice the limit around an edge":   {decisions: []decision{{9, true}, {9, true}, {10, true}, {11, true}}, wantMost: 4, wantWronglyLet: 2},
		"the fullest window is an old one": {decisions: []decision{{0, true}, {1, true}, {2, true}, {50, true}}, wantMost: 3, wantWronglyLet: 1},
	} {
		t.Run(name, func(t *testing.T) {
			l := &ledger{limit: 2, window: 10}
			var allowed int
			for _, d := range test.decisions {
				l.decided(d.at, d.allowed)
				if d.allowed {
					allowed++
				}
			}
			if l.most != test.wantMost || l.wronglyRefused != test.wantWronglyRefused || l.wronglyAllowed != test.wantWronglyLet {
				t.Errorf("most %d, refused %d, allowed %d; want %d, %d, %d",
					l.most, l.wronglyRefused, l.wronglyAllowed, test.wantMost, test.wantWronglyRefused, test.wantWronglyLet)
			}
			if l.offered != int64(len(test.decisions)) || len(l.passed) != allowed {
				t.Errorf("%d of %d passed, want %d of %d", len(l.passed), l.offered, allowed, len(test.decisions))
			}
		})
	}
}

func TestCompareCountsEachDirection(t *testing.T) {
	denials, allowances := compare([]bool{true, false, false, true, true}, []bool{true, true, false, false, false})
	if denials != 1 || allowances != 2 {
		t.Errorf("got %d and %d, want 1 and 2", denials, allowances)
	}
}

func TestPercentOfNothingIsZero(t *testing.T) {
	if got := percent(1, 8); got != 12.5 {
		t.Errorf("got %v, want 12.5", got)
	}
	if got := percent(0, 0); got != 0 {
		t.Errorf("got %v, want 0", got)
	}
}

func TestHoldersJudgeBySlotsThatAreFree(t *testing.T) {
	type decision struct {
		at, ends int64
		allowed  bool
	}
	for name, test := range map[string]struct {
		decisions                                        []decision
		wantMost, wantWronglyRefused, wantWronglyAllowed int64
	}{
		"two slots, and a right refusal": {decisions: []decision{{0, 50, true}, {1, 50, true}, {2, 50, false}}, wantMost: 2},
		"a third one":                    {decisions: []decision{{0, 50, true}, {1, 50, true}, {2, 50, true}}, wantMost: 3, wantWronglyAllowed: 1},
		"a release frees":                {decisions: []decision{{0, 5, true}, {1, 50, true}, {5, 50, true}}, wantMost: 2},
		"a slot expires":                 {decisions: []decision{{0, never, true}, {1, never, true}, {100, never, true}}, wantMost: 2},
		"a free one is refused":          {decisions: []decision{{0, 50, true}, {1, 50, false}}, wantMost: 1, wantWronglyRefused: 1},
	} {
		t.Run(name, func(t *testing.T) {
			h := &holders{slots: 2, ttl: 100, until: map[int]int64{}}
			for i, d := range test.decisions {
				h.acquired(d.at, i, d.ends, d.allowed)
			}
			if h.most != test.wantMost || h.wronglyRefused != test.wantWronglyRefused || h.wronglyAllowed != test.wantWronglyAllowed {
				t.Errorf("most %d, refused %d, allowed %d; want %d, %d, %d",
					h.most, h.wronglyRefused, h.wronglyAllowed, test.wantMost, test.wantWronglyRefused, test.wantWronglyAllowed)
			}
		})
	}
}
