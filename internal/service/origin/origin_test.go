package origin

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
)

func proxies(t testing.TB, cidrs ...string) Proxies {
	t.Helper()
	p, err := ParseProxies(cidrs)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestProxiesAreNetworksAndAddresses(t *testing.T) {
	p := proxies(t, "10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "fe80::1", "::ffff:172.16.0.0/108")
	for text, want := range map[string]bool{
		"10.1.2.3":          true,
		"::ffff:10.1.2.3":   true,
		"11.0.0.1":          false,
		"192.0.2.1":         true,
		"192.0.2.2":         false,
		"2001:db8:1::1":     true,
		"2001:db9::1":       false,
		"fe80::1":           true,
		"fe80::1%eth0":      true,
		"fe80::2":           false,
		"172.31.255.255":    true,
		"::ffff:172.16.1.1": true,
		"172.32.0.0":        false,
	} {
		if got := p.Trusts(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: trusted %v, want %v", text, got, want)
		}
	}
	if p.Trusts(netip.Addr{}) {
		t.Error("trusts what is no address")
	}
	if (Proxies{}).Trusts(netip.MustParseAddr("127.0.0.1")) {
		t.Error("trusts somebody without a network")
	}
}

func TestANetworkThatIsNoneIsRefusedByName(t *testing.T) {
	for text, want := range map[string]string{
		"":                  `trusted proxy "": want a network such as 10.0.0.0/8, or an address`,
		"proxy":             `trusted proxy "proxy": want a network such as 10.0.0.0/8, or an address`,
		" 10.0.0.0/8":       `trusted proxy " 10.0.0.0/8": want a network such as 10.0.0.0/8, or an address`,
		"10.0.0.0/33":       `trusted proxy "10.0.0.0/33": want a network such as 10.0.0.0/8, or an address`,
		"10.0.0.0/":         `trusted proxy "10.0.0.0/": want a network such as 10.0.0.0/8, or an address`,
		"10.0.0.1:80":       `trusted proxy "10.0.0.1:80": want a network such as 10.0.0.0/8, or an address`,
		"fe80::1%eth0":      `trusted proxy "fe80::1%eth0": want a network such as 10.0.0.0/8, or an address`,
		"fe80::1%eth0/64":   `trusted proxy "fe80::1%eth0/64": want a network such as 10.0.0.0/8, or an address`,
		"::ffff:10.0.0.0/8": `trusted proxy "::ffff:10.0.0.0/8": want a network such as 10.0.0.0/8, or an address`,
		"10.0.0.1/8":        `trusted proxy "10.0.0.1/8": has bits behind its mask; want 10.0.0.0/8, or the address alone`,
	} {
		if _, err := ParseProxies([]string{"192.0.2.1", text}); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func TestTheClientIsTheFirstFromTheRightThatIsNotTrusted(t *testing.T) {
	const proxy = "10.0.0.1"
	many := make([]string, 5000)
	for i := range many {
		many[i] = "10.0.0.9"
	}
	for name, test := range map[string]struct {
		peer  string
		lines []string
		want  string
	}{
		"nothing forwarded":                   {proxy, nil, proxy},
		"an empty line":                       {proxy, []string{""}, proxy},
		"commas and spaces alone":             {proxy, []string{" , ,\t, "}, proxy},
		"a client":                            {proxy, []string{"203.0.113.7"}, "203.0.113.7"},
		"a peer that is not trusted":          {"198.51.100.1", []string{"203.0.113.7"}, "198.51.100.1"},
		"what the client has made up":         {proxy, []string{"1.1.1.1, 203.0.113.7"}, "203.0.113.7"},
		"made up to look like a proxy":        {proxy, []string{"1.1.1.1, 10.0.0.2, 203.0.113.7"}, "203.0.113.7"},
		"through several proxies":             {proxy, []string{"203.0.113.7, 10.0.0.3, 10.0.0.2"}, "203.0.113.7"},
		"several lines":                       {proxy, []string{"1.1.1.1", "203.0.113.7", "10.0.0.2"}, "203.0.113.7"},
		"several lines of several":            {proxy, []string{"1.1.1.1, 203.0.113.7", "10.0.0.3,10.0.0.2"}, "203.0.113.7"},
		"all are trusted":                     {proxy, []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		"without spaces":                      {proxy, []string{"1.1.1.1,203.0.113.7,10.0.0.2"}, "203.0.113.7"},
		"with tabs and spaces":                {proxy, []string{"1.1.1.1 ,\t203.0.113.7 \t, 10.0.0.2 "}, "203.0.113.7"},
		"empty entries":                       {proxy, []string{"1.1.1.1,,203.0.113.7, ,", "", ",10.0.0.2,"}, "203.0.113.7"},
		"with a port":                         {proxy, []string{"203.0.113.7:567"}, "203.0.113.7"},
		"IPv6":                                {proxy, []string{"2001:DB8:0::7"}, "2001:db8::7"},
		"IPv6 in brackets":                    {proxy, []string{"[2001:db8::7]"}, "2001:db8::7"},
		"IPv6 with a port":                    {proxy, []string{"[::1]:9"}, "::1"},
		"IPv6 with a zone":                    {proxy, []string{"fe80::7%eth0"}, "fe80::7"},
		"IPv4 in IPv6":                        {proxy, []string{"::ffff:203.0.113.7"}, "203.0.113.7"},
		"IPv4 in IPv6 with a port":            {proxy, []string{"[::ffff:203.0.113.7]:80"}, "203.0.113.7"},
		"a trusted hop with a port":           {proxy, []string{"203.0.113.7, 10.0.0.2:8080"}, "203.0.113.7"},
		"a trusted hop that is IPv4 in IPv6":  {proxy, []string{"203.0.113.7, ::ffff:10.0.0.2"}, "203.0.113.7"},
		"a peer that is IPv4 in IPv6":         {"::ffff:10.0.0.1", []string{"203.0.113.7"}, "203.0.113.7"},
		"an untrusted peer, IPv4 in IPv6":     {"::ffff:198.51.100.1", []string{"203.0.113.7"}, "198.51.100.1"},
		"an untrusted peer with a zone":       {"fe80::7%eth0", []string{"203.0.113.7"}, "fe80::7"},
		"unknown":                             {proxy, []string{"203.0.113.7, unknown"}, proxy},
		"unknown behind a proxy":              {proxy, []string{"203.0.113.7, unknown, 10.0.0.2"}, "10.0.0.2"},
		"unknown that the client has made up": {proxy, []string{"unknown, 203.0.113.7"}, "203.0.113.7"},
		"an obfuscated id":                    {proxy, []string{"203.0.113.7, _hidden"}, proxy},
		"a name":                              {proxy, []string{"203.0.113.7, client.example"}, proxy},
		"as header Forwarded has it":          {proxy, []string{"203.0.113.7, for=198.51.100.1"}, proxy},
		"in quotes":                           {proxy, []string{`203.0.113.7, "[2001:db8::7]"`}, proxy},
		"a port that is none":                 {proxy, []string{"203.0.113.7, 198.51.100.1:99999"}, proxy},
		"a port without an address":           {proxy, []string{"203.0.113.7, :80"}, proxy},
		"brackets around IPv4":                {proxy, []string{"203.0.113.7, [198.51.100.1]"}, proxy},
		"half a bracket":                      {proxy, []string{"203.0.113.7, [2001:db8::7"}, proxy},
		"leading zeroes":                      {proxy, []string{"203.0.113.7, 198.051.100.001"}, proxy},
		"a number":                            {proxy, []string{"203.0.113.7, 3405803783"}, proxy},
		"a NUL":                               {proxy, []string{"203.0.113.7, 198.51.100.1\x00"}, proxy},
		"a line break":                        {proxy, []string{"203.0.113.7, 198.51.100.1\r\n"}, proxy},
		"no UTF-8":                            {proxy, []string{"203.0.113.7, \xff\xfe"}, proxy},
		"a long entry":                        {proxy, []string{"203.0.113.7, fe80::1%" + strings.Repeat("a", 60_000)}, proxy},
		"more hops than there are":            {proxy, []string{"203.0.113.7, " + strings.Join(many, ", ")}, "10.0.0.9"},
		"more lines than there are":           {proxy, append([]string{"203.0.113.7"}, many...), "10.0.0.9"},
		"as many hops as are looked at":       {proxy, []string{"203.0.113.7", strings.Join(many[:maxHops-1], ",")}, "203.0.113.7"},
		"one more":                            {proxy, []string{"203.0.113.7", strings.Join(many[:maxHops], ",")}, "10.0.0.9"},
		"more commas than there are":          {proxy, []string{"203.0.113.7" + strings.Repeat(",", 60_000)}, proxy},
	} {
		t.Run(name, func(t *testing.T) {
			got := proxies(t, "10.0.0.0/8").Client(netip.MustParseAddr(test.peer), test.lines)
			if got.String() != test.want {
				t.Errorf("client %s, want %s", got, test.want)
			}
		})
	}
}

func TestAPeerWithoutAnAddressHasNone(t *testing.T) {
	everybody := proxies(t, "0.0.0.0/0", "::/0")
	for _, peer := range []string{"", "@", "/run/penstockd.sock", "pipe"} {
		if got := everybody.Client(Address(peer), []string{"203.0.113.7"}); got.IsValid() {
			t.Errorf("peer %q: client %s, want none", peer, got)
		}
	}
}

func TestFindingTheClientCostsNoAllocation(t *testing.T) {
	p, peer := proxies(t, "10.0.0.0/8"), netip.MustParseAddr("10.0.0.1")
	lines := []string{"1.1.1.1, 203.0.113.7", "[::ffff:10.0.0.3]:80, 10.0.0.2:81"}
	if got := testing.AllocsPerRun(100, func() { p.Client(peer, lines) }); got != 0 {
		t.Errorf("%v allocations, want none", got)
	}
}

func TestAPathIsTheSameHoweverItIsWritten(t *testing.T) {
	for target, want := range map[string]string{
		"":                             "/",
		"/":                            "/",
		"?a=b":                         "/",
		"/v1/things":                   "/v1/things",
		"/v1/things?a=b":               "/v1/things",
		"/v1/things?a=b?c=/d":          "/v1/things",
		"/%761/th%69ngs":               "/v1/things",
		"/v1%2Fthings":                 "/v1/things",
		"/v1%2fthings%3Fa=b":           "/v1/things?a=b",
		"/a%252Fb":                     "/a%2Fb",
		"/a+b%20c":                     "/a+b c",
		"/caf%C3%A9":                   "/café",
		"/%ff%00%0d%0a":                "/\xff\x00\r\n",
		"/a#b":                         "/a",
		"//double/../dots/./":          "//double/../dots/./",
		"/a;b=c":                       "/a;b=c",
		"/%":                           "/%",
		"/%2":                          "/%2",
		"/%zz%61":                      "/%zza",
		"/%%61":                        "/%a",
		"http://shop.example":          "/",
		"http://shop.example?a=b":      "/",
		"HTTPS://shop.example/v1?a=b":  "/v1",
		"http://u:p@shop.example:8/v1": "/v1",
		"/http://shop.example/v1":      "/http://shop.example/v1",
		"1http://shop.example/v1":      "/1http://shop.example/v1",
		"://shop.example/v1":           "/://shop.example/v1",
		"v1/things":                    "/v1/things",
		"*":                            "/*",
		"shop.example:443":             "/shop.example:443",
	} {
		if got := Path(target); got != want {
			t.Errorf("%q is %q, want %q", target, got, want)
		}
	}
}

// What an HTTP server makes of a request line, so that a path is the same subject behind /auth/ and in X-Forwarded-Uri.
func TestAPathIsTheOneThatAServerSees(t *testing.T) {
	for _, target := range []string{"/", "/v1/a?b=c", "/%761", "/a%2Fb", "/a%252Fb", "//a/../b", "/a;b", "/caf%C3%A9", "/a+b", "http://shop.example/a%20b?c", "/%ff"} {
		seen := httptest.NewRequest(http.MethodGet, target, nil).URL.Path
		if got := Path(target); got != seen {
			t.Errorf("%q is %q, and %q to a server", target, got, seen)
		}
	}
}

func TestAHostHasNoPortAndIsInLowerCase(t *testing.T) {
	for authority, want := range map[string]string{
		"":                     "",
		"shop.example":         "shop.example",
		"Shop.Example:8443":    "shop.example",
		"shop.example.":        "shop.example",
		"shop.example.:443":    "shop.example",
		"[2001:DB8::1]":        "2001:db8::1",
		"[2001:db8::1]:8443":   "2001:db8::1",
		"192.0.2.1:80":         "192.0.2.1",
		":8443":                "",
		"[2001:db8::1":         "2001:db8::1",
		"a:b:c":                "a:b:c",
		"evil\r\nset-cookie:x": "evil\r\nset-cookie",
	} {
		if got := Host(authority); got != want {
			t.Errorf("%q is %q, want %q", authority, got, want)
		}
	}
}

// Nobody is taken for an address that nobody has said.
func FuzzClient(f *testing.F) {
	for _, seed := range []string{
		"203.0.113.7, 10.0.0.2", "unknown,[::1]:9,\n10.0.0.1:80", "::ffff:1.2.3.4%eth0", "[fe80::1%25eth0]:5,,,", "_id, for=\"[::1]\"", "\x00\xff",
	} {
		f.Add("10.0.0.1", seed)
	}
	p := proxies(f, "10.0.0.0/8", "fe80::/10", "::ffff:192.0.2.0/120")
	f.Fuzz(func(t *testing.T, from, text string) {
		peer, lines := Address(from), strings.Split(text, "\n")
		got := p.Client(peer, lines)
		if got.IsValid() != peer.IsValid() || got.Zone() != "" || got.Is4In6() {
			t.Fatalf("client %s of peer %s", got, peer)
		}
		if got == peer {
			return
		}
		if !p.Trusts(peer) {
			t.Fatalf("client %s of peer %s, which is not trusted", got, peer)
		}
		if !slices.ContainsFunc(strings.FieldsFunc(text, func(c rune) bool { return c == ',' || c == '\n' }), func(entry string) bool {
			return Address(strings.Trim(entry, " \t")) == got
		}) {
			t.Fatalf("client %s, which is not among %q", got, text)
		}
	})
}

// A path is what net/url makes of it, as far as that takes it.
func FuzzPath(f *testing.F) {
	for _, seed := range []string{"/v1/a?b", "/%761%2f%", "http://shop.example/a", "*", "", "a://", "/%zz", "//x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, target string) {
		got := Path(target)
		if !strings.HasPrefix(got, "/") {
			t.Fatalf("%q is %q, which begins with no slash", target, got)
		}
		if !strings.HasPrefix(target, "/") {
			return
		}
		before, _, _ := strings.Cut(target, "?")
		if want, err := url.PathUnescape(before); err == nil && got != want {
			t.Fatalf("%q is %q, want %q", target, got, want)
		}
	})
}
