package v1_test

import (
	"context"
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "github.com/penstock-dev/penstock/api/v1"
)

const oneAddress = `addresses: ["redis:6379"]`

// Messages of the rules of RedisStore.
const (
	refusedStandalone = "topology Standalone takes exactly one address; remove the others"
	refusedPort       = "the port must be from 1 to 65535"
	refusedAddress    = "want host:port, such as redis.shop.svc:6379 or [fd00::1]:6379, without a scheme, credentials or database"
	refusedSecretName = "want the name of a Secret: lower-case letters, digits, hyphens and dots, with a letter or digit at both ends, such as redis-auth"
	refusedOrder      = "minBackoff must not be longer than maxBackoff; lower minBackoff or raise maxBackoff"
)

var _ = Describe("RedisStore", func() {
	DescribeTable("addresses are host:port",
		func(ctx context.Context, address, wantRefusal string) {
			expectCreated(ctx, manifest("RedisStore", `addresses: ["`+address+`"]`), wantRefusal)
		},
		Entry("accepts a name", "redis.shop.svc:6379", ""),
		Entry("accepts a short name", "r:1", ""),
		Entry("accepts IPv4", "10.0.0.1:6379", ""),
		Entry("accepts IPv6", "[fd00::1]:6379", ""),
		Entry("accepts the highest port", "redis:65535", ""),
		Entry("refuses one port more", "redis:65536", refusedPort),
		Entry("refuses one port more with IPv6", "[fd00::1]:65536", refusedPort),
		Entry("refuses port 0", "redis:0", refusedAddress),
		Entry("refuses six digits", "redis:100000", refusedAddress),
		Entry("refuses no port", "redis", refusedAddress),
		Entry("refuses no host", ":6379", refusedAddress),
		Entry("refuses IPv6 without brackets", "fd00::1:6379", refusedAddress),
		Entry("refuses a URL", "redis://redis:6379", refusedAddress),
		Entry("refuses credentials", "user:password@redis:6379", refusedAddress),
		Entry("refuses a list in one string", "a:1,b:2", refusedAddress),
		Entry("refuses a database", "redis:6379/1", refusedAddress),
		Entry("refuses spaces", " redis:6379", refusedAddress),
		Entry("refuses a port that is a word", "redis:redis", refusedAddress),
		Entry("refuses IPv6 without a port", "[fd00::1]", refusedAddress),
		Entry("refuses two characters", ":1", "should be at least 3 chars long"),
		Entry("accepts 256 characters", strings.Repeat("r", 251)+":6379", ""),
		Entry("refuses 257 characters", strings.Repeat("r", 252)+":6379", "Too long: may not be more than 256 bytes"),
	)

	DescribeTable("Standalone takes one address",
		func(ctx context.Context, spec, wantRefusal string) {
			expectCreated(ctx, manifest("RedisStore", spec), wantRefusal)
		},
		Entry("accepts one", `addresses: ["a:1"]`, ""),
		Entry("refuses two", `addresses: ["a:1", "b:1"]`, refusedStandalone),
		Entry("refuses none", "addresses: []", "should have at least 1 items"),
		Entry("refuses a spec without addresses", "topology: Standalone", "addresses: Required value"),
		Entry("refuses one twice", `addresses: ["a:1", "a:1"]`, "Duplicate value"),
		Entry("refuses 33", "addresses: ["+addresses(33)+"]", "must have at most 32 items"),
		Entry("refuses a topology that is not there", "topology: Ring\n"+oneAddress, `Unsupported value: "Ring": supported values: "Standalone"`),
	)

	DescribeTable("durations have bounds",
		func(ctx context.Context, field, value, wantRefusal string) {
			parent, child, _ := strings.Cut(field, ".")
			expectCreated(ctx, manifest("RedisStore", fmt.Sprintf("%s\n%s: {%s: %s}", oneAddress, parent, child, value)), wantRefusal)
		},
		Entry("accepts the shortest dial", "timeouts.dial", "100ms", ""),
		Entry("accepts the longest dial", "timeouts.dial", "30s", ""),
		Entry("refuses a shorter dial", "timeouts.dial", "99ms", "dial must be from 100ms to 30s"),
		Entry("refuses a longer dial", "timeouts.dial", "30s1ms", "dial must be from 100ms to 30s"),
		Entry("refuses a dial in days", "timeouts.dial", "1d", refusedDuration),
		Entry("refuses an empty dial", "timeouts.dial", `""`, "should be at least 2 chars long"),
		Entry("accepts the shortest command", "timeouts.command", "1ms", ""),
		Entry("accepts the longest command", "timeouts.command", "10s", ""),
		Entry("refuses a shorter command", "timeouts.command", "0ms", "command must be from 1ms to 10s"),
		Entry("refuses a longer command", "timeouts.command", "10s1ms", "command must be from 1ms to 10s"),
		Entry("accepts the shortest minBackoff", "reconnect.minBackoff", "1ms", ""),
		Entry("refuses a shorter minBackoff", "reconnect.minBackoff", "0s", "minBackoff must be from 1ms to 1m"),
		Entry("accepts the longest maxBackoff", "reconnect.maxBackoff", "10m", ""),
		Entry("refuses a longer maxBackoff", "reconnect.maxBackoff", "10m1s", "maxBackoff must be from 1ms to 10m"),
		Entry("refuses a shorter maxBackoff", "reconnect.maxBackoff", "0s", "maxBackoff must be from 1ms to 10m"),
	)

	DescribeTable("minBackoff is not longer than maxBackoff",
		func(ctx context.Context, reconnect, wantRefusal string) {
			expectCreated(ctx, manifest("RedisStore", oneAddress+"\nreconnect: "+reconnect), wantRefusal)
		},
		Entry("accepts neither", "{}", ""),
		Entry("accepts both the same", "{minBackoff: 1s, maxBackoff: 1000ms}", ""),
		Entry("accepts the longest minBackoff", "{minBackoff: 1m, maxBackoff: 1m}", ""),
		Entry("refuses a longer minBackoff than its bound", "{minBackoff: 61s, maxBackoff: 10m}", "minBackoff must be from 1ms to 1m"),
		Entry("refuses a minBackoff in days", "{minBackoff: 1d}", refusedDuration),
		Entry("refuses a maxBackoff in days", "{maxBackoff: 1d}", refusedDuration),
		Entry("refuses minBackoff above maxBackoff", "{minBackoff: 2s, maxBackoff: 1s}", refusedOrder),
		Entry("refuses minBackoff above the default of maxBackoff", "{minBackoff: 3s}", refusedOrder),
		Entry("refuses maxBackoff below the default of minBackoff", "{maxBackoff: 49ms}", refusedOrder),
	)

	DescribeTable("auth names a Secret",
		func(ctx context.Context, auth, wantRefusal string) {
			expectCreated(ctx, manifest("RedisStore", oneAddress+"\nauth: "+auth), wantRefusal)
		},
		Entry("accepts a name", "{secretRef: {name: redis}}", ""),
		Entry("refuses none", "{}", "auth.secretRef: Required value"),
		Entry("refuses an empty reference", "{secretRef: {}}", "auth.secretRef.name: Required value"),
		Entry("refuses an empty name", `{secretRef: {name: ""}}`, "should be at least 1 chars long"),
		Entry("refuses a name that no Secret has", "{secretRef: {name: Redis_Secret}}", refusedSecretName),
		Entry("refuses 254 characters", "{secretRef: {name: "+strings.Repeat("n", 254)+"}}", "Too long: may not be more than 253 bytes"),
		Entry("refuses a password in the spec", "{password: secret, secretRef: {name: redis}}", `unknown field "spec.auth.password"`),
		Entry("refuses another namespace's Secret", "{secretRef: {name: redis, namespace: other}}", `unknown field "spec.auth.secretRef.namespace"`),
	)

	// There is one topology so far, so that a change can only be to one that does not exist: both say no.
	DescribeTable("topology is immutable",
		func(ctx context.Context, before, after, wantRefusal string) {
			expectUpdated(ctx, "RedisStore", before+oneAddress, after+`addresses: ["other:6379"]`, wantRefusal)
		},
		Entry("accepts the same", "topology: Standalone\n", "topology: Standalone\n", ""),
		Entry("accepts the default where it was given", "topology: Standalone\n", "", ""),
		Entry("accepts the default to be given", "", "topology: Standalone\n", ""),
		Entry("refuses another", "", "topology: Ring\n", `Unsupported value: "Ring"`),
	)

	It("fills in the defaults", func(ctx context.Context) {
		object := manifest("RedisStore", oneAddress)
		expectCreated(ctx, object, "")
		var stored v1.RedisStore
		Expect(api.Get(ctx, client.ObjectKeyFromObject(object), &stored)).To(Succeed())
		Expect(stored.Spec).To(Equal(v1.RedisStoreSpec{
			Topology:  v1.TopologyStandalone,
			Addresses: []string{"redis:6379"},
			Timeouts:  v1.Timeouts{Dial: "1s", Command: "10ms"},
			Reconnect: v1.Reconnect{MinBackoff: "50ms", MaxBackoff: "2s"},
		}))
	})

	It("fills in the defaults beside what is given", func(ctx context.Context) {
		object := manifest("RedisStore", oneAddress+"\ntimeouts: {command: 20ms}\nreconnect: {maxBackoff: 5s}")
		expectCreated(ctx, object, "")
		var stored v1.RedisStore
		Expect(api.Get(ctx, client.ObjectKeyFromObject(object), &stored)).To(Succeed())
		Expect(stored.Spec.Timeouts).To(Equal(v1.Timeouts{Dial: "1s", Command: "20ms"}))
		Expect(stored.Spec.Reconnect).To(Equal(v1.Reconnect{MinBackoff: "50ms", MaxBackoff: "5s"}))
	})
})

// addresses gives n different ones, in YAML's flow style.
func addresses(n int) string {
	var list strings.Builder
	for i := range n {
		fmt.Fprintf(&list, "%q,", fmt.Sprintf("redis-%d:6379", i))
	}
	return list.String()
}
