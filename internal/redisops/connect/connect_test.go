package connect_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/connect"
)

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// load reads the arguments as a program would.
func load(t *testing.T, args []string, env map[string]string) (redisops.Config, error) {
	t.Helper()
	var settings connect.Settings
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	settings.AddFlags(flags, "TEST_")
	settings.AddTimeouts(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	settings.FromEnvironment("TEST_", func(name string) (string, bool) { value, set := env[name]; return value, set })
	return settings.Load()
}

// pair is a certificate that signed itself, and its key.
func pair(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text}))
}

func TestFlagsGiveTheConfiguration(t *testing.T) {
	cert, key := pair(t)
	certFile, keyFile := write(t, cert), write(t, key)
	for name, test := range map[string]struct {
		args []string
		env  map[string]string
		want redisops.Config
	}{
		"one server": {
			[]string{"--redis", "redis://r:6380/2"}, nil,
			redisops.Config{Addresses: []string{"r:6380"}, DB: 2},
		},
		"timeouts": {
			[]string{"--redis", "redis://r", "--command-timeout", "20ms", "--dial-timeout", "2s", "--min-backoff", "1s", "--max-backoff", "4s", "--max-connections", "7"}, nil,
			redisops.Config{
				Addresses: []string{"r:6379"}, CommandTimeout: 20 * time.Millisecond, DialTimeout: 2 * time.Second,
				MinBackoff: time.Second, MaxBackoff: 4 * time.Second, MaxConnections: 7,
			},
		},
		"sentinels": {
			[]string{
				"--redis", "redis://s1:26379,s2:26379,s3:26379", "--redis-topology", "sentinel", "--redis-master-name", "main",
				"--redis-username-file", write(t, "app\n"), "--redis-password-file", write(t, "pw\r\n"), "--redis-sentinel-username", "watcher",
			},
			map[string]string{"TEST_REDIS_SENTINEL_PASSWORD": "spw"},
			redisops.Config{
				Topology: policy.TopologySentinel, Addresses: []string{"s1:26379", "s2:26379", "s3:26379"}, MasterName: "main",
				Username: "app", Password: "pw", SentinelUsername: "watcher", SentinelPassword: "spw",
			},
		},
		"sentinels' credentials of files": {
			[]string{
				"--redis", "redis://s1:26379", "--redis-topology", "Sentinel", "--redis-master-name", "main",
				"--redis-sentinel-username-file", write(t, "watcher"), "--redis-sentinel-password-file", write(t, "of the file\n"),
			},
			map[string]string{"TEST_REDIS_SENTINEL_PASSWORD": "of the variable"},
			redisops.Config{
				Topology: policy.TopologySentinel, Addresses: []string{"s1:26379"}, MasterName: "main", SentinelUsername: "watcher", SentinelPassword: "of the file",
			},
		},
		"a cluster with TLS": {
			[]string{
				"--redis", "rediss://c1:1,c2:2", "--redis-topology", "Cluster", "--redis-protocol", "3", "--redis-tls-ca", certFile,
				"--redis-tls-cert", certFile, "--redis-tls-key", keyFile, "--redis-tls-server-name", "redis.shop.svc",
			}, nil,
			redisops.Config{
				Topology: policy.TopologyCluster, Addresses: []string{"c1:1", "c2:2"}, Protocol: 3,
				TLS: &redisops.TLS{ServerName: "redis.shop.svc", CA: []byte(cert), ClientCert: []byte(cert), ClientKey: []byte(key)},
			},
		},
		"TLS of the system": {
			[]string{"--redis", "rediss://r"}, nil,
			redisops.Config{Addresses: []string{"r:6379"}, TLS: &redisops.TLS{}},
		},
		"TLS that checks nothing": {
			[]string{"--redis", "rediss://r", "--redis-tls-insecure-skip-verify"}, nil,
			redisops.Config{Addresses: []string{"r:6379"}, TLS: &redisops.TLS{InsecureSkipVerify: true}},
		},
		"servers of their own": {
			[]string{"--redis", "redis://r1,r2,r3", "--redis-topology", "Independent"}, nil,
			redisops.Config{Topology: policy.TopologyIndependent, Addresses: []string{"r1:6379", "r2:6379", "r3:6379"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := load(t, test.args, test.env)
			if want := test.want.WithDefaults(); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%+v, %v; want\n%+v", got, err, want)
			}
			servers, err := redisops.Open(got)
			if err != nil {
				t.Fatalf("what was accepted cannot be opened: %v", err)
			}
			_ = servers.Close()
		})
	}
}

