package doctor

import "testing"

func TestHolesAreThoseOfTheVersion(t *testing.T) {
	for name, test := range map[string]struct {
		engine, version string
		overTLS         bool
		hole            string
		want            bool
		wantFixed       string
	}{
		"before the fix of its line":           {engineRedis, "7.2.10", false, "CVE-2025-49844", true, "7.2.14"},
		"with it":                              {engineRedis, "7.2.11", false, "CVE-2025-49844", false, "7.2.14"},
		"a line without a fix":                 {engineRedis, "7.0.15", false, "CVE-2024-46981", true, "7.2.14"},
		"a line that was fixed early":          {engineRedis, "7.0.15", false, "CVE-2022-24834", false, "7.2.14"},
		"a line between two":                   {engineRedis, "8.0.4", false, "CVE-2026-23631", true, "8.2.6"},
		"a line that came later":               {engineRedis, "8.0.0", false, "CVE-2025-21605", false, "8.2.6"},
		"a release candidate":                  {engineRedis, "8.0-rc1", false, "CVE-2025-49844", true, "8.2.6"},
		"newer than all":                       {engineRedis, "9.0.0", true, "CVE-2026-81934", false, ""},
		"over TLS":                             {engineRedis, "8.6.3", true, "CVE-2026-81934", true, "8.6.6"},
		"not over TLS":                         {engineRedis, "8.6.3", false, "CVE-2026-81934", false, ""},
		"Valkey":                               {engineValkey, "8.0.5", false, "CVE-2025-49844", true, "8.0.9"},
		"Valkey, not by the number of Redis":   {engineValkey, "8.1.4", false, "CVE-2025-49844", false, "8.1.7"},
		"Valkey, which never had that of 2022": {engineValkey, "7.2.4", false, "CVE-2022-24834", false, "7.2.13"},
		"a line that was never affected":       {engineRedis, "6.2.21", false, "CVE-2026-23631", false, ""},
		"a line that is older than the hole":   {engineRedis, "6.2.19", false, "CVE-2026-23631", false, "6.2.20"},
		"an unstable build":                    {engineRedis, "255.255.255", true, "CVE-2026-81934", false, ""},
		"a release candidate of a patch":       {engineRedis, "7.2.4-rc1", false, "CVE-2025-49844", true, "7.2.14"},
		"neither Redis nor Valkey":             {"dragonfly", "7.0.0", false, "CVE-2025-49844", false, ""},
		"Valkey with all fixes":                {engineValkey, "9.1.1", true, "CVE-2026-56684", false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			v, ok := parseVersion(test.version)
			if !ok {
				t.Fatalf("%q is no version", test.version)
			}
			open, fixed := knownHoles(test.engine, v, test.overTLS)
			found := false
			for _, h := range open {
				found = found || h.name == test.hole
			}
			if found != test.want {
				t.Errorf("%s: %v, want %v", test.hole, found, test.want)
			}
			if got := fixed.String(); (test.wantFixed == "" && len(open) > 0) || (test.wantFixed != "" && got != test.wantFixed) {
				t.Errorf("fixed in %s, want %q; open: %v", got, test.wantFixed, open)
			}
		})
	}
}

func TestWhatIsNoVersionIsNone(t *testing.T) {
	for _, text := range []string{"", "7", "unstable", "a.b.c", "7.x"} {
		if v, ok := parseVersion(text); ok {
			t.Errorf("%q: %v, want none", text, v)
		}
	}
}
