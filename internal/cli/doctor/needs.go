package doctor

import "slices"

// Texts of what is lost without a right.
const (
	withoutPush   = "changes that others make to what is published are seen by the resync only, within 36 s"
	withoutFacts  = "the status of the RedisStore does not tell version, eviction and persistence"
	withoutPrune  = "replicas of penstockd that are gone stay in penstock:replicas"
	withoutHear   = "a new set comes into force at the next attempt to listen, every 2 s, or at the next resync"
	withoutBeat   = "penstockd does not know how many replicas live: LocalShare divides by the last count"
	withoutPing   = "each new connection and each look whether Redis is back is refused once, which ACL LOG shows"
	withoutScript = "requests that bring a limit of their own along (Envoy's limit of a descriptor) are decided by onStoreFailure"
)

var operatorRights = slices.Concat(onCluster, []Right{
	{Rule: "~penstock:*", Needed: "the documents", try: []any{"EXISTS", "penstock:owner"}},
	{Rule: "&penstock:changed", Needed: "announcing a new set", try: []any{"PUBLISH", "penstock:changed", ""}, session: true},
	{Rule: "&__redis__:invalidate", Needed: "seeing drift", Optional: withoutPush, try: []any{"SUBSCRIBE", "__redis__:invalidate"}, session: true},
	{Rule: "+client|id", Needed: "seeing drift", Optional: withoutPush, try: []any{"CLIENT", "ID"}},
	{Rule: "+client|tracking", Needed: "seeing drift", Optional: withoutPush, try: []any{"CLIENT", "TRACKING", "OFF", "nosuch"}},
	{Rule: "+config|get", Needed: "the status of the RedisStore", Optional: "its status does not tell whether there are snapshots", try: []any{"CONFIG", "GET", "save"}},
	{Rule: "+del", Needed: "taking a publication back that a server refused", try: []any{"DEL", "penstock:doctor:nosuch"}, only: functions},
	{Rule: "+eval", Needed: "finding out what the server knows", try: []any{"EVAL", "return 1", "-1"}, only: scripts},
	{Rule: "+exec", Needed: "publishing", try: []any{"EXEC"}},
	{Rule: "+fcall_ro", Needed: "finding out what the server knows", try: []any{"FCALL_RO", "penstock_doctor", "0"}, only: functions},
	{Rule: "+function|delete", Needed: "taking a publication back that a server refused", try: []any{"FUNCTION", "DELETE", "penstock_doctor"}, only: functionsOnCluster},
	{Rule: "+function|list", Needed: "publishing", try: []any{"FUNCTION", "LIST", "LIBRARYNAME", "penstock"}, only: functions},
	{Rule: "+function|load", Needed: "publishing", try: []any{"FUNCTION", "LOAD", "nothing"}, only: functions},
	{Rule: "+get", Needed: "publishing", try: []any{"GET", "penstock:doctor:nosuch"}},
	{Rule: "+hdel", Needed: "forgetting replicas of penstockd that are gone", Optional: withoutPrune, try: []any{"HDEL", "penstock:doctor:nosuch", "f"}},
	{Rule: "+hgetall", Needed: "forgetting replicas of penstockd that are gone", Optional: withoutPrune, try: []any{"HGETALL", "penstock:doctor:nosuch"}},
	{Rule: "+info", Needed: "the status of the RedisStore", Optional: withoutFacts, try: []any{"INFO", "server"}},
	{Rule: "+multi", Needed: "publishing", try: []any{"MULTI"}, session: true},
	{Rule: "+persist", Needed: "taking a TTL off what is published", try: []any{"PERSIST", "penstock:doctor:nosuch"}},
	{Rule: "+ping", Needed: "finding out whether the server answers", try: []any{"PING"}},
	{Rule: "+pttl", Needed: "publishing", try: []any{"PTTL", "penstock:doctor:nosuch"}},
	{Rule: "+publish", Needed: "announcing a new set", try: []any{"PUBLISH", "penstock:changed", ""}, session: true},
	{Rule: "+script|exists", Needed: "loading the scripts", try: []any{"SCRIPT", "EXISTS", "ffffffffffffffffffffffffffffffffffffffff"}, only: scripts},
	{Rule: "+script|load", Needed: "loading the scripts", try: []any{"SCRIPT", "LOAD", "("}, only: scripts},
	{Rule: "+set", Needed: "publishing", try: []any{"SET", "penstock:doctor:nosuch", "v", "nosuch"}},
	{Rule: "+subscribe", Needed: "seeing drift", Optional: withoutPush, try: []any{"SUBSCRIBE", "__redis__:invalidate"}, session: true},
	{Rule: "+time", Needed: "forgetting replicas of penstockd that are gone", Optional: withoutPrune, try: []any{"TIME"}},
	{Rule: "+unwatch", Needed: "looking whether all is as published", Optional: "each look is refused once, which ACL LOG shows", try: []any{"UNWATCH"}},
	{Rule: "+watch", Needed: "publishing", try: []any{"WATCH", "penstock:doctor:nosuch"}},
})

