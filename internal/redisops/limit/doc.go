// Package limit asks Redis for decisions on rate limits: the typed side of the functions penstock_limit,
// penstock_limit_many and penstock_limit_peek, and of the scripts that stand in for them.
package limit
