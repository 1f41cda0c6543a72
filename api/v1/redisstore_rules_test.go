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
	refusedMajority   = "topology Independent takes 3, 5 or 7 addresses, so that there is a majority of them; add or remove some"
	refusedNoSentinel = "topology Sentinel needs sentinel.masterName; add the name by which the Sentinels know the primary"
	refusedSentinel   = "sentinel is for topology Sentinel only; remove it, or create a RedisStore with that topology"
	refusedMasterName = "want the name that the Sentinels monitor: letters, digits, hyphens, dots and underscores, such as mymaster"
	refusedSecretKey  = "want the key of a Secret: letters, digits, hyphens, dots and underscores, such as ca.crt"
	refusedServerName = "want the name or address that the certificates are for, without a port, such as redis.shop.svc"
	refusedSkipped    = "insecureSkipVerify checks no certificate, so that caSecretRef has no effect; remove one of them"
	refusedTopology   = "topology is immutable; create a new RedisStore"
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

	DescribeTable("each topology takes its addresses",
		func(ctx context.Context, spec, wantRefusal string) {
			expectCreated(ctx, manifest("RedisStore", spec), wantRefusal)
		},
		Entry("accepts one", `addresses: ["a:1"]`, ""),
		Entry("refuses two", `addresses: ["a:1", "b:1"]`, refusedStandalone),
		Entry("accepts one Sentinel", "topology: Sentinel\nsentinel: {masterName: m}\n"+oneAddress, ""),
		Entry("accepts 32 Sentinels", "topology: Sentinel\nsentinel: {masterName: m}\naddresses: ["+addresses(32)+"]", ""),
		Entry("accepts one node of a Cluster", "topology: Cluster\n"+oneAddress, ""),
		Entry("accepts 32 nodes of a Cluster", "topology: Cluster\naddresses: ["+addresses(32)+"]", ""),
		Entry("refuses 1 Independent", "topology: Independent\n"+oneAddress, refusedMajority),
		Entry("accepts 3 Independent", "topology: Independent\naddresses: ["+addresses(3)+"]", ""),
		Entry("refuses 4 Independent", "topology: Independent\naddresses: ["+addresses(4)+"]", refusedMajority),
		Entry("accepts 5 Independent", "topology: Independent\naddresses: ["+addresses(5)+"]", ""),
		Entry("accepts 7 Independent", "topology: Independent\naddresses: ["+addresses(7)+"]", ""),
		Entry("refuses 9 Independent", "topology: Independent\naddresses: ["+addresses(9)+"]", refusedMajority),
		Entry("refuses none", "addresses: []", "should have at least 1 items"),
		Entry("refuses a spec without addresses", "topology: Standalone", "addresses: Required value"),
		Entry("refuses one twice", `addresses: ["a:1", "a:1"]`, "Duplicate value"),
		Entry("refuses 33", "addresses: ["+addresses(33)+"]", "must have at most 32 items"),
		Entry("refuses a topology that is not there", "topology: Ring\n"+oneAddress, `Unsupported value: "Ring": supported values: "Standalone", "Sentinel", "Cluster", "Independent"`),
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

	DescribeTable("sentinel is for topology Sentinel",
		func(ctx context.Context, spec, wantRefusal string) {
			expectCreated(ctx, manifest("RedisStore", oneAddress+"\n"+spec), wantRefusal)
		},
		Entry("accepts the name of the primary", "topology: Sentinel\nsentinel: {masterName: my-master.0_a}", ""),
		Entry("accepts a Secret for the Sentinels", "topology: Sentinel\nsentinel: {masterName: m, auth: {secretRef: {name: s}}}", ""),
		Entry("refuses none", "topology: Sentinel", refusedNoSentinel),
		Entry("refuses no name", "topology: Sentinel\nsentinel: {}", "sentinel.masterName: Required value"),
		Entry("refuses an empty name", "topology: Sentinel\nsentinel: {masterName: ''}", "should be at least 1 chars long"),
		Entry("refuses a name in two words", "topology: Sentinel\nsentinel: {masterName: my master}", refusedMasterName),
		Entry("refuses 257 characters", "topology: Sentinel\nsentinel: {masterName: "+strings.Repeat("m", 257)+"}", "Too long: may not be more than 256 bytes"),
		Entry("refuses an auth without a Secret", "topology: Sentinel\nsentinel: {masterName: m, auth: {}}", "auth.secretRef: Required value"),
		Entry("refuses it with Standalone", "sentinel: {masterName: m}", refusedSentinel),
		Entry("refuses it with Cluster", "topology: Cluster\nsentinel: {masterName: m}", refusedSentinel),
	)

	DescribeTable("tls names Secrets, and whom certificates are for",
		func(ctx context.Context, tls, wantRefusal string) {
			expectCreated(ctx, manifest("RedisStore", oneAddress+"\ntls: "+tls), wantRefusal)
		},
		Entry("accepts that of the system", "{}", ""),
		Entry("accepts all", "{caSecretRef: {name: ca, key: ca.pem}, clientCertSecretRef: {name: me}, serverName: redis, insecureSkipVerify: false}", ""),
		Entry("accepts any certificate", "{insecureSkipVerify: true}", ""),
		Entry("refuses a CA that is not looked at", "{insecureSkipVerify: true, caSecretRef: {name: ca}}", refusedSkipped),
		Entry("refuses a CA without a name", "{caSecretRef: {}}", "tls.caSecretRef.name: Required value"),
		Entry("refuses a name that no Secret has", "{caSecretRef: {name: Ca}}", refusedSecretName),
		Entry("refuses a key that no Secret has", "{caSecretRef: {name: ca, key: a/b}}", refusedSecretKey),
		Entry("refuses an empty key", `{caSecretRef: {name: ca, key: ""}}`, "should be at least 1 chars long"),
		Entry("refuses 254 characters of a key", "{caSecretRef: {name: ca, key: "+strings.Repeat("k", 254)+"}}", "Too long: may not be more than 253 bytes"),
		Entry("refuses a client certificate without a name", "{clientCertSecretRef: {}}", "tls.clientCertSecretRef.name: Required value"),
		Entry("accepts an IPv6 address", `{serverName: "fd00::1"}`, ""),
		Entry("refuses a server name with a port", `{serverName: "redis:6379"}`, refusedServerName),
		Entry("refuses an empty server name", `{serverName: ""}`, "should be at least 1 chars long"),
		Entry("refuses 254 characters of a server name", "{serverName: "+strings.Repeat("s", 254)+"}", "Too long: may not be more than 253 bytes"),
		Entry("refuses a certificate in the spec", "{ca: PEM}", `unknown field "spec.tls.ca"`),
	)

	DescribeTable("topology is immutable",
		func(ctx context.Context, before, after, wantRefusal string) {
			expectUpdated(ctx, "RedisStore", before+oneAddress, after+`addresses: ["other:6379"]`, wantRefusal)
		},
		Entry("accepts the same", "topology: Standalone\n", "topology: Standalone\n", ""),
		Entry("accepts the default where it was given", "topology: Standalone\n", "", ""),
		Entry("accepts the default to be given", "", "topology: Standalone\n", ""),
		Entry("refuses another", "", "topology: Cluster\n", refusedTopology),
		Entry("refuses the default for another", "topology: Cluster\n", "", refusedTopology),
		Entry("refuses one that is not there", "", "topology: Ring\n", `Unsupported value: "Ring"`),
	)

	It("fills in the key of a CA", func(ctx context.Context) {
		object := manifest("RedisStore", oneAddress+"\ntls: {caSecretRef: {name: ca}}")
		expectCreated(ctx, object, "")
		var stored v1.RedisStore
		Expect(api.Get(ctx, client.ObjectKeyFromObject(object), &stored)).To(Succeed())
		Expect(stored.Spec.TLS.CASecretRef).To(Equal(&v1.SecretKeyReference{Name: "ca", Key: v1.SecretKeyCA}))
	})

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