func TestThePasswordComesFromTheFileElseTheVariableElseTheURL(t *testing.T) {
	url := []string{"--redis", "redis://me:of-the-url@r"}
	variable := map[string]string{"TEST_REDIS_PASSWORD": "of the variable"}
	for name, test := range map[string]struct {
		args []string
		env  map[string]string
		want string
	}{
		"file":     {append(url, "--redis-password-file", write(t, "of the file\n")), variable, "of the file"},
		"variable": {url, variable, "of the variable"},
		"URL":      {url, nil, "of-the-url"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, err := load(t, test.args, test.env)
			if err != nil || cfg.Password != test.want || cfg.Username != "me" {
				t.Errorf("%q %q, %v; want me and %q", cfg.Username, cfg.Password, err, test.want)
			}
		})
	}
}

func TestAWrongSettingIsNamedWithItsRemedyAndWithoutASecret(t *testing.T) {
	cert, key := pair(t)
	_, other := pair(t)
	certFile, keyFile, otherFile, empty := write(t, cert), write(t, key), write(t, other), write(t, "\n")
	for name, test := range map[string]struct {
		args []string
		want []string
	}{
		"no server":                  {nil, []string{"--redis is missing", "redis://host:port"}},
		"another scheme":             {[]string{"--redis", "http://r"}, []string{"--redis: ", "rediss"}},
		"a topology":                 {[]string{"--redis", "redis://r", "--redis-topology", "Ring"}, []string{`--redis-topology is "Ring"`, "Sentinel"}},
		"two servers and no cluster": {[]string{"--redis", "redis://r1,r2"}, []string{"--redis names 2 servers", "--redis-topology"}},
		"a database of a cluster":    {[]string{"--redis", "redis://r/3", "--redis-topology", "Cluster"}, []string{"--redis names database 3", "leave /3 away"}},
		"no name of the primary":     {[]string{"--redis", "redis://r", "--redis-topology", "Sentinel"}, []string{"--redis-master-name is missing"}},
		"a name and no sentinels":    {[]string{"--redis", "redis://r", "--redis-master-name", "m"}, []string{"--redis-master-name is for Sentinel", "--redis-topology is Standalone"}},
		"a password and no sentinels": {
			[]string{"--redis", "redis://r", "--redis-sentinel-password-file", empty}, []string{"--redis-sentinel-password-file is for Sentinel"},
		},
		"two users at the sentinels": {
			[]string{"--redis", "redis://r", "--redis-topology", "Sentinel", "--redis-master-name", "m", "--redis-sentinel-username", "a", "--redis-sentinel-username-file", empty},
			[]string{"--redis-sentinel-username and --redis-sentinel-username-file are both set"},
		},
		"no password file":       {[]string{"--redis", "redis://r", "--redis-password-file", "/does/not/exist"}, []string{"--redis-password-file: ", "/does/not/exist"}},
		"an empty password":      {[]string{"--redis", "redis://r", "--redis-password-file", empty}, []string{"--redis-password-file: ", empty, "is empty"}},
		"an empty user":          {[]string{"--redis", "redis://r", "--redis-username-file", empty}, []string{"--redis-username-file: ", "is empty"}},
		"a CA without TLS":       {[]string{"--redis", "redis://r", "--redis-tls-ca", certFile}, []string{"--redis-tls-ca is for TLS", "write rediss://"}},
		"skipping without TLS":   {[]string{"--redis", "redis://r", "--redis-tls-insecure-skip-verify"}, []string{"--redis-tls-insecure-skip-verify is for TLS"}},
		"a CA that is none":      {[]string{"--redis", "rediss://r", "--redis-tls-ca", keyFile}, []string{"--redis-tls-ca: " + keyFile, "no certificate in PEM"}},
		"a certificate alone":    {[]string{"--redis", "rediss://r", "--redis-tls-cert", certFile}, []string{"--redis-tls-key is missing"}},
		"a key alone":            {[]string{"--redis", "rediss://r", "--redis-tls-key", keyFile}, []string{"--redis-tls-cert is missing"}},
		"the key of another one": {[]string{"--redis", "rediss://r", "--redis-tls-cert", certFile, "--redis-tls-key", otherFile}, []string{"--redis-tls-cert " + certFile, "--redis-tls-key " + otherFile, "no pair"}},
		"a protocol":             {[]string{"--redis", "redis://r", "--redis-protocol", "4"}, []string{"--redis-protocol is 4; give 2 or 3"}},
		"no time to wait":        {[]string{"--redis", "redis://r", "--command-timeout", "0s"}, []string{"--command-timeout is 0s", "give at least 1ms"}},
		"backoffs crossed":       {[]string{"--redis", "redis://r", "--min-backoff", "5s"}, []string{"--max-backoff is 2s", "give at least 5s"}},
		"no connections":         {[]string{"--redis", "redis://r", "--max-connections", "0"}, []string{"--max-connections is 0", "give at least 1"}},
		"a server twice":         {[]string{"--redis", "redis://r,r:6379", "--redis-topology", "Cluster"}, []string{"--redis names r:6379 twice", "leave one away"}},
		"a sentinels' user alone": {
			[]string{"--redis", "redis://r", "--redis-topology", "Sentinel", "--redis-master-name", "m", "--redis-sentinel-username", "a"},
			[]string{"--redis-sentinel-password-file is missing", "the user at the sentinels"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, test.args, map[string]string{"TEST_REDIS_PASSWORD": "s3cret"})
			if err == nil {
				t.Fatal("it was accepted")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q lacks %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "BEGIN") {
				t.Errorf("%q tells a secret", err)
			}
		})
	}
}

