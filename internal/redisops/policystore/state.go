package policystore

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/redisops/library"
)

// state is what Redis holds, or is to hold; nil where there is nothing.
type state struct {
	owner, policies *string
	// library is the document from which penstockd loads the library, loaded the text that the server runs; both are for
	// function mode only.
	library, loaded *string
	// hash of the policies, for the announcement.
	hash string
}

func wanted(p Publication) (state, error) {
	if err := p.Set.Validate(); err != nil {
		return state{}, err
	}
	policies := string(p.Set.Marshal())
	want := state{owner: &p.Owner, policies: &policies, hash: p.Set.Hash}
	if p.Mode == library.ModeScripts {
		return want, nil
	}
	text, err := library.Render(p.Set)
	if err != nil {
		return state{}, fmt.Errorf("render the library: %w", err)
	}
	document := string(library.NewDocument(text).Marshal())
	want.library, want.loaded = &document, &text
	return want, nil
}

// readState reads the documents with reader, so that it may be a transaction that watches them.
func readState(ctx context.Context, reader redis.Cmdable, client redis.UniversalClient, mode library.Mode) (state, error) {
	keys := []string{OwnerKey, PoliciesKey, library.DocumentKey}
	// MGET gives nothing for a key that holds no string, where GET would fail; SET overwrites such a key.
	values, err := reader.MGet(ctx, keys...).Result()
	if err != nil {
		return state{}, fmt.Errorf("read %v: %w", keys, err)
	}
	var have state
	for i, field := range []**string{&have.owner, &have.policies, &have.library} {
		if i < len(values) {
			if text, is := values[i].(string); is {
				*field = &text
			}
		}
	}
	if mode == library.ModeScripts {
		// Whatever stands there is not ours to change.
		have.library = nil
		return have, nil
	}
	text, found, err := library.Loaded(ctx, client)
	if err != nil {
		return state{}, fmt.Errorf("read the library: %w", err)
	}
	if found {
		have.loaded = &text
	}
	return have, nil
}

// differences names what is not as wanted.
func differences(have, want state) []string {
	var differ []string
	for _, part := range []struct {
		name       string
		have, want *string
	}{
		{OwnerKey, have.owner, want.owner},
		{PoliciesKey, have.policies, want.policies},
		{library.DocumentKey, have.library, want.library},
		{"the function library", have.loaded, want.loaded},
	} {
		if !equal(part.have, part.want) {
			differ = append(differ, part.name)
		}
	}
	return differ
}

func equal(a, b *string) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}
