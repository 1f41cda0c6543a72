package bytewise

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	ratelimitcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/encoding"
	encodingproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// read decodes by the codec.
func read(data []byte, message proto.Message) error {
	return Codec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(data)}, message)
}

// placeholder is text that tests put where other bytes shall be, of as many.
const placeholder = "~~~~"

// with gives the message on the wire, with those 4 bytes in every place of the placeholder.
func with(t testing.TB, content string, message proto.Message) []byte {
	t.Helper()
	if len(content) != len(placeholder) {
		t.Fatalf("%q has another length than the placeholder", content)
	}
	data, err := proto.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.ReplaceAll(data, []byte(placeholder), []byte(content))
}

func rateLimitRequest() *ratelimitv3.RateLimitRequest {
	return &ratelimitv3.RateLimitRequest{
		Domain: "shop", HitsAddend: 3,
		Descriptors: []*ratelimitcommonv3.RateLimitDescriptor{
			{
				Entries:    []*ratelimitcommonv3.RateLimitDescriptor_Entry{{Key: "path", Value: "/" + placeholder}, {Key: placeholder, Value: ""}},
				Limit:      &ratelimitcommonv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 5, Unit: 2},
				HitsAddend: wrapperspb.UInt64(1 << 50), IsNegativeHits: true,
			},
			{Entries: []*ratelimitcommonv3.RateLimitDescriptor_Entry{{Key: "user", Value: placeholder + "é"}}},
		},
	}
}

func checkRequest() *authv3.CheckRequest {
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: "192.0.2.7", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 4711},
		}}}},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Path: "/" + placeholder, Size: -1, RawBody: []byte{0xff, 0},
			Headers:   map[string]string{"x-key": placeholder, placeholder: "", "é": "e"},
			HeaderMap: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{{Key: "x-key", RawValue: []byte{0xfe}}}},
		}},
		ContextExtensions: map[string]string{"penstock-domain": "shop"},
		MetadataContext: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{placeholder: {Fields: map[string]*structpb.Value{
			"list": structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{
				structpb.NewStringValue(placeholder), structpb.NewNumberValue(1.5), structpb.NewNullValue(), structpb.NewBoolValue(true),
			}}),
		}}}},
	}}
}

// everything is a message of all kinds of fields, and of maps of most.
var everything = func() protoreflect.MessageDescriptor {
	const (
		text    = descriptorpb.FieldDescriptorProto_TYPE_STRING
		message = descriptorpb.FieldDescriptorProto_TYPE_MESSAGE
	)
	kinds := []descriptorpb.FieldDescriptorProto_Type{
		text, message, descriptorpb.FieldDescriptorProto_TYPE_BYTES, descriptorpb.FieldDescriptorProto_TYPE_BOOL, descriptorpb.FieldDescriptorProto_TYPE_ENUM,
		descriptorpb.FieldDescriptorProto_TYPE_SINT64, descriptorpb.FieldDescriptorProto_TYPE_FIXED32, descriptorpb.FieldDescriptorProto_TYPE_DOUBLE,
	}
	fieldOf := func(name string, number int32, kind descriptorpb.FieldDescriptorProto_Type, of string) *descriptorpb.FieldDescriptorProto {
		f := &descriptorpb.FieldDescriptorProto{Name: &name, Number: &number, Type: &kind, Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum()}
		switch kind {
		case message:
			f.TypeName = new(of)
		case descriptorpb.FieldDescriptorProto_TYPE_ENUM:
			f.TypeName = new(".test.Enum")
		}
		return f
	}
	all := &descriptorpb.DescriptorProto{Name: new("Everything")}
	add := func(f *descriptorpb.FieldDescriptorProto, label descriptorpb.FieldDescriptorProto_Label) {
		f.Label = label.Enum()
		all.Field = append(all.Field, f)
	}
	for i, kind := range kinds {
		letter, number := string(rune('a'+i)), int32(i+1)
		add(fieldOf("one"+letter, number, kind, ".test.Everything"), descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL)
		add(fieldOf("many"+letter, number+20, kind, ".test.Everything"), descriptorpb.FieldDescriptorProto_LABEL_REPEATED)
		for j, key := range []descriptorpb.FieldDescriptorProto_Type{text, descriptorpb.FieldDescriptorProto_TYPE_SINT64} {
			other := string(rune('a' + j))
			entry := "Map" + strings.ToUpper(letter+other) + "Entry" // as protobuf wants it for the field's name
			all.NestedType = append(all.NestedType, &descriptorpb.DescriptorProto{
				Name: &entry, Options: &descriptorpb.MessageOptions{MapEntry: new(true)},
				Field: []*descriptorpb.FieldDescriptorProto{fieldOf("key", 1, key, ""), fieldOf("value", 2, kind, ".test.Everything")},
			})
			add(fieldOf("map_"+letter+"_"+other, number+40+20*int32(j), message, ".test.Everything."+entry), descriptorpb.FieldDescriptorProto_LABEL_REPEATED)
		}
	}
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: new("everything.proto"), Package: new("test"), Syntax: new("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{all},
		EnumType: []*descriptorpb.EnumDescriptorProto{{Name: new("Enum"), Value: []*descriptorpb.EnumValueDescriptorProto{
			{Name: new("ZERO"), Number: proto.Int32(0)}, {Name: new("ONE"), Number: proto.Int32(1)},
		}}},
	}, nil)
	if err != nil {
		panic(err)
	}
	return file.Messages().ByName("Everything")
}()

