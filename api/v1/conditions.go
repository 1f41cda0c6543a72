package v1

// Condition types. All but Paused, Reconciling, Stalled and Degraded are positive (True is good) and always present
// once an object was reconciled; those four are present only while they are True, as kstatus reads them.
const (
	// ConditionReady of a policy is Accepted and Programmed; of a RedisStore it is Reachable and LibraryLoaded.
	ConditionReady = "Ready"
	// ConditionAccepted tells that a policy is valid, that its store exists and lets it in, and that nothing older
	// claims the same keys.
	ConditionAccepted = "Accepted"
	// ConditionProgrammed tells that the present content of a policy is published. It is latched on the content: an
	// outage of Redis or an edit of another policy does not unset it; new content or observed loss does.
	ConditionProgrammed = "Programmed"
	// ConditionReachable tells that the last command to Redis was answered.
	ConditionReachable = "Reachable"
	// ConditionLibraryLoaded tells that Redis serves the compiled set of the store.
	ConditionLibraryLoaded = "LibraryLoaded"
	// ConditionEvictionSafe is advice: False when Redis may evict keys that policies rely on.
	ConditionEvictionSafe = "EvictionSafe"
	// ConditionDurabilitySafe is advice: False when a restart of Redis loses the counters.
	ConditionDurabilitySafe = "DurabilitySafe"

	// ConditionDegraded tells that a store or a policy works, but not as declared (see its reason). Present only while
	// True.
	ConditionDegraded = "Degraded"
	// ConditionPaused tells that penstock.dev/paused holds the object still. Present only while True.
	ConditionPaused = "Paused"
	// ConditionReconciling tells that progress is expected without anybody's help. Present only while True.
	ConditionReconciling = "Reconciling"
	// ConditionStalled tells that progress needs a change by somebody. Present only while True.
	ConditionStalled = "Stalled"
)

// Reasons of Accepted and Programmed, and through them of Ready, on policies.
const (
	// ReasonAccepted (Accepted=True).
	ReasonAccepted = "Accepted"
	// ReasonInvalid (Accepted=False, or Reachable=False on a RedisStore): the spec breaks a rule; the message names the
	// field and the remedy. Stalled.
	ReasonInvalid = "Invalid"
	// ReasonConflicted (Accepted=False): an older object claims the same keys, or (on a RedisStore, LibraryLoaded=False)
	// somebody else owns this Redis; the message names the winner and, unless that is a RedisStore of this cluster, how to
	// take over. Stalled.
	ReasonConflicted = "Conflicted"
	// ReasonStoreNotFound (Accepted=False): no RedisStore of the name that was given, or no default one. Stalled.
	ReasonStoreNotFound = "StoreNotFound"
	// ReasonRefNotPermitted (Accepted=False): the store is in another namespace and does not let this one in. Stalled.
	ReasonRefNotPermitted = "RefNotPermitted"
	// ReasonStoreFull (Accepted=False on a policy, Degraded=True on a store): the compiled set is larger than a store
	// may hold, or Redis has no memory left for it. Stalled.
	ReasonStoreFull = "StoreFull"

	// ReasonProgrammed (Programmed=True, Ready=True).
	ReasonProgrammed = "Programmed"
	// ReasonPending (Programmed=False): not published yet. Reconciling.
	ReasonPending = "Pending"
	// ReasonNotAccepted (Programmed=False): there is nothing to publish as long as Accepted is False.
	ReasonNotAccepted = "NotAccepted"
	// ReasonExpressionFailed (Degraded=True): within the last 10 minutes an expression of the policy could not be evaluated
	// for a request; the message tells which one and why.
	ReasonExpressionFailed = "ExpressionFailed"
	// ReasonPaused (Paused=True).
	ReasonPaused = "Paused"
)

// Reasons of the conditions of a RedisStore.
const (
	// ReasonReachable (Reachable=True).
	ReasonReachable = "Reachable"
	// ReasonUnreachable (Reachable=False): no answer, or none of the Redis protocol, from a primary that the message names,
	// with the last error. Also of a Redis that comes and goes, until it has answered for 30 seconds. Reconciling.
	ReasonUnreachable = "Unreachable"
	// ReasonUnavailable (Reachable=False): Redis answers, and says why it cannot serve now (LOADING, BUSY, MISCONF, READONLY,
	// too many clients…); the message has its words and the remedy. Reconciling.
	ReasonUnavailable = "Unavailable"
	// ReasonSecretInvalid (Reachable=False): a Secret of the store is missing, lacks a key, or holds no PEM where it should.
	// Stalled. Degraded=True instead while the connection that was made with it before serves on.
	ReasonSecretInvalid = "SecretInvalid"
	// ReasonSecretForbidden (Reachable=False, or Degraded=True like ReasonSecretInvalid): the operator may not read a Secret;
	// the message prints the RoleBinding that allows it. Stalled.
	ReasonSecretForbidden = "SecretForbidden"
	// ReasonAuthenticationFailed (Reachable=False): Redis refused the credentials, or a command they do not permit.
	// Stalled.
	ReasonAuthenticationFailed = "AuthenticationFailed"

	// ReasonTLSFailed (Reachable=False): a certificate was refused, the server's or Penstock's own, or the server does not speak
	// TLS; the message says which and the remedy. Stalled.
	ReasonTLSFailed = "TLSFailed"

	// ReasonLoaded (LibraryLoaded=True).
	ReasonLoaded = "Loaded"
	// ReasonNotLoaded (LibraryLoaded=False): Redis refused the library; the message has its words.
	ReasonNotLoaded = "NotLoaded"
	// ReasonReady (Ready=True) on a RedisStore.
	ReasonReady = "Ready"
	// ReasonUnknown (Unknown): not looked at yet.
	ReasonUnknown = "Unknown"

	// ReasonShrinkHeld (Degraded=True): a set that drops most of the policies that were in force within the last 10 minutes
	// waits for penstock.dev/confirm-shrink.
	ReasonShrinkHeld = "ShrinkHeld"

	// ReasonNoEviction (EvictionSafe=True): maxmemory-policy is noeviction, or no policy keeps state that may not be
	// evicted.
	ReasonNoEviction = "NoEviction"
	// ReasonMayEvict (EvictionSafe=False): the message names the maxmemory-policy and what can be lost.
	ReasonMayEvict = "MayEvict"
	// ReasonPersistent (DurabilitySafe=True): RDB snapshots or the append-only file are on.
	ReasonPersistent = "Persistent"
	// ReasonNotPersistent (DurabilitySafe=False): a restart of Redis starts every counter anew.
	ReasonNotPersistent = "NotPersistent"
)
