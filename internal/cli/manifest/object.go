// Package manifest reads Kubernetes manifests from files, folders and standard input, and remembers where each field
// stands, so that a refusal can name the line.
package manifest

import (
	"cmp"
	"fmt"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Object is one manifest. The items of a List are objects of their own.
type Object struct {
	// File is the path as it was found, or StdinName.
	File string
	// Document is the number of the YAML document within the file, from 1.
	Document int
	// Line is where the object begins in the file, from 1.
	Line int
	// Content is the object as the API server would get it.
	Content map[string]any

	// node is the same as it was written, with positions; nil when only the lenient parser could read it.
	node *yaml.Node
	// offset is how many lines of the file come before the document.
	offset int
}

// Unstructured gives access to the object's metadata. It shares the content.
func (o *Object) Unstructured() *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: o.Content}
}

// Title is "<kind> <namespace>/<name>", as far as the manifest tells.
func (o *Object) Title() string {
	kind, _, _ := unstructured.NestedString(o.Content, "kind")
	name, _, _ := unstructured.NestedString(o.Content, "metadata", "name")
	namespace, _, _ := unstructured.NestedString(o.Content, "metadata", "namespace")
	if namespace != "" {
		name = namespace + "/" + cmp.Or(name, "?")
	}
	return fmt.Sprintf("%s %s", cmp.Or(kind, "?"), cmp.Or(name, "?"))
}

// Problem is why a manifest, or one of its fields, is refused.
type Problem struct {
	File     string
	Document int
	Line     int
	// Title is Object.Title; empty when the file could not be read that far.
	Title string
	// Field is the path of the field, such as spec.limits[0].window; empty when it is about the whole.
	Field string
	// Message says what is wrong and how to put it right.
	Message string
}

// String gives "<file>:<line>: <kind> <namespace>/<name>: <field>: <message>", the form that editors and CI know.
func (p Problem) String() string {
	s := fmt.Sprintf("%s:%d: ", p.File, p.Line)
	if p.Document > 1 {
		s = fmt.Sprintf("%s:%d: document %d: ", p.File, p.Line, p.Document)
	}
	if p.Title != "" {
		s += p.Title + ": "
	}
	if p.Field != "" {
		s += p.Field + ": "
	}
	return s + p.Message
}

// Problem gives a problem with the field of that path (empty: with the whole object), at the line where the field, or
// what is there of the path, was written.
func (o *Object) Problem(field, message string) Problem {
	return Problem{File: o.File, Document: o.Document, Line: o.LineOf(field), Title: o.Title(), Field: field, Message: message}
}
