// Package answers tells HTTP clients of a verdict, at every door alike: in headers, in the status, and in the body of a
// denial. Nothing but integers and names of policies and limits goes into a header, and nothing that the request brought
// into any of them.
//
// The headers are those that the policy asks for (spec.response.headers). Draft is
// draft-ietf-httpapi-ratelimit-headers-11:
//
//	RateLimit-Policy: "api-per-ip";q=100;w=60
//	RateLimit: "api-per-ip";r=50;t=30
//
// The name is the policy's, with "/<limit>" behind it when it has several limits. q is what may be spent in w seconds, r
// what is left, and t the seconds in which no more than that should be.
//
// Legacy is X-RateLimit-Limit, X-RateLimit-Remaining and X-RateLimit-Reset, the seconds until the limit is whole again: a
// length of time and not a point in it, because the only clock of a decision is that of Redis.
//
// RetryAfter is Retry-After of RFC 9110, on denials: the seconds until the same request can pass, at least 1.
//
// X-Penstock-Degraded: store is there whatever the policy asks for, when Redis could not be asked and onStoreFailure decided.
//
// The body of a denial is a Problem: application/problem+json of RFC 9457, of the types that the draft defines.
package answers