// filled gives one of everything, with the placeholder for text, that many deep.
func filled(depth int) protoreflect.Message {
	m := dynamicpb.NewMessage(everything)
	value := func(of protoreflect.FieldDescriptor) protoreflect.Value {
		switch of.Kind() {
		case protoreflect.StringKind:
			return protoreflect.ValueOfString(placeholder)
		case protoreflect.MessageKind:
			return protoreflect.ValueOfMessage(filled(depth - 1))
		case protoreflect.BytesKind:
			return protoreflect.ValueOfBytes([]byte{0xff})
		case protoreflect.BoolKind:
			return protoreflect.ValueOfBool(true)
		case protoreflect.EnumKind:
			return protoreflect.ValueOfEnum(7) // which there is not
		case protoreflect.Sint64Kind:
			return protoreflect.ValueOfInt64(-5)
		case protoreflect.Fixed32Kind:
			return protoreflect.ValueOfUint32(6)
		default:
			return protoreflect.ValueOfFloat64(2.5)
		}
	}
	if depth == 0 {
		return m
	}
	for i := range everything.Fields().Len() {
		switch of := everything.Fields().Get(i); {
		case of.IsMap():
			m.Mutable(of).Map().Set(value(of.MapKey()).MapKey(), value(of.MapValue()))
		case of.IsList():
			m.Mutable(of).List().Append(value(of))
			m.Mutable(of).List().Append(value(of))
		default:
			m.Set(of, value(of))
		}
	}
	return m
}

// samples are messages of many forms, with the placeholder in them.
func samples() map[string]proto.Message {
	unknown := rateLimitRequest()
	unknown.GetDescriptors()[1].ProtoReflect().SetUnknown(protowire.AppendString(protowire.AppendTag(nil, 1000, protowire.BytesType), placeholder))
	return map[string]proto.Message{
		"RLS": rateLimitRequest(), "ext_authz": checkRequest(), "everything": filled(2).Interface(), "an unknown field": unknown,
		"nothing": &ratelimitv3.RateLimitRequest{},
	}
}

func TestStringsAreTakenByteByByte(t *testing.T) {
	const odd = "\xff\x00\xc3\xfe"
	for name, message := range samples() {
		t.Run(name, func(t *testing.T) {
			got, want := message.ProtoReflect().New().Interface(), with(t, odd, message)
			if err := read(want, got); err != nil {
				t.Fatal(err)
			}
			// There is no other way to compare: what is no UTF-8 is not written either.
			back := with(t, placeholder, replaced(got, odd, placeholder))
			again := message.ProtoReflect().New().Interface()
			if err := proto.Unmarshal(back, again); err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(again, withUnknown(message, odd)) {
				t.Errorf("got\n%v\nwant\n%v", again, message)
			}
		})
	}
}

// withUnknown gives the message with those bytes for the placeholder in what it does not know, which stays as it came.
func withUnknown(message proto.Message, content string) proto.Message {
	request, is := message.(*ratelimitv3.RateLimitRequest)
	if !is || len(request.GetDescriptors()) == 0 {
		return message
	}
	of := request.GetDescriptors()[1].ProtoReflect()
	of.SetUnknown(bytes.ReplaceAll(of.GetUnknown(), []byte(placeholder), []byte(content)))
	return request
}

