package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// alsoWrite are commands that change what Redis holds or tell clients so, without being of the category @write.
var alsoWrite = []string{"function|load", "function|delete", "function|restore", "function|flush", "script|load", "script|flush", "publish", "fcall", "evalsha", "eval"}

// redisWrites counts the calls of commands that write, since the server began.
func redisWrites(ctx context.Context, client *redis.Client) (int, error) {
	category, err := client.Do(ctx, "COMMAND", "LIST", "FILTERBY", "ACLCAT", "write").StringSlice()
	if err != nil {
		return 0, fmt.Errorf("asking Redis which commands write: %w", err)
	}
	stats, err := client.Info(ctx, "commandstats").Result()
	if err != nil {
		return 0, fmt.Errorf("asking Redis for its commands: %w", err)
	}
	return countCalls(stats, append(category, alsoWrite...)), nil
}

// countCalls adds the calls of these commands in the answer of INFO commandstats.
func countCalls(stats string, commands []string) int {
	sum := 0
	for line := range strings.Lines(stats) {
		name, figures, found := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "cmdstat_"), ":calls=")
		if !found || !slices.Contains(commands, name) {
			continue
		}
		number, _, _ := strings.Cut(figures, ",")
		if calls, err := strconv.Atoi(number); err == nil {
			sum += calls
		}
	}
	return sum
}
