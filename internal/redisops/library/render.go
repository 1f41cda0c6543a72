package library

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/penstock-dev/penstock/internal/policy"
)

// Name is the function library's name in Redis.
const Name = "penstock"

// MaxPolicyBytes bounds the JSON documents of all policies of one library: loading it blocks Redis for a time that grows
// with it.
const MaxPolicyBytes = 2 << 20

// ErrTooLarge tells that a set's policies have more than MaxPolicyBytes.
var ErrTooLarge = errors.New("the policies are larger than 2 MiB")

//go:embed *.lua
var files embed.FS

// coreFiles are what functions and scripts share, each before those that use it.
var coreFiles = []string{
	"runtime.lua", "match.lua", "cells.lua", "calendar.lua", "fixed_window.lua", "sliding_counter.lua", "token_bucket.lua",
	"sliding_log.lua", "balance.lua", "concurrency.lua", "penalty.lua", "policy.lua", "charges.lua", "ids.lua", "limit.lua",
}

// Render gives the text of the function library with the set's policies. The same set gives the same text. It fails with
// ErrTooLarge.
func Render(set *policy.Set) (string, error) {
	documents, err := renderDocuments(set)
	if err != nil {
		return "", err
	}
	text := "#!lua name=" + Name + "\n" + concatenate(coreFiles...) + concatenate("slots.lua", "operations.lua") + documents +
		concatenate("functions.lua")
	return text + registerHash + Hash(text) + registeredHash, nil
}

// The last line of a library, which registers the function that tells the hash of all before it: by that, whether a server
// runs a library is known without reading its text, of up to 2 MiB.
const (
	registerHash   = "register('" + hashFunction + "', function() return '"
	registeredHash = "' end, {'no-writes'})\n"
	hashFunction   = "penstock_library"
)

// TextTells gives what Told gives of a server that runs this text of Render; of another text "".
func TextTells(text string) string {
	at := strings.LastIndex(text, registerHash)
	if at < 0 {
		return ""
	}
	hash, ends := strings.CutSuffix(text[at+len(registerHash):], registeredHash)
	if !ends || hash != Hash(text[:at]) {
		return ""
	}
	return hash
}

// Hash identifies a library's text: the first 128 bits of its SHA-256 in hexadecimal.
func Hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}

// PolicyDocument gives the JSON document of a policy, as it stands in a library and as scripts take it.
func PolicyDocument(p *policy.RateLimit) (string, error) {
	document, err := json.Marshal(p)
	if err != nil {
		return "", fmt.Errorf("document of %q: %w", p.Name, err)
	}
	return string(document), nil
}

// renderDocuments gives the Lua table of the policies' documents by name. Each is decoded when it is first used, so a
// large store costs the server nothing at once but this table.
func renderDocuments(set *policy.Set) (string, error) {
	var b strings.Builder
	size := 0
	b.WriteString("local documents = {\n")
	for i := range set.RateLimits {
		p := &set.RateLimits[i]
		document, err := PolicyDocument(p)
		if err != nil {
			return "", err
		}
		if size += len(document); size > MaxPolicyBytes {
			return "", fmt.Errorf("%d policies: %w", len(set.RateLimits), ErrTooLarge)
		}
		// The spaces keep the brackets of the key and of the literal apart.
		fmt.Fprintf(&b, "[ %s ]=%s,\n", literal(p.Name), literal(document))
	}
	b.WriteString("}\n")
	return b.String(), nil
}

// renderedName is the line that begins a policy in the table of renderDocuments. A document has no line breaks, so it
// cannot look like one.
var renderedName = regexp.MustCompile(`(?m)^\[ \[=+\[\n(.+)\]=+\] \]=\[=+\[$`)

// PolicyNames gives the names of the policies that a text of Render holds, in their order; of another text none.
func PolicyNames(text string) []string {
	var names []string
	for _, match := range renderedName.FindAllStringSubmatch(text, -1) {
		names = append(names, match[1])
	}
	return names
}

// literal gives a Lua string literal without escapes, in long brackets of a level that does not occur in the text.
func literal(s string) string {
	level := "="
	for strings.Contains(s, "]"+level+"]") || strings.HasSuffix(s, "]"+level) {
		level += "="
	}
	// A line break after the opening bracket is not a part of the string.
	return "[" + level + "[\n" + s + "]" + level + "]"
}

func concatenate(names ...string) string {
	var b strings.Builder
	for _, name := range names {
		text, err := files.ReadFile(name)
		if err != nil {
			panic(fmt.Sprintf("library: %v", err)) // the files are embedded: a misspelt name here
		}
		b.Write(text)
		b.WriteByte('\n')
	}
	return b.String()
}
