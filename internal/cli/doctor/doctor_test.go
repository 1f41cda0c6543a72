package doctor_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/cli/doctor"
	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
	"github.com/penstock-dev/penstock/internal/redisops/policystore"
	"github.com/penstock-dev/penstock/internal/redisops/redisopstest"
	"github.com/penstock-dev/penstock/internal/redisops/redistest"
	"github.com/penstock-dev/penstock/internal/service/tlsfiles/tlstest"
)

const owner = "cluster/shop/default"

// look examines a store with enough patience for a busy machine.
func look(t *testing.T, config redisops.Config, options doctor.Options) doctor.Report {
	t.Helper()
	if config.CommandTimeout == 0 {
		config.CommandTimeout = time.Second
	}
	options.Config = config
	return doctor.Examine(t.Context(), options)
}

// has tells whether there is such a finding, whose text has all these words.
func has(r doctor.Report, severity doctor.Severity, check string, words ...string) bool {
	return slices.ContainsFunc(r.Findings, func(f doctor.Finding) bool {
		return f.Severity == severity && f.Check == check && !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(f.String(), word) })
	})
}

func wantFinding(t *testing.T, r doctor.Report, severity doctor.Severity, check string, words ...string) {
	t.Helper()
	if !has(r, severity, check, words...) {
		t.Errorf("want %s %s with %q, got\n%s", severity, check, words, text(t, r))
	}
}

func text(t *testing.T, r doctor.Report) string {
	t.Helper()
	var b strings.Builder
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func set() *policy.Set {
	return policy.NewSet([]policy.RateLimit{policy.RateLimit{
		Name: "shop/credit", Domain: "shop", OnStoreFailure: policy.FailureAllow,
		Limits: []policy.Limit{{Name: "default", Algorithm: policy.Balance, Requests: 5}},
	}.Sealed()})
}

func publish(t *testing.T, config redisops.Config) {
	t.Helper()
	servers := redisopstest.Open(t, config)
	if _, err := policystore.Publish(t.Context(), servers, policystore.Publication{Owner: owner, Set: set()}); err != nil {
		t.Fatal(err)
	}
}

func TestAStoreInOrderHasNoErrors(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, 1)
	sentinel := redistest.StartSentinel(t, 1, redistest.SentinelOptions{})
	standalone := redistest.Start(t, "--requirepass", "secret")
	var independent []string
	for range 3 {
		independent = append(independent, redistest.Start(t).Addr)
	}
	for name, config := range map[string]redisops.Config{
		"Standalone":  {Addresses: []string{standalone.Addr}, Password: "secret"},
		"Sentinel":    {Topology: policy.TopologySentinel, Addresses: sentinel.Addresses(), MasterName: sentinel.MasterName},
		"Cluster":     {Topology: policy.TopologyCluster, Addresses: cluster.Addresses()[:1]},
		"Independent": {Topology: policy.TopologyIndependent, Addresses: independent},
	} {
		t.Run(name, func(t *testing.T) {
			publish(t, config)
			report := look(t, config, doctor.Options{Owner: "/shop/default"})
			if report.Failed(false) {
				t.Errorf("want no error:\n%s", text(t, report))
			}
			wantFinding(t, report, doctor.OK, doctor.CheckOwner, owner)
			wantFinding(t, report, doctor.OK, doctor.CheckPolicies, set().Hash)
			wantFinding(t, report, doctor.OK, doctor.CheckLibrary, "is loaded in")
			wantFinding(t, report, doctor.OK, doctor.CheckACL, "has all rights of operator and penstockd")
			wantFinding(t, report, doctor.OK, doctor.CheckVersion, "has functions")
		})
	}
}

