package dev

import (
	"strings"
	"testing"

	"github.com/penstock-dev/penstock/internal/policy"
)

func limitOf(algorithm string, requests, windowMs, burst int64) policy.Limit {
	return policy.Limit{Name: "default", Algorithm: algorithm, Requests: requests, WindowMs: windowMs, Burst: burst}
}

func TestDemonstrationFitsThePolicy(t *testing.T) {
	const base = "http://127.0.0.1:8080"
	const status = `curl -s -o /dev/null -w '%{http_code}\n' `
	perMinute := []policy.Limit{limitOf(policy.SlidingLog, 100, 60_000, 0)}
	by := func(descriptors ...policy.Descriptor) policy.RateLimit {
		return policy.RateLimit{Name: "shop/a", Descriptors: descriptors, Limits: perMinute}
	}
	limited := func(limits ...policy.Limit) policy.RateLimit { return policy.RateLimit{Name: "shop/a", Limits: limits} }

	for name, test := range map[string]struct {
		policies []policy.RateLimit
		want     string // after status, before the pipe
		wantNote string
	}{
		"by address":                         {[]policy.RateLimit{by(policy.Descriptor{Key: "remote_address"})}, `'http://127.0.0.1:8080/auth/shop/a?[1-101]'`, ""},
		"without descriptors":                {[]policy.RateLimit{by()}, `'http://127.0.0.1:8080/auth/shop/a?[1-101]'`, ""},
		"by this address":                    {[]policy.RateLimit{by(policy.Descriptor{Key: "remote_address", Value: "127.*"})}, `'http://127.0.0.1:8080/auth/shop/a?[1-101]'`, ""},
		"by path":                            {[]policy.RateLimit{by(policy.Descriptor{Key: "path", Value: "/api/*"})}, `'http://127.0.0.1:8080/auth/shop/a/api/a?[1-101]'`, ""},
		"by the end of a path":               {[]policy.RateLimit{by(policy.Descriptor{Key: "path", Value: "*.png"})}, `'http://127.0.0.1:8080/auth/shop/a/a.png?[1-101]'`, ""},
		"by any path":                        {[]policy.RateLimit{by(policy.Descriptor{Key: "path"})}, `'http://127.0.0.1:8080/auth/shop/a?[1-101]'`, ""},
		"by method":                          {[]policy.RateLimit{by(policy.Descriptor{Key: "method", Value: "POST"})}, `-X POST 'http://127.0.0.1:8080/auth/shop/a?[1-101]'`, ""},
		"by method GET":                      {[]policy.RateLimit{by(policy.Descriptor{Key: "method", Value: "GET"})}, `'http://127.0.0.1:8080/auth/shop/a?[1-101]'`, ""},
		"by method HEAD":                     {[]policy.RateLimit{by(policy.Descriptor{Key: "method", Value: "HEAD"})}, `-I 'http://127.0.0.1:8080/auth/shop/a?[1-101]'`, ""},
		"by host":                            {[]policy.RateLimit{by(policy.Descriptor{Key: "host", Value: "*.example.com"})}, `-H 'Host: a.example.com' 'http://127.0.0.1:8080/auth/shop/a?[1-101]'`, ""},
		"by any host":                        {[]policy.RateLimit{by(policy.Descriptor{Key: "host"})}, `'http://127.0.0.1:8080/auth/shop/a?[1-101]'`, ""},
		"by header":                          {[]policy.RateLimit{by(policy.Descriptor{Key: "header.x-user"})}, `-H 'x-user: demo' 'http://127.0.0.1:8080/auth/shop/a?[1-101]'`, ""},
		"by several":                         {[]policy.RateLimit{by(policy.Descriptor{Key: "method", Value: "PUT"}, policy.Descriptor{Key: "header.x-plan", Value: "gold"})}, `-X PUT -H 'x-plan: gold' 'http://127.0.0.1:8080/auth/shop/a?[1-101]'`, ""},
		"the first that fits":                {[]policy.RateLimit{by(policy.Descriptor{Key: "generic_key"}), {Name: "shop/b", Limits: perMinute}}, `'http://127.0.0.1:8080/auth/shop/b?[1-101]'`, ""},
		"the tightest of several":            {[]policy.RateLimit{limited(perMinute[0], limitOf(policy.SlidingLog, 10, 3_600_000, 0))}, `'http://127.0.0.1:8080/auth/shop/a?[1-11]'`, ""},
		"of none":                            {[]policy.RateLimit{limited(limitOf(policy.FixedWindow, 0, 60_000, 0))}, `'http://127.0.0.1:8080/auth/shop/a?[1-1]'`, ""},
		"over the edge of two fixed windows": {[]policy.RateLimit{limited(limitOf(policy.FixedWindow, 100, 60_000, 0))}, `'http://127.0.0.1:8080/auth/shop/a?[1-201]'`, ""},
		"over the edge of two counters":      {[]policy.RateLimit{limited(limitOf(policy.SlidingCounter, 100, 60_000, 0))}, `'http://127.0.0.1:8080/auth/shop/a?[1-201]'`, ""},
		"of a balance":                       {[]policy.RateLimit{limited(limitOf(policy.Balance, 10, 0, 0))}, `'http://127.0.0.1:8080/auth/shop/a?[1-11]'`, ""},
		"the first that denies whatever comes": {[]policy.RateLimit{
			{Name: "shop/conditional", Limits: perMinute, When: []string{"true"}}, {Name: "shop/shadow", Limits: perMinute, ShadowPercent: 1},
			{Name: "shop/overrides", Limits: perMinute, Overrides: []policy.Override{{Values: []string{"a"}, Unlimited: true}}},
			{Name: "shop/slots", Limits: []policy.Limit{limitOf(policy.Concurrency, 3, 0, 0)}}, by(),
		}, `'http://127.0.0.1:8080/auth/shop/a?[1-101]'`, ""},
		"of a bucket that refills":     {[]policy.RateLimit{limited(limitOf(policy.TokenBucket, 30, 1_000, 90))}, `'http://127.0.0.1:8080/auth/shop/a?[1-102]'`, ""},
		"of a bucket that hardly does": {[]policy.RateLimit{limited(limitOf(policy.TokenBucket, 1, 3_600_000, 1))}, `'http://127.0.0.1:8080/auth/shop/a?[1-3]'`, ""},

		"nothing there":                      {nil, "", "No policy here is about an HTTP request alone"},
		"a key that only a proxy sends":      {[]policy.RateLimit{by(policy.Descriptor{Key: "generic_key"})}, "", "No policy here is about an HTTP request alone"},
		"another address":                    {[]policy.RateLimit{by(policy.Descriptor{Key: "remote_address", Value: "10.*"})}, "", "No policy here is about an HTTP request alone"},
		"a key twice":                        {[]policy.RateLimit{by(policy.Descriptor{Key: "method"}, policy.Descriptor{Key: "method"})}, "", "No policy here is about an HTTP request alone"},
		"a header with quotes":               {[]policy.RateLimit{by(policy.Descriptor{Key: "header.x", Value: "'; rm -rf ~; '"})}, "", "No policy here is about an HTTP request alone"},
		"a header that no request has":       {[]policy.RateLimit{by(policy.Descriptor{Key: "header.X-User"})}, "", "No policy here is about an HTTP request alone"},
		"a path that curl would expand":      {[]policy.RateLimit{by(policy.Descriptor{Key: "path", Value: "/{a,b}"})}, "", "No policy here is about an HTTP request alone"},
		"a path that curl would shorten":     {[]policy.RateLimit{by(policy.Descriptor{Key: "path", Value: "/a/../b"})}, "", "No policy here is about an HTTP request alone"},
		"a path without a slash":             {[]policy.RateLimit{by(policy.Descriptor{Key: "path", Value: "api"})}, "", "No policy here is about an HTTP request alone"},
		"a method that is none":              {[]policy.RateLimit{by(policy.Descriptor{Key: "method", Value: "$(id)"})}, "", "No policy here is about an HTTP request alone"},
		"too many requests":                  {[]policy.RateLimit{limited(limitOf(policy.FixedWindow, 1_000_000, 60_000, 0))}, "", "shop/a allows more than a line of curl can use up"},
		"more than fit into the window":      {[]policy.RateLimit{limited(limitOf(policy.SlidingLog, 100, 100, 0))}, "", "shop/a allows more than a line of curl can use up"},
		"a bucket that refills as fast":      {[]policy.RateLimit{limited(limitOf(policy.TokenBucket, 1000, 1_000, 1000))}, "", "shop/a allows more than a line of curl can use up"},
		"the largest numbers that there are": {[]policy.RateLimit{limited(limitOf(policy.FixedWindow, policy.MaxInteger, 100, 0), limitOf(policy.TokenBucket, policy.MaxInteger, 100, policy.MaxInteger))}, "", "shop/a allows more than a line of curl can use up"},
	} {
		t.Run(name, func(t *testing.T) {
			line, note := demonstrate(base, test.policies)
			want := ""
			if test.want != "" {
				want = status + test.want + " | sort | uniq -c"
			}
			if line != want {
				t.Errorf("line\n%s\nwant\n%s", line, want)
			}
			if !strings.HasPrefix(note, test.wantNote) || (note == "") != (test.wantNote == "") {
				t.Errorf("note %q, want %q", note, test.wantNote)
			}
		})
	}
}

func TestAddressesThatListenEverywhereAreAskedHere(t *testing.T) {
	for address, want := range map[string]string{
		"127.0.0.1:8080": "127.0.0.1:8080",
		"0.0.0.0:8080":   "127.0.0.1:8080",
		"[::]:8080":      "127.0.0.1:8080",
		"[::1]:8080":     "[::1]:8080",
		"":               "",
	} {
		if got := reachable(address); got != want {
			t.Errorf("%q is asked at %q, want %q", address, got, want)
		}
	}
}
