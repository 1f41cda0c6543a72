package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/json"
	sigsyaml "sigs.k8s.io/yaml"
)

// document is one YAML document of a file.
type document struct {
	text   []byte
	offset int // lines before it
}

// split cuts a stream at the markers --- and ... in the first column, which YAML allows nowhere else.
func split(text []byte) []document {
	var documents []document
	start, offset, line := 0, 0, 0
	for at := 0; at < len(text); line++ {
		end := len(text)
		if i := bytes.IndexByte(text[at:], '\n'); i >= 0 {
			end = at + i + 1
		}
		switch {
		case isMarker(text[at:end], "---") && at > start:
			documents = append(documents, document{text: text[start:at], offset: offset})
			start, offset = at, line
		case isMarker(text[at:end], "..."):
			documents = append(documents, document{text: text[start:at], offset: offset})
			start, offset = end, line+1
		}
		at = end
	}
	return append(documents, document{text: text[start:], offset: offset})
}

func isMarker(line []byte, marker string) bool {
	rest, found := bytes.CutPrefix(line, []byte(marker))
	return found && (len(rest) == 0 || bytes.ContainsRune([]byte(" \t\r\n"), rune(rest[0])))
}

// yamlLine finds the line that a YAML error speaks of, within its document.
var yamlLine = regexp.MustCompile(`line (\d+)`)

// parse reads all documents of a file. What cannot be read is a problem; the others are read all the same.
func parse(file string, text []byte) ([]*Object, []Problem) {
	var objects []*Object
	var problems []Problem
	for i, d := range split(bytes.TrimPrefix(text, []byte("\ufeff"))) {
		found, bad, err := d.objects(file, i+1)
		if err != nil {
			bad = append(bad, d.problem(file, i+1, err))
		}
		objects = append(objects, found...)
		problems = append(problems, bad...)
	}
	return objects, problems
}

// problem puts the line, which the YAML parser counts within the document, where a reader expects it.
func (d document) problem(file string, number int, err error) Problem {
	message := err.Error()
	for _, noise := range []string{"error converting YAML to JSON: ", "yaml: "} {
		message = strings.TrimPrefix(message, noise)
	}
	line := d.firstLine()
	if match := yamlLine.FindStringSubmatch(message); match != nil {
		line, _ = strconv.Atoi(match[1])
		message = strings.TrimPrefix(message, match[0]+": ")
	}
	return Problem{File: file, Document: number, Line: line + d.offset, Message: "not valid YAML: " + message}
}

func (d document) objects(file string, number int) ([]*Object, []Problem, error) {
	text := d.text
	if trimmed := bytes.TrimLeft(text, " \t\r\n"); len(trimmed) > 0 && trimmed[0] == '{' {
		text = tabsToSpaces(text)
	}
	// The parser that kubectl uses gives the content (YAML 1.1, with its yes and no); the other gives positions only.
	asJSON, err := sigsyaml.YAMLToJSON(text)
	if err != nil {
		return nil, nil, err
	}
	var content any
	if err := json.Unmarshal(asJSON, &content); err != nil {
		return nil, nil, err
	}
	if content == nil {
		return nil, nil, nil
	}
	root, isMap := content.(map[string]any)
	if !isMap {
		return nil, nil, fmt.Errorf("line %d: want a mapping with apiVersion, kind and metadata, found %s", d.firstLine(), describe(content))
	}
	node, err := positions(text)
	if err != nil {
		return nil, nil, err
	}
	o := &Object{File: file, Document: number, Line: d.offset + d.firstLine(), Content: root, node: node, offset: d.offset}
	if twice := duplicates(node, ""); len(twice) > 0 {
		return nil, o.refuseDuplicates(twice), nil
	}
	if _, err := sigsyaml.YAMLToJSONStrict(text); err != nil {
		return nil, nil, err
	}
	if isKustomization(file, root) {
		root["apiVersion"], root["kind"] = "kustomize.config.k8s.io/v1beta1", "Kustomization"
	}
	return o.expand(0)
}

func (o *Object) refuseDuplicates(twice []duplicate) []Problem {
	var problems []Problem
	for _, d := range twice {
		p := o.Problem(d.path, fmt.Sprintf("is there twice, first in line %d; remove one", o.offset+d.first))
		p.Line = o.offset + d.second
		problems = append(problems, p)
	}
	return problems
}

// firstLine is the line of the first content of the document, within it.
func (d document) firstLine() int {
	for i, line := range bytes.Split(d.text, []byte("\n")) {
		s := strings.TrimSpace(strings.TrimPrefix(string(line), "---"))
		if s != "" && !strings.HasPrefix(s, "#") {
			return i + 1
		}
	}
	return 1
}

// positions parses the text a second time, for the lines of its fields. It fails on a second document, of which
// nothing would be read.
func positions(text []byte) (*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var node yaml.Node
	if err := decoder.Decode(&node); err != nil {
		// Valid for the parser that counts; only the lines are not known.
		return nil, nil //nolint:nilerr // see above
	}
	var more yaml.Node
	if err := decoder.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("more follows after the end of the document; put --- between documents")
	}
	return &node, nil
}

// maxListDepth is how many Lists may stand within each other.
const maxListDepth = 16

// expand gives the items of a List, or the object itself. As by kubectl, a List within a List is taken apart too.
func (o *Object) expand(depth int) ([]*Object, []Problem, error) {
	items, isList := itemsOf(o.Content)
	if !isList {
		return []*Object{o}, nil, nil
	}
	if depth == maxListDepth {
		return nil, []Problem{o.Problem("", fmt.Sprintf("more than %d lists stand within each other; put the items into one", maxListDepth))}, nil
	}
	node, _ := child(o.node, "items")
	var objects []*Object
	var problems []Problem
	for i, item := range items {
		content, isMap := item.(map[string]any)
		line := o.LineOf(fmt.Sprintf("items[%d]", i))
		if !isMap {
			return objects, problems, fmt.Errorf("line %d: items[%d]: want a mapping with apiVersion, kind and metadata, found %s", line-o.offset, i, describe(item))
		}
		inner, _ := child(node, strconv.Itoa(i))
		object := &Object{File: o.File, Document: o.Document, Line: line, Content: content, node: inner, offset: o.offset}
		found, bad, err := object.expand(depth + 1)
		objects = append(objects, found...)
		problems = append(problems, bad...)
		if err != nil {
			return objects, problems, err
		}
	}
	return objects, problems, nil
}

// itemsOf gives the items of a List, also of one kind, such as a RateLimitList.
func itemsOf(content map[string]any) (items []any, isList bool) {
	kind, _ := content["kind"].(string)
	items, isList = content["items"].([]any)
	return items, isList && strings.HasSuffix(kind, "List")
}

// isKustomization tells a kustomization that leaves out apiVersion and kind, as kustomize allows.
func isKustomization(file string, content map[string]any) bool {
	base := filepath.Base(file)
	return (base == "kustomization.yaml" || base == "kustomization.yml") && content["kind"] == nil && content["apiVersion"] == nil
}

// tabsToSpaces makes JSON that is indented with tabs readable as YAML. Tabs within strings are escaped in JSON.
func tabsToSpaces(text []byte) []byte {
	return bytes.ReplaceAll(text, []byte("\t"), []byte(" "))
}

func describe(value any) string {
	switch value.(type) {
	case nil:
		return "nothing"
	case []any:
		return "a list"
	case string:
		return "a string"
	case bool:
		return "a boolean"
	default:
		return "a number"
	}
}