func TestNothingIsWritten(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	config := redisops.Config{Addresses: []string{server.Addr}}
	server.Do("ACL", "SETUSER", "all", "on", ">secret", "~*", "&*", "+@all", "-acl|dryrun")
	server.Do("CONFIG", "RESETSTAT")
	before := server.Do("INFO", "persistence").(string)
	for _, config := range []redisops.Config{config, {Addresses: config.Addresses, Username: "all", Password: "secret"}} {
		look(t, config, doctor.Options{Roles: doctor.Roles()})
	}
	changes := func(info string) string {
		_, rest, _ := strings.Cut(info, "rdb_changes_since_last_save:")
		n, _, _ := strings.Cut(rest, "\r\n")
		return n
	}
	if after := server.Do("INFO", "persistence").(string); changes(after) != changes(before) {
		t.Errorf("%s changes, want %s", changes(after), changes(before))
	}
	if n := server.Do("DBSIZE"); n != int64(0) {
		t.Errorf("%v keys, want none", n)
	}
	if libraries := server.Do("FUNCTION", "LIST").([]any); len(libraries) != 0 {
		t.Errorf("libraries: %v", libraries)
	}
}

func TestWhatCannotBeReachedIsToldInWords(t *testing.T) {
	t.Parallel()
	web := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(web.Close)
	hole, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and never answers
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hole.Close() })
	locked := redistest.Start(t, "--requirepass", "secret")
	open := redistest.Start(t)
	ca := tlstest.NewCA(t)
	encrypted := redistest.StartTLS(t, certificate(ca.Issue(t, "127.0.0.1")))
	for name, test := range map[string]struct {
		config redisops.Config
		check  string
		want   string
	}{
		"nothing listens":          {redisops.Config{Addresses: []string{"127.0.0.1:1"}}, doctor.CheckReachable, "connection was refused"},
		"no such host":             {redisops.Config{Addresses: []string{"nowhere.invalid:6379"}}, doctor.CheckReachable, "nowhere.invalid"},
		"a web server":             {redisops.Config{Addresses: []string{web.Listener.Addr().String()}}, doctor.CheckReachable, "no Redis"},
		"silence":                  {redisops.Config{Addresses: []string{hole.Addr().String()}, DialTimeout: 300 * time.Millisecond}, doctor.CheckReachable, "does not answer"},
		"no password":              {redisops.Config{Addresses: []string{locked.Addr}}, doctor.CheckAuth, "asks for a password"},
		"a wrong password":         {redisops.Config{Addresses: []string{locked.Addr}, Password: "wrong"}, doctor.CheckAuth, "another password"},
		"a user that is not there": {redisops.Config{Addresses: []string{open.Addr}, Username: "nobody", Password: "x"}, doctor.CheckAuth, `User "nobody"`},
		"no such database":         {redisops.Config{Addresses: []string{open.Addr}, DB: 99}, doctor.CheckReachable, "no database 99"},
		"a server with TLS":        {redisops.Config{Addresses: []string{encrypted.Addr}}, doctor.CheckTLS, "speaks TLS"},
		"two addresses":            {redisops.Config{Addresses: []string{"a:1", "b:1"}}, doctor.CheckConfiguration, "addresses"},
	} {
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			report := look(t, test.config, doctor.Options{})
			wantFinding(t, report, doctor.Error, test.check, test.want)
			if took := time.Since(begin); took > 20*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

func certificate(pair tlstest.Pair) redistest.TLS {
	return redistest.TLS{Cert: pair.Cert, Key: pair.Key}
}

// longLived gives a certificate for 127.0.0.1 that is good for a year, and is its own CA.
func longLived(t *testing.T) (redistest.TLS, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return redistest.TLS{Cert: cert, Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})}, cert
}

