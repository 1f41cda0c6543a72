package doctor

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// version is major, minor and patch.
type version [3]int

func parseVersion(text string) (version, bool) {
	var v version
	parts := strings.SplitN(text, ".", 3)
	for i, part := range parts {
		digits := part
		if end := strings.IndexFunc(part, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
			digits = part[:end] // 8.0-rc1, 7.2.4-138
		}
		n, err := strconv.Atoi(digits)
		if err != nil {
			return version{}, false
		}
		v[i] = n
	}
	return v, len(parts) >= 2
}

func (v version) String() string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }

func (v version) before(other version) bool { return slices.Compare(v[:], other[:]) < 0 }

func (v version) line() [2]int { return [2]int{v[0], v[1]} }

// The oldest servers that are made use of, and those with functions.
var (
	oldestVersion   = version{6, 2, 0}
	functionVersion = version{7, 0, 0}
)

// hole is a vulnerability that matters to a Redis that runs Lua for users of different rights.
type hole struct {
	name string
	what string
	// advisory is where this table is from, together with the release notes of the versions.
	advisory string
	// redis and valkey are the first version of each line with the fix, ascending. A line that is not named has none, when
	// it is older than the last one that is; a newer one has it from the beginning. None at all: not affected.
	redis, valkey []version
	// since is the first version that has it; none: all have.
	since version
	// needsTLS: only servers that serve TLS.
	needsTLS bool
}

var holes = []hole{
	{
		name: "CVE-2022-24735", what: "Lua of one user can be made to run as another user",
		advisory: "https://github.com/redis/redis/security/advisories/GHSA-647m-2wmq-qmvq",
		redis:    []version{{6, 2, 7}, {7, 0, 0}},
	},
	{
		name: "CVE-2022-24834", what: "a Lua script can overflow the heap in cjson and run code",
		advisory: "https://github.com/redis/redis/security/advisories/GHSA-p8x2-9v9q-c838",
		redis:    []version{{6, 0, 20}, {6, 2, 13}, {7, 0, 12}},
	},
	{
		name: "CVE-2024-31449", what: "a Lua script can overflow the stack in bit and run code",
		advisory: "https://github.com/redis/redis/security/advisories/GHSA-whxg-wx83-85p5",
		redis:    []version{{6, 2, 16}, {7, 2, 6}, {7, 4, 1}},
		valkey:   []version{{7, 2, 7}, {8, 0, 1}},
	},
	{
		name: "CVE-2024-46981", what: "a Lua script can use freed memory and run code",
		advisory: "https://github.com/redis/redis/security/advisories/GHSA-39h2-x6c4-6w4c",
		redis:    []version{{6, 2, 17}, {7, 2, 7}, {7, 4, 2}},
		valkey:   []version{{7, 2, 8}, {8, 0, 2}},
	},
	{
		name: "CVE-2025-21605", what: "clients that have not authenticated can fill the memory",
		advisory: "https://github.com/redis/redis/security/advisories/GHSA-r67f-p999-2gff",
		redis:    []version{{6, 2, 18}, {7, 2, 8}, {7, 4, 3}},
		valkey:   []version{{7, 2, 9}, {8, 0, 3}, {8, 1, 1}},
	},
	{
		name: "CVE-2025-32023", what: "HyperLogLog commands can write out of bounds and run code",
		advisory: "https://github.com/redis/redis/security/advisories/GHSA-rp2m-q4j6-gr43",
		redis:    []version{{6, 2, 19}, {7, 2, 10}, {7, 4, 5}, {8, 0, 3}},
		valkey:   []version{{7, 2, 10}, {8, 0, 4}, {8, 1, 3}},
	},
	{
		name: "CVE-2025-48367", what: "clients that have not authenticated can keep others from connecting",
		advisory: "https://github.com/redis/redis/security/advisories/GHSA-4q32-c38c-pwgq",
		redis:    []version{{6, 2, 19}, {7, 2, 10}, {7, 4, 5}, {8, 0, 3}},
		valkey:   []version{{7, 2, 10}, {8, 0, 4}, {8, 1, 3}},
	},
	{
		name: "CVE-2025-46817", what: "a Lua script can overflow an integer and run code",
		advisory: "https://github.com/redis/redis/security/advisories/GHSA-m8fj-85cg-7vhp",
		redis:    october2025, valkey: october2025Valkey,
	},
	{
		name: "CVE-2025-46818", what: "Lua of one user can be made to run as another user",
		advisory: "https://github.com/redis/redis/security/advisories/GHSA-qrv7-wcrx-q5jp",
		redis:    october2025, valkey: october2025Valkey,
	},
	{
		name: "CVE-2025-46819", what: "a Lua script can read out of bounds or end the server",
		advisory: "https://github.com/redis/redis/security/advisories/GHSA-4c68-q8q8-3g4f",
		redis:    october2025, valkey: october2025Valkey,
	},
	{
		name: "CVE-2025-49844", what: "a Lua script can use freed memory and run code",
		advisory: "https://github.com/redis/redis/security/advisories/GHSA-4789-qfc9-5f9q",
		redis:    october2025, valkey: october2025Valkey,
	},
	{
		name: "CVE-2025-67733", what: "a Lua script can put replies into a connection that others share",
		advisory: "https://github.com/valkey-io/valkey/security/advisories/GHSA-p876-p7q5-hv2m",
		valkey:   []version{{7, 2, 12}, {8, 0, 7}, {8, 1, 6}, {9, 0, 3}},
	},
	{
		name: "CVE-2026-23631", what: "a replica that is not read-only can use freed memory of Lua and run code",
		advisory: "https://github.com/redis/redis/security/advisories/GHSA-8ghh-qpmp-7826",
		redis:    []version{{7, 2, 14}, {7, 4, 9}, {8, 2, 6}, {8, 4, 3}, {8, 6, 3}},
		valkey:   []version{{7, 2, 13}, {8, 0, 9}, {8, 1, 7}, {9, 0, 4}},
		since:    functionVersion,
	},
	{
		name: "CVE-2026-56684", what: "CLIENT KILL over TLS can use freed memory and run code",
		advisory: "https://github.com/valkey-io/valkey/releases/tag/9.1.1",
		valkey:   []version{{7, 2, 14}, {8, 0, 10}, {8, 1, 9}, {9, 0, 5}, {9, 1, 1}},
		needsTLS: true,
	},
	{
		name: "CVE-2026-81934", what: "clients over TLS can use freed memory and run code",
		advisory: "https://redis.io/blog/security-advisory-cve-2026-81934/",
		redis:    []version{{6, 2, 24}, {7, 2, 16}, {7, 4, 11}, {8, 2, 9}, {8, 4, 6}, {8, 6, 6}, {8, 8, 2}, {8, 10, 1}},
		needsTLS: true,
	},
}

