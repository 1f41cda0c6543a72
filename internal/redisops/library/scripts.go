package library

import (
	"context"
	"crypto/sha1" //nolint:gosec // Redis names scripts by their SHA-1.
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Script is one operation for servers without functions. It takes the KEYS and ARGV of the function of that name, with
// its PolicyDocument in place of its name.
type Script struct {
	// Name is that of the function.
	Name string
	// Text is what EVAL takes.
	Text string
	// SHA is what EVALSHA takes.
	SHA string
}

// Plain gives the script for a server that does not know the first line, #!lua: there, a server that is out of memory refuses not
// before the script begins but at its first write.
func (s Script) Plain() Script {
	text := s.Text
	if strings.HasPrefix(text, "#!") {
		// The line break stays, so that line numbers in error replies stay right.
		text = text[strings.IndexByte(text, '\n'):]
	}
	return newScript(s.Name, text)
}

// The scripts. Each holds no more than it needs, since all that it defines is made again in every call. functions.lua says
// of the functions what there is to say of them.
var (
	LimitScript       = renderScript("penstock_limit", "#!lua", "limit_one(KEYS, ARGV, by_document, false)")
	LimitManyScript   = renderScript("penstock_limit_many", "#!lua", "limit_many(KEYS, ARGV, by_document)")
	LimitPeekScript   = renderScript("penstock_limit_peek", "#!lua flags=no-writes", "limit_one(KEYS, ARGV, by_document, true)")
	LimitRefundScript = renderScript("penstock_limit_refund", "#!lua flags=allow-oom", "refund(KEYS, ARGV, by_document)", "slots.lua", "operations.lua")
	LimitCreditScript = renderScript("penstock_limit_credit", "#!lua", "credit(KEYS, ARGV, by_document)", "slots.lua", "operations.lua")
	LimitResetScript  = renderScript("penstock_limit_reset", "#!lua flags=allow-oom", "reset(KEYS, ARGV, by_document)", "slots.lua", "operations.lua")
	SlotAcquireScript = renderScript("penstock_slot_acquire", "#!lua", "slot_acquire(KEYS, ARGV, by_document)", "slots.lua")
	SlotReleaseScript = renderScript("penstock_slot_release", "#!lua flags=allow-oom", "slot_release(KEYS, ARGV, by_document)", "slots.lua")
)

// Scripts gives all scripts.
func Scripts() []Script {
	return []Script{
		LimitScript, LimitManyScript, LimitPeekScript, LimitRefundScript, LimitCreditScript, LimitResetScript,
		SlotAcquireScript, SlotReleaseScript,
	}
}

// LoadScripts loads all scripts, without #!lua where the server does not know it. It is safe to repeat. It only saves
// the first calls from sending the text: EVALSHA that meets NOSCRIPT is followed by EVAL anyway.
func LoadScripts(ctx context.Context, server redis.Cmdable) error {
	for _, s := range Scripts() {
		err := server.ScriptLoad(ctx, s.Text).Err()
		if IsNotCompiled(err) {
			err = server.ScriptLoad(ctx, s.Plain().Text).Err()
		}
		if err != nil {
			return fmt.Errorf("loading script %s: %w", s.Name, err)
		}
	}
	return nil
}

// ScriptsLoaded tells whether a server has all scripts, each with #!lua or without.
func ScriptsLoaded(ctx context.Context, server redis.Cmdable) (bool, error) {
	var hashes []string
	for _, s := range Scripts() {
		hashes = append(hashes, s.SHA, s.Plain().SHA)
	}
	found, err := server.ScriptExists(ctx, hashes...).Result()
	if err != nil {
		return false, fmt.Errorf("asking for the scripts: %w", err)
	}
	for i := 0; i+1 < len(found); i += 2 {
		if !found[i] && !found[i+1] {
			return false, nil
		}
	}
	return len(found) == len(hashes), nil
}

func renderScript(name, shebang, call string, files ...string) Script {
	return newScript(name, shebang+"\n"+concatenate(coreFiles...)+concatenate(files...)+"bind()\nreturn "+call+"\n")
}

func newScript(name, text string) Script {
	sum := sha1.Sum([]byte(text)) //nolint:gosec // see the import
	return Script{Name: name, Text: text, SHA: hex.EncodeToString(sum[:])}
}