func TestWhatIsWrongWithCertificatesIsToldInWords(t *testing.T) {
	t.Parallel()
	ca, other := tlstest.NewCA(t), tlstest.NewCA(t)
	lasting, lastingCA := longLived(t)
	good := certificate(ca.Issue(t, "127.0.0.1")) // for an hour
	expired := certificate(ca.IssueUntil(t, time.Now().Add(-time.Hour), "127.0.0.1"))
	elsewhere := certificate(ca.Issue(t, "elsewhere.example"))
	mutual := good
	mutual.ClientCA = ca.PEM
	plain := redistest.Start(t)
	trusting := func() *redisops.TLS { return &redisops.TLS{CA: ca.PEM} }
	shown := other.Issue(t, "client")
	for name, test := range map[string]struct {
		server   redistest.TLS
		client   *redisops.TLS
		severity doctor.Severity
		want     string
	}{
		"good":                       {lasting, &redisops.TLS{CA: lastingCA}, doctor.OK, "good until"},
		"expired":                    {expired, trusting(), doctor.Error, "expired on"},
		"expires soon":               {good, trusting(), doctor.Warning, "expires on"},
		"another name":               {elsewhere, trusting(), doctor.Error, "is for elsewhere.example and not for 127.0.0.1"},
		"another name that is meant": {elsewhere, &redisops.TLS{CA: ca.PEM, ServerName: "elsewhere.example"}, doctor.Warning, "for elsewhere.example expires"},
		"another CA":                 {good, &redisops.TLS{CA: other.PEM}, doctor.Error, "not trusted"},
		"any":                        {expired, &redisops.TLS{InsecureSkipVerify: true}, doctor.Warning, "insecureSkipVerify"},
		"no client certificate":      {mutual, trusting(), doctor.Error, "wants a client certificate"},
		"client of another CA":       {mutual, &redisops.TLS{CA: ca.PEM, ClientCert: shown.Cert, ClientKey: shown.Key}, doctor.Error, "client certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.StartTLS(t, test.server)
			report := look(t, redisops.Config{Addresses: []string{server.Addr}, TLS: test.client}, doctor.Options{})
			wantFinding(t, report, test.severity, doctor.CheckTLS, test.want)
		})
	}
	report := look(t, redisops.Config{Addresses: []string{plain.Addr}, TLS: trusting(), DialTimeout: time.Second}, doctor.Options{})
	wantFinding(t, report, doctor.Error, doctor.CheckTLS, "TLS")
}

func TestAWrongTopologyIsToldWithTheRightOne(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	replica := redistest.Start(t)
	replica.ReplicaOf(server)
	cluster := redistest.StartCluster(t, 3, 0)
	sentinel := redistest.StartSentinel(t, 0, redistest.SentinelOptions{})
	one := []string{server.Addr}
	for name, test := range map[string]struct {
		config redisops.Config
		words  []string
	}{
		"a node of a cluster as Standalone": {redisops.Config{Addresses: cluster.Addresses()[:1]}, []string{"node of a Redis Cluster", "topology Cluster"}},
		"a sentinel as Standalone":          {redisops.Config{Addresses: sentinel.Addresses()[:1]}, []string{"sentinel", "topology Sentinel", sentinel.MasterName}},
		"a replica as Standalone":           {redisops.Config{Addresses: []string{replica.Addr}}, []string{"replica of " + server.Addr, "READONLY"}},
		"a server as Cluster":               {redisops.Config{Topology: policy.TopologyCluster, Addresses: one}, []string{"cluster_enabled is 0", "Standalone"}},
		"a server as sentinel":              {redisops.Config{Topology: policy.TopologySentinel, Addresses: one, MasterName: "mymaster"}, []string{"no sentinel", "26379"}},
		"a name that no sentinel knows": {
			redisops.Config{Topology: policy.TopologySentinel, Addresses: sentinel.Addresses(), MasterName: "other"}, []string{`"other"`, sentinel.MasterName},
		},
		"a replica as Independent": {redisops.Config{Topology: policy.TopologyIndependent, Addresses: []string{server.Addr, replica.Addr}}, []string{"majority"}},
	} {
		t.Run(name, func(t *testing.T) {
			wantFinding(t, look(t, test.config, doctor.Options{}), doctor.Error, doctor.CheckTopology, test.words...)
		})
	}
}

func TestSentinelsThatDisagreeAreAnError(t *testing.T) {
	t.Parallel()
	one := redistest.StartSentinel(t, 0, redistest.SentinelOptions{})
	other := redistest.StartSentinel(t, 0, redistest.SentinelOptions{})
	addresses := append(one.Addresses()[:2:2], other.Addresses()[:1]...)
	report := look(t, redisops.Config{Topology: policy.TopologySentinel, Addresses: addresses, MasterName: one.MasterName}, doctor.Options{})
	wantFinding(t, report, doctor.Error, doctor.CheckTopology, "disagree", one.Primary().Addr, other.Primary().Addr)
}

