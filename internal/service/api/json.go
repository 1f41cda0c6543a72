package api

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
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
	if err := protojson.Unmarshal(data, m); err != nil {
		return readingFailed(err, m)
	}
	return nil
}

// readingError is what an error of protojson tells but for what follows, which is what the request holds: the place, and
// what is wrong there, if it is one of these.
var readingError = regexp.MustCompile(`^proto:.(?:syntax error )?\(line ([0-9]+:[0-9]+)\): ` +
	`(unknown field|duplicate field|duplicate map key|invalid value for [a-z0-9]+ field [A-Za-z0-9]+|` +
	`invalid google\.protobuf\.Duration value|google\.protobuf\.Duration value out of range)?`)

// readingFailed gives an error of protojson without what it repeats of the request.
func readingFailed(err error, m proto.Message) error {
	kind := m.ProtoReflect().Descriptor()
	place, problem := "", ""
	if match := readingError.FindStringSubmatch(err.Error()); match != nil {
		place, problem = "line "+match[1]+": ", match[2]
	}
	switch problem {
	case "":
		problem = "not the JSON of a " + string(kind.FullName())
	case "unknown field":
		fields := make([]string, kind.Fields().Len())
		for i := range fields {
			fields[i] = kind.Fields().Get(i).JSONName()
		}
		problem += "; the fields are " + strings.Join(fields, ", ")
	}
	return errors.New(place + problem)
}
