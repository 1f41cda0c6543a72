package manifest

import (
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// LineOf gives the line of the field with a path such as spec.limits[0].window or metadata.labels[app]. Of a path that
// is not there (a required field), it is the line of the last part that is.
func (o *Object) LineOf(path string) int {
	line, node := o.Line, o.node
	for _, segment := range Segments(path) {
		next, at := child(node, segment)
		if next == nil {
			break
		}
		line, node = o.offset+at, next
	}
	return line
}

// Segments splits the path of a field: spec.limits[0].window gives spec, limits, 0, window. What stands in brackets is
// one segment, dots and all.
func Segments(path string) []string {
	var segments []string
	for path != "" {
		if rest, bracket := strings.CutPrefix(path, "["); bracket {
			inside, after, _ := strings.Cut(rest, "]")
			segments = append(segments, inside)
			path = after
			continue
		}
		end := strings.IndexAny(path, ".[")
		if end < 0 {
			end = len(path)
		}
		if end > 0 {
			segments = append(segments, path[:end])
		}
		path = strings.TrimPrefix(path[end:], ".")
	}
	return segments
}

// child gives what the segment leads to, and the line of its key.
func child(node *yaml.Node, segment string) (*yaml.Node, int) {
	node = resolve(node)
	if node == nil {
		return nil, 0
	}
	switch node.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			if node.Content[i].Value == segment {
				return node.Content[i+1], node.Content[i].Line
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(segment); err == nil && i >= 0 && i < len(node.Content) {
			return node.Content[i], node.Content[i].Line
		}
	}
	return nil, 0
}

// resolve gives the root of a document, and what an alias stands for.
func resolve(node *yaml.Node) *yaml.Node {
	for node != nil {
		switch {
		case node.Kind == yaml.DocumentNode && len(node.Content) > 0:
			node = node.Content[0]
		case node.Kind == yaml.AliasNode:
			node = node.Alias
		default:
			return node
		}
	}
	return nil
}

// duplicate is a key that a mapping has twice.
type duplicate struct {
	path          string
	first, second int // lines
}

// duplicates finds them below a node that stands at a path.
func duplicates(node *yaml.Node, path string) []duplicate {
	if node == nil {
		return nil
	}
	var found []duplicate
	switch node.Kind {
	case yaml.DocumentNode:
		for _, inner := range node.Content {
			found = append(found, duplicates(inner, path)...)
		}
	case yaml.SequenceNode:
		for i, inner := range node.Content {
			found = append(found, duplicates(inner, fmt.Sprintf("%s[%d]", path, i))...)
		}
	case yaml.MappingNode:
		lines := make(map[string]int)
		for i := 0; i+1 < len(node.Content); i += 2 {
			key := node.Content[i]
			at := strings.TrimPrefix(path+"."+key.Value, ".")
			if first, twice := lines[key.Value]; twice {
				found = append(found, duplicate{path: at, first: first, second: key.Line})
			} else {
				lines[key.Value] = key.Line
			}
			found = append(found, duplicates(node.Content[i+1], at)...)
		}
	}
	return found
}