func TestSlotsThatNobodyServesAreAnError(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, 0)
	cluster.Nodes[2].Kill()
	config := redisops.Config{Topology: policy.TopologyCluster, Addresses: cluster.Addresses()[:1]}
	deadline := time.Now().Add(20 * time.Second)
	for {
		report := look(t, config, doctor.Options{})
		if has(report, doctor.Error, doctor.CheckTopology, "have failed") && has(report, doctor.Error, doctor.CheckReachable, cluster.Nodes[2].Addr) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("want the node and its slots missed:\n%s", text(t, report))
		}
	}
}

func TestSettingsOfTheServerThatLoseStateAreTold(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--maxmemory", "100mb")
	config := redisops.Config{Addresses: []string{server.Addr}}
	publish(t, config)
	for name, test := range map[string]struct {
		set      []string
		severity doctor.Severity
		check    string
		words    []string
	}{
		"everything can be evicted":  {[]string{"maxmemory-policy", "allkeys-lru"}, doctor.Warning, doctor.CheckEviction, []string{"allkeys-lru", "balances", "noeviction"}},
		"counters can be evicted":    {[]string{"maxmemory-policy", "volatile-ttl"}, doctor.Warning, doctor.CheckEviction, []string{"volatile-ttl", "balances"}},
		"no eviction":                {[]string{"maxmemory-policy", "noeviction"}, doctor.OK, doctor.CheckEviction, nil},
		"no bound":                   {[]string{"maxmemory", "0"}, doctor.Note, doctor.CheckMemory, []string{"maxmemory is 0"}},
		"too few replicas":           {[]string{"min-replicas-to-write", "1"}, doctor.Error, doctor.CheckReplication, []string{"NOREPLICAS"}},
		"no persistence of balances": {[]string{"save", ""}, doctor.Warning, doctor.CheckPersistence, []string{"Balance", "shop/credit"}},
		"snapshots only":             {[]string{"save", "3600 1"}, doctor.Note, doctor.CheckPersistence, []string{"snapshots"}},
	} {
		t.Run(name, func(t *testing.T) {
			before := server.Do("CONFIG", "GET", test.set[0]).(map[any]any)[test.set[0]]
			server.Do("CONFIG", "SET", test.set[0], test.set[1])
			defer server.Do("CONFIG", "SET", test.set[0], before)
			wantFinding(t, look(t, config, doctor.Options{}), test.severity, test.check, test.words...)
		})
	}
}

func TestASnapshotThatFailedIsAnError(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--save", "3600 1", "--enable-protected-configs", "yes")
	server.Do("CONFIG", "SET", "dir", "/proc")
	server.Do("SET", "k", "v")
	server.Do("BGSAVE")
	config := redisops.Config{Addresses: []string{server.Addr}}
	deadline := time.Now().Add(10 * time.Second)
	for !has(look(t, config, doctor.Options{}), doctor.Error, doctor.CheckPersistence, "MISCONF") {
		if time.Now().After(deadline) {
			t.Fatal("the snapshot that failed is not told")
		}
	}
}

func TestAReplicaWhosePrimaryIsGoneIsTold(t *testing.T) {
	t.Parallel()
	sentinel := redistest.StartSentinel(t, 1, redistest.SentinelOptions{})
	sentinel.Replicas()[0].Do("CONFIG", "SET", "replica-read-only", "no")
	report := look(t, redisops.Config{Topology: policy.TopologySentinel, Addresses: sentinel.Addresses()[:1], MasterName: sentinel.MasterName}, doctor.Options{})
	wantFinding(t, report, doctor.Warning, doctor.CheckReplication, "takes writes although it is a replica")
	wantFinding(t, report, doctor.Warning, doctor.CheckTopology, "Only 1 of the sentinels is named")
}

func TestAClockThatDiffersIsTold(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	report := look(t, redisops.Config{Addresses: []string{server.Addr}}, doctor.Options{Clock: func() time.Time { return time.Now().Add(-time.Minute) }})
	wantFinding(t, report, doctor.Warning, doctor.CheckClock, "1m0s ahead of")
}

