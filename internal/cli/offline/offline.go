// Package offline applies the rules of Penstock's kinds without a cluster: with the API server's own code for schemas,
// defaults, list types and CEL, on the CustomResourceDefinitions that are built into the binary.
package offline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	metavalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

// DefaultNamespace is where an object without a namespace goes.
const DefaultNamespace = "default"

// Rules holds the rules of every kind. It may be used by several goroutines.
type Rules struct {
	group string
	kinds map[schema.GroupVersionKind]*kind
}

type kind struct {
	structural *structuralschema.Structural
	schema     validation.SchemaValidator
	cel        *cel.Validator
}

// NewRules compiles the rules of the CustomResourceDefinitions (*.yaml) of a file system, which all belong to one API
// group.
func NewRules(crds fs.FS) (*Rules, error) {
	files, err := fs.Glob(crds, "bases/*.yaml")
	if err != nil {
		return nil, err
	}
	r := &Rules{kinds: make(map[schema.GroupVersionKind]*kind)}
	for _, file := range files {
		text, err := fs.ReadFile(crds, file)
		if err != nil {
			return nil, err
		}
		var crd apiextensionsv1.CustomResourceDefinition
		if err := yaml.UnmarshalStrict(text, &crd); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		r.group = crd.Spec.Group
		for _, version := range crd.Spec.Versions {
			k, err := newKind(version)
			if err != nil {
				return nil, fmt.Errorf("%s: version %s: %w", file, version.Name, err)
			}
			r.kinds[schema.GroupVersionKind{Group: crd.Spec.Group, Version: version.Name, Kind: crd.Spec.Names.Kind}] = k
		}
	}
	return r, nil
}

func newKind(version apiextensionsv1.CustomResourceDefinitionVersion) (*kind, error) {
	if version.Schema == nil {
		return nil, fmt.Errorf("has no schema")
	}
	var props apiextensions.JSONSchemaProps
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(version.Schema.OpenAPIV3Schema, &props, nil); err != nil {
		return nil, err
	}
	structural, err := structuralschema.NewStructural(&props)
	if err != nil {
		return nil, err
	}
	validator, _, err := validation.NewSchemaValidator(&props)
	if err != nil {
		return nil, err
	}
	return &kind{structural: structural, schema: validator, cel: cel.NewValidator(structural, true, celconfig.PerCallLimit)}, nil
}

// Known gives the kinds, sorted, as "<kind> (<group>/<version>)".
func (r *Rules) Known() []string {
	var known []string
	for gvk := range maps.Keys(r.kinds) {
		known = append(known, fmt.Sprintf("%s (%s)", gvk.Kind, gvk.GroupVersion()))
	}
	slices.Sort(known)
	return known
}

// Verdict is the result of a check.
type Verdict int

const (
	// Skipped is an object of another API group, which has rules of its own.
	Skipped Verdict = iota
	// Valid is an object that the API server would create.
	Valid
	// Refused is an object that it would refuse.
	Refused
)

// Check applies everything that the API server does when an object is created with strict field validation. The object
// gets its defaults, and DefaultNamespace when it has no namespace. Rules about changes (immutable fields) need the
// stored object, and do not apply.
func (r *Rules) Check(ctx context.Context, content map[string]any) (Verdict, field.ErrorList) {
	apiVersion, _ := content["apiVersion"].(string)
	name, _ := content["kind"].(string)
	if apiVersion == "" || name == "" {
		return Refused, missingType(apiVersion, name)
	}
	version, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return Refused, field.ErrorList{field.Invalid(field.NewPath("apiVersion"), apiVersion, "want <group>/<version>, such as "+r.group+"/v1")}
	}
	if version.Group != r.group {
		return Skipped, nil
	}
	k := r.kinds[version.WithKind(name)]
	if k == nil {
		return Refused, field.ErrorList{r.unknownKind(version, name)}
	}
	if errs := k.check(ctx, content); len(errs) > 0 {
		return Refused, errs
	}
	return Valid, nil
}

func missingType(apiVersion, kind string) field.ErrorList {
	var errs field.ErrorList
	if apiVersion == "" {
		errs = append(errs, field.Required(field.NewPath("apiVersion"), "every manifest names its apiVersion, such as penstock.dev/v1"))
	}
	if kind == "" {
		errs = append(errs, field.Required(field.NewPath("kind"), "every manifest names its kind, such as RateLimit"))
	}
	return errs
}

