// Package doctor looks at the Redis of a store as it is configured and says what is wrong, why that matters and what to do about
// it. It writes nothing into Redis, and every question that it asks is bounded in time.
package doctor
