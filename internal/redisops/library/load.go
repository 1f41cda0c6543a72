package library

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// Load loads a library's text. With replace it takes the place of the library that is there, in one step. Without, a
// library that is there stays, whichever it is, and that is no error: a text that may be out of date must not replace a newer
// one.
func Load(ctx context.Context, client redis.UniversalClient, text string, replace bool) error {
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

// LoadPublished loads the library that is published at DocumentKey into a server that has none. Errors: ErrNoDocument,
// what ParseDocument finds wrong, or the client's.
func LoadPublished(ctx context.Context, client redis.UniversalClient) error {
	d, err := ReadDocument(ctx, client)
	if err != nil {
		return err
	}
	return Load(ctx, client, d.Text, false)
}

// Loaded gives the text of the library that the server runs, and whether it has one.
func Loaded(ctx context.Context, client redis.UniversalClient) (text string, found bool, err error) {
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
