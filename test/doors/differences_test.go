package doors

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/test/daemon"
)

// Doors by what they know of a request.
var (
	// Envoy sends descriptors, and of the policies on one tuple of keys the most specific apply.
	byDescriptors = []string{"rls", "json"}
	// A request over HTTP has attributes, and all policies of the domain apply that it has the values for.
	byDomain = []string{"extauthz-domain", "extauthz-metadata", "auth-domain", "auth-domain-header", "auth-nginx-domain"}
	// One policy is asked for, of a request over HTTP.
	byPolicy = []string{"extauthz-policy", "auth-policy", "auth-nginx-policy", "auth-envoy", "middleware-remote", "middleware-direct"}
	// One policy is asked for, with the subject that its caller tells.
	bySubject = []string{"api-json", "api-connect", "api-grpc", "api-grpc-web", "client-remote", "client-direct"}
)

// TestWhereTheDoorsDifferByDesign has all that is known of requests that do not get the same everywhere.
func TestWhereTheDoorsDifferByDesign(t *testing.T) {
	tests := map[string]struct {
		policies map[string]string
		steps    []string
		doors    [][]string
	}{
		"the most specific policies apply to a descriptor, and all to a request": {
			map[string]string{
				"exact": "descriptors: [{key: header.user, value: bob}]\nlimits: [{requests: 3, window: 1h}]",
				"every": "descriptors: [{key: header.user}]\nlimits: [{requests: 2, window: 1h}]",
			},
			[]string{`
				user=bob  allowed 2..0/3 of exact
				user=bob  denied 0/3 of exact retry 1h
				user=ann  allowed 1/2 of every`, `
				user=bob  allowed 1..0/2 of every
				user=bob  denied 0/2 of every retry 1h
				user=ann  allowed 1/2 of every`},
			[][]string{byDescriptors, byDomain},
		},
		"a prefix goes before any value in a descriptor": {
			map[string]string{
				"bots":  "descriptors: [{key: header.user, value: bot-*}]\nlimits: [{requests: 5, window: 1h}]",
				"every": "descriptors: [{key: header.user}]\nlimits: [{requests: 1, window: 1h}]",
			},
			[]string{`
				user=bot-1  allowed 4/5 of bots
				user=bob    allowed 0/1 of every`, `
				user=bot-1  allowed 0/1 of every
				user=bob    allowed 0/1 of every`},
			[][]string{byDescriptors, byDomain},
		},
		"a status speaks of one policy for each descriptor": {
			map[string]string{
				"day":  "descriptors: [{key: header.user}]\nlimits: [{requests: 1, window: 24h}]",
				"hour": "descriptors: [{key: header.user}]\nlimits: [{requests: 1, window: 1h}]",
			},
			[]string{`
				user=bob  allowed 0/1 of day
				user=bob  denied 0/1 of day retry 24h`, `
				user=bob  allowed 0/1 of day
				user=bob  denied 0/1 of day violating day,hour retry 24h`},
			[][]string{byDescriptors, byDomain},
		},
		"a request has a path and a method, a subject what its caller tells": {
			one("descriptors: [{key: header.user}, {key: path}]\nlimits: [{requests: 1, window: 1h}]"),
			[]string{`
				user=bob         unmatched
				user=bob path=/  allowed 0/1`, `
				user=bob         allowed 0/1
				user=bob path=/  denied 0/1 retry 1h`},
			[][]string{slices.Concat(byDescriptors, bySubject), slices.Concat(byPolicy, byDomain)},
		},
	}
	var all []policy.RateLimit
	type part struct {
		at    string
		asked asked
	}
	var parts []part
	for n, name := range slices.Sorted(maps.Keys(tests)) {
		test := tests[name]
		for i, group := range test.doors {
			for _, at := range group {
				a := asked{name: name, policies: compile(t, fmt.Sprintf("%s-%d", at, n), test.policies)}
				a.steps = parse(t, name, test.steps[i], a.policies)
				all, parts = append(all, a.policies...), append(parts, part{at, a})
			}
		}
	}
	w := start(t, daemon.Publish(t, all...), false)
	for i := range parts {
		t.Run(parts[i].asked.name+"/"+parts[i].at, func(t *testing.T) { run(t, w, parts[i].at, &parts[i].asked) })
	}
}