// replaced gives the message with other text in the place of old, in each string.
func replaced(message proto.Message, old, text string) proto.Message {
	change := func(v protoreflect.Value) protoreflect.Value {
		return protoreflect.ValueOfString(strings.ReplaceAll(v.String(), old, text))
	}
	var walk func(m protoreflect.Message)
	walk = func(m protoreflect.Message) {
		m.Range(func(of protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			switch {
			case of.IsMap():
				var entries [][2]protoreflect.Value
				v.Map().Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
					entries = append(entries, [2]protoreflect.Value{key.Value(), value})
					return true
				})
				for _, entry := range entries {
					key, value := entry[0], entry[1]
					v.Map().Clear(key.MapKey())
					if of.MapKey().Kind() == protoreflect.StringKind {
						key = change(key)
					}
					switch of.MapValue().Kind() {
					case protoreflect.StringKind:
						value = change(value)
					case protoreflect.MessageKind:
						walk(value.Message())
					}
					v.Map().Set(key.MapKey(), value)
				}
			case of.IsList():
				for i := range v.List().Len() {
					switch of.Kind() {
					case protoreflect.StringKind:
						v.List().Set(i, change(v.List().Get(i)))
					case protoreflect.MessageKind:
						walk(v.List().Get(i).Message())
					}
				}
			case of.Kind() == protoreflect.StringKind:
				m.Set(of, change(v))
			case of.Kind() == protoreflect.MessageKind:
				walk(v.Message())
			}
			return true
		})
	}
	walk(message.ProtoReflect())
	return message
}

func TestMessagesOfUTF8AreReadAsEver(t *testing.T) {
	for name, message := range samples() {
		t.Run(name, func(t *testing.T) {
			data := with(t, "é\x00!", message)
			byCodec, bytewise, want := message.ProtoReflect().New().Interface(), message.ProtoReflect().New().Interface(), message.ProtoReflect().New().Interface()
			if err := proto.Unmarshal(data, want); err != nil {
				t.Fatal(err)
			}
			if err := read(data, byCodec); err != nil || !proto.Equal(byCodec, want) {
				t.Errorf("by the codec: %v, %v", byCodec, err)
			}
			if err := unmarshal(data, bytewise); err != nil || !proto.Equal(bytewise, want) {
				t.Errorf("byte by byte: %v, %v", bytewise, err)
			}
		})
	}
}

// What the message held before is gone, be it what the first attempt has read or another message.
func TestAMessageIsReadAnew(t *testing.T) {
	got := &ratelimitv3.RateLimitRequest{Domain: "old", HitsAddend: 9, Descriptors: []*ratelimitcommonv3.RateLimitDescriptor{{}, {}, {}}}
	want := &ratelimitv3.RateLimitRequest{Descriptors: []*ratelimitcommonv3.RateLimitDescriptor{{Entries: []*ratelimitcommonv3.RateLimitDescriptor_Entry{{Value: placeholder}}}}}
	if err := read(with(t, "\xff\xff\xff\xff", want), got); err != nil {
		t.Fatal(err)
	}
	if got := replaced(got, "\xff\xff\xff\xff", placeholder); !proto.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// inStructs gives a Value in so many others, as far as the wire goes, around a string that is no UTF-8.
func inStructs(depth int) []byte {
	data := protowire.AppendString(protowire.AppendTag(nil, 3, protowire.BytesType), "\xff") // Value.string_value
	wrap := func(number protowire.Number) {
		data = append(protowire.AppendVarint(protowire.AppendTag(nil, number, protowire.BytesType), uint64(len(data))), data...)
	}
	for range depth {
		wrap(1) // ListValue.values
		wrap(6) // Value.list_value
	}
	return data
}

func TestWhatIsNoMessageFailsAsEver(t *testing.T) {
	bad := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "\xff") // RateLimitRequest.domain
	for name, test := range map[string]struct {
		data    []byte
		message proto.Message
		want    bool
	}{
		"a string alone":           {bad, &ratelimitv3.RateLimitRequest{}, true},
		"the field 0":              {append(slices.Clip(bad), 0), &ratelimitv3.RateLimitRequest{}, false},
		"the field 2^29":           {protowire.AppendVarint(protowire.AppendVarint(slices.Clip(bad), 1<<32), 1), &ratelimitv3.RateLimitRequest{}, false},
		"a string that ends early": {append(slices.Clip(bad), 0x0a, 5, 'x'), &ratelimitv3.RateLimitRequest{}, false},
		"a group that never ends":  {protowire.AppendTag(slices.Clip(bad), 1000, protowire.StartGroupType), &ratelimitv3.RateLimitRequest{}, false},
		"a descriptor that is cut": {append(slices.Clip(bad), 0x12, 1, 0x0a), &ratelimitv3.RateLimitRequest{}, false},
		"an entry that is cut":     {append(slices.Clip(bad), 0x52, 1, 0x0a), &authv3.AttributeContext{}, false},
		"lists in lists":           {inStructs(4000), &structpb.Value{}, true},
		"lists in too many lists":  {inStructs(6000), &structpb.Value{}, false},
		"a field that is required": {[]byte{0x12, 1, 0xff}, &descriptorpb.UninterpretedOption_NamePart{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			err := read(test.data, test.message)
			if (err == nil) != test.want {
				t.Fatalf("%v, want success: %v", err, test.want)
			}
			if first := proto.Unmarshal(test.data, test.message); err != nil && err.Error() != first.Error() {
				t.Errorf("%v, want the error of protobuf: %v", err, first)
			}
		})
	}
}

