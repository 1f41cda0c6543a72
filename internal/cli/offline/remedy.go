package offline

import (
	"maps"
	"slices"
	"strings"

	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/penstock-dev/penstock/internal/cli/manifest"
)

// remedy says how to put right what the schema refuses.
func remedy(s *structuralschema.Structural, err *field.Error) string {
	if err.Type != field.ErrorTypeDuplicate {
		return describe(s, err.Field)
	}
	segments := manifest.Segments(err.Field)
	for _, segment := range segments[:max(0, len(segments)-1)] {
		next := step(s, segment)
		if next == nil {
			break
		}
		s = next
	}
	if len(s.XListMapKeys) > 0 {
		return "remove it, or give it another " + strings.Join(s.XListMapKeys, " and ")
	}
	return "remove it"
}

// describe gives the documentation of a field, on one line: what the schema's own messages ("should match '^…$'") leave
// the reader to guess.
func describe(s *structuralschema.Structural, path string) string {
	description := s.Description
	for _, segment := range manifest.Segments(path) {
		next := step(s, segment)
		if next == nil {
			break
		}
		s = next
		if s.Description != "" {
			description = s.Description
		}
	}
	return strings.Join(strings.Fields(description), " ")
}

// knownFields lists what may stand where the unknown field does.
func knownFields(s *structuralschema.Structural, path string) string {
	segments := manifest.Segments(path)
	for _, segment := range segments[:max(0, len(segments)-1)] {
		next := step(s, segment)
		if next == nil {
			return "remove it"
		}
		s = next
	}
	return "known here: " + strings.Join(slices.Sorted(maps.Keys(s.Properties)), ", ")
}

// step gives the schema of a property, or of the items of a list.
func step(s *structuralschema.Structural, segment string) *structuralschema.Structural {
	if property, found := s.Properties[segment]; found {
		return &property
	}
	if s.Items != nil {
		return s.Items
	}
	if s.AdditionalProperties != nil {
		return s.AdditionalProperties.Structural
	}
	return nil
}

func withRemedy(detail, remedy string) string {
	switch {
	case remedy == "":
		return detail
	case detail == "":
		return remedy
	default:
		return detail + " (" + remedy + ")"
	}
}
