package expr

import (
	"errors"
	"reflect"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
)

// MaxValueBytes bounds each value that an expression reads; a longer one is an EvaluationError of the class
// ValueTooLong.
const MaxValueBytes = 256

// Request is what expressions see as the variable request.
type Request struct {
	// Domain is the Envoy rate limit domain.
	Domain string
	// Cost is what the caller asks to be charged; 1 when it says nothing.
	Cost int64
	// Lookup gives an attribute or a descriptor entry by its key (method, header.x-user, user), and whether there is
	// one. Nil knows none. It is called during an evaluation only, any number of times, by the calling goroutine.
	Lookup func(key string) (string, bool)
}

// Names of types are not what the grammar takes for a name: so no expression can make a value of them.
const (
	requestName     = "the request"
	headerName      = "request.header (looked up by name)"
	descriptorsName = "request.descriptors (looked up by name)"
)

var (
	requestType     = cel.ObjectType(requestName)
	headerType      = cel.ObjectType(headerName, traits.IndexerType, traits.ContainerType)
	descriptorsType = cel.ObjectType(descriptorsName, traits.IndexerType, traits.ContainerType)
)

// attributes are the fields of a request whose value is the attribute of the same name.
var attributes = []string{"remote_address", "method", "path", "host"}

// fieldNames are for messages.
var fieldNames = []string{"domain", "cost", "remote_address", "method", "path", "host", "header", "descriptors"}

var (
	errNoSuchAttribute = errors.New(string(NoSuchAttribute))
	errValueTooLong    = errors.New(string(ValueTooLong))
)

// evaluation is what one evaluation works on; it is the activation of CEL. Its objects are made once and point back, so
// that reading the request allocates no more than the strings read.
type evaluation struct {
	request                   *Request
	self, header, descriptors object
}

var evaluations = sync.Pool{New: func() any {
	e := new(evaluation)
	e.self = object{in: e, of: requestType}
	e.header = object{in: e, of: headerType}
	e.descriptors = object{in: e, of: descriptorsType}
	return e
}}

func begin(r *Request) *evaluation {
	e := evaluations.Get().(*evaluation)
	e.request = r
	return e
}

func (e *evaluation) end() {
	e.request = nil
	evaluations.Put(e)
}

// ResolveName implements cel.Activation.
func (e *evaluation) ResolveName(name string) (any, bool) {
	if name == "request" {
		return &e.self, true
	}
	return nil, false
}

// Parent implements cel.Activation.
func (e *evaluation) Parent() cel.Activation { return nil }

func (e *evaluation) has(key string) bool {
	if e.request.Lookup == nil {
		return false
	}
	_, found := e.request.Lookup(key)
	return found
}

func (e *evaluation) get(key string) (ref.Val, error) {
	if e.request.Lookup == nil {
		return nil, errNoSuchAttribute
	}
	value, found := e.request.Lookup(key)
	if !found {
		return nil, errNoSuchAttribute
	}
	return bounded(value)
}

func bounded(value string) (ref.Val, error) {
	if len(value) > MaxValueBytes {
		return nil, errValueTooLong
	}
	return types.String(value), nil
}

// object is the request, its headers or its descriptors as a value of CEL.
type object struct {
	in *evaluation
	of *cel.Type
}

// key gives the key of Lookup for a header or a descriptor.
func key(of, name string) string {
	if of == headerName {
		return "header." + strings.ToLower(name)
	}
	return name
}

// Contains implements the operator in.
func (o *object) Contains(name ref.Val) ref.Val {
	text, ok := name.(types.String)
	return types.Bool(ok && o.in.has(key(o.of.TypeName(), string(text))))
}

// Get implements the index by a name that is computed; a constant one is a field (see provider).
func (o *object) Get(name ref.Val) ref.Val {
	text, ok := name.(types.String)
	if !ok {
		return types.WrapErr(errNoSuchAttribute)
	}
	value, err := o.in.get(key(o.of.TypeName(), string(text)))
	if err != nil {
		return types.WrapErr(err)
	}
	return value
}

// ConvertToNative implements ref.Val: there is nothing to convert to.
func (o *object) ConvertToNative(reflect.Type) (any, error) {
	return nil, errors.New("no such conversion")
}

// ConvertToType implements ref.Val: there is nothing to convert to.
func (o *object) ConvertToType(ref.Type) ref.Val { return types.NewErr("no such conversion") }

// Equal implements ref.Val.
func (o *object) Equal(other ref.Val) ref.Val { return types.Bool(ref.Val(o) == other) }

// Type implements ref.Val.
func (o *object) Type() ref.Type { return o.of }

// Value implements ref.Val.
func (o *object) Value() any { return o }

// provider tells CEL the fields of the request. It knows no other type and no name.
type provider struct{ fields map[string]*types.FieldType }

func newProvider() *provider {
	always := func(any) bool { return true }
	fields := map[string]*types.FieldType{
		"domain": {Type: types.StringType, IsSet: always, GetFrom: func(o any) (any, error) {
			return bounded(o.(*object).in.request.Domain)
		}},
		"cost": {Type: types.IntType, IsSet: always, GetFrom: func(o any) (any, error) {
			return types.Int(o.(*object).in.request.Cost), nil
		}},
		"header": {Type: headerType, IsSet: always, GetFrom: func(o any) (any, error) {
			return &o.(*object).in.header, nil
		}},
		"descriptors": {Type: descriptorsType, IsSet: always, GetFrom: func(o any) (any, error) {
			return &o.(*object).in.descriptors, nil
		}},
	}
	for _, name := range attributes {
		fields[name] = attribute(name)
	}
	return &provider{fields: fields}
}

func attribute(name string) *types.FieldType {
	return &types.FieldType{
		Type:    types.StringType,
		IsSet:   func(o any) bool { return o.(*object).in.has(name) },
		GetFrom: func(o any) (any, error) { return o.(*object).in.get(name) },
	}
}

// FindStructType implements types.Provider.
func (p *provider) FindStructType(name string) (*types.Type, bool) {
	for _, t := range []*types.Type{requestType, headerType, descriptorsType} {
		if t.TypeName() == name {
			return types.NewTypeTypeWithParam(t), true
		}
	}
	return nil, false
}

// FindStructFieldNames implements types.Provider.
func (p *provider) FindStructFieldNames(string) ([]string, bool) { return nil, false }

// FindStructFieldType implements types.Provider. CEL asks it for an index by a constant as well, so that the key of a
// header is put together once.
func (p *provider) FindStructFieldType(of, name string) (*types.FieldType, bool) {
	switch of {
	case requestName:
		field, found := p.fields[name]
		return field, found
	case headerName, descriptorsName:
		return attribute(key(of, name)), true
	default:
		return nil, false
	}
}

// FindIdent implements types.Provider.
func (p *provider) FindIdent(string) (ref.Val, bool) { return nil, false }

// EnumValue implements types.Provider.
func (p *provider) EnumValue(string) ref.Val { return types.NewErr("no such name") }

// NewValue implements types.Provider.
func (p *provider) NewValue(string, map[string]ref.Val) ref.Val { return types.NewErr("no such type") }
