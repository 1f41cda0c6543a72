package translate_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/penstock-dev/penstock/api/v1"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/translate"
)

func store(change func(*v1.RedisStoreSpec)) *v1.RedisStore {
	rs := &v1.RedisStore{Spec: v1.RedisStoreSpec{Addresses: []string{"redis.shop.svc:6379"}}}
	if change != nil {
		change(&rs.Spec)
	}
	return rs
}

func TestRedisStoreDefaultsAreDerived(t *testing.T) {
	got, errs := translate.RedisStore(store(nil))
	if len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	if got.Topology != "Standalone" || got.Addresses[0] != "redis.shop.svc:6379" ||
		got.DialTimeout != time.Second || got.CommandTimeout != 10*time.Millisecond ||
		got.MinBackoff != 50*time.Millisecond || got.MaxBackoff != 2*time.Second {
		t.Errorf("got %+v", got)
	}
}

func TestRedisStoreTakesIPv6(t *testing.T) {
	if _, errs := translate.RedisStore(store(func(s *v1.RedisStoreSpec) { s.Addresses = []string{"[fd00::1]:6380"} })); len(errs) > 0 {
		t.Error(errs.ToAggregate())
	}
}

func TestRedisStoresOfEachTopologyAreCompiled(t *testing.T) {
	three := []string{"a:1", "b:1", "c:1"}
	for name, tt := range map[string]struct {
		change func(*v1.RedisStoreSpec)
		want   policy.RedisStore
	}{
		"Sentinel": {func(s *v1.RedisStoreSpec) {
			s.Topology, s.Addresses, s.Sentinel = v1.TopologySentinel, three, &v1.Sentinel{MasterName: "m"}
		}, policy.RedisStore{Topology: policy.TopologySentinel, Addresses: three, MasterName: "m"}},
		"Cluster over TLS": {func(s *v1.RedisStoreSpec) {
			s.Topology, s.Addresses, s.TLS = v1.TopologyCluster, three, &v1.TLS{ServerName: "redis"}
		}, policy.RedisStore{Topology: policy.TopologyCluster, Addresses: three, TLS: &policy.RedisStoreTLS{ServerName: "redis"}}},
		"Independent, to whomever answers": {func(s *v1.RedisStoreSpec) {
			s.Topology, s.Addresses, s.TLS = v1.TopologyIndependent, three, &v1.TLS{InsecureSkipVerify: new(true)}
		}, policy.RedisStore{Topology: policy.TopologyIndependent, Addresses: three, TLS: &policy.RedisStoreTLS{InsecureSkipVerify: true}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, errs := translate.RedisStore(store(tt.change))
			if len(errs) > 0 {
				t.Fatal(errs.ToAggregate())
			}
			got.DialTimeout, got.CommandTimeout, got.MinBackoff, got.MaxBackoff = 0, 0, 0, 0
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestRedisStoreThatBypassedValidationIsRefusedWithFieldAndRemedy(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*v1.RedisStoreSpec)
		want   []string
	}{
		"no address":    {func(s *v1.RedisStoreSpec) { s.Addresses = nil }, []string{"spec.addresses", "add the address of a server"}},
		"two addresses": {func(s *v1.RedisStoreSpec) { s.Addresses = []string{"a:1", "b:1"} }, []string{"spec.addresses", "exactly one address"}},
		"33 addresses": {func(s *v1.RedisStoreSpec) {
			s.Topology, s.Addresses = v1.TopologyCluster, slices.Repeat([]string{"a:1"}, 33)
		},
			[]string{"spec.addresses", "at most 32"}},
		"an even number of Independent": {func(s *v1.RedisStoreSpec) { s.Topology, s.Addresses = v1.TopologyIndependent, []string{"a:1", "b:1"} },
			[]string{"spec.addresses", "takes 3, 5 or 7 addresses"}},
		"the second address": {func(s *v1.RedisStoreSpec) { s.Topology, s.Addresses = v1.TopologyCluster, []string{"a:1", "b"} },
			[]string{"spec.addresses[1]", "want host:port"}},
		"Sentinel without a name": {func(s *v1.RedisStoreSpec) { s.Topology = v1.TopologySentinel },
			[]string{"spec.sentinel.masterName", "add the name by which the Sentinels know the primary"}},
		"a wrong name of the primary": {func(s *v1.RedisStoreSpec) {
			s.Topology, s.Sentinel = v1.TopologySentinel, &v1.Sentinel{MasterName: "my master"}
		}, []string{"spec.sentinel.masterName", "such as mymaster"}},
		"a sentinel without Sentinels": {func(s *v1.RedisStoreSpec) { s.Sentinel = &v1.Sentinel{MasterName: "m"} },
			[]string{"spec.sentinel", "for topology Sentinel only"}},
		"a Sentinel's secret without name": {func(s *v1.RedisStoreSpec) {
			s.Topology, s.Sentinel = v1.TopologySentinel, &v1.Sentinel{MasterName: "m", Auth: &v1.Auth{}}
		}, []string{"spec.sentinel.auth.secretRef.name", "or remove auth"}},
		"a CA without name": {func(s *v1.RedisStoreSpec) { s.TLS = &v1.TLS{CASecretRef: &v1.SecretKeyReference{}} },
			[]string{"spec.tls.caSecretRef.name", "or remove caSecretRef"}},
		"a wrong key of a CA": {func(s *v1.RedisStoreSpec) {
			s.TLS = &v1.TLS{CASecretRef: &v1.SecretKeyReference{Name: "ca", Key: "a/b"}}
		},
			[]string{"spec.tls.caSecretRef.key", "such as ca.crt"}},
		"a CA that is not looked at": {func(s *v1.RedisStoreSpec) {
			s.TLS = &v1.TLS{CASecretRef: &v1.SecretKeyReference{Name: "ca"}, InsecureSkipVerify: new(true)}
		}, []string{"spec.tls", "remove one of them"}},
		"a client certificate without name": {func(s *v1.RedisStoreSpec) { s.TLS = &v1.TLS{ClientCertSecretRef: &v1.LocalSecretReference{}} },
			[]string{"spec.tls.clientCertSecretRef.name", "or remove clientCertSecretRef"}},
		"a server name with a port": {func(s *v1.RedisStoreSpec) { s.TLS = &v1.TLS{ServerName: "redis:6379"} },
			[]string{"spec.tls.serverName", "without a port"}},
		"no port":        {func(s *v1.RedisStoreSpec) { s.Addresses = []string{"redis"} }, []string{"spec.addresses[0]", "want host:port"}},
		"port too large": {func(s *v1.RedisStoreSpec) { s.Addresses = []string{"redis:65536"} }, []string{"spec.addresses[0]", "1 to 65535"}},
		"a URL":          {func(s *v1.RedisStoreSpec) { s.Addresses = []string{"redis://redis:6379"} }, []string{"spec.addresses[0]", "want host:port"}},
		"long address": {func(s *v1.RedisStoreSpec) { s.Addresses = []string{strings.Repeat("a", 300) + ":1"} },
			[]string{"spec.addresses[0]: Too long"}},
		"unknown topology": {func(s *v1.RedisStoreSpec) { s.Topology = "Ring" }, []string{"spec.topology", `"Standalone"`}},
		"secret without name": {func(s *v1.RedisStoreSpec) { s.Auth = &v1.Auth{} },
			[]string{"spec.auth.secretRef.name", "or remove auth"}},
		"dial too short":   {func(s *v1.RedisStoreSpec) { s.Timeouts.Dial = "1ms" }, []string{"spec.timeouts.dial", "from 100ms to 30s"}},
		"command too long": {func(s *v1.RedisStoreSpec) { s.Timeouts.Command = "1m" }, []string{"spec.timeouts.command", "from 1ms to 10s"}},
		"backoff not a duration": {func(s *v1.RedisStoreSpec) { s.Reconnect.MinBackoff = "soon" },
			[]string{"spec.reconnect.minBackoff", "such as 250ms"}},
		"max backoff too long": {func(s *v1.RedisStoreSpec) { s.Reconnect.MaxBackoff = "1h" }, []string{"spec.reconnect.maxBackoff", "from 1ms to 10m"}},
		"min longer than max": {func(s *v1.RedisStoreSpec) { s.Reconnect.MinBackoff = "5s" },
			[]string{"spec.reconnect.minBackoff", "lower minBackoff or raise maxBackoff"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, errs := translate.RedisStore(store(tt.change))
			if len(errs) == 0 {
				t.Fatal("accepted")
			}
			got := errs.ToAggregate().Error()
			for _, part := range tt.want {
				if !strings.Contains(got, part) {
					t.Errorf("%q\nlacks %q", got, part)
				}
			}
		})
	}
}