func TestWhatIsNoProtobufIsRefused(t *testing.T) {
	if err := Codec().Unmarshal(nil, "text"); err == nil {
		t.Error("read a message into a string")
	}
}

func TestWhatIsWrittenIsUTF8(t *testing.T) {
	if _, err := Codec().Marshal(&ratelimitv3.RateLimitRequest{Domain: "\xff"}); err == nil {
		t.Error("wrote a string that is no UTF-8")
	}
	if got := Codec().Name(); got != encodingproto.Name {
		t.Errorf("the codec is called %q", got)
	}
}

func TestThePlainPathAllocatesAsMuchAsGRPCsOwn(t *testing.T) {
	data := mem.BufferSlice{mem.SliceBuffer(with(t, placeholder, rateLimitRequest()))}
	measure := func(codec encoding.CodecV2) float64 {
		return testing.AllocsPerRun(1000, func() {
			if err := codec.Unmarshal(data, &ratelimitv3.RateLimitRequest{}); err != nil {
				t.Fatal(err)
			}
		})
	}
	if got, want := measure(Codec()), measure(encoding.GetCodecV2(encodingproto.Name)); got > want {
		t.Errorf("%v allocations, want %v", got, want)
	}
}

// FuzzUnmarshal: what protobuf reads is read the same; what it refuses is read only where the reason is a string.
func FuzzUnmarshal(f *testing.F) {
	for _, message := range samples() {
		f.Add(with(f, placeholder, message))
		f.Add(with(f, "\xff\xfe\x00é"[:4], message))
	}
	f.Add(inStructs(3))
	for _, number := range []int{10, 100} {
		f.Add(bytes.Repeat(protowire.AppendTag(nil, protowire.Number(number), protowire.StartGroupType), 50))
	}
	// Not of everything: protobuf itself panics for some maps of a message that is made from a descriptor.
	types := []proto.Message{
		&ratelimitv3.RateLimitRequest{}, &authv3.CheckRequest{}, &structpb.Value{},
		&descriptorpb.FileDescriptorProto{}, // of proto2, with required fields and extensions
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, of := range types {
			got, want := of.ProtoReflect().New().Interface(), of.ProtoReflect().New().Interface()
			err, wantErr := unmarshal(data, got), proto.Unmarshal(data, want)
			switch {
			case wantErr == nil && err != nil:
				t.Fatalf("%T: %v, and protobuf reads it", of, err)
			case wantErr == nil && !proto.Equal(got, want):
				t.Fatalf("%T: got\n%v\nwant\n%v", of, got, want)
			case wantErr != nil && err == nil && !strings.Contains(wantErr.Error(), "invalid UTF-8"):
				t.Fatalf("%T: read what protobuf refuses: %v", of, wantErr)
			}
		}
	})
}