func TestAServerThatIsTooFarIsAnError(t *testing.T) {
	t.Parallel()
	proxy := redistest.StartProxy(t, redistest.Start(t).Addr)
	proxy.Delay(25 * time.Millisecond)
	config := redisops.Config{Addresses: []string{proxy.Addr}, CommandTimeout: 10 * time.Millisecond, DialTimeout: 100 * time.Millisecond}
	few := doctor.Options{Roles: []doctor.Role{doctor.RoleDoctor}} // each right is a round trip
	var patient doctor.Report
	var both sync.WaitGroup
	both.Go(func() {
		config := config
		config.CommandTimeout = time.Second
		patient = look(t, config, few)
	})
	report := look(t, config, few)
	both.Wait()
	wantFinding(t, report, doctor.Error, doctor.CheckLatency, "a caller waits 10ms")
	wantFinding(t, report, doctor.Warning, doctor.CheckTimeouts, "5 round trips")
	wantFinding(t, patient, doctor.Warning, doctor.CheckLatency, "Envoy")
	wantFinding(t, patient, doctor.Note, doctor.CheckTimeouts, "Envoy")
}

func TestWhatIsPublishedIsComparedWithWhatIsServed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	config := redisops.Config{Addresses: []string{server.Addr}}
	other, err := library.Render(policy.NewSet(nil))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		do       func()
		severity doctor.Severity
		check    string
		words    []string
	}{
		"nothing":              {func() { server.Do("FLUSHALL"); server.Do("FUNCTION", "FLUSH") }, doctor.Note, doctor.CheckPolicies, []string{"No policies"}},
		"no library":           {func() { server.Do("FUNCTION", "FLUSH") }, doctor.Warning, doctor.CheckLibrary, []string{"no library penstock"}},
		"another library":      {func() { server.Do("FUNCTION", "LOAD", "REPLACE", other) }, doctor.Error, doctor.CheckLibrary, []string{"is published"}},
		"no library document":  {func() { server.Do("DEL", library.DocumentKey) }, doctor.Error, doctor.CheckLibrary, []string{"penstock:library is not there"}},
		"no policies any more": {func() { server.Do("DEL", policystore.PoliciesKey) }, doctor.Note, doctor.CheckPolicies, nil},
		"nonsense":             {func() { server.Do("SET", policystore.PoliciesKey, "nonsense") }, doctor.Error, doctor.CheckPolicies, []string{"something else"}},
		"a list":               {func() { server.Do("DEL", policystore.PoliciesKey); server.Do("LPUSH", policystore.PoliciesKey, "x") }, doctor.Error, doctor.CheckPolicies, []string{"something else"}},
		"another document":     {func() { server.Do("SET", library.DocumentKey, library.NewDocument(other).Marshal()) }, doctor.Error, doctor.CheckLibrary, []string{"other policies"}},
		"a TTL":                {func() { server.Do("EXPIRE", policystore.PoliciesKey, "3600") }, doctor.Error, doctor.CheckPolicies, []string{"TTL", "PERSIST"}},
		"no owner":             {func() { server.Do("DEL", policystore.OwnerKey) }, doctor.Warning, doctor.CheckOwner, []string{"penstock:owner"}},
		"another owner":        {func() { server.Do("SET", policystore.OwnerKey, "elsewhere/a/b") }, doctor.Error, doctor.CheckOwner, []string{`"elsewhere/a/b"`, "take-over"}},
		"functions of our name": {func() {
			server.Do("FUNCTION", "FLUSH")
			server.Do("FUNCTION", "LOAD", "#!lua name=foreign\nredis.register_function('penstock_limit', function() return 1 end)")
		}, doctor.Error, doctor.CheckLibrary, []string{"foreign", "penstock_limit"}},
		"a replica of an old set": {func() {
			said := time.Now().Add(-policystore.BeatEvery - time.Second).UnixMilli() // it is not waited for any more
			server.Do("HSET", policystore.ReplicasKey, "one", fmt.Sprintf(`{"set":"old","at":%d,"format":%d}`, said, policy.Format))
		}, doctor.Warning, doctor.CheckReplicas, []string{"behind", "one"}},
	} {
		t.Run(name, func(t *testing.T) {
			server.Do("FLUSHALL")
			server.Do("FUNCTION", "FLUSH")
			publish(t, config)
			test.do()
			wantFinding(t, look(t, config, doctor.Options{Owner: "/shop/default"}), test.severity, test.check, test.words...)
		})
	}
}

