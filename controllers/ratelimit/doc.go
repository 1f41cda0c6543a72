// Package ratelimit reconciles RateLimits: it shows in their status what the controller of their store made of them. It
// writes nothing but statuses.
package ratelimit
