package library

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// Load loads a library's text. With replace it takes the place of the library that is there, in one step. Without, a
// library that is there stays, whichever it is, and that is no error: a text that may be out of date must not replace a newer
// one.
func Load(ctx context.Context, client redis.Cmdable, text string, replace bool) error {
	if replace {
		if err := client.FunctionLoadReplace(ctx, text).Err(); err != nil {
			return fmt.Errorf("replacing the function library: %w", err)
		}
		return nil
	}
	if err := client.FunctionLoad(ctx, text).Err(); err != nil && !replyContains(err, "Library '"+Name+"' already exists") {
		return fmt.Errorf("loading the function library: %w", err)
	}
	return nil
}

// LoadPublished loads the library that is published at DocumentKey, where documents are, into a server that has none (in a
// cluster the two are not the same). Errors: ErrNoDocument, what ParseDocument finds wrong, or the client's.
func LoadPublished(ctx context.Context, documents, server redis.Cmdable) error {
	d, err := ReadDocument(ctx, documents)
	if err != nil {
		return err
	}
	return Load(ctx, server, d.Text, false)
}

// Told gives the hash that the library of a server tells of itself, for comparing with TextTells: "" when it has none, or
// one that is none of Render's. Whoever means to deceive can load a library that lies; Loaded is for the text itself.
func Told(ctx context.Context, server redis.Cmdable) (string, error) {
	return ToldBy(server.FCallRO(ctx, hashFunction, nil))
}

// AskTold sends what Told sends, in a pipeline; ToldBy reads the reply.
func AskTold(ctx context.Context, pipe redis.Pipeliner) *redis.Cmd {
	return pipe.FCallRO(ctx, hashFunction, nil)
}

// ToldBy gives what Told gives, from the reply to AskTold.
func ToldBy(reply *redis.Cmd) (string, error) {
	told, err := reply.Result()
	switch {
	case err == nil:
		hash, _ := told.(string)
		return hash, nil
	case errors.Is(err, redis.Nil), replyContains(err, "Function not found"):
		return "", nil
	default:
		return "", fmt.Errorf("asking the function library for its hash: %w", err)
	}
}

// Loaded gives the text of the library that the server runs, and whether it has one.
func Loaded(ctx context.Context, client redis.Cmdable) (text string, found bool, err error) {
	libraries, err := client.FunctionList(ctx, redis.FunctionListQuery{LibraryNamePattern: Name, WithCode: true}).Result()
	if err != nil {
		return "", false, fmt.Errorf("reading the loaded function library: %w", err)
	}
	for i := range libraries {
		if libraries[i].Name == Name {
			return libraries[i].Code, true, nil
		}
	}
	return "", false, nil
}
