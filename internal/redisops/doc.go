// Package redisops is how Penstock talks to Redis: a client from a store's configuration, the keys of counters, the
// classes of errors, and calls that are sent once. The packages under it hold the Lua, the policies in Redis, and the
// typed operations.
package redisops
