package translate_test

import (
	"strings"
	"testing"
	"time"

	v1 "github.com/penstock-dev/penstock/api/v1"
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

func TestRedisStoreThatBypassedValidationIsRefusedWithFieldAndRemedy(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*v1.RedisStoreSpec)
		want   []string
	}{
		"no address":     {func(s *v1.RedisStoreSpec) { s.Addresses = nil }, []string{"spec.addresses", "exactly one address"}},
		"two addresses":  {func(s *v1.RedisStoreSpec) { s.Addresses = []string{"a:1", "b:1"} }, []string{"spec.addresses", "exactly one address"}},
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
