// Package bytewise reads messages whose strings are no UTF-8. Envoy copies what its client sent (a path, a header) into string
// fields as it is, and protobuf refuses the whole message for one byte in it: the client could switch its limits off, since
// Envoy lets requests pass that are answered by an error.
package bytewise

import (
	"errors"

	"google.golang.org/grpc/encoding"
	encodingproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// Codec gives gRPC's own codec for protobuf, which reads a message that it would refuse once more, and then takes strings for
// the bytes that they are. What it writes is UTF-8 or an error, as ever: nothing of such a string may get into an answer.
func Codec() encoding.CodecV2 { return codec{encoding.GetCodecV2(encodingproto.Name)} }

type codec struct{ encoding.CodecV2 }

// Unmarshal fails with the error of gRPC's own codec where the message has more wrong with it than its strings.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	err := c.CodecV2.Unmarshal(data, v)
	if err == nil {
		return nil
	}
	message, is := v.(proto.Message)
	if !is || unmarshal(data.Materialize(), message) != nil {
		return err
	}
	return nil
}

// unmarshal is proto.Unmarshal, but for the bytes of strings.
func unmarshal(data []byte, message proto.Message) error {
	proto.Reset(message)
	if err := decode(data, message.ProtoReflect(), protowire.DefaultRecursionLimit); err != nil {
		return err
	}
	return proto.CheckInitialized(message)
}

var (
	errMalformed = errors.New("the bytes are no message")
	errTooDeep   = errors.New("messages nest too deeply")
)

// decode merges the fields in data into the message, which may hold messages to that depth, itself among them.
func decode(data []byte, message protoreflect.Message, depth int) error {
	if depth--; depth < 0 {
		return errTooDeep
	}
	return eachField(data, func(f field) error {
		of := message.Descriptor().Fields().ByNumber(f.number)
		if of == nil || !f.delimited || !mayHoldText(of) {
			return mergeStrictly(f, message, depth)
		}
		switch {
		case of.IsMap():
			return decodeEntry(f.content, of, message.Mutable(of).Map(), depth)
		case of.IsList() && of.Kind() == protoreflect.MessageKind:
			return decode(f.content, message.Mutable(of).List().AppendMutable().Message(), depth)
		case of.IsList():
			message.Mutable(of).List().Append(text(f))
		case of.Kind() == protoreflect.MessageKind:
			return decode(f.content, message.Mutable(of).Message(), depth)
		default:
			message.Set(of, text(f))
		}
		return nil
	})
}

// decodeEntry adds the entry of a map. Keys and values that are no messages are put together in a message of their own.
func decodeEntry(data []byte, of protoreflect.FieldDescriptor, to protoreflect.Map, depth int) error {
	if depth--; depth < 0 {
		return errTooDeep
	}
	key, value := of.MapKey(), of.MapValue()
	pair, added := dynamicpb.NewMessage(of.Message()), to.NewValue()
	isMessage := value.Kind() == protoreflect.MessageKind
	err := eachField(data, func(f field) error {
		switch {
		case f.delimited && f.number == key.Number() && key.Kind() == protoreflect.StringKind:
			pair.Set(key, text(f))
		case f.delimited && f.number == value.Number() && value.Kind() == protoreflect.StringKind:
			pair.Set(value, text(f))
		case f.delimited && f.number == value.Number() && isMessage:
			return decode(f.content, added.Message(), depth)
		default:
			return mergeStrictly(f, pair, depth)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !isMessage {
		added = pair.Get(value)
	}
	to.Set(pair.Get(key).MapKey(), added)
	return nil
}

// mayHoldText tells whether a string can be in a field of a length: that of a message too. Groups are left out, and their
// strings have to be UTF-8: no protocol of Envoy's has any.
func mayHoldText(of protoreflect.FieldDescriptor) bool {
	if of.IsMap() {
		return of.MapKey().Kind() == protoreflect.StringKind || mayHoldText(of.MapValue())
	}
	return of.Kind() == protoreflect.StringKind || of.Kind() == protoreflect.MessageKind
}

func text(f field) protoreflect.Value { return protoreflect.ValueOfString(string(f.content)) }

// mergeStrictly leaves a field to protobuf: numbers, bytes, what is not known or of another type than it should be.
func mergeStrictly(f field, message protoreflect.Message, depth int) error {
	// The message itself counts again.
	return proto.UnmarshalOptions{Merge: true, AllowPartial: true, RecursionLimit: depth + 1}.Unmarshal(f.whole, message.Interface())
}

// field is one as it was sent.
type field struct {
	number protowire.Number
	// whole are all its bytes. One of a length is delimited, and content is what it holds.
	whole, content []byte
	delimited      bool
}

func eachField(data []byte, do func(f field) error) error {
	for len(data) > 0 {
		number, kind, tag := protowire.ConsumeTag(data)
		if tag < 0 {
			return errMalformed
		}
		size := protowire.ConsumeFieldValue(number, kind, data[tag:])
		if size < 0 {
			return errMalformed
		}
		f := field{number: number, whole: data[:tag+size], delimited: kind == protowire.BytesType}
		if f.delimited {
			f.content, _ = protowire.ConsumeBytes(data[tag:])
		}
		if err := do(f); err != nil {
			return err
		}
		data = data[tag+size:]
	}
	return nil
}