func TestEachMissingRightIsToldWithTheRuleToAdd(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	roles := []doctor.Role{doctor.RoleOperator, doctor.RolePenstockd}
	all := doctor.RulesOf(roles, doctor.Situation{})
	permit := func(rules ...string) {
		args := []any{"ACL", "SETUSER", "one", "reset", "on", ">secret"}
		for _, rule := range rules {
			args = append(args, rule)
		}
		server.Do(args...)
	}
	config := redisops.Config{Addresses: []string{server.Addr}}
	asOne := config
	asOne.Username, asOne.Password = "one", "secret"
	for how, look := range map[string]func() doctor.Report{
		"dry":      func() doctor.Report { return look(t, config, doctor.Options{User: "one"}) },
		"by trial": func() doctor.Report { return look(t, asOne, doctor.Options{}) },
	} {
		t.Run(how, func(t *testing.T) {
			permit(all...)
			if report := look(); !has(report, doctor.OK, doctor.CheckACL, "all rights of operator and penstockd") {
				t.Fatalf("with all rules:\n%s", text(t, report))
			}
			for i, rule := range all {
				// Another rule may permit the same.
				if strings.HasPrefix(rule, "%R~penstock:") || strings.HasPrefix(rule, "%W~penstock:") || rule == "~penstock:replicas" {
					continue
				}
				rest := slices.Delete(slices.Clone(all), i, i+1)
				if rule == "~penstock:*" {
					rest = slices.DeleteFunc(rest, func(r string) bool { return strings.Contains(r, "~penstock:") })
				}
				permit(rest...)
				report := look()
				if !has(report, doctor.Error, doctor.CheckACL, "ACL SETUSER one "+rule) && !has(report, doctor.Note, doctor.CheckACL, "ACL SETUSER one "+rule) {
					t.Errorf("without %s:\n%s", rule, text(t, report))
				}
			}
		})
	}
}

func TestFarMoreRightsThanNeededAreANote(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	report := look(t, redisops.Config{Addresses: []string{server.Addr}}, doctor.Options{})
	wantFinding(t, report, doctor.Note, doctor.CheckACL, "+@all", "~*", "ACL SETUSER")
	wantFinding(t, report, doctor.Warning, doctor.CheckAuth, "no password")
}

func TestAUserThatIsMissingOnOneServerIsAnError(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, 0)
	for _, node := range cluster.Nodes[:2] {
		node.Do("ACL", "SETUSER", "one", "on", ">secret", "~*", "&*", "+@all")
	}
	report := look(t, redisops.Config{Topology: policy.TopologyCluster, Addresses: cluster.Addresses()[:1]}, doctor.Options{User: "one"})
	wantFinding(t, report, doctor.Error, doctor.CheckACL, cluster.Nodes[2].Addr, `There is no user "one"`)
}

func TestAServerThatHangsDoesNotHoldTheOthersUp(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, 3, 0)
	config := redisops.Config{Topology: policy.TopologyCluster, Addresses: cluster.Addresses()}
	cluster.Nodes[1].Pause()
	defer cluster.Nodes[1].Resume()
	begin := time.Now()
	report := look(t, config, doctor.Options{Timeout: 10 * time.Second})
	if took := time.Since(begin); took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
	wantFinding(t, report, doctor.OK, doctor.CheckReachable, cluster.Nodes[0].Addr)
	wantFinding(t, report, doctor.Error, doctor.CheckReachable, cluster.Nodes[1].Addr)
}

func TestThePageOfHolesIsTheTable(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../../docs/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range doctor.HoleRows() {
		if !strings.Contains(string(page), row) {
			t.Errorf("docs/doctor.md lacks\n%s", row)
		}
	}
}
