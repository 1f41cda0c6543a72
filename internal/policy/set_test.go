package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
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
	zoned := func(change func(*RateLimit)) string {
		return with(func(r *RateLimit) {
			daily(r)
			change(r)
		})
	}
	calendar := func(change func(*Limit)) string {
		return zoned(func(r *RateLimit) { change(&r.Limits[0]) })
	}
	offsets := func(offsets ...[2]int64) string {
		return zoned(func(r *RateLimit) { r.TimeZones["UTC"] = offsets })
	}
	for name, test := range map[string]struct{ document, wantError string }{
		"no JSON":              {"<html>", "invalid character"},
		"another type":         {`{"format":1,"hash":"x","rateLimits":7}`, "rateLimits"},
		"no format":            {`{"hash":"x","rateLimits":[]}`, "format 0"},
		"foreign hash":         {strings.Replace(string(NewSet(nil).Marshal()), `"hash":"`, `"hash":"00`, 1), "does not fit the content"},
		"policy without hash":  {string(NewSet([]RateLimit{perIP()}).Marshal()), "contentHash"},
		"policy twice":         {string(NewSet([]RateLimit{perIP().Sealed(), perIP().Sealed()}).Marshal()), "does not sort after"},
		"name without slash":   {with(func(r *RateLimit) { r.Name = "shop" }), "<namespace>/<name>"},
		"name with braces":     {with(func(r *RateLimit) { r.Name = "shop/{x}" }), "<namespace>/<name>"},
		"no domain":            {with(func(r *RateLimit) { r.Domain = "" }), "domain"},
		"descriptor, no key":   {with(func(r *RateLimit) { r.Descriptors[0].Key = "" }), "descriptors[0]"},
		"nine wildcards":       {with(func(r *RateLimit) { r.Descriptors[0].Value = strings.Repeat("*a", 9) }), "8 wildcards"},
		"no limits":            {with(func(r *RateLimit) { r.Limits = nil }), "limits: 0"},
		"limit twice":          {with(func(r *RateLimit) { r.Limits = append(r.Limits, r.Limits[0]) }), "twice"},
		"unknown failure mode": {with(func(r *RateLimit) { r.OnStoreFailure = "Maybe" }), "onStoreFailure"},
		"a share of a balance": {with(func(r *RateLimit) {
			r.OnStoreFailure, r.Limits = FailureLocalShare, []Limit{{Name: "b", Algorithm: Balance, Requests: 1}}
		}), "onStoreFailure LocalShare: not with Balance"},
		"a share of slots": {with(func(r *RateLimit) {
			r.OnStoreFailure, r.Limits = FailureLocalShare, []Limit{{Name: "s", Algorithm: Concurrency, Requests: 1, SlotTTLMs: 60_000}}
		}), "onStoreFailure LocalShare: not with Concurrency"},
		"a share of an override's balance": {with(func(r *RateLimit) {
			r.OnStoreFailure = FailureLocalShare
			r.Overrides = []Override{{Values: []string{"a"}, Limits: []Limit{{Name: "b", Algorithm: Balance, Requests: 1}}}}
		}), "onStoreFailure LocalShare: not with Balance"},
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
		"long sliding counter":  {limit(func(l *Limit) { l.Algorithm, l.Requests = SlidingCounter, MaxSlidingCounterRequests+1 }), "SlidingCounter"},
		"too many slots": {limit(func(l *Limit) {
			l.Algorithm, l.WindowMs, l.SlotTTLMs, l.Requests = Concurrency, 0, 60_000, MaxSlots+1
		}), "Concurrency"},
		"slots with a window":     {limit(func(l *Limit) { l.Algorithm, l.SlotTTLMs = Concurrency, 60_000 }), "windowMs"},
		"slots without a TTL":     {limit(func(l *Limit) { l.Algorithm, l.WindowMs = Concurrency, 0 }), "slotTtlMs"},
		"a TTL without slots":     {limit(func(l *Limit) { l.SlotTTLMs = 60_000 }), "slotTtlMs"},
		"a balance with a window": {limit(func(l *Limit) { l.Algorithm = Balance }), "windowMs"},
		"slots beside a limit": {with(func(r *RateLimit) {
			r.Limits = append(r.Limits, Limit{Name: "slots", Algorithm: Concurrency, Requests: 1, SlotTTLMs: 60_000})
		}), "only limit"},
		"unknown calendar":        {calendar(func(l *Limit) { l.Calendar = "Year" }), "calendar"},
		"calendar of a log":       {calendar(func(l *Limit) { l.Algorithm = SlidingLog }), "calendar"},
		"calendar, other window":  {calendar(func(l *Limit) { l.WindowMs = 60_000 }), "windowMs"},
		"calendar without a zone": {calendar(func(l *Limit) { l.TimeZone = "" }), "timeZone"},
		"a zone without calendar": {calendar(func(l *Limit) { l.Calendar = "" }), "timeZone"},
		"an unknown zone":         {zoned(func(r *RateLimit) { r.TimeZones = nil }), `timeZones["UTC"]: 0 offsets`},
		"a zone of no calendar":   {zoned(func(r *RateLimit) { r.TimeZones["Asia/Tokyo"] = [][2]int64{{0, 32_400}} }), "timeZones: 2"},
		"zones and no calendar":   {with(func(r *RateLimit) { r.TimeZones = map[string][][2]int64{"UTC": {{0, 0}}} }), "timeZones: 1"},
		"an override's zone": {zoned(func(r *RateLimit) {
			r.Overrides = []Override{{Values: []string{"a"}, Limits: slices.Clone(r.Limits)}}
			r.Overrides[0].Limits[0].TimeZone = "Asia/Tokyo"
		}), `timeZones["Asia/Tokyo"]: 0 offsets`},
		"33 zones": {zoned(func(r *RateLimit) {
			for n := range MaxTimeZones {
				o := Override{Values: []string{fmt.Sprintf("%02d", n)}, Limits: slices.Clone(r.Limits)}
				o.Limits[0].TimeZone = fmt.Sprintf("Zone/%02d", n)
				r.Overrides = append(r.Overrides, o)
			}
		}), "calendars of 33 time zones, want at most 32"},
		"no offsets":              {offsets(), `timeZones["UTC"]: 0 offsets`},
		"129 offsets":             {offsets(make([][2]int64, MaxOffsets+1)...), `timeZones["UTC"]: 129 offsets`},
		"offsets out of order":    {offsets([2]int64{0, 0}, [2]int64{0, 3600}), `timeZones["UTC"]: offsets[1]`},
		"an offset of a day":      {offsets([2]int64{0, 86_400}), `timeZones["UTC"]: offsets[0]`},
		"an offset since 10^10 s": {offsets([2]int64{0, 0}, [2]int64{1e10, 3600}), `timeZones["UTC"]: offsets[1]`},
		"shared without wildcard": {with(func(r *RateLimit) { r.Descriptors[0].Shared = true }), "shared"},
		"101 overrides":           {with(func(r *RateLimit) { r.Overrides = slices.Repeat([]Override{vip("x")}, 101) }), "overrides: 101"},
		"override of two values":  {with(func(r *RateLimit) { r.Overrides = []Override{{Values: []string{"a", "b"}, Unlimited: true}} }), "overrides[0].values"},
		"override of everybody":   {with(func(r *RateLimit) { r.Overrides = []Override{vip("")} }), "overrides[0].values"},
		"override, 9 wildcards":   {with(func(r *RateLimit) { r.Overrides = []Override{vip(strings.Repeat("*a", 9))} }), "8 wildcards"},
		"override of what is shared": {with(func(r *RateLimit) {
			r.Descriptors = []Descriptor{{Key: "user"}, {Key: "path", Value: "/api/*", Shared: true}}
			r.Overrides = []Override{{Values: []string{"a", "/api/*"}, Unlimited: true}}
		}), "overrides[0].values[1]"},
		"override of nothing": {with(func(r *RateLimit) { r.Overrides = []Override{{Values: []string{"a"}}} }), "limits or unlimited"},
		"override of both": {with(func(r *RateLimit) {
			r.Overrides = []Override{{Values: []string{"a"}, Unlimited: true, Limits: r.Limits}}
		}), "limits or unlimited"},
		"override, bad limits": {with(func(r *RateLimit) { r.Overrides = []Override{{Values: []string{"a"}, Limits: []Limit{{Name: "x"}}}} }), "overrides[0].limits[0]"},
		"override with slots": {with(func(r *RateLimit) {
			r.Overrides = []Override{{Values: []string{"a"}, Limits: []Limit{{Name: "slots", Algorithm: Concurrency, Requests: 1, SlotTTLMs: 60_000}}}}
		}), "overrides[0].limits"},
		"overrides out of order": {with(func(r *RateLimit) { r.Overrides = []Override{vip("a*"), vip("a")} }), "most specific first"},
		"nine conditions":        {with(func(r *RateLimit) { r.When = slices.Repeat([]string{"true"}, 9) }), "when: 9"},
		"an empty condition":     {with(func(r *RateLimit) { r.When = []string{""} }), "when[0]"},
		"a long condition":       {with(func(r *RateLimit) { r.When = []string{strings.Repeat(" ", 1025)} }), "when[0]"},
		"a long cost":            {with(func(r *RateLimit) { r.CostExpression = strings.Repeat(" ", 1025) }), "costExpression"},
		"two costs":              {with(func(r *RateLimit) { r.CostExpression, r.Cost = "1", 1 }), "cost and costExpression"},
		"a negative cost":        {with(func(r *RateLimit) { r.Cost = -1 }), "cost -1"},
		"101 percent":            {with(func(r *RateLimit) { r.ShadowPercent = 101 }), "shadowPercent"},
		"penalty of no denials":  {with(func(r *RateLimit) { r.Penalty = &Penalty{WithinMs: 1000, ForMs: 1000, MaxMs: 1000} }), "penalty.denials"},
		"penalty of no time":     {with(func(r *RateLimit) { r.Penalty = &Penalty{Denials: 1, WithinMs: 1000, MaxMs: 1000} }), "penalty.forMs"},
		"penalty over its most":  {with(func(r *RateLimit) { r.Penalty = &Penalty{Denials: 1, WithinMs: 1000, ForMs: 2000, MaxMs: 1000} }), "penalty.maxMs"},
		"penalty for slots": {with(func(r *RateLimit) {
			r.Limits = []Limit{{Name: "slots", Algorithm: Concurrency, Requests: 1, SlotTTLMs: 60_000}}
			r.Penalty = &Penalty{Denials: 1, WithinMs: 1000, ForMs: 1000, MaxMs: 1000}
		}), "penalty"},
		"response of 200":   {with(func(r *RateLimit) { r.Response = &Response{Status: 200} }), "response.status"},
		"a header twice":    {with(func(r *RateLimit) { r.Response = &Response{Headers: []string{HeaderDraft, HeaderDraft}} }), "response.headers[1]"},
		"an unknown header": {with(func(r *RateLimit) { r.Response = &Response{Headers: []string{"X"}} }), "response.headers[0]"},
		"a long title":      {with(func(r *RateLimit) { r.Response = &Response{Title: strings.Repeat("x", 1025)} }), "response"},
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

// daily makes the limit one by the day of UTC.
func daily(r *RateLimit) {
	r.Limits = []Limit{{Name: "day", Algorithm: FixedWindow, Requests: 1, WindowMs: 86_400_000, Calendar: CalendarDay, TimeZone: "UTC"}}
	r.TimeZones = map[string][][2]int64{"UTC": {{0, 0}}}
}

// vip gives an override without limits.
func vip(value string) Override { return Override{Values: []string{value}, Unlimited: true} }

// Readers of the first format decide rightly by all that they know.
func TestASetIsWrittenInTheOldestFormatThatItAllows(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*RateLimit)
		want   int
	}{
		"as before":       {func(*RateLimit) {}, 1},
		"with a response": {func(r *RateLimit) { r.Response = &Response{Status: 503} }, 1},
		"a cost of 1":     {func(r *RateLimit) { r.Cost = 1 }, 1},
		"shared":          {func(r *RateLimit) { r.Descriptors[0] = Descriptor{Key: "path", Value: "/api/*", Shared: true} }, 2},
		"overrides":       {func(r *RateLimit) { r.Overrides = []Override{vip("a")} }, 2},
		"a condition":     {func(r *RateLimit) { r.When = []string{"true"} }, 2},
		"a cost":          {func(r *RateLimit) { r.Cost = 2 }, 2},
		"an expression":   {func(r *RateLimit) { r.CostExpression = "request.cost" }, 2},
		"in shadow":       {func(r *RateLimit) { r.ShadowPercent = 1 }, 2},
		"a penalty":       {func(r *RateLimit) { r.Penalty = &Penalty{Denials: 1, WithinMs: 1000, ForMs: 1000, MaxMs: 1000} }, 2},
		"a new algorithm": {func(r *RateLimit) { r.Limits[0].Algorithm = SlidingCounter }, 2},
		"a calendar":      {daily, 2},
		"a local share":   {func(r *RateLimit) { r.OnStoreFailure = FailureLocalShare }, 3},
	} {
		t.Run(name, func(t *testing.T) {
			r := perIP()
			test.change(&r)
			set := NewSet([]RateLimit{perIPNamed("shop/other").Sealed(), r.Sealed()})
			if err := set.Validate(); err != nil || set.Format != test.want {
				t.Errorf("format %d, %v, want %d", set.Format, err, test.want)
			}
		})
	}
}

