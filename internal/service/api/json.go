package api

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/penstock-dev/penstock/internal/service/strictjson"
)

// jsonCodec is ProtoJSON for people with curl: answers show fields that are false or 0, a request with an unknown field is
// refused, and errors do not repeat what the request holds. (Connect's own leaves out `"allowed":false`, and would take a
// mistyped "subject" for a request that no policy applies to.)
type jsonCodec struct{ name string }

// Name is what follows application/ in the content type.
func (c jsonCodec) Name() string { return c.name }

// Marshal gives the JSON of a message.
func (c jsonCodec) Marshal(message any) ([]byte, error) { return c.MarshalAppend(nil, message) }

// MarshalAppend appends the JSON of a message.
func (c jsonCodec) MarshalAppend(to []byte, message any) ([]byte, error) {
	m, ok := message.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no message", message)
	}
	return protojson.MarshalOptions{EmitDefaultValues: true}.MarshalAppend(to, m)
}

// Unmarshal reads a message. Its errors tell the place and what is wrong there.
func (c jsonCodec) Unmarshal(data []byte, message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no message", message)
	}
	return strictjson.Unmarshal(data, m)
}
