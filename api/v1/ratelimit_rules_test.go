package v1_test

import (
	"context"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/penstock-dev/penstock/api/v1"
)

const oneLimit = "limits: [{requests: 100, window: 1m}]"

// Messages of the rules of RateLimit.
const (
	refusedWindow     = "window must be from 100ms to 744h (31 days)"
	refusedDuration   = "want a duration such as 250ms, 1m30s or 24h; the units are h, m, s and ms (there is no unit for days), without fractions"
	refusedLimitName  = "want lower-case letters, digits and hyphens, with a letter or digit at both ends, such as per-minute"
	refusedStoreName  = "want the name of a RedisStore: lower-case letters, digits, hyphens and dots, with a letter or digit at both ends, such as sessions"
	refusedNamespace  = "want the name of a namespace: lower-case letters, digits and hyphens, with a letter or digit at both ends, such as shop"
	refusedSlidingLog = "SlidingLog keeps one entry per request, so requests may be at most 1000; use algorithm SlidingCounter, FixedWindow or TokenBucket for more"
	refusedBurst      = "burst is for algorithm TokenBucket only; remove burst or set algorithm: TokenBucket"
	refusedWildcards  = "value may hold at most 8 wildcards (*); use a shorter pattern"
	refusedStoreRef   = "storeRef is immutable; create a new object to use another store"
	refusedDomain     = "domain is immutable; create a new object to answer for another domain"

	refusedNoWindow       = "spec.limits[0].window: Required value: want the length of time that requests speaks of, such as 1m (a FixedWindow may have a calendar in its place)"
	refusedNeitherWindow  = "a Concurrency counts what is under way, and a Balance is not refilled: neither has a window; remove window"
	refusedBothWindows    = "a calendar has windows of its own; remove window, or remove calendar"
	refusedCalendar       = "calendar is for algorithm FixedWindow only; remove calendar or set algorithm: FixedWindow"
	refusedTimeZone       = "timeZone is for a limit with a calendar only; remove timeZone, or set calendar in the place of window"
	refusedLocal          = "Local is another time zone on each machine; want the IANA name of a time zone, such as Europe/Berlin"
	refusedSlotTTL        = "slotTTL must be from 100ms to 744h (31 days)"
	refusedSlotTTLOf      = "slotTTL is for algorithm Concurrency only; remove slotTTL or set algorithm: Concurrency"
	refusedCounter        = "a SlidingCounter counts exactly up to 8589934592 (2^33) requests; use algorithm FixedWindow or TokenBucket for more"
	refusedSlots          = "a Concurrency keeps one entry per slot, so requests may be at most 100000; use a more specific descriptor"
	refusedNotAlone       = "a Concurrency must be the only limit; remove the others, or move them to a RateLimit of their own"
	refusedShared         = "shared is for a value with a wildcard (*), whose matches then have one budget together; put a * into value, or remove shared"
	refusedOverride       = "an override has either limits, or unlimited: true; add one of them, or remove one"
	refusedOverrideKey    = "match names a key that is none of spec.descriptors; use one of theirs, or add a descriptor"
	refusedOverrideShared = "match names a shared descriptor, whose values have one budget and so the same limits; match another descriptor, or remove shared"
	refusedOverrideLimits = "overrides of a Concurrency have one limit, of algorithm Concurrency, and no other overrides have such a limit; set the algorithm that spec.limits has"
	refusedCost           = "want an integer from 1 to 2147483647, or a CEL expression, such as 'x-items' in request.header ? math.greatest(1, math.least(int(request.header['x-items']), 100)) : 1"
	refusedShare          = "LocalShare is for limits that refill with time, not for a Balance or a Concurrency; use Allow or Deny"
	refusedPenalty        = "penalty is not for a Concurrency, whose callers wait for slots; remove penalty"
	refusedMax            = "max must not be shorter than for; raise max, or remove it"
	refusedProblemType    = "want a URI reference, such as https://shop.example/problems/too-many-requests; percent-encode spaces, quotes and letters beyond ASCII"
)

