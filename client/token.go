package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// TokenSource gives the bearer token of a call to penstockd. It is asked for every call, maybe concurrently, so it should
// remember. The timeout of the call does not count for it: it has to bound its own time.
type TokenSource func(ctx context.Context) (string, error)

// Token always gives the same token.
func Token(token string) TokenSource {
	return func(context.Context) (string, error) { return token, nil }
}

// tokenAge is how old the content of a file may be that is used. Kubernetes writes a new token long before the old one
// expires.
const tokenAge = 10 * time.Second

// TokenFile gives the token in a file, without the white space around it, and reads the file again every 10 s: that of a
// Kubernetes ServiceAccount is replaced again and again. While the file cannot be read, or is empty, the token from before
// is used.
func TokenFile(path string) TokenSource { return tokenFile(path, time.Now) }

func tokenFile(path string, now func() time.Time) TokenSource {
	var (
		mu    sync.Mutex
		token string
		read  time.Time
	)
	return func(context.Context) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		if token != "" && now().Sub(read) < tokenAge {
			return token, nil
		}
		content, err := os.ReadFile(path)
		fresh := strings.TrimSpace(string(content))
		if err == nil && fresh == "" {
			err = errors.New("the file is empty")
		}
		if err == nil {
			token = fresh
		} else if token == "" {
			return "", fmt.Errorf("reading the token in %s: %w", path, err)
		}
		read = now()
		return token, nil
	}
}
