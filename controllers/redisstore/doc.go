// Package redisstore reconciles RedisStores: it assembles every policy that refers to a store into one set, publishes
// the set into its Redis, keeps drift out, and tells each policy's controller what became of it.
package redisstore