func (r *Rules) unknownKind(version schema.GroupVersion, kind string) *field.Error {
	path := field.NewPath("kind")
	value := kind
	for gvk := range r.kinds {
		if gvk.Kind == kind {
			path, value = field.NewPath("apiVersion"), version.String()
		}
	}
	return field.Invalid(path, value, "not a kind and version that this version of penstock knows; use "+strings.Join(r.Known(), " or "))
}

func (k *kind) check(ctx context.Context, content map[string]any) field.ErrorList {
	errs := k.metadata(content)
	errs = append(errs, k.unknownFields(content)...)

	defaulting.Default(content, k.structural)
	defaulting.PruneNonNullableNullsWithoutDefaults(content, k.structural)
	// Status is a subresource: creating an object leaves out what a manifest says of it.
	delete(content, "status")

	schemaErrs := withoutEchoes(validation.ValidateCustomResource(nil, content, k.schema))
	schemaErrs = append(schemaErrs, listtype.ValidateListSetsAndMaps(nil, k.structural, content)...)
	for _, err := range schemaErrs {
		err.Detail = withRemedy(err.Detail, remedy(k.structural, err))
	}
	errs = append(errs, schemaErrs...)
	if blocksRules(schemaErrs) {
		// A rule could stumble over what is wrong already, and say something beside the point.
		return errs
	}
	ruleErrs, _ := k.cel.Validate(ctx, nil, k.structural, content, nil, celconfig.RuntimeCELCostBudget)
	return append(errs, withoutRefused(ruleErrs, schemaErrs)...)
}

func (k *kind) metadata(content map[string]any) field.ErrorList {
	path := field.NewPath("metadata")
	meta, found, unknown, err := objectmeta.GetObjectMetaWithOptions(content, objectmeta.ObjectMetaOptions{ReturnUnknownFieldPaths: true})
	if err != nil {
		return field.ErrorList{unreadableMetadata(path, err)}
	}
	if !found || meta.Name == "" {
		return field.ErrorList{field.Required(path.Child("name"), "give the object a name")}
	}
	var errs field.ErrorList
	for _, at := range unknown {
		errs = append(errs, unknownField(at, "remove it"))
	}
	if meta.Namespace == "" {
		meta.Namespace = DefaultNamespace
		if m, isMap := content["metadata"].(map[string]any); isMap {
			m["namespace"] = DefaultNamespace
		}
	}
	return append(errs, metavalidation.ValidateObjectMeta(meta, true, metavalidation.NameIsDNSSubdomain, path)...)
}

// unreadableMetadata names the field that has the wrong type, where that is known. Mostly it is a value that YAML takes
// for a boolean (true, yes, no, n) or a number.
func unreadableMetadata(path *field.Path, err error) *field.Error {
	var wrongType *json.UnmarshalTypeError
	if !errors.As(err, &wrongType) || wrongType.Field == "" {
		return field.Invalid(path, field.OmitValueType{}, err.Error())
	}
	return field.TypeInvalid(path.Child(wrongType.Field), field.OmitValueType{}, fmt.Sprintf("want a %s, found a %s; put it in quotes if it is meant as text", wrongType.Type, wrongType.Value))
}

func (k *kind) unknownFields(content map[string]any) field.ErrorList {
	// Pruning also removes them, so the rules below see the object as the API server would store it.
	paths := pruning.PruneWithOptions(content, k.structural, true, structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	var errs field.ErrorList
	for _, at := range paths {
		errs = append(errs, unknownField(at, knownFields(k.structural, at)))
	}
	return errs
}

// unknownField says it in the API server's words, and adds a remedy.
func unknownField(at, remedy string) *field.Error {
	return &field.Error{Type: field.ErrorTypeForbidden, Field: at, BadValue: "", Detail: fmt.Sprintf("unknown field %q; %s", at, remedy)}
}

// blocksRules tells, as the API server does, when the rules are not even tried.
func blocksRules(errs field.ErrorList) bool {
	for _, err := range errs {
		switch err.Type {
		case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
			return true
		}
	}
	return false
}

// withoutEchoes leaves out what the schema says of no field: a type is refused at its field, and then once more in
// general.
func withoutEchoes(errs field.ErrorList) field.ErrorList {
	var noField *field.Path
	named := slices.DeleteFunc(slices.Clone(errs), func(err *field.Error) bool { return err.Field == noField.String() })
	if len(named) == 0 {
		return errs
	}
	return named
}

// withoutRefused leaves out what rules say of a field that the schema has refused already: they can only have failed to
// read it.
func withoutRefused(rules, refused field.ErrorList) field.ErrorList {
	return slices.DeleteFunc(rules, func(rule *field.Error) bool {
		return slices.ContainsFunc(refused, func(err *field.Error) bool { return err.Field == rule.Field })
	})
}
