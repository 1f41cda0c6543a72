package limit

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestRowsAreReadStrictly(t *testing.T) {
	good := func() []any {
		return []any{int64(0), int64(10), int64(0), int64(2000), int64(500), "default", "limit", ""}
	}
	with := func(i int, value any) []any {
		row := good()
		row[i] = value
		return row
	}
	want := Row{Limit: 10, Reset: 2 * time.Second, RetryAfter: 500 * time.Millisecond, LimitName: "default", Reason: ReasonLimit}
	grown := want
	grown.Override, grown.New = 100, true
	tests := map[string]struct {
		reply   any
		want    Row
		wantErr bool
	}{
		"a denial":                     {reply: good(), want: want},
		"with override and new":        {reply: append(good(), int64(100), int64(1)), want: grown},
		"with what newer versions add": {reply: append(good(), int64(100), int64(1), "x", nil), want: grown},
		"with an override only":        {reply: append(good(), int64(0)), want: want},
		"an override that is a string": {reply: append(good(), "x", int64(1)), wantErr: true},
		"a negative override":          {reply: append(good(), int64(-1), int64(1)), wantErr: true},
		"an override above all":        {reply: append(good(), int64(101), int64(0)), wantErr: true},
		"new is a string":              {reply: append(good(), int64(1), "1"), wantErr: true},
		"unlimited":                    {reply: []any{int64(1), int64(-1), int64(0), int64(0), int64(0), "", "ok", "a1"}, want: Row{Allowed: true, Limit: -1, Reason: ReasonOK, ID: "a1"}},
		"the longest time":             {reply: with(3, int64(9_007_199_254_741)), want: Row{Limit: 10, Reset: 9_007_199_254_741 * time.Millisecond, RetryAfter: 500 * time.Millisecond, LimitName: "default", Reason: ReasonLimit}},
		"nothing":                      {reply: nil, wantErr: true},
		"a string":                     {reply: "OK", wantErr: true},
		"no fields":                    {reply: []any{}, wantErr: true},
		"a field too few":              {reply: good()[:7], wantErr: true},
		"a string for an integer":      {reply: with(2, "0"), wantErr: true},
		"a float for an integer":       {reply: with(2, 0.5), wantErr: true},
		"an integer for a string":      {reply: with(5, int64(1)), wantErr: true},
		"null for a string":            {reply: with(7, nil), wantErr: true},
		"allowed is 2":                 {reply: with(0, int64(2)), wantErr: true},
		"limit under -1":               {reply: with(1, int64(-2)), wantErr: true},
		"negative remaining":           {reply: with(2, int64(-1)), wantErr: true},
		"negative reset":               {reply: with(3, int64(-1)), wantErr: true},
		"a reset that would overflow":  {reply: with(3, int64(1<<62)), wantErr: true},
		"negative retry":               {reply: with(4, int64(-1)), wantErr: true},
		"a retry that would overflow":  {reply: with(4, int64(1<<62)), wantErr: true},
		"a denial without retry":       {reply: with(4, int64(0)), wantErr: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parseRow(test.reply)
			if got != test.want || (err != nil) != test.wantErr || err != nil && !errors.Is(err, ErrMalformed) {
				t.Errorf("got %+v, %v, want %+v", got, err, test.want)
			}
			rows, err := parseRows([]any{good(), test.reply}, 2)
			if (err != nil) != test.wantErr || err == nil && rows[1] != test.want {
				t.Errorf("as one of two: %+v, %v", rows, err)
			}
		})
	}
	for name, reply := range map[string]any{"too few": []any{good()}, "too many": []any{good(), good(), good()}, "no rows": int64(1)} {
		if rows, err := parseRows(reply, 2); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, rows, err)
		}
	}
}

func FuzzParseRows(f *testing.F) {
	f.Add(`[[1,10,9,2000,0,"default","ok","",0,1],[0,10,0,2000,500,"default","limit","a1"]]`)
	f.Add(`[[1,-1,9007199254740991,0,0,"","ok","",100,0,"more"],[1,1,1,1,9007199254741,"a","shadow","",0]]`)
	f.Add(`[[0,0,0,0,0,"","","",0,0],[null,1,2.5,[],"x"]]`)
	f.Add(`"OK"`)
	f.Fuzz(func(t *testing.T, text string) {
		rows, err := parseRows(replyOf(text), 2)
		if err != nil {
			if !errors.Is(err, ErrMalformed) || rows != nil {
				t.Errorf("%v, %v: want ErrMalformed and nothing else", rows, err)
			}
			return
		}
		for _, r := range rows {
			if r.Limit < -1 || r.Remaining < 0 || r.Reset < 0 || r.RetryAfter < 0 || r.Override < 0 || r.Override > 100 ||
				!r.Allowed && r.RetryAfter == 0 {
				t.Errorf("%q was taken for %+v", text, r)
			}
		}
	})
}

// replyOf gives a JSON text as go-redis would give such a reply.
func replyOf(text string) any {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var value any
	if decoder.Decode(&value) != nil {
		return text
	}
	return replied(value)
}

func replied(value any) any {
	switch v := value.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		n, _ := v.Float64()
		return n
	case []any:
		for i := range v {
			v[i] = replied(v[i])
		}
		return v
	default:
		return value
	}
}