var _ = Describe("RateLimit", func() {
	DescribeTable("limits[].window is from 100ms to 744h",
		func(ctx context.Context, window, wantRefusal string) {
			expectCreated(ctx, manifest("RateLimit", limit("requests: 1, window: "+window)), wantRefusal)
		},
		Entry("accepts the shortest", "100ms", ""),
		Entry("accepts the longest", "744h", ""),
		Entry("accepts several parts", "1h30m", ""),
		Entry("accepts four parts", "1h1m1s1ms", ""),
		Entry("accepts parts that add up to the shortest", "50ms50ms", ""),
		Entry("refuses one millisecond less", "99ms", refusedWindow),
		Entry("refuses zero", "0s", refusedWindow),
		Entry("refuses one hour more", "745h", refusedWindow),
		Entry("refuses one millisecond more", "744h1ms", refusedWindow),
		Entry("refuses the longest that can be written", "99999h99999h99999h99999h", refusedWindow),
		Entry("refuses days", "1d", refusedDuration),
		Entry("refuses a word", "minute", refusedDuration),
		Entry("refuses a minus", "-1s", refusedDuration),
		Entry("refuses a fraction", "1.5s", refusedDuration),
		Entry("refuses a number without unit", `"60"`, refusedDuration),
		Entry("refuses a unit without number", "ms", refusedDuration),
		Entry("refuses microseconds", "100us", refusedDuration),
		Entry("refuses spaces", `"1h 1m"`, refusedDuration),
		Entry("refuses six digits", "100000ms", refusedDuration),
		Entry("refuses five parts", "1h1m1s1ms1ms", refusedDuration),
		Entry("refuses the empty string", `""`, "should be at least 2 chars long"),
		Entry("refuses a number", "60", `must be of type string: "integer"`),
		Entry("refuses null", "null", "window: Required value"),
		Entry("refuses 29 characters", "00001h00001m00001s00001ms0001", "Too long: may not be more than 28 bytes"),
	)

	DescribeTable("limits[].requests is from 0 to 2^53-1",
		func(ctx context.Context, requests, wantRefusal string) {
			expectCreated(ctx, manifest("RateLimit", limit("algorithm: FixedWindow, window: 1m, requests: "+requests)), wantRefusal)
		},
		Entry("accepts 0", "0", ""),
		Entry("accepts 1", "1", ""),
		Entry("accepts 2^53-1", "9007199254740991", ""),
		Entry("refuses -1", "-1", "should be greater than or equal to 0"),
		Entry("refuses 2^53", "9007199254740992", "should be less than or equal to 9007199254740991"),
		Entry("refuses 2^53+1", "9007199254740993", "should be less than or equal to 9007199254740991"),
		Entry("refuses 2^63-1", "9223372036854775807", "should be less than or equal to 9007199254740991"),
		Entry("refuses a fraction", "1.5", "must be of type int64"),
		Entry("refuses a string", `"100"`, `must be of type integer: "string"`),
		Entry("refuses null", "null", "requests: Required value"),
	)

	DescribeTable("SlidingLog takes at most 1000 requests",
		func(ctx context.Context, fields, wantRefusal string) {
			expectCreated(ctx, manifest("RateLimit", limit("window: 1m, "+fields)), wantRefusal)
		},
		Entry("accepts 1000", "requests: 1000, algorithm: SlidingLog", ""),
		Entry("refuses 1001", "requests: 1001, algorithm: SlidingLog", refusedSlidingLog),
		Entry("refuses 1001 where it is the default", "requests: 1001", refusedSlidingLog),
		Entry("accepts 1001 for FixedWindow", "requests: 1001, algorithm: FixedWindow", ""),
		Entry("accepts 1001 for TokenBucket", "requests: 1001, algorithm: TokenBucket", ""),
		Entry("accepts 1001 for SlidingCounter", "requests: 1001, algorithm: SlidingCounter", ""),
		Entry("refuses an algorithm that is not there", "requests: 1, algorithm: LeakyBucket", `Unsupported value: "LeakyBucket"`),
	)

	DescribeTable("LocalShare is for limits that refill with time",
		func(ctx context.Context, spec, wantRefusal string) {
			expectCreated(ctx, manifest("RateLimit", "onStoreFailure: LocalShare\n"+spec), wantRefusal)
		},
		Entry("accepts the default algorithm", oneLimit, ""),
		Entry("accepts SlidingCounter", "limits: [{requests: 1, window: 1m, algorithm: SlidingCounter}]", ""),
		Entry("accepts FixedWindow and TokenBucket",
			"limits: [{name: a, requests: 1, algorithm: FixedWindow, calendar: Day}, {name: b, requests: 1, window: 1m, algorithm: TokenBucket}]", ""),
		Entry("accepts overrides", "descriptors: [{key: user}]\noverrides: [{match: [{key: user, value: a}], unlimited: true},"+
			" {match: [{key: user, value: b}], limits: [{requests: 1, window: 1m}]}]\n"+oneLimit, ""),
		Entry("refuses Balance", "limits: [{requests: 1, algorithm: Balance}]", refusedShare),
		Entry("refuses Balance beside another", "limits: [{name: a, requests: 1, window: 1m}, {name: b, requests: 1, algorithm: Balance}]", refusedShare),
		Entry("refuses Concurrency", "limits: [{requests: 1, algorithm: Concurrency}]", refusedShare),
		Entry("refuses Balance in an override",
			"descriptors: [{key: user}]\noverrides: [{match: [{key: user, value: b}], limits: [{requests: 1, algorithm: Balance}]}]\n"+oneLimit, refusedShare),
	)

	DescribeTable("burst is for TokenBucket only",
		func(ctx context.Context, fields, wantRefusal string) {
			expectCreated(ctx, manifest("RateLimit", limit("window: 1m, requests: 10, "+fields)), wantRefusal)
		},
		Entry("accepts it for TokenBucket", "algorithm: TokenBucket, burst: 20", ""),
		Entry("accepts 1", "algorithm: TokenBucket, burst: 1", ""),
		Entry("accepts 2^53-1", "algorithm: TokenBucket, burst: 9007199254740991", ""),
		Entry("refuses 0", "algorithm: TokenBucket, burst: 0", "should be greater than or equal to 1"),
		Entry("refuses 2^53", "algorithm: TokenBucket, burst: 9007199254740992", "should be less than or equal to 9007199254740991"),
		Entry("refuses it for FixedWindow", "algorithm: FixedWindow, burst: 20", refusedBurst),
		Entry("refuses it for SlidingLog", "algorithm: SlidingLog, burst: 20", refusedBurst),
		Entry("refuses it where SlidingLog is the default", "burst: 20", refusedBurst),
	)

	DescribeTable("each algorithm has the times that belong to it",
		func(ctx context.Context, fields, wantRefusal string) {
			expectCreated(ctx, manifest("RateLimit", limit("requests: 10, "+fields)), wantRefusal)
		},
		Entry("accepts a window for SlidingCounter", "algorithm: SlidingCounter, window: 1m", ""),
		Entry("refuses SlidingCounter without", "algorithm: SlidingCounter", refusedNoWindow),
		Entry("refuses SlidingLog without", "algorithm: SlidingLog", refusedNoWindow),
		Entry("refuses the default algorithm without", "name: a", refusedNoWindow),
		Entry("refuses TokenBucket without", "algorithm: TokenBucket", refusedNoWindow),
		Entry("refuses FixedWindow without", "algorithm: FixedWindow", refusedNoWindow),
		Entry("accepts Concurrency without", "algorithm: Concurrency", ""),
		Entry("refuses Concurrency with", "algorithm: Concurrency, window: 1m", refusedNeitherWindow),
		Entry("accepts Balance without", "algorithm: Balance", ""),
		Entry("refuses Balance with", "algorithm: Balance, window: 1m", refusedNeitherWindow),
		Entry("accepts a calendar of minutes", "algorithm: FixedWindow, calendar: Minute", ""),
		Entry("accepts a calendar of hours", "algorithm: FixedWindow, calendar: Hour", ""),
		Entry("accepts a calendar of days", "algorithm: FixedWindow, calendar: Day", ""),
		Entry("accepts a calendar of weeks", "algorithm: FixedWindow, calendar: Week", ""),
		Entry("accepts a calendar of months", "algorithm: FixedWindow, calendar: Month", ""),
		Entry("refuses a calendar of years", "algorithm: FixedWindow, calendar: Year", `Unsupported value: "Year"`),
		Entry("refuses a calendar and a window", "algorithm: FixedWindow, calendar: Day, window: 24h", refusedBothWindows),
		Entry("refuses a calendar for SlidingLog", "calendar: Day", refusedCalendar),
		Entry("refuses a calendar for SlidingCounter", "algorithm: SlidingCounter, calendar: Day", refusedCalendar),
		Entry("refuses a calendar for TokenBucket", "algorithm: TokenBucket, calendar: Day", refusedCalendar),
		Entry("refuses a calendar for Concurrency", "algorithm: Concurrency, calendar: Day", refusedCalendar),
		Entry("refuses a calendar for Balance", "algorithm: Balance, calendar: Day", refusedCalendar),
		Entry("accepts a time zone of a calendar", "algorithm: FixedWindow, calendar: Day, timeZone: Europe/Berlin", ""),
		Entry("accepts UTC", "algorithm: FixedWindow, calendar: Day, timeZone: UTC", ""),
		Entry("accepts 64 characters, which the operator refuses", "algorithm: FixedWindow, calendar: Day, timeZone: "+strings.Repeat("z", 64), ""),
		Entry("refuses 65 characters", "algorithm: FixedWindow, calendar: Day, timeZone: "+strings.Repeat("z", 65), "Too long: may not be more than 64 bytes"),
		Entry("refuses Local", "algorithm: FixedWindow, calendar: Day, timeZone: Local", refusedLocal),
		Entry("refuses an empty time zone", `algorithm: FixedWindow, calendar: Day, timeZone: ""`, "should be at least 1 chars long"),
		Entry("refuses a time zone of a window", "algorithm: FixedWindow, window: 24h, timeZone: Europe/Berlin", refusedTimeZone),
		Entry("accepts the shortest slotTTL", "algorithm: Concurrency, slotTTL: 100ms", ""),
		Entry("accepts the longest slotTTL", "algorithm: Concurrency, slotTTL: 744h", ""),
		Entry("refuses a shorter slotTTL", "algorithm: Concurrency, slotTTL: 99ms", refusedSlotTTL),
		Entry("refuses a longer slotTTL", "algorithm: Concurrency, slotTTL: 745h", refusedSlotTTL),
		Entry("refuses a slotTTL in days", "algorithm: Concurrency, slotTTL: 1d", refusedDuration),
		Entry("refuses a slotTTL for SlidingLog", "window: 1m, slotTTL: 1m", refusedSlotTTLOf),
		Entry("refuses a slotTTL for Balance", "algorithm: Balance, slotTTL: 1m", refusedSlotTTLOf),
	)

	DescribeTable("each algorithm takes the requests that it can count",
		func(ctx context.Context, fields, wantRefusal string) {
			expectCreated(ctx, manifest("RateLimit", limit(fields)), wantRefusal)
		},
		Entry("accepts 2^33 for SlidingCounter", "algorithm: SlidingCounter, window: 1m, requests: 8589934592", ""),
		Entry("refuses 2^33+1 for SlidingCounter", "algorithm: SlidingCounter, window: 1m, requests: 8589934593", refusedCounter),
		Entry("accepts 100000 slots", "algorithm: Concurrency, requests: 100000", ""),
		Entry("accepts no slots", "algorithm: Concurrency, requests: 0", ""),
		Entry("refuses 100001 slots", "algorithm: Concurrency, requests: 100001", refusedSlots),
		Entry("accepts 2^53-1 for Balance", "algorithm: Balance, requests: 9007199254740991", ""),
		Entry("accepts 2^53-1 for a calendar", "algorithm: FixedWindow, calendar: Day, requests: 9007199254740991", ""),
	)

	DescribeTable("a Concurrency is the only limit",
		func(ctx context.Context, limits, wantRefusal string) {
			expectCreated(ctx, manifest("RateLimit", "limits: ["+limits+"]"), wantRefusal)
		},
		Entry("accepts it alone", "{requests: 1, algorithm: Concurrency}", ""),
		Entry("refuses it first of two", "{name: a, requests: 1, algorithm: Concurrency}, {requests: 1, window: 1m}", refusedNotAlone),
		Entry("refuses it second of two", "{requests: 1, window: 1m}, {name: a, requests: 1, algorithm: Concurrency}", refusedNotAlone),
		Entry("refuses two of them", "{name: a, requests: 1, algorithm: Concurrency}, {requests: 1, algorithm: Concurrency}", refusedNotAlone),
	)

	DescribeTable("shared is for a value with a wildcard",
		func(ctx context.Context, descriptor, wantRefusal string) {
			expectCreated(ctx, manifest("RateLimit", "descriptors: [{key: path, "+descriptor+"}]\n"+oneLimit), wantRefusal)
		},
		Entry("accepts it for a prefix", `value: "/search*", shared: true`, ""),
		Entry("accepts it for all values", `value: "*", shared: true`, ""),
		Entry("accepts false for an exact value", "value: /search, shared: false", ""),
		Entry("accepts false without a value", "shared: false", ""),
		Entry("refuses it for an exact value", "value: /search, shared: true", refusedShared),
		Entry("refuses it without a value", "shared: true", refusedShared),
	)

	DescribeTable("overrides",
		func(ctx context.Context, overrides, wantRefusal string) {
			expectCreated(ctx, manifest("RateLimit", "descriptors: [{key: user}, {key: path}]\noverrides: ["+overrides+"]\n"+oneLimit), wantRefusal)
		},
		Entry("accepts none", "", ""),
		Entry("accepts limits", "{match: [{key: user, value: a}], limits: [{requests: 1, window: 1m}]}", ""),
		Entry("accepts limits and unlimited: false", "{match: [{key: user, value: a}], limits: [{requests: 1, window: 1m}], unlimited: false}", ""),
		Entry("accepts unlimited", "{match: [{key: user, value: a}], unlimited: true}", ""),
		Entry("accepts both keys", "{match: [{key: path, value: /a}, {key: user, value: a*}], unlimited: true}", ""),
		Entry("accepts 8 limits", "{match: [{key: user, value: a}], limits: ["+limits(8)+"]}", ""),
		Entry("accepts 100", strings.Repeat("{match: [{key: user, value: a}], limits: ["+limits(8)+"]},", 100), ""),
		Entry("accepts 100 with the longest patterns",
			strings.Repeat(`{match: [{key: user, value: "`+strings.Repeat("*", 8)+strings.Repeat("a", 248)+`"}, {key: path, value: "`+strings.Repeat("b", 256)+`"}], unlimited: true},`, 100), ""),
		Entry("refuses 101", strings.Repeat("{match: [{key: user, value: a}], unlimited: true},", 101), "must have at most 100 items"),
		Entry("refuses neither limits nor unlimited", "{match: [{key: user, value: a}]}", refusedOverride),
		Entry("refuses unlimited: false", "{match: [{key: user, value: a}], unlimited: false}", refusedOverride),
		Entry("refuses limits and unlimited", "{match: [{key: user, value: a}], limits: [{requests: 1, window: 1m}], unlimited: true}", refusedOverride),
		Entry("refuses no match", "{unlimited: true}", "match: Required value"),
		Entry("refuses an empty match", "{match: [], unlimited: true}", "should have at least 1 items"),
		Entry("refuses a match without value", "{match: [{key: user}], unlimited: true}", "value: Required value"),
		Entry("refuses a match with an empty value", `{match: [{key: user, value: ""}], unlimited: true}`, "should be at least 1 chars long"),
		Entry("refuses a match of one key twice", "{match: [{key: user, value: a}, {key: user, value: b}], unlimited: true}", "Duplicate value"),
		Entry("refuses a key that is no descriptor's", "{match: [{key: tenant, value: a}], unlimited: true}", refusedOverrideKey),
		Entry("refuses 9 wildcards", `{match: [{key: user, value: "`+strings.Repeat("*a", 9)+`"}], unlimited: true}`, refusedWildcards),
		Entry("refuses two limits of one name", "{match: [{key: user, value: a}], limits: [{requests: 1, window: 1m}, {requests: 2, window: 2m}]}", "Duplicate value"),
		Entry("refuses a limit without window", "{match: [{key: user, value: a}], limits: [{requests: 1}]}", "spec.overrides[0].limits[0].window: Required value"),
		Entry("refuses a long SlidingLog", "{match: [{key: user, value: a}], limits: [{requests: 1001, window: 1m}]}", refusedSlidingLog),
		Entry("refuses Concurrency beside other limits", "{match: [{key: user, value: a}], limits: [{requests: 1, algorithm: Concurrency}]}", refusedOverrideLimits),
	)

	DescribeTable("overrides of a Concurrency are one too",
		func(ctx context.Context, limits, wantRefusal string) {
			expectCreated(ctx, manifest("RateLimit",
				"descriptors: [{key: user}]\nlimits: [{requests: 3, algorithm: Concurrency}]\noverrides: [{match: [{key: user, value: a}], "+limits+"}]"), wantRefusal)
		},
		Entry("accepts more slots", "limits: [{requests: 5, algorithm: Concurrency, slotTTL: 1h}]", ""),
		Entry("accepts unlimited", "unlimited: true", ""),
		Entry("refuses another algorithm", "limits: [{requests: 5, window: 1m}]", refusedOverrideLimits),
		Entry("refuses two limits", "limits: [{name: a, requests: 5, algorithm: Concurrency}, {requests: 5, window: 1m}]", refusedNotAlone),
	)

	It("refuses an override where there are no descriptors", func(ctx context.Context) {
		expectCreated(ctx, manifest("RateLimit", "overrides: [{match: [{key: user, value: a}], unlimited: true}]\n"+oneLimit), refusedOverrideKey)
	})

	DescribeTable("overrides do not match a shared descriptor",
		func(ctx context.Context, descriptors, match, wantRefusal string) {
			expectCreated(ctx, manifest("RateLimit", "descriptors: ["+descriptors+"]\noverrides: [{match: ["+match+"], unlimited: true}]\n"+oneLimit), wantRefusal)
		},
		Entry("accepts one of another descriptor", "{key: path, value: /a*, shared: true}, {key: user}", "{key: user, value: a}", ""),
		Entry("accepts one of shared: false", "{key: path, value: /a*, shared: false}, {key: user}", "{key: path, value: /a/b}", ""),
		Entry("refuses a value of it", "{key: path, value: /a*, shared: true}, {key: user}", "{key: path, value: /a/b}", refusedOverrideShared),
		Entry("refuses its own pattern", "{key: path, value: /a*, shared: true}, {key: user}", "{key: path, value: /a*}", refusedOverrideShared),
		Entry("refuses it beside another", "{key: user}, {key: path, value: /a*, shared: true}", "{key: user, value: a}, {key: path, value: /a/b}", refusedOverrideShared),
	)

	It("accepts 100 overrides of all descriptors but a shared one", func(ctx context.Context) {
		long := func(letter string) string { return strings.Repeat(letter, 255) }
		var descriptors, match strings.Builder
		for _, letter := range []string{"a", "b", "c", "d", "e", "f", "g"} {
			descriptors.WriteString("{key: " + long(letter) + "}, ")
			match.WriteString("{key: " + long(letter) + ", value: " + long("v") + "}, ")
		}
		expectCreated(ctx, manifest("RateLimit", "descriptors: ["+descriptors.String()+`{key: h, value: "*", shared: true}]`+
			"\noverrides: ["+strings.Repeat("{match: ["+match.String()+"], unlimited: true}, ", 100)+"]\n"+oneLimit), "")
	})

	DescribeTable("when and cost",
		func(ctx context.Context, spec, wantRefusal string) {
			expectCreated(ctx, manifest("RateLimit", spec+"\n"+oneLimit), wantRefusal)
		},
		Entry("accepts 8 conditions", `when: [`+strings.Repeat(`"true",`, 8)+`]`, ""),
		Entry("accepts a condition of 1024 characters", `when: ["'`+strings.Repeat("a", 1017)+`'!=''"]`, ""),
		Entry("accepts what only the operator refuses", `when: ["request.methud"]`, ""),
		Entry("refuses 9 conditions", `when: [`+strings.Repeat(`"true",`, 9)+`]`, "must have at most 8 items"),
		Entry("refuses an empty condition", `when: [""]`, "should be at least 1 chars long"),
		Entry("refuses a condition of 1025 characters", `when: ["'`+strings.Repeat("a", 1019)+`'!=''"]`, "Too long: may not be more than 1024 bytes"),
		Entry("refuses a boolean", `when: [true]`, `must be of type string: "boolean"`),
		Entry("accepts a cost of 1", "cost: 1", ""),
		Entry("accepts a cost of 2^31-1", "cost: 2147483647", ""),
		Entry("accepts an expression", `cost: "size(request.path)"`, ""),
		Entry("accepts an expression of 1024 characters", `cost: "size('`+strings.Repeat("a", 1016)+`')"`, ""),
		Entry("refuses a cost of 0", "cost: 0", refusedCost),
		Entry("refuses a cost of -1", "cost: -1", refusedCost),
		Entry("refuses a cost of 2^31", "cost: 2147483648", refusedCost),
		Entry("refuses the empty string", `cost: ""`, refusedCost),
		Entry("refuses an expression of 1025 characters", `cost: "size('`+strings.Repeat("a", 1017)+`')"`, "Too long: may not be more than 1024 bytes"),
		Entry("refuses a fraction", "cost: 1.5", "spec.cost in body must be of type"),
		Entry("refuses a boolean cost", "cost: true", "spec.cost in body must be of type"),
	)

	DescribeTable("mode, enforcePercent, penalty and response",
		func(ctx context.Context, spec, wantRefusal string) {
			expectCreated(ctx, manifest("RateLimit", spec+"\n"+oneLimit), wantRefusal)
		},
		Entry("accepts Shadow", "mode: Shadow", ""),
		Entry("accepts Shadow with a percentage", "mode: Shadow\nenforcePercent: 10", ""),
		Entry("refuses a mode that is not there", "mode: DryRun", `Unsupported value: "DryRun"`),
		Entry("accepts 0 percent", "enforcePercent: 0", ""),
		Entry("accepts 100 percent", "enforcePercent: 100", ""),
		Entry("refuses -1 percent", "enforcePercent: -1", "should be greater than or equal to 0"),
		Entry("refuses 101 percent", "enforcePercent: 101", "should be less than or equal to 100"),
		Entry("accepts a penalty", "penalty: {denials: 1, within: 100ms, for: 744h}", ""),
		Entry("accepts a penalty that doubles", "penalty: {denials: 1000000, within: 744h, for: 100ms, max: 744h}", ""),
		Entry("accepts max as long as for", "penalty: {denials: 1, within: 1m, for: 1h, max: 60m}", ""),
		Entry("refuses max shorter than for", "penalty: {denials: 1, within: 1m, for: 1h, max: 59m}", refusedMax),
		Entry("refuses 0 denials", "penalty: {denials: 0, within: 1m, for: 1m}", "should be greater than or equal to 1"),
		Entry("refuses 1000001 denials", "penalty: {denials: 1000001, within: 1m, for: 1m}", "should be less than or equal to 1000000"),
		Entry("refuses a penalty without denials", "penalty: {within: 1m, for: 1m}", "denials: Required value"),
		Entry("refuses a penalty without within", "penalty: {denials: 1, for: 1m}", "within: Required value"),
		Entry("refuses a penalty without for", "penalty: {denials: 1, within: 1m}", "for: Required value"),
		Entry("refuses a short within", "penalty: {denials: 1, within: 99ms, for: 1m}", "within must be from 100ms to 744h (31 days)"),
		Entry("refuses a long for", "penalty: {denials: 1, within: 1m, for: 745h}", "for must be from 100ms to 744h (31 days)"),
		Entry("refuses a long max", "penalty: {denials: 1, within: 1m, for: 1m, max: 745h}", "max must be from 100ms to 744h (31 days)"),
		Entry("refuses a for in days", "penalty: {denials: 1, within: 1m, for: 1d}", refusedDuration),
		Entry("refuses a max in days", "penalty: {denials: 1, within: 1m, for: 1m, max: 1d}", refusedDuration),
		Entry("accepts an empty response", "response: {}", ""),
		Entry("accepts a status of 400", "response: {status: 400}", ""),
		Entry("accepts a status of 599", "response: {status: 599}", ""),
		Entry("refuses a status of 399", "response: {status: 399}", "should be greater than or equal to 400"),
		Entry("refuses a status of 600", "response: {status: 600}", "should be less than or equal to 599"),
		Entry("accepts no headers", "response: {headers: []}", ""),
		Entry("accepts all headers", "response: {headers: [Legacy, RetryAfter, Draft]}", ""),
		Entry("refuses a header that is not there", "response: {headers: [Standard]}", `Unsupported value: "Standard"`),
		Entry("refuses a header twice", "response: {headers: [Draft, Draft]}", `Duplicate value: "Draft"`),
		Entry("accepts a problem", "response: {problem: {type: 'https://shop.example/p?a=b#c', title: Zu viel, detail: Später wieder}}", ""),
		Entry("accepts a relative type", "response: {problem: {type: ../problems/1}}", ""),
		Entry("refuses a type with spaces", "response: {problem: {type: too many}}", refusedProblemType),
		Entry("refuses a type beyond ASCII", "response: {problem: {type: /später}}", refusedProblemType),
		Entry("refuses a long type", "response: {problem: {type: "+strings.Repeat("t", 257)+"}}", "Too long: may not be more than 256 bytes"),
		Entry("refuses a long title", "response: {problem: {title: "+strings.Repeat("t", 257)+"}}", "Too long: may not be more than 256 bytes"),
		Entry("refuses a long detail", "response: {problem: {detail: "+strings.Repeat("t", 1025)+"}}", "Too long: may not be more than 1024 bytes"),
	)

	It("refuses a penalty of a Concurrency", func(ctx context.Context) {
		expectCreated(ctx, manifest("RateLimit",
			"limits: [{requests: 1, algorithm: Concurrency}]\npenalty: {denials: 1, within: 1m, for: 1m}"), refusedPenalty)
	})

	DescribeTable("a descriptor's value holds at most 8 wildcards",
		func(ctx context.Context, value, wantRefusal string) {
			expectCreated(ctx, manifest("RateLimit", `descriptors: [{key: path, value: "`+value+`"}]`+"\n"+oneLimit), wantRefusal)
		},
		Entry("accepts none", "/api", ""),
		Entry("accepts one", "/api/*", ""),
		Entry("accepts 8", strings.Repeat("*a", 8), ""),
		Entry("accepts 8 in 256 characters", strings.Repeat("*", 8)+strings.Repeat("a", 248), ""),
		Entry("refuses 9", strings.Repeat("*a", 9), refusedWildcards),
		Entry("refuses nothing but wildcards", strings.Repeat("*", 256), refusedWildcards),
		Entry("refuses the empty string", "", "should be at least 1 chars long"),
		Entry("refuses 257 characters", strings.Repeat("v", 257), "Too long: may not be more than 256 bytes"),
	)

	DescribeTable("sizes are bounded",
		func(ctx context.Context, spec, wantRefusal string) {
			expectCreated(ctx, manifest("RateLimit", spec), wantRefusal)
		},
		Entry("accepts no descriptors", "descriptors: []\n"+oneLimit, ""),
		Entry("accepts 8 descriptors", "descriptors: ["+strings.Repeat("{key: k},", 8)+"]\n"+oneLimit, ""),
		Entry("refuses 9 descriptors", "descriptors: ["+strings.Repeat("{key: k},", 9)+"]\n"+oneLimit, "must have at most 8 items"),
		Entry("accepts a key of 256 characters", "descriptors: [{key: "+strings.Repeat("k", 256)+"}]\n"+oneLimit, ""),
		Entry("refuses a key of 257 characters", "descriptors: [{key: "+strings.Repeat("k", 257)+"}]\n"+oneLimit, "Too long: may not be more than 256 bytes"),
		Entry("refuses an empty key", `descriptors: [{key: ""}]`+"\n"+oneLimit, "should be at least 1 chars long"),
		Entry("refuses a descriptor without key", "descriptors: [{value: a}]\n"+oneLimit, "key: Required value"),
		Entry("accepts 8 limits", "limits: ["+limits(8)+"]", ""),
		Entry("refuses 9 limits", "limits: ["+limits(9)+"]", "must have at most 8 items"),
		Entry("refuses no limits", "limits: []", "should have at least 1 items"),
		Entry("refuses a spec without limits", "domain: a", "limits: Required value"),
		Entry("refuses two limits of one name", "limits: [{name: a, requests: 1, window: 1m}, {name: a, requests: 2, window: 2m}]", "Duplicate value"),
		Entry("refuses two limits without a name", "limits: [{requests: 1, window: 1m}, {requests: 2, window: 2m}]", "Duplicate value"),
		Entry("accepts a limit name of 63 characters", limit("requests: 1, window: 1m, name: "+strings.Repeat("n", 63)), ""),
		Entry("refuses a limit name of 64 characters", limit("requests: 1, window: 1m, name: "+strings.Repeat("n", 64)), "Too long: may not be more than 63 bytes"),
		Entry("refuses a limit name with capitals", limit("requests: 1, window: 1m, name: PerMinute"), refusedLimitName),
		Entry("refuses a limit name that ends with a hyphen", limit("requests: 1, window: 1m, name: per-"), refusedLimitName),
		Entry("refuses a limit name with a colon", limit(`requests: 1, window: 1m, name: "a:b"`), refusedLimitName),
		Entry("accepts a domain of 256 characters", "domain: "+strings.Repeat("d", 256)+"\n"+oneLimit, ""),
		Entry("refuses a domain of 257 characters", "domain: "+strings.Repeat("d", 257)+"\n"+oneLimit, "Too long: may not be more than 256 bytes"),
		Entry("refuses an empty domain", `domain: ""`+"\n"+oneLimit, "should be at least 1 chars long"),
		Entry("accepts a store of another namespace", "storeRef: {name: a.b, namespace: other}\n"+oneLimit, ""),
		Entry("refuses a store without name", "storeRef: {namespace: other}\n"+oneLimit, "storeRef.name: Required value"),
		Entry("refuses a store name with capitals", "storeRef: {name: Default}\n"+oneLimit, refusedStoreName),
		Entry("refuses a store name that ends with a dot", "storeRef: {name: default.}\n"+oneLimit, refusedStoreName),
		Entry("refuses a store's namespace with a dot", "storeRef: {name: a, namespace: shop.example}\n"+oneLimit, refusedNamespace),
		Entry("refuses a store's namespace that begins with a hyphen", "storeRef: {name: a, namespace: -shop}\n"+oneLimit, refusedNamespace),
		Entry("refuses a failure mode that is not there", "onStoreFailure: Maybe\n"+oneLimit, `Unsupported value: "Maybe": supported values: "Allow", "Deny", "LocalShare"`),
		Entry("refuses a field that is not there", "limit: 1\n"+oneLimit, `unknown field "spec.limit"`),
		Entry("refuses a field that is not there in a list", limit("requests: 1, window: 1m, per: user"), `unknown field "spec.limits[0].per"`),
	)

	DescribeTable("storeRef and domain are immutable",
		func(ctx context.Context, before, after, wantRefusal string) {
			expectUpdated(ctx, "RateLimit", before+"\n"+oneLimit, after+"\nlimits: [{requests: 200, window: 2m}]", wantRefusal)
		},
		Entry("accepts neither before nor after", "", "", ""),
		Entry("accepts the same storeRef", "storeRef: {name: a}", "storeRef: {name: a}", ""),
		Entry("refuses to add storeRef", "", "storeRef: {name: a}", refusedStoreRef),
		Entry("refuses to remove storeRef", "storeRef: {name: a}", "", refusedStoreRef),
		Entry("refuses another store", "storeRef: {name: a}", "storeRef: {name: b}", refusedStoreRef),
		Entry("refuses to add the store's namespace", "storeRef: {name: a}", "storeRef: {name: a, namespace: shop}", refusedStoreRef),
		Entry("refuses to remove the store's namespace", "storeRef: {name: a, namespace: shop}", "storeRef: {name: a}", refusedStoreRef),
		Entry("refuses another namespace", "storeRef: {name: a, namespace: b}", "storeRef: {name: a, namespace: c}", refusedStoreRef),
		Entry("accepts the same domain", "domain: a", "domain: a", ""),
		Entry("refuses to add domain", "", "domain: a", refusedDomain),
		Entry("refuses to remove domain", "domain: a", "", refusedDomain),
		Entry("refuses another domain", "domain: a", "domain: b", refusedDomain),
	)

	It("accepts every change of what is not immutable", func(ctx context.Context) {
		expectUpdated(ctx, "RateLimit",
			"descriptors: [{key: a}]\nlimits: [{requests: 1, window: 1m}]",
			"descriptors: [{key: b, value: c}]\nonStoreFailure: Deny\nlimits: [{name: other, requests: 5000, window: 1h, algorithm: TokenBucket, burst: 3}]", "")
	})

	It("fills in the defaults", func(ctx context.Context) {
		object := manifest("RateLimit", oneLimit)
		expectCreated(ctx, object, "")
		var stored v1.RateLimit
		Expect(api.Get(ctx, client.ObjectKeyFromObject(object), &stored)).To(Succeed())
		Expect(stored.Spec).To(Equal(v1.RateLimitSpec{
			Limits:         []v1.Limit{{Name: "default", Requests: ptr.To[int64](100), Window: "1m", Algorithm: v1.AlgorithmSlidingLog}},
			Cost:           new(intstr.FromInt32(1)),
			Mode:           v1.ModeEnforce,
			EnforcePercent: ptr.To[int32](100),
			OnStoreFailure: v1.FailureModeAllow,
		}))
	})

	It("fills in the defaults of a response and of overrides", func(ctx context.Context) {
		object := manifest("RateLimit", "descriptors: [{key: user}]\nresponse: {}\noverrides: [{match: [{key: user, value: a}], limits: [{requests: 1, window: 1m}]}]\n"+oneLimit)
		expectCreated(ctx, object, "")
		var stored v1.RateLimit
		Expect(api.Get(ctx, client.ObjectKeyFromObject(object), &stored)).To(Succeed())
		Expect(stored.Spec.Response).To(Equal(&v1.Response{
			Status: 429, Headers: &[]v1.ResponseHeader{v1.ResponseHeaderDraft, v1.ResponseHeaderRetryAfter},
		}))
		Expect(stored.Spec.Overrides[0].Limits).To(Equal([]v1.Limit{
			{Name: "default", Requests: ptr.To[int64](1), Window: "1m", Algorithm: v1.AlgorithmSlidingLog},
		}))
	})

	// A zero must survive the Go type: left out, it would be refused, or become something else.
	It("keeps what is zero or empty when it is written by the Go type", func(ctx context.Context) {
		rl := &v1.RateLimit{Spec: v1.RateLimitSpec{
			Limits:         []v1.Limit{{Requests: ptr.To[int64](0), Window: "1m"}},
			EnforcePercent: ptr.To[int32](0),
			Response:       &v1.Response{Headers: &[]v1.ResponseHeader{}},
		}}
		rl.Namespace, rl.GenerateName = namespace, "zero-"
		Expect(api.Create(ctx, rl)).To(Succeed())
		DeferCleanup(api.Delete, rl)
		Expect(rl.Spec.Limits[0].Requests).To(HaveValue(BeZero()))
		Expect(rl.Spec.EnforcePercent).To(HaveValue(BeZero()))
		Expect(rl.Spec.Response.Headers).To(HaveValue(BeEmpty()))
	})

	It("leaves status to its subresource", func(ctx context.Context) {
		object := manifest("RateLimit", oneLimit)
		object.Object["status"] = map[string]any{"summary": "mine"}
		expectCreated(ctx, object, "")
		var stored v1.RateLimit
		Expect(api.Get(ctx, client.ObjectKeyFromObject(object), &stored)).To(Succeed())
		Expect(stored.Status).To(BeZero())

		stored.Status.Summary = "theirs"
		stored.Status.StoreRef = &v1.StoreReference{Name: "default", Namespace: namespace}
		Expect(api.Status().Update(ctx, &stored)).To(Succeed())
		spec := stored.Spec.DeepCopy()
		stored.Spec.Domain = "refused if it were looked at"
		Expect(api.Status().Update(ctx, &stored)).To(Succeed())
		Expect(stored.Spec).To(Equal(*spec))
		Expect(stored.Status.Summary).To(Equal("theirs"))
	})
})

// limits gives n limits of different names, in YAML's flow style.
func limits(n int) string {
	var list strings.Builder
	for i := range n {
		list.WriteString("{name: n" + string(rune('a'+i)) + ", requests: 1, window: 1m},")
	}
	return list.String()
}