var penstockdRights = slices.Concat(counting, onCluster, []Right{
	{Rule: "%R~penstock:policies", Needed: "reading the policies", try: []any{"GET", "penstock:policies"}},
	{Rule: "%R~penstock:library", Needed: "loading the library into a server that has none", try: []any{"GET", "penstock:library"}, only: functions},
	{Rule: "~penstock:replicas", Needed: "telling that it lives", Optional: withoutBeat, try: []any{"HSET", "penstock:replicas", "f", "v", "odd"}},
	{Rule: "%W~penstock:failure:*", Needed: "telling why an expression failed", Optional: "the status of a RateLimit does not tell which of its expressions failed", try: []any{"SET", "penstock:failure:nosuch", "v", "nosuch"}},
	{Rule: "&penstock:changed", Needed: "hearing of a new set", Optional: withoutHear, try: []any{"SUBSCRIBE", "penstock:changed"}, session: true},
	{Rule: "+eval", Needed: "decisions", try: []any{"EVAL", "return 1", "-1"}, only: scripts},
	{Rule: "+eval", Needed: "limits that requests bring along", Optional: withoutScript, try: []any{"EVAL", "return 1", "-1"}, only: functions},
	{Rule: "+evalsha", Needed: "decisions", try: []any{"EVALSHA", "ffffffffffffffffffffffffffffffffffffffff", "1", nobody}, only: scripts},
	{Rule: "+evalsha", Needed: "limits that requests bring along", Optional: withoutScript, try: []any{"EVALSHA", "ffffffffffffffffffffffffffffffffffffffff", "1", nobody}, only: functions},
	{Rule: "+fcall", Needed: "decisions", try: []any{"FCALL", "penstock_doctor", "1", nobody}, only: functions},
	{Rule: "+fcall_ro", Needed: "finding out what the server knows, and looking without charging", try: []any{"FCALL_RO", "penstock_doctor", "1", nobody}, only: functions},
	{Rule: "+function|load", Needed: "loading the library into a server that has none", try: []any{"FUNCTION", "LOAD", "nothing"}, only: functions},
	{Rule: "+hgetall", Needed: "counting the replicas that live", Optional: withoutBeat, try: []any{"HGETALL", "penstock:replicas"}},
	{Rule: "+hdel", Needed: "forgetting replicas that are gone, with policies of a file", Optional: withoutPrune, try: []any{"HDEL", "penstock:replicas", ""}},
	{Rule: "+ping", Needed: "opening connections", Optional: withoutPing, try: []any{"PING"}},
	{Rule: "+subscribe", Needed: "hearing of a new set", Optional: withoutHear, try: []any{"SUBSCRIBE", "penstock:changed"}, session: true},
})

