// Package expr compiles and evaluates the CEL expressions of a RateLimit: the conditions of spec.when and the
// expression of spec.cost. The operator compiles them to refuse what is wrong when it is written; penstockd compiles
// them once per policy and evaluates them once per request. docs/expressions.md is the manual.
//
// There is one variable, request. Its type is known, so that a misspelt field is refused:
//
//	request.domain          string  the Envoy rate limit domain, or the policy's where a request names none
//	request.cost            int     what the caller asks to be charged, 1 when it says nothing
//	request.remote_address  string  the address of the client
//	request.method          string  the HTTP method
//	request.path            string  the path
//	request.host            string  the host
//	request.header          values  request.header["x-user"] is the attribute header.x-user, the name in any case
//	request.descriptors     values  request.descriptors["user"] is the descriptor entry or attribute user
//
// What a door does not know is absent: reading it is an error of the evaluation, and has(request.method) and
// "x-user" in request.header tell. Header and descriptors are looked up by name and cannot be listed.
//
// Policies are written by tenants and evaluated for requests that strangers send, so an evaluation is bounded whatever
// the two of them contain: by the size of the text and of each value, by what the functions here can build, and by a
// cost (see CostLimit) that is both estimated when the expression is compiled and counted while it is evaluated. What
// could do much work for little cost is refused: lists are not compared or joined, strings are not replaced or formatted,
// and regular expressions are constants of bounded size.
package expr
