package doors

import "strings"

// one is the policies of most sequences.
func one(spec string) map[string]string { return map[string]string{"api": spec} }

// perUser is a policy that counts by the header user, with those limits and whatever else it has.
func perUser(limits string, more ...string) map[string]string {
	return one("descriptors: [{key: header.user}]\nlimits: " + limits + "\n" + strings.Join(more, "\n"))
}

const threePerHour = "[{requests: 3, window: 1h}]"

// sequences are what users write, and what then becomes of requests, at any door. Of policies on one tuple of keys Envoy's
// Rate Limit Service has the most specific apply, other doors all: here are only those where that is the same (see
// TestWhereTheDoorsDifferByDesign). Where a window begins with the clock it is long, so that none begins while a sequence runs.
var sequences = map[string]sequence{
	// Algorithms.
	"a sliding log": {perUser(threePerHour), `
		user=bob  allowed 2..0/3
		user=bob  denied 0/3 retry 1h
		user=ann  allowed 2/3`},
	"a sliding counter": {perUser("[{requests: 3, window: 744h, algorithm: SlidingCounter}]"), `
		user=bob  allowed 2..0/3
		user=bob  denied 0/3 within 1488h
		user=ann  allowed 2/3`},
	"a fixed window": {perUser("[{requests: 3, window: 744h, algorithm: FixedWindow}]"), `
		user=bob  allowed 2..0/3
		user=bob  denied 0/3 within 744h
		user=ann  allowed 2/3`},
	"a token bucket": {perUser("[{requests: 3, window: 3h, algorithm: TokenBucket}]"), `
		user=bob  allowed 2..0/3
		user=bob  denied 0/3 retry 1h
		user=ann  allowed 2/3`},
	"a token bucket that holds more than it refills": {perUser("[{requests: 1, window: 1h, algorithm: TokenBucket, burst: 4}]"), `
		user=bob  allowed 3..0/4 rate 1
		user=bob  denied 0/4 rate 1 retry 1h`},
	"a token bucket that holds less than it refills": {perUser("[{requests: 60, window: 60h, algorithm: TokenBucket, burst: 2}]"), `
		user=bob  allowed 1..0/2 rate 60
		user=bob  denied 0/2 rate 60 retry 1h`},
	"a balance": {perUser("[{requests: 3, algorithm: Balance}]"), `
		user=bob  allowed 2..0/3
		user=bob  denied 0/3 retry 1m
		user=ann  allowed 2/3`},

	// Calendars.
	"an hour of another time zone": {perUser("[{requests: 2, algorithm: FixedWindow, calendar: Hour, timeZone: Asia/Kolkata}]"), `
		user=bob  allowed 1..0/2
		user=bob  denied 0/2 within 1h`},
	"a day": {perUser("[{requests: 2, algorithm: FixedWindow, calendar: Day}]"), `
		user=bob  allowed 1..0/2
		user=bob  denied 0/2 within 24h`},
	"a week in Berlin": {perUser("[{requests: 2, algorithm: FixedWindow, calendar: Week, timeZone: Europe/Berlin}]"), `
		user=bob  allowed 1..0/2
		user=bob  denied 0/2 within 169h`},
	"a month in New York": {perUser("[{requests: 2, algorithm: FixedWindow, calendar: Month, timeZone: America/New_York}]"), `
		user=bob  allowed 1..0/2
		user=bob  denied 0/2 within 745h`},

	// Nothing may pass.
	"no requests by a sliding log": {perUser("[{requests: 0, window: 1h}]"), `
		user=bob  blocked 0/0 retry 1h`},
	"no requests by a sliding counter": {perUser("[{requests: 0, window: 1h, algorithm: SlidingCounter}]"), `
		user=bob  blocked 0/0 within 2h`},
	"no requests by a fixed window": {perUser("[{requests: 0, window: 744h, algorithm: FixedWindow}]"), `
		user=bob  blocked 0/0 within 744h`},
	"no requests by a token bucket": {perUser("[{requests: 0, window: 1h, algorithm: TokenBucket}]"), `
		user=bob  blocked 0/0 within 1h`},
	"no balance": {perUser("[{requests: 0, algorithm: Balance}]"), `
		user=bob  denied 0/0 retry 1m`},

	// Several limits.
	"the tighter of two limits": {perUser("[{name: minute, requests: 2, window: 1m}, {name: hour, requests: 3, window: 1h}]"), `
		user=bob  allowed 1..0/2 of api/minute
		user=bob  denied 0/2 of api/minute within 1m`},
	"limits of two algorithms": {perUser("[{name: burst, requests: 5, window: 1h, algorithm: TokenBucket}, {name: day, requests: 2, algorithm: FixedWindow, calendar: Day}]"), `
		user=bob  allowed 1..0/2 of api/day
		user=bob  denied 0/2 of api/day within 24h`},
	"both limits deny and the longer one binds": {perUser("[{name: minute, requests: 1, window: 1m}, {name: hour, requests: 1, window: 1h}]"), `
		user=bob  allowed 0/1 of api/hour
		user=bob  denied 0/1 of api/hour retry 1h`},
	"a limit with a name of its own": {perUser("[{name: hourly, requests: 1, window: 1h}]"), `
		user=bob  allowed 0/1 of api
		user=bob  denied 0/1 of api retry 1h`},

	// Descriptors.
	"no descriptors": {one("limits: [{requests: 2, window: 1h}]"), `
		user=bob  allowed 1/2
		user=ann  allowed 0/2
		user=cy   denied 0/2 retry 1h`},
	"a pair of descriptors": {one("descriptors: [{key: header.user}, {key: path}]\nlimits: [{requests: 1, window: 1h}]"), `
		user=bob path=/a  allowed 0/1
		user=bob path=/b  allowed 0/1
		user=ann path=/a  allowed 0/1
		user=bob path=/a  denied 0/1 retry 1h`},
	"method and host": {one("descriptors: [{key: method, value: POST}, {key: host}]\nlimits: [{requests: 1, window: 1h}]"), `
		method=POST host=shop.example  allowed 0/1
		method=GET host=shop.example   unmatched
		method=POST host=shop.example  denied 0/1 retry 1h
		method=POST host=pay.example   allowed 0/1`},
	"addresses": {one("descriptors: [{key: remote_address}]\nlimits: [{requests: 1, window: 1h}]"), `
		remote_address=192.0.2.1    allowed 0/1
		remote_address=192.0.2.1    denied 0/1 retry 1h
		remote_address=2001:db8::1  allowed 0/1
		remote_address=2001:db8::1  denied 0/1 retry 1h`},
	"an exact value": {one("descriptors: [{key: header.plan, value: gold}]\nlimits: [{requests: 1, window: 1h}]"), `
		plan=gold    allowed 0/1
		plan=gold    denied 0/1 retry 1h
		plan=silver  unmatched
		plan=golden  unmatched`},
	"a prefix": {one("descriptors: [{key: header.team, value: team-*}]\nlimits: [{requests: 1, window: 1h}]"), `
		team=team-a  allowed 0/1
		team=team-b  allowed 0/1
		team=team-a  denied 0/1 retry 1h
		team=steam   unmatched`},
	"a wildcard in the middle": {one("descriptors: [{key: path, value: /v*/items}]\nlimits: [{requests: 1, window: 1h}]"), `
		path=/v1/items    allowed 0/1
		path=/v1/items    denied 0/1 retry 1h
		path=/v2/items    allowed 0/1
		path=/v1/items/7  unmatched`},
	"a shared wildcard": {one("descriptors: [{key: header.team, value: team-*, shared: true}]\nlimits: [{requests: 2, window: 1h}]"), `
		team=team-a  allowed 1/2
		team=team-b  allowed 0/2
		team=team-c  denied 0/2 retry 1h
		team=other   unmatched`},
	"a shared wildcard beside a value": {one("descriptors: [{key: path, value: /img/*, shared: true}, {key: header.user}]\nlimits: [{requests: 2, window: 1h}]"), `
		path=/img/a user=bob  allowed 1/2
		path=/img/b user=bob  allowed 0/2
		path=/img/c user=bob  denied 0/2 retry 1h
		path=/img/a user=ann  allowed 1/2`},
	"a header that is missing": {perUser(threePerHour), `
		other=x   unmatched
		user=bob  allowed 2/3`},
	"a domain of its own": {one("domain: web-$namespace\ndescriptors: [{key: header.user}]\nlimits: [{requests: 1, window: 1h}]"), `
		user=bob  allowed 0/1
		user=bob  denied 0/1 retry 1h`},

	// Overrides.
	"an override of a value": {perUser(threePerHour, "overrides: [{match: [{key: header.user, value: vip}], limits: [{requests: 5, window: 1h}]}]"), `
		user=vip  allowed 4..0/5
		user=vip  denied 0/5 retry 1h
		user=bob  allowed 2/3`},
	"an override of a prefix": {perUser(threePerHour, "overrides: [{match: [{key: header.user, value: bot-*}], limits: [{requests: 1, window: 1h}]}]"), `
		user=bot-1  allowed 0/1
		user=bot-1  denied 0/1 retry 1h
		user=bot-2  allowed 0/1
		user=bob    allowed 2/3`},
	"an override of a wildcard": {perUser(threePerHour, `overrides: [{match: [{key: header.user, value: "*@partner.example"}], limits: [{requests: 4, window: 1h}]}]`), `
		user=a@partner.example  allowed 3/4
		user=a@shop.example     allowed 2/3`},
	"an override without limits": {perUser(threePerHour, "overrides: [{match: [{key: header.user, value: probe}], unlimited: true}]"), `
		user=probe  unlimited
		user=probe  unlimited
		user=bob    allowed 2..0/3
		user=bob    denied 0/3 retry 1h
		user=probe  unlimited`},
	"the most specific override": {perUser(threePerHour, `overrides:
- {match: [{key: header.user, value: "*"}], limits: [{requests: 10, window: 1h}]}
- {match: [{key: header.user, value: a*}], limits: [{requests: 20, window: 1h}]}
- {match: [{key: header.user, value: ann}], limits: [{requests: 30, window: 1h}]}`), `
		user=ann  allowed 29/30
		user=amy  allowed 19/20
		user=bob  allowed 9/10`},
	"an override of another algorithm": {perUser(threePerHour, "overrides: [{match: [{key: header.user, value: vip}], limits: [{name: b, requests: 1, window: 1h, algorithm: TokenBucket, burst: 2}]}]"), `
		user=vip  allowed 1..0/2 of api rate 1
		user=vip  denied 0/2 of api retry 1h rate 1
		user=bob  allowed 2/3`},
	"an override of two values": {one(`descriptors: [{key: header.user}, {key: path}]
limits: [{requests: 3, window: 1h}]
overrides: [{match: [{key: path, value: /login}, {key: header.user, value: bob}], limits: [{requests: 1, window: 1h}]}]`), `
		user=bob path=/login  allowed 0/1
		user=bob path=/login  denied 0/1 retry 1h
		user=bob path=/       allowed 2/3
		user=ann path=/login  allowed 2/3`},

	// Costs and conditions.
	"a cost": {perUser("[{requests: 5, window: 1h}]", "cost: 2"), `
		user=bob  allowed 3/5
		user=bob  allowed 1/5
		user=bob  denied 1/5 retry 1h`},
	"a cost that is more than all": {perUser(threePerHour, "cost: 4"), `
		user=bob  denied 3/3 retry 1h`},
	"a cost by an expression": {one(`descriptors: [{key: header.user}, {key: path}]
limits: [{requests: 5, window: 1h}]
cost: 'request.path.startsWith("/export") ? 4 : 1'`), `
		user=bob path=/export/1  allowed 1/5
		user=bob path=/export/1  denied 1/5 retry 1h
		user=bob path=/          allowed 4/5`},
	"a cost by what a client writes": {perUser("[{requests: 9, window: 1h}]", `cost: 'math.greatest(1, math.least(int(request.header["user"]), 4))'`), `
		user=3    allowed 6/9
		user=100  allowed 5/9
		user=-7   allowed 8/9
		user=x    allowed 8/9`},
	"a condition": {one(`descriptors: [{key: header.user}, {key: path}]
limits: [{requests: 1, window: 1h}]
when: ['request.path.startsWith("/api/")']`), `
		user=bob path=/api/a  allowed 0/1
		user=bob path=/web/a  unmatched
		user=bob path=/api/a  denied 0/1 retry 1h`},
	"two conditions": {one(`descriptors: [{key: method}, {key: header.user}]
limits: [{requests: 1, window: 1h}]
when: ['request.method in ["POST", "PUT"]', '!request.header["user"].startsWith("robot-")']`), `
		method=POST user=bob      allowed 0/1
		method=GET user=bob       unmatched
		method=POST user=robot-1  unmatched
		method=POST user=bob      denied 0/1 retry 1h`},

	// Who is denied.
	"denied again and again": {perUser("[{requests: 2, window: 1h}]"), `
		user=bob  allowed 1..0/2
		user=bob  denied 0/2 retry 1h
		user=bob  denied 0/2 retry 1h
		user=bob  denied 0/2 retry 1h
		user=ann  allowed 1/2`},
	"shadow": {perUser("[{requests: 2, window: 1h}]", "mode: Shadow"), `
		user=bob  allowed 1..0/2
		user=bob  shadow 0/2
		user=bob  shadow 0/2`},
	"enforced for nobody": {perUser("[{requests: 1, window: 1h}]", "enforcePercent: 0"), `
		user=bob  allowed 0/1
		user=bob  shadow 0/1`},
	// By the digest of the subject: cy is among those 50 %, bob is not.
	"enforced for half of all": {perUser("[{requests: 1, window: 1h}]", "enforcePercent: 50"), `
		user=bob  allowed 0/1
		user=cy   allowed 0/1
		user=bob  shadow 0/1
		user=cy   denied 0/1 retry 1h`},
	"a penalty at the second denial": {perUser("[{requests: 1, window: 1h}]", "penalty: {denials: 2, within: 1h, for: 3h}"), `
		user=bob  allowed 0/1
		user=bob  denied 0/1 retry 1h
		user=bob  penalty 0/1 retry 3h
		user=bob  penalty 0/1 retry 3h
		user=ann  allowed 0/1`},
	"a penalty at once": {perUser("[{requests: 2, window: 1m}]", "penalty: {denials: 1, within: 1h, for: 2h, max: 4h}"), `
		user=bob  allowed 1..0/2
		user=bob  penalty 0/2 retry 2h`},

	// Responses.
	"another status and all headers": {perUser("[{requests: 1, window: 1h}]", "response: {status: 503, headers: [RetryAfter, Legacy, Draft]}"), `
		user=bob  allowed 0/1
		user=bob  denied 0/1 retry 1h`},
	"no headers": {perUser("[{requests: 1, window: 1h}]", "response: {headers: []}"), `
		user=bob  allowed 0/1
		user=bob  denied 0/1 retry 1h`},
	"the headers of old": {perUser("[{requests: 1, window: 1h}]", "response: {headers: [Legacy]}"), `
		user=bob  allowed 0/1
		user=bob  denied 0/1 retry 1h`},
	"only when to come back": {perUser("[{requests: 1, window: 1h}]", "response: {headers: [RetryAfter]}"), `
		user=bob  allowed 0/1
		user=bob  denied 0/1 retry 1h`},
	"words of one's own": {perUser("[{requests: 1, window: 1h}]", `response: {status: 420, problem: {type: "https://shop.example/slow", title: Slow down, detail: "See <our> terms."}}`), `
		user=bob  allowed 0/1
		user=bob  denied 0/1 retry 1h`},

	// Large numbers.
	"the largest number": {perUser("[{requests: 9007199254740991, window: 744h, algorithm: FixedWindow}]"), `
		user=bob  allowed 9007199254740990..9007199254740989/9007199254740991`},
	"the largest balance": {perUser("[{requests: 9007199254740991, algorithm: Balance}]", "cost: 2147483647"), `
		user=bob  allowed 9007197107257344/9007199254740991
		user=bob  allowed 9007194959773697/9007199254740991`},
	"the largest sliding counter": {perUser("[{requests: 8589934592, window: 744h, algorithm: SlidingCounter}]"), `
		user=bob  allowed 8589934591..8589934590/8589934592`},
	"one more than 32 bits": {perUser("[{requests: 4294967296, window: 744h, algorithm: FixedWindow}]"), `
		user=bob  allowed 4294967295..4294967294/4294967296`},

	// Values.
	"values that run into each other": {one("descriptors: [{key: header.user}, {key: header.team}]\nlimits: [{requests: 1, window: 1h}]"), `
		user=a team=b:c      allowed 0/1
		user=a:b team=c      allowed 0/1
		user="a|b" team=c    allowed 0/1
		user=a team="b|c"    allowed 0/1
		user="1:a" team="1"  allowed 0/1
		user=1 team="a1:"    allowed 0/1
		user=a:b team=c      denied 0/1 retry 1h`},
	"braces": {perUser("[{requests: 1, window: 1h}]"), `
		user={x}bob   allowed 0/1
		user={x}ann   allowed 0/1
		user={}       allowed 0/1
		user={x}bob   denied 0/1 retry 1h`},
	"wildcards in a value": {perUser("[{requests: 1, window: 1h}]"), `
		user=*    allowed 0/1
		user=?    allowed 0/1
		user=b*   allowed 0/1
		user=bob  allowed 0/1
		user=*    denied 0/1 retry 1h`},
	"quotes, backslashes, percents and commas": {perUser("[{requests: 1, window: 1h}]"), `
		user="\"a\\"  allowed 0/1
		user="%61"    allowed 0/1
		user="a"      allowed 0/1
		user="a, b"   allowed 0/1
		user="%61"    denied 0/1 retry 1h`},
	"letters that look alike": {perUser("[{requests: 1, window: 1h}]"), `
		user="\u00e9"     allowed 0/1
		user="e\u0301"    allowed 0/1
		user="\u0435"     allowed 0/1
		user="\u202ebob"  allowed 0/1
		user="🦊"         allowed 0/1
		user="\u00e9"     denied 0/1 retry 1h
		user="e\u0301"    denied 0/1 retry 1h`},
	"large and small letters": {perUser("[{requests: 1, window: 1h}]"), `
		user=bob  allowed 0/1
		user=Bob  allowed 0/1
		user=bob  denied 0/1 retry 1h`},
	"control characters": {one("descriptors: [{key: path}]\nlimits: [{requests: 1, window: 1h}]"), `
		path="/a\x00b"    allowed 0/1
		path="/a\r\nb"    allowed 0/1
		path="/a"         allowed 0/1
		path="/a\x00b"    denied 0/1 retry 1h
		path="/a b?c#d"   allowed 0/1`},
	"dots and slashes": {one("descriptors: [{key: path}]\nlimits: [{requests: 1, window: 1h}]"), `
		path=/a/../b  allowed 0/1
		path=//b      allowed 0/1
		path=/b/      allowed 0/1
		path=/b       allowed 0/1
		path=//b      denied 0/1 retry 1h`},
	"no value": {perUser("[{requests: 1, window: 1h}]"), `
		user=""   allowed 0/1
		user=bob  allowed 0/1
		user=""   denied 0/1 retry 1h`},
	"256 bytes": {perUser("[{requests: 1, window: 1h}]"), `
		user=` + long(256) + `  allowed 0/1
		user=` + long(256) + `  denied 0/1 retry 1h
		user=` + long(257) + `  refused`},

	// In time.
	"again when it is time, by a sliding log": {perUser("[{requests: 1, window: 1s}]"), `
		user=bob  allowed 0/1
		user=bob  denied 0/1 retry 1s
		wait
		user=bob  allowed 0/1`},
	"again when it is time, by a token bucket": {perUser("[{requests: 1, window: 1s, algorithm: TokenBucket}]"), `
		user=bob  allowed 0/1
		user=bob  denied 0/1 retry 1s
		wait
		user=bob  allowed 0/1`},
	"again when the penalty is over": {perUser("[{requests: 1, window: 1s}]", "penalty: {denials: 1, within: 1m, for: 1s}"), `
		user=bob  allowed 0/1
		user=bob  penalty 0/1 retry 1s
		wait
		user=bob  allowed 0/1`},

	// What callers say that a request costs.
	"a cost of the caller": {perUser("[{requests: 5, window: 1h}]"), `
		user=bob cost=3  allowed 2/5
		user=bob cost=3  denied 2/5 retry 1h
		user=bob cost=2  allowed 0/5
		user=bob         denied 0/5 retry 1h`},
	"a cost of the caller in the place of the policy's": {perUser("[{requests: 10, window: 1h}]", "cost: 4"), `
		user=bob         allowed 6/10
		user=bob cost=1  allowed 5/10`},
	"a cost of the caller that is more than all": {perUser("[{requests: 5, window: 1h}]"), `
		user=bob cost=6                 denied 5/5 retry 1h
		user=bob cost=4294967296        denied 5/5 retry 1h
		user=bob cost=9007199254740991  denied 5/5 retry 1h
		user=bob cost=5                 allowed 0/5`},
	"only a look": {perUser("[{requests: 2, window: 1h}]"), `
		user=bob cost=0  allowed 2/2
		user=bob         allowed 1..0/2
		user=bob cost=0  allowed 0/2
		user=bob         denied 0/2 retry 1h`},

	// Several policies at once.
	"two policies": {map[string]string{
		"user": "descriptors: [{key: header.user}]\nlimits: [{requests: 4, window: 1h}]",
		"team": "descriptors: [{key: header.team}]\nlimits: [{requests: 2, window: 2h}]",
	}, `
		user=bob team=red   allowed 1..0/2 of team
		user=bob team=red   denied 0/2 of team retry 2h
		user=bob team=blue  allowed 1..0/2 of team
		user=bob team=grey  denied 0/4 of user retry 1h
		user=ann            allowed 3/4 of user
		team=grey           allowed 1/2 of team
		other=x             unmatched`},
	"two policies that both deny": {map[string]string{
		"user": "descriptors: [{key: header.user}]\nlimits: [{requests: 1, window: 1h}]",
		"team": "descriptors: [{key: header.team}]\nlimits: [{requests: 1, window: 2h}]",
	}, `
		user=bob team=red   allowed 0/1 of team
		user=bob team=red   denied 0/1 of team violating team,user retry 2h`},
	"one for all beside one for each": {map[string]string{
		"all":  "limits: [{requests: 3, window: 1h}]",
		"user": "descriptors: [{key: header.user}]\nlimits: [{requests: 2, window: 1h}]",
	}, `
		user=bob  allowed 1..0/2 of user
		user=bob  denied 0/2 of user retry 1h
		user=ann  allowed 0/3 of all
		user=ann  denied 0/3 of all retry 1h`},
	"an exact value beside a prefix": {map[string]string{
		"gold":   "descriptors: [{key: header.plan, value: gold}]\nlimits: [{requests: 2, window: 1h}]",
		"silver": "descriptors: [{key: header.plan, value: silver*}]\nlimits: [{requests: 1, window: 1h}]",
	}, `
		plan=gold      allowed 1/2 of gold
		plan=silver    allowed 0/1 of silver
		plan=silver-2  allowed 0/1 of silver
		plan=silver    denied 0/1 of silver retry 1h
		plan=gold      allowed 0/2 of gold
		plan=none      unmatched`},
	"two policies on the same values": {map[string]string{
		"hour": "descriptors: [{key: header.user}]\nlimits: [{requests: 3, window: 1h}]",
		"day":  "descriptors: [{key: header.user}]\nlimits: [{requests: 5, window: 24h}]",
	}, `
		user=bob  allowed 2..0/3 of hour
		user=bob  denied 0/3 of hour retry 1h
		user=ann  allowed 2/3 of hour`},
	"one in shadow beside one that enforces": {map[string]string{
		"new": "descriptors: [{key: header.user}]\nmode: Shadow\nlimits: [{requests: 1, window: 1h}]",
		"old": "descriptors: [{key: header.team}]\nlimits: [{requests: 3, window: 1h}]",
	}, `
		user=bob team=red  allowed 2..0/3 of old
		user=bob team=red  denied 0/3 of old retry 1h`},
	"three policies of three algorithms": {map[string]string{
		"path":   "descriptors: [{key: path}]\nlimits: [{requests: 4, window: 744h, algorithm: FixedWindow}]",
		"user":   "descriptors: [{key: header.user}]\nlimits: [{requests: 3, window: 3h, algorithm: TokenBucket}]",
		"wallet": "descriptors: [{key: header.wallet}]\nlimits: [{requests: 2, algorithm: Balance}]",
	}, `
		path=/ user=bob wallet=w1  allowed 1..0/2 of wallet
		path=/ user=bob wallet=w1  denied 0/2 of wallet retry 1m
		path=/ user=bob wallet=w2  allowed 0/3 of user
		path=/ user=bob wallet=w2  denied 0/3 of user retry 1h
		path=/ user=ann wallet=w3  allowed 0/4 of path
		path=/ user=ann wallet=w3  denied 0/4 of path within 744h`},
	"slots are no matter of a domain": {map[string]string{
		"slots": "descriptors: [{key: header.user}]\nlimits: [{requests: 1, algorithm: Concurrency}]",
		"user":  "descriptors: [{key: header.user}]\nlimits: [{requests: 2, window: 1h}]",
	}, `
		user=bob  allowed 1..0/2 of user
		user=bob  denied 0/2 of user retry 1h`},
	"the response of the policy that denies": {map[string]string{
		"team": "descriptors: [{key: header.team}]\nlimits: [{requests: 1, window: 1h}]\nresponse: {status: 503, headers: [Legacy]}",
		"user": "descriptors: [{key: header.user}]\nlimits: [{requests: 1, window: 1h}]\nresponse: {status: 418}",
	}, `
		team=red   allowed 0/1 of team
		user=bob   allowed 0/1 of user
		team=red user=ann   denied 0/1 of team retry 1h
		team=blue user=bob  denied 0/1 of user retry 1h`},
	"a condition of one of two": {map[string]string{
		"post": "descriptors: [{key: method}, {key: header.user}]\nlimits: [{requests: 1, window: 1h}]\nwhen: ['request.method == \"POST\"']",
		"user": "descriptors: [{key: header.user}]\nlimits: [{requests: 3, window: 1h}]",
	}, `
		method=GET user=bob   allowed 2/3 of user
		method=POST user=bob  allowed 0/1 of post
		method=POST user=bob  denied 0/1 of post retry 1h
		method=GET user=bob   allowed 0/3 of user`},
}

// long is a value of so many bytes, with letters of several among them.
func long(bytes int) string { return "éé" + strings.Repeat("x", bytes-len("éé")) }
