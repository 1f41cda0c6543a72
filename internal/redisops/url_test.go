package redisops

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParseURL(t *testing.T) {
	for url, want := range map[string]Config{
		"redis://localhost:6380":                 {Addresses: []string{"localhost:6380"}},
		"redis://localhost":                      {Addresses: []string{"localhost:6379"}},
		"redis://localhost/":                     {Addresses: []string{"localhost:6379"}},
		"redis://[::1]:6380/2":                   {Addresses: []string{"[::1]:6380"}, DB: 2},
		"redis://:secret@10.0.0.1:6379":          {Addresses: []string{"10.0.0.1:6379"}, Password: "secret"},
		"redis://app:s%40cr%2Fet@redis.shop:1/0": {Addresses: []string{"redis.shop:1"}, Username: "app", Password: "s@cr/et"},
		"rediss://redis.shop":                    {Addresses: []string{"redis.shop:6379"}, TLS: &TLS{}},
		"redis://app:pw@a:1,[::1],[fe80::1]:3/4": {
			Addresses: []string{"a:1", "[::1]:6379", "[fe80::1]:3"}, Username: "app", Password: "pw", DB: 4,
		},
		"redis://app@a:1": {Addresses: []string{"a:1"}, Username: "app"},
	} {
		t.Run(url, func(t *testing.T) {
			got, err := ParseURL(url)
			if err != nil {
				t.Fatal(err)
			}
			if want := want.WithDefaults(); !reflect.DeepEqual(got, want) {
				t.Errorf("ParseURL = %+v, want %+v", got, want)
			}
			if _, err := Open(got); err != nil && len(got.Addresses) == 1 && got.Password != "" {
				t.Errorf("Open: %v", err)
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
		"http://u:topsecret@host:6379":      "scheme",
		"redis://u:topsecret@a:1,:2":        "host",
		"redis://u:topsecret@a:1,":          "host",
		"redis://u:topsecret@a:1,b:x":       "port",
		"redis://u:topsecret@a:1,b:0/0":     "port",
		"redis://u:top/secret@host:6379":    "percent-encoded",
		"redis://u:top?secret@host:6379":    "percent-encoded",
		"redis://u:top#secret@host:6379":    "percent-encoded",
		"redis://u:top,secret":              "port",
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
