package redisops

import (
	"strings"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/policy"
)

func TestParseURL(t *testing.T) {
	for url, want := range map[string]Config{
		"redis://localhost:6380":                 {Addresses: []string{"localhost:6380"}},
		"redis://localhost":                      {Addresses: []string{"localhost:6379"}},
		"redis://localhost/":                     {Addresses: []string{"localhost:6379"}},
		"redis://[::1]:6380/2":                   {Addresses: []string{"[::1]:6380"}, DB: 2},
		"redis://:secret@10.0.0.1:6379":          {Addresses: []string{"10.0.0.1:6379"}, Password: "secret"},
		"redis://app:s%40cr%2Fet@redis.shop:1/0": {Addresses: []string{"redis.shop:1"}, Username: "app", Password: "s@cr/et"},
	} {
		t.Run(url, func(t *testing.T) {
			got, err := ParseURL(url)
			if err != nil {
				t.Fatal(err)
			}
			if got.Addresses[0] != want.Addresses[0] || got.Username != want.Username || got.Password != want.Password || got.DB != want.DB {
				t.Errorf("ParseURL = %+v, want %+v", got, want)
			}
			if got.DialTimeout != time.Second || got.CommandTimeout != 10*time.Millisecond || got.MaxConnections != 64 {
				t.Errorf("the defaults are not filled in: %+v", got)
			}
		})
	}
}

func TestParseURLRefusesWhatItDoesNotSupport(t *testing.T) {
	for url, wantNamed := range map[string]string{
		"":                                  "scheme",
		"localhost:6379":                    "scheme",
		"rediss://u:topsecret@host:6379":    "scheme",
		"redis://":                          "host",
		"redis://:6379":                     "host",
		"redis://u:topsecret@host:0":        "port",
		"redis://u:topsecret@host:65536":    "port",
		"redis://u:topsecret@host:6379/x":   "database",
		"redis://u:topsecret@host:6379/-1":  "database",
		"redis://u:topsecret@host/0/1":      "database",
		"redis://u:topsecret@host?db=1":     "options",
		"redis://u:topsecret@ho st:6379":    "redis URL",
		"redis://u:top%zzsecret@host:6379":  "redis URL",
		"redis://u:topsecret@host:port":     "port",
		"redis://u:topsecret@[::1:6379":     "redis URL",
		"redis://u:topsecret\x00@host:6379": "redis URL",
	} {
		t.Run(url, func(t *testing.T) {
			cfg, err := ParseURL(url)
			if err == nil {
				t.Fatalf("accepted as %+v", cfg)
			}
			if !strings.Contains(err.Error(), wantNamed) {
				t.Errorf("error %q does not name %q", err, wantNamed)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("error %q shows the password", err)
			}
		})
	}
}

func TestConfigForTakesEverythingFromTheStore(t *testing.T) {
	got := ConfigFor(policy.RedisStore{
		Topology: "Standalone", Addresses: []string{"redis:6379"}, DialTimeout: 3 * time.Second,
		CommandTimeout: 20 * time.Millisecond, MinBackoff: 5 * time.Second, MaxBackoff: 7 * time.Second,
	}, "app", "secret")
	if got.Addresses[0] != "redis:6379" || got.Username != "app" || got.Password != "secret" || got.DialTimeout != 3*time.Second ||
		got.CommandTimeout != 20*time.Millisecond || got.MinBackoff != 5*time.Second || got.MaxBackoff != 7*time.Second {
		t.Errorf("ConfigFor = %+v", got)
	}
	if got := (Config{MinBackoff: time.Minute}).WithDefaults(); got.MaxBackoff != time.Minute {
		t.Errorf("MaxBackoff = %v, want at least MinBackoff", got.MaxBackoff)
	}
}