var (
	october2025       = []version{{6, 2, 20}, {7, 2, 11}, {7, 4, 6}, {8, 0, 4}, {8, 2, 2}}
	october2025Valkey = []version{{7, 2, 11}, {8, 0, 6}, {8, 1, 4}}
)

// HoleRows gives the table for the documentation: name and advisory, what it lets happen, and the first versions of Redis
// and of Valkey that do not have it.
func HoleRows() []string {
	var rows []string
	for _, h := range holes {
		what := h.what
		if h.since != (version{}) {
			what += fmt.Sprintf(" (since %v)", h.since)
		}
		rows = append(rows, fmt.Sprintf("| [%s](%s) | %s | %s | %s |", h.name, h.advisory, what, listedVersions(h.redis), listedVersions(h.valkey)))
	}
	return rows
}

func listedVersions(versions []version) string {
	if len(versions) == 0 {
		return "–"
	}
	var all []string
	for _, v := range versions {
		all = append(all, v.String())
	}
	return strings.Join(all, ", ")
}

// fixes gives the versions with the fix for an engine. Of others than these two nothing is known.
func (h hole) fixes(engine string) []version {
	switch engine {
	case engineRedis:
		return h.redis
	case engineValkey:
		return h.valkey
	}
	return nil
}

// open tells whether that version has the hole.
func (h hole) open(engine string, v version, overTLS bool) bool {
	fixes := h.fixes(engine)
	if len(fixes) == 0 || v.before(h.since) || (h.needsTLS && !overTLS) {
		return false
	}
	for _, fixed := range fixes {
		if fixed.line() == v.line() {
			return v.before(fixed)
		}
	}
	return v.before(fixes[len(fixes)-1])
}

// knownHoles gives the holes of that version, and the smallest version that has none of them: of its own line, or where
// that has no fix of the next line that has all.
func knownHoles(engine string, v version, overTLS bool) (open []hole, fixed version) {
	for _, h := range holes {
		if h.open(engine, v, overTLS) {
			open = append(open, h)
		}
	}
	if len(open) == 0 {
		return nil, version{}
	}
	var candidates []version
	for _, h := range holes {
		candidates = append(candidates, h.fixes(engine)...)
	}
	slices.SortFunc(candidates, func(a, b version) int { return slices.Compare(a[:], b[:]) })
	for _, candidate := range candidates {
		if candidate.before(v) {
			continue
		}
		if !slices.ContainsFunc(holes, func(h hole) bool { return h.open(engine, candidate, overTLS) }) {
			return open, candidate
		}
	}
	return open, version{} // never: the last version of the table has all fixes
}
