package redisops

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/service/tlsfiles/tlstest"
)

func TestConfigForTakesEverythingFromTheStore(t *testing.T) {
	store := policy.RedisStore{
		Topology: policy.TopologySentinel, Addresses: []string{"redis:26379"}, MasterName: "main", DialTimeout: 3 * time.Second,
		CommandTimeout: 20 * time.Millisecond, MinBackoff: 5 * time.Second, MaxBackoff: 7 * time.Second,
		TLS: &policy.RedisStoreTLS{ServerName: "redis", InsecureSkipVerify: true},
	}
	secrets := Secrets{
		Username: "app", Password: "secret", SentinelUsername: "guard", SentinelPassword: "hidden",
		CA: []byte("ca"), ClientCert: []byte("cert"), ClientKey: []byte("key"),
	}
	want := Config{
		Topology: policy.TopologySentinel, Addresses: []string{"redis:26379"}, MasterName: "main",
		Username: "app", Password: "secret", SentinelUsername: "guard", SentinelPassword: "hidden",
		TLS:         &TLS{ServerName: "redis", InsecureSkipVerify: true, CA: []byte("ca"), ClientCert: []byte("cert"), ClientKey: []byte("key")},
		DialTimeout: 3 * time.Second, CommandTimeout: 20 * time.Millisecond, MinBackoff: 5 * time.Second, MaxBackoff: 7 * time.Second,
		Protocol: 2, MaxConnections: 64, MaxReplyBytes: 64 << 20,
	}
	if got := ConfigFor(store, secrets); !reflect.DeepEqual(got, want) {
		t.Errorf("ConfigFor = %+v, want %+v", got, want)
	}
	store.TLS = nil
	if got := ConfigFor(store, secrets); got.TLS != nil {
		t.Errorf("TLS = %+v, want none for a store without it", got.TLS)
	}
	if got := (Config{MinBackoff: time.Minute}).WithDefaults(); got.MaxBackoff != time.Minute {
		t.Errorf("MaxBackoff = %v, want at least MinBackoff", got.MaxBackoff)
	}
}

func TestOpenRefusesWhatCannotBeReachedAndNamesTheField(t *testing.T) {
	ca := tlstest.NewCA(t)
	pair, other := ca.Issue(t, "client"), ca.Issue(t, "other")
	one := []string{"a:1"}
	for name, tc := range map[string]struct {
		cfg       Config
		wantNamed string
	}{
		"no address":                   {Config{}, "addresses"},
		"two addresses for one server": {Config{Addresses: []string{"a:1", "b:1"}}, "addresses"},
		"no port":                      {Config{Addresses: []string{"a"}}, "addresses"},
		"port 0":                       {Config{Addresses: []string{"a:0"}}, "addresses"},
		"no host":                      {Config{Addresses: []string{":6379"}}, "addresses"},
		"an address twice":             {Config{Topology: policy.TopologyCluster, Addresses: []string{"a:1", "a:1"}}, "addresses"},
		"an unknown topology":          {Config{Topology: "Ring", Addresses: one}, "topology"},
		"Sentinel without a name":      {Config{Topology: policy.TopologySentinel, Addresses: one}, "masterName"},
		"a name without Sentinel":      {Config{Addresses: one, MasterName: "main"}, "masterName"},
		"a password without sentinels": {Config{Addresses: one, SentinelPassword: "secret"}, "sentinels"},
		"a user without a password":    {Config{Addresses: one, Username: "app"}, "password"},
		"a database of a Cluster":      {Config{Topology: policy.TopologyCluster, Addresses: one, DB: 1}, "db"},
		"a negative database":          {Config{Addresses: one, DB: -1}, "db"},
		"RESP4":                        {Config{Addresses: one, Protocol: 4}, "protocol"},
		"a negative timeout":           {Config{Addresses: one, DialTimeout: -1}, "timeouts"},
		"backoffs the wrong way round": {Config{Addresses: one, MinBackoff: time.Second, MaxBackoff: time.Millisecond}, "minBackoff"},
		"less than no connections":     {Config{Addresses: one, MaxConnections: -1}, "maxConnections"},
		"a CA that is none":            {Config{Addresses: one, TLS: &TLS{CA: []byte("secret")}}, "CA"},
		"a certificate without key":    {Config{Addresses: one, TLS: &TLS{ClientCert: pair.Cert}}, "client key"},
		"a key without certificate":    {Config{Addresses: one, TLS: &TLS{ClientKey: pair.Key}}, "client certificate"},
		"the key of another":           {Config{Addresses: one, TLS: &TLS{ClientCert: pair.Cert, ClientKey: other.Key}}, "client certificate and key"},
	} {
		t.Run(name, func(t *testing.T) {
			servers, err := Open(tc.cfg)
			if err == nil {
				_ = servers.Close()
				t.Fatal("opened")
			}
			if !errors.Is(err, ErrMisconfigured) || Classify(err) != Configuration || !strings.Contains(err.Error(), tc.wantNamed) || strings.Contains(err.Error(), "secret") {
				t.Errorf("error %q of class %q; want one of %q that names %q", err, Classify(err), Configuration, tc.wantNamed)
			}
		})
	}
}