func perIPNamed(name string) RateLimit {
	r := perIP()
	r.Name = name
	return r
}

func TestOverridesAreTriedFromTheMostSpecific(t *testing.T) {
	values := func(lists ...[]string) []Override {
		var overrides []Override
		for _, l := range lists {
			overrides = append(overrides, Override{Values: l})
		}
		return overrides
	}
	got := values(
		[]string{"", "b"}, []string{"a*", "b"}, []string{"a*", ""}, []string{"*c", "b"}, []string{"a", ""}, []string{"ab*", ""},
		[]string{"a", "b*"}, []string{"a", "b"}, []string{"x*", "b"},
	)
	want := values(
		[]string{"a", "b"}, []string{"a", "b*"}, []string{"a", ""}, []string{"a*", "b"}, []string{"*c", "b"}, []string{"x*", "b"},
		[]string{"ab*", ""}, []string{"a*", ""}, []string{"", "b"},
	)
	SortOverrides(got)
	if !slices.EqualFunc(got, want, func(a, b Override) bool { return slices.Equal(a.Values, b.Values) }) {
		t.Errorf("got  %v\nwant %v", got, want)
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
	everything := perIP()
	daily(&everything)
	everything.Descriptors = []Descriptor{{Key: "path", Value: "/api/*", Shared: true}, {Key: "user"}}
	everything.Overrides = []Override{{Values: []string{"", "a"}, Unlimited: true}}
	everything.When, everything.CostExpression = []string{"true"}, "1"
	everything.Penalty, everything.Response = &Penalty{Denials: 1, WithinMs: 1000, ForMs: 1000, MaxMs: 1000}, &Response{Status: 503}
	f.Add(NewSet([]RateLimit{everything.Sealed()}).Marshal())
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
