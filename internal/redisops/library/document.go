package library

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// DocumentKey holds the library's text as a Document, for those who find a server without the library.
const DocumentKey = "penstock:library"

// ErrNoDocument tells that there is no Document: nothing was published yet, or it is gone.
var ErrNoDocument = errors.New("no function library is published in this Redis")

// Document is what stands at DocumentKey.
type Document struct {
	// Hash is Hash(Text).
	Hash string `json:"hash"`
	// Text is what FUNCTION LOAD takes.
	Text string `json:"text"`
}

// NewDocument gives the document of a library's text.
func NewDocument(text string) Document {
	return Document{Hash: Hash(text), Text: text}
}

// Marshal gives the JSON form.
func (d Document) Marshal() []byte {
	b, err := json.Marshal(d)
	if err != nil {
		panic(fmt.Sprintf("library: marshalling two strings: %v", err))
	}
	return b
}

// ParseDocument reads the JSON form. It fails when the text does not fit its hash.
func ParseDocument(stored []byte) (Document, error) {
	var d Document
	if err := json.Unmarshal(stored, &d); err != nil {
		return Document{}, fmt.Errorf("library document: %w", err)
	}
	if want := Hash(d.Text); d.Hash != want {
		return Document{}, fmt.Errorf("library document: hash %q does not fit the text (%s)", d.Hash, want)
	}
	return d, nil
}

// ReadDocument reads the Document. Errors: ErrNoDocument, what ParseDocument finds wrong, or the client's.
func ReadDocument(ctx context.Context, client redis.Cmdable) (Document, error) {
	stored, err := client.Get(ctx, DocumentKey).Bytes()
	if errors.Is(err, redis.Nil) {
		return Document{}, ErrNoDocument
	}
	if err != nil {
		return Document{}, fmt.Errorf("reading %s: %w", DocumentKey, err)
	}
	return ParseDocument(stored)
}