func TestAUserWithoutAPasswordIsRefused(t *testing.T) {
	for name, args := range map[string][]string{
		"in the URL": {"--redis", "redis://me@r"}, "in a file": {"--redis", "redis://r", "--redis-username-file", write(t, "me\n")},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := load(t, args, nil); err == nil || !strings.Contains(err.Error(), "--redis-password-file is missing; give the password of the user at Redis") {
				t.Errorf("%v, want it to name what is missing", err)
			}
		})
	}
}

func TestASentinelPasswordWithoutSentinelsIsCalledByItsVariable(t *testing.T) {
	_, err := load(t, []string{"--redis", "redis://r"}, map[string]string{"TEST_REDIS_SENTINEL_PASSWORD": "s3cret"})
	if err == nil || !strings.Contains(err.Error(), "TEST_REDIS_SENTINEL_PASSWORD is for Sentinel and --redis-topology is Standalone") || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("%v, want it to name the variable", err)
	}
	settings := connect.Settings{URL: "redis://r", SentinelPassword: "s3cret", Naming: func(flag string) string { return "option <" + flag + ">" }}
	if _, err := settings.Load(); err == nil || !strings.HasPrefix(err.Error(), "option <redis-sentinel-password> is for Sentinel") {
		t.Errorf("%v, want it to name the setting in the program's own words", err)
	}
}

func TestLoadingAgainGivesWhatTheFilesHoldThen(t *testing.T) {
	file := write(t, "first\n")
	settings := connect.Settings{URL: "redis://r", PasswordFile: file}
	first, err := settings.Load()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := settings.Load(); err != nil || !reflect.DeepEqual(again, first) {
		t.Errorf("unchanged: %+v, %v, want the same", again, err)
	}
	if err := os.WriteFile(file, []byte("second\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again, err := settings.Load(); err != nil || first.Password != "first" || again.Password != "second" {
		t.Errorf("%q, then %q, %v; want first, then second", first.Password, again.Password, err)
	}
}

func TestAProgramWithoutFlagsNamesSettingsInItsOwnWords(t *testing.T) {
	settings := connect.Settings{Naming: func(flag string) string { return "option <" + flag + ">" }}
	if _, err := settings.Load(); err == nil || !strings.HasPrefix(err.Error(), "option <redis> is missing") {
		t.Errorf("%v, want it to begin with the name", err)
	}
}
