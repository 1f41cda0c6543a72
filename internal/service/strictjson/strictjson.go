// Package strictjson reads requests in ProtoJSON, as people with curl write them: an unknown field is refused, since a mistyped
// name would else go unnoticed, and no error repeats what the request holds, which may be secret.
package strictjson

import (
	"errors"
	"regexp"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Unmarshal reads a message. Its errors tell the place and what is wrong there, for the client to see.
func Unmarshal(data []byte, message proto.Message) error {
	if err := protojson.Unmarshal(data, message); err != nil {
		return failed(err, message)
	}
	return nil
}

// known is what an error of protojson tells but for what follows, which is what the request holds: the place, and what is
// wrong there, if it is one of these.
var known = regexp.MustCompile(`^proto:.(?:syntax error )?\(line ([0-9]+:[0-9]+)\): ` +
	`(unknown field|duplicate field|duplicate map key|invalid value for [a-z0-9]+ field [A-Za-z0-9]+|` +
	`invalid google\.protobuf\.Duration value|google\.protobuf\.Duration value out of range)?`)

// failed gives an error of protojson without what it repeats of the request.
func failed(err error, message proto.Message) error {
	kind := message.ProtoReflect().Descriptor()
	place, problem := "", ""
	if match := known.FindStringSubmatch(err.Error()); match != nil {
		place, problem = "line "+match[1]+": ", match[2]
	}
	switch problem {
	case "":
		problem = "not the JSON of a " + string(kind.FullName())
	case "unknown field":
		problem += "; the fields " + fieldsOf(kind)
	}
	return errors.New(place + problem)
}

// fieldsOf lists the fields of a message. They are said to be its own where there are others, of messages in it: which one the
// unknown field stands in, the error does not say.
func fieldsOf(kind protoreflect.MessageDescriptor) string {
	of, names := "", make([]string, kind.Fields().Len())
	for i := range names {
		field := kind.Fields().Get(i)
		names[i] = field.JSONName()
		// A Duration is written as a string, and the keys of a map are the client's.
		if m := field.Message(); m != nil && !field.IsMap() && m.FullName() != "google.protobuf.Duration" {
			of = "of " + string(kind.Name()) + " "
		}
	}
	return of + "are " + strings.Join(names, ", ")
}
