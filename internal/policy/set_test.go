package policy

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func perIP() RateLimit {
	return RateLimit{
		Name:           "shop/api-per-ip",
		Domain:         "shop",
		Descriptors:    []Descriptor{{Key: "remote_address"}},
		Limits:         []Limit{{Name: "default", Algorithm: SlidingLog, Requests: 100, WindowMs: 60_000}},
		OnStoreFailure: FailureAllow,
	}
}

func TestParseGivesBackWhatWasMarshalled(t *testing.T) {
	other := perIP()
	other.Name = "shop/a-first"
	set := NewSet([]RateLimit{perIP().Sealed(), other.Sealed()})

	parsed, err := Parse(set.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	if parsed.Hash != set.Hash || len(parsed.RateLimits) != 2 {
		t.Errorf("got %d policies with hash %s, want 2 with %s", len(parsed.RateLimits), parsed.Hash, set.Hash)
	}
	if parsed.RateLimits[0].Name != "shop/a-first" {
		t.Errorf("the set begins with %s: it is not sorted", parsed.RateLimits[0].Name)
	}
	if r := parsed.RateLimit("shop/api-per-ip"); r == nil || r.Limits[0].Requests != 100 {
		t.Errorf("RateLimit(shop/api-per-ip) = %+v", r)
	}
	if r := parsed.RateLimit("shop/none"); r != nil {
		t.Errorf("RateLimit(shop/none) = %+v, want nil", r)
	}
}

func TestEmptySetIsADocumentToo(t *testing.T) {
	parsed, err := Parse(NewSet(nil).Marshal())
	if err != nil || len(parsed.RateLimits) != 0 {
		t.Errorf("got %+v, %v", parsed, err)
	}
}

func TestHashFollowsTheContent(t *testing.T) {
	raised := perIP()
	raised.Limits = []Limit{{Name: "default", Algorithm: SlidingLog, Requests: 200, WindowMs: 60_000}}
	before, after := NewSet([]RateLimit{perIP().Sealed()}), NewSet([]RateLimit{raised.Sealed()})
	if before.Hash == after.Hash || before.RateLimits[0].ContentHash == after.RateLimits[0].ContentHash {
		t.Error("a raised limit has the hash of the former one")
	}
	if again := NewSet([]RateLimit{perIP().Sealed()}); again.Hash != before.Hash {
		t.Error("the same content has two hashes")
	}
}

func TestParseRefuses(t *testing.T) {
	with := func(change func(*RateLimit)) string {
		r := perIP()
		change(&r)
		return string(NewSet([]RateLimit{r.Sealed()}).Marshal())
	}
	limit := func(change func(*Limit)) string {
		return with(func(r *RateLimit) { change(&r.Limits[0]) })
	}
	for name, test := range map[string]struct{ document, wantError string }{
		"no JSON":               {"<html>", "invalid character"},
		"another type":          {`{"format":1,"hash":"x","rateLimits":7}`, "rateLimits"},
		"no format":             {`{"hash":"x","rateLimits":[]}`, "format 0"},
		"foreign hash":          {strings.Replace(string(NewSet(nil).Marshal()), `"hash":"`, `"hash":"00`, 1), "does not fit the content"},
		"policy without hash":   {string(NewSet([]RateLimit{perIP()}).Marshal()), "contentHash"},
		"policy twice":          {string(NewSet([]RateLimit{perIP().Sealed(), perIP().Sealed()}).Marshal()), "does not sort after"},
		"name without slash":    {with(func(r *RateLimit) { r.Name = "shop" }), "<namespace>/<name>"},
		"name with braces":      {with(func(r *RateLimit) { r.Name = "shop/{x}" }), "<namespace>/<name>"},
		"no domain":             {with(func(r *RateLimit) { r.Domain = "" }), "domain"},
		"descriptor, no key":    {with(func(r *RateLimit) { r.Descriptors[0].Key = "" }), "descriptors[0]"},
		"nine wildcards":        {with(func(r *RateLimit) { r.Descriptors[0].Value = strings.Repeat("*a", 9) }), "8 wildcards"},
		"no limits":             {with(func(r *RateLimit) { r.Limits = nil }), "limits: 0"},
		"limit twice":           {with(func(r *RateLimit) { r.Limits = append(r.Limits, r.Limits[0]) }), "twice"},
		"unknown failure mode":  {with(func(r *RateLimit) { r.OnStoreFailure = "Maybe" }), "onStoreFailure"},
		"unknown algorithm":     {limit(func(l *Limit) { l.Algorithm = "Magic" }), "algorithm"},
		"limit name":            {limit(func(l *Limit) { l.Name = "a:b" }), "name"},
		"negative requests":     {limit(func(l *Limit) { l.Requests = -1 }), "requests"},
		"requests over 2^53-1":  {limit(func(l *Limit) { l.Algorithm, l.Requests = FixedWindow, 1<<53 }), "requests"},
		"long sliding log":      {limit(func(l *Limit) { l.Requests = 1001 }), "SlidingLog"},
		"window of 99 ms":       {limit(func(l *Limit) { l.WindowMs = 99 }), "windowMs"},
		"window over 744 h":     {limit(func(l *Limit) { l.WindowMs = 744*3_600_000 + 1 }), "windowMs"},
		"burst without bucket":  {limit(func(l *Limit) { l.Burst = 5 }), "burst"},
		"bucket without burst":  {limit(func(l *Limit) { l.Algorithm, l.TickUs = TokenBucket, 1 }), "burst"},
		"bucket, another tick":  {limit(func(l *Limit) { l.Algorithm, l.Burst, l.TickUs = TokenBucket, 5, 1000 }), "tickUs"},
		"bucket over its bound": {limit(func(l *Limit) { l.Algorithm, l.Burst, l.TickUs = TokenBucket, MaxBurst(60_000)+1, 1 }), "at most"},
	} {
		t.Run(name, func(t *testing.T) {
			set, err := Parse([]byte(test.document))
			if err == nil {
				t.Fatalf("accepted: %+v", set)
			}
			if !strings.Contains(err.Error(), test.wantError) {
				t.Errorf("error %q does not name %q", err, test.wantError)
			}
		})
	}
}

func TestParseTellsANewerFormatApart(t *testing.T) {
	document, _ := json.Marshal(map[string]any{"format": Format + 1, "policies": "of a shape we do not know"})
	if _, err := Parse(document); !errors.Is(err, ErrNewerFormat) {
		t.Errorf("got %v, want ErrNewerFormat", err)
	}
}

func TestEveryWindowHoldsAHundredMillionTokens(t *testing.T) {
	for _, windowMs := range []int64{MinWindow.Milliseconds(), 1000, 60_000, 60_001, 3_600_000, 86_400_000, 86_400_001, MaxWindow.Milliseconds()} {
		if got := MaxBurst(windowMs); got < 100_000_000 {
			t.Errorf("MaxBurst(%d) = %d", windowMs, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(NewSet([]RateLimit{perIP().Sealed()}).Marshal())
	f.Add([]byte(`{"format":1}`))
	f.Add([]byte(`{"format":9e99}`))
	f.Fuzz(func(t *testing.T, document []byte) {
		set, err := Parse(document)
		if err != nil {
			return
		}
		again, err := Parse(set.Marshal())
		if err != nil || again.Hash != set.Hash {
			t.Errorf("an accepted document does not survive a round trip: %v", err)
		}
	})
}
