package v1_test

import (
	"context"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
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
	refusedSlidingLog = "SlidingLog keeps one entry per request, so requests may be at most 1000; use algorithm FixedWindow or TokenBucket for more"
	refusedBurst      = "burst is for algorithm TokenBucket only; remove burst or set algorithm: TokenBucket"
	refusedWildcards  = "value may hold at most 8 wildcards (*); use a shorter pattern"
	refusedStoreRef   = "storeRef is immutable; create a new object to use another store"
	refusedDomain     = "domain is immutable; create a new object to answer for another domain"
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
		Entry("refuses an algorithm that is not there", "requests: 1, algorithm: LeakyBucket", `Unsupported value: "LeakyBucket"`),
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
		Entry("refuses a failure mode that is not there", "onStoreFailure: Maybe\n"+oneLimit, `Unsupported value: "Maybe": supported values: "Allow", "Deny"`),
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
			OnStoreFailure: v1.FailureModeAllow,
		}))
	})

	// A zero must survive the Go type: left out, it would be refused, or become something else.
	It("keeps requests: 0 when it is written by the Go type", func(ctx context.Context) {
		rl := &v1.RateLimit{Spec: v1.RateLimitSpec{Limits: []v1.Limit{{Requests: ptr.To[int64](0), Window: "1m"}}}}
		rl.Namespace, rl.GenerateName = namespace, "zero-"
		Expect(api.Create(ctx, rl)).To(Succeed())
		DeferCleanup(api.Delete, rl)
		Expect(rl.Spec.Limits[0].Requests).To(HaveValue(BeZero()))
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
