package redisops

import (
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
)

// Entry is one entry of a subject: the key and value of a descriptor.
type Entry struct {
	Key, Value string
}

// CounterKey gives the key under which a policy ("<namespace>/<name>") counts a subject:
//
//	rl:{<digest>}:<policy>
//
// The digest is the first 128 bits of the SHA-256 of the entries in the policy's order, each key and each value as
// <length in bytes>:<bytes>, in unpadded base64url (22 characters). So no two subjects share an encoding, no byte that a
// user chooses reaches the key, and one policy spreads over all slots of a cluster. It hides nothing: the digest of a
// guessable value can be guessed.
func CounterKey(policy string, subject []Entry) string {
	var stack [256]byte
	sum := sha256.Sum256(appendSubject(stack[:0], subject))

	var out [320]byte
	key := append(out[:0], "rl:{"...)
	key = base64.RawURLEncoding.AppendEncode(key, sum[:16])
	key = append(key, "}:"...)
	key = append(key, policy...)
	return string(key)
}

// LogKey gives the key of the sorted set in which the limit of that name keeps its log, where its algorithm has one.
func LogKey(counterKey, limit string) string {
	return counterKey + ":" + limit
}

func appendSubject(dst []byte, subject []Entry) []byte {
	for _, e := range subject {
		dst = appendLengthPrefixed(dst, e.Key)
		dst = appendLengthPrefixed(dst, e.Value)
	}
	return dst
}

func appendLengthPrefixed(dst []byte, s string) []byte {
	dst = strconv.AppendInt(dst, int64(len(s)), 10)
	dst = append(dst, ':')
	return append(dst, s...)
}

// Slot gives the hash slot of a key in a Redis Cluster: of what stands in its first braces, if anything does.
func Slot(key string) int {
	if _, after, found := strings.Cut(key, "{"); found {
		if tag, _, closed := strings.Cut(after, "}"); closed && tag != "" {
			key = tag
		}
	}
	var sum uint16
	for i := range len(key) {
		sum ^= uint16(key[i]) << 8
		for range 8 {
			if sum&0x8000 != 0 {
				sum = sum<<1 ^ 0x1021
			} else {
				sum <<= 1
			}
		}
	}
	return int(sum) % 16384
}