var applicationRights = slices.Concat(counting, onCluster, []Right{
	{Rule: "+command", Needed: "client libraries", Optional: "client libraries that ask which arguments are keys, as go-redis does, guess", try: []any{"COMMAND", "COUNT"}, only: functionsOnCluster},
	{Rule: "+fcall", Needed: "decisions", try: []any{"FCALL", "penstock_doctor", "1", nobody}, only: functions},
	{Rule: "+fcall_ro", Needed: "looking without charging", try: []any{"FCALL_RO", "penstock_doctor", "1", nobody}, only: functions},
})

// lookedAt is what the doctor does not look at without a right.
func lookedAt(what string) string { return what + " is not looked at" }

var doctorRights = []Right{
	{Rule: "%R~penstock:*", Needed: "what is published", Optional: lookedAt("what is published"), try: []any{"GET", "penstock:owner"}},
	{Rule: "+acl|dryrun", Needed: "rights of other users", Optional: "rights are tried by commands that are refused, and those of another user are not looked at", try: []any{"ACL", "DRYRUN", "default", "PING"}, only: functions},
	{Rule: "+acl|whoami", Needed: "who it is", Optional: "the user is called as it was configured", try: []any{"ACL", "WHOAMI"}},
	{Rule: "+cluster|info", Needed: "the state of the cluster", Optional: lookedAt("the state of the cluster"), try: []any{"CLUSTER", "INFO"}, only: cluster},
	{Rule: "+cluster|slots", Needed: "finding the nodes", try: []any{"CLUSTER", "SLOTS"}, only: cluster},
	{Rule: "+config|get", Needed: "snapshots, min-replicas-to-write", Optional: lookedAt("whether there are snapshots, and whether min-replicas-to-write is met"), try: []any{"CONFIG", "GET", "save"}},
	{Rule: "+fcall_ro", Needed: "finding out what the server knows", Optional: lookedAt("whether functions are there"), try: []any{"FCALL_RO", "penstock_doctor", "0"}, only: functions},
	{Rule: "+function|list", Needed: "the library", Optional: lookedAt("which library the servers run"), try: []any{"FUNCTION", "LIST", "LIBRARYNAME", "penstock"}, only: functions},
	{Rule: "+get", Needed: "what is published", Optional: lookedAt("what is published"), try: []any{"GET", "penstock:owner"}},
	{Rule: "+hgetall", Needed: "replicas of penstockd", Optional: lookedAt("which penstockd live"), try: []any{"HGETALL", "penstock:replicas"}},
	{Rule: "+info", Needed: "memory, persistence, replication", Optional: lookedAt("memory, persistence and replication"), try: []any{"INFO", "server"}},
	{Rule: "+ping", Needed: "latency", Optional: "every round trip is a refusal, which is logged in ACL LOG", try: []any{"PING"}},
	{Rule: "+pttl", Needed: "what is published", Optional: lookedAt("whether somebody lets it expire"), try: []any{"PTTL", "penstock:owner"}},
	{Rule: "+time", Needed: "clocks", Optional: lookedAt("whether clocks agree"), try: []any{"TIME"}},
}

// SentinelRights gives what is asked of sentinels, whose users are their own.
func SentinelRights() []Right {
	return []Right{
		{Rule: "+sentinel|get-master-addr-by-name", Needed: "finding the primary"},
		{Rule: "+sentinel|replicas", Needed: "finding the replicas", Optional: "scripts are not loaded into replicas ahead, and the doctor does not look at replicas"},
		{Rule: "+sentinel|master", Needed: "the doctor", Optional: lookedAt("what the sentinels think of the primary, and whether there is a quorum")},
		{Rule: "+sentinel|masters", Needed: "the doctor", Optional: "a wrong name of the primary is not told by the right one"},
		{Rule: "+ping", Needed: "opening connections", Optional: "it is refused, which is logged in ACL LOG"},
	}
}
