package policystore

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-dev/penstock/internal/redisops"
	"github.com/penstock-dev/penstock/internal/redisops/library"
)

// document is what stands at one of our keys, or is to stand there.
type document struct {
	// text is nil where there is nothing, or no string, which is overwritten.
	text *string
	// expires tells that somebody has put a TTL on it.
	expires bool
}

func (d document) fits(want document) bool { return !d.expires && equal(d.text, want.text) }

// state is what Redis holds, or is to hold.
type state struct {
	owner, policies document
	// library is the document from which penstockd loads the library; nothing in script mode, which leaves alone whatever
	// stands there.
	library document
	// names tells what PoliciesKey holds, for when that is lost; nothing in function mode, where the library tells it, and
	// which leaves alone whatever stands there.
	names document
	// told is what the library of the server tells of itself; see library.Told. Nothing in script mode.
	told string
	// hash of the policies, for the announcement.
	hash string
}

// entries gives the documents of a mode with their keys, in the order in which they are written: the owner first, and the
// policies last, so that who reads them finds the library.
func (s *state) entries(mode library.Mode) []entry {
	if mode == library.ModeScripts {
		return []entry{{OwnerKey, &s.owner}, {NamesKey, &s.names}, {PoliciesKey, &s.policies}}
	}
	return []entry{{OwnerKey, &s.owner}, {library.DocumentKey, &s.library}, {PoliciesKey, &s.policies}}
}

type entry struct {
	key string
	*document
}

// wanted gives the state that is to be, and the text of the library in it.
func wanted(p Publication) (want state, text string, err error) {
	if err := p.Set.Validate(); err != nil {
		return state{}, "", err
	}
	policies := string(p.Set.Marshal())
	want = state{owner: document{text: &p.Owner}, policies: document{text: &policies}, hash: p.Set.Hash}
	if p.Mode == library.ModeScripts {
		names := strings.Join(setNames(p.Set), "\n")
		want.names.text = &names
		return want, "", nil
	}
	text, err = library.Render(p.Set)
	if err != nil {
		return state{}, "", fmt.Errorf("render the library: %w", err)
	}
	marshalled := string(library.NewDocument(text).Marshal())
	want.library.text, want.told = &marshalled, library.TextTells(text)
	return want, text, nil
}

// readState reads the documents; of one server also what its library tells, where it is for that.
func readState(ctx context.Context, reader redis.Cmdable, mode library.Mode, told bool) (state, error) {
	var have state
	entries := have.entries(mode)
	texts, ttls := make([]*redis.StringCmd, len(entries)), make([]*redis.DurationCmd, len(entries))
	var asked *redis.Cmd
	// The error is that of the first command, which may be a key that is not there, or holds no string.
	_, _ = reader.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i := range entries {
			texts[i], ttls[i] = pipe.Get(ctx, entries[i].key), pipe.PTTL(ctx, entries[i].key)
		}
		if told {
			asked = library.AskTold(ctx, pipe)
		}
		return nil
	})
	for i := range entries {
		text, err := texts[i].Result()
		switch redisops.Classify(err) {
		case redisops.None:
			if err == nil {
				entries[i].text = &text
			}
		case redisops.WrongType: // a SET overwrites it
		default:
			return state{}, fmt.Errorf("read %s: %w", entries[i].key, err)
		}
		ttl, err := ttls[i].Result()
		if err != nil {
			return state{}, fmt.Errorf("read the TTL of %s: %w", entries[i].key, err)
		}
		entries[i].expires = entries[i].text != nil && ttl >= time.Duration(0)
	}
	if asked != nil {
		var err error
		if have.told, err = library.ToldBy(asked); err != nil {
			return state{}, err
		}
	}
	return have, nil
}

// differences names what is not as wanted.
func differences(have, want state, mode library.Mode) []string {
	var differ []string
	wants := want.entries(mode)
	for i, e := range have.entries(mode) {
		if !e.fits(*wants[i].document) {
			differ = append(differ, e.key)
		}
	}
	if have.told != want.told {
		differ = append(differ, "the function library")
	}
	return differ
}

func equal(a, b *string) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}
