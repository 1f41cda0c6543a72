package callers

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"

	"go.yaml.in/yaml/v3"
)

// Bounds of what is read.
const (
	// maxBytes is of a file, or of what a server answers.
	maxBytes = 1 << 20
	// maxTokens are compared one by one with what each request brings.
	maxTokens       = 1024
	maxPatternBytes = 1024
)

// file is the callers of a file, as of the last reading that could be used.
type file struct {
	path    string
	log     *slog.Logger
	current atomic.Pointer[roster]
	// text is what current was read from, and failed why the file could not be used when it was last read, or "". They are
	// of the one goroutine that reloads.
	text   []byte
	failed string
}

func readFile(path string, log *slog.Logger) (*file, error) {
	f := &file{path: path, log: log}
	text, callers, err := f.read()
	if err != nil {
		return nil, err
	}
	f.text = text
	f.current.Store(callers)
	return f, nil
}

// reload puts the file into force when it has changed and can be used.
func (f *file) reload() {
	text, callers, err := f.read()
	switch {
	case err != nil:
		if reason := err.Error(); reason != f.failed {
			f.failed = reason
			f.log.Error("cannot use the file of callers; the last good one stays in force", "error", reason)
		}
	case callers == nil:
		if f.failed != "" {
			f.failed = ""
			f.log.Info("the file of callers is again the one in force", "file", f.path)
		}
	default:
		f.failed = ""
		f.text = text
		f.current.Store(callers)
		f.log.Info("the file of callers changed", "file", f.path, "callers", len(callers.entries))
	}
}

// read gives no roster when the file is what it was.
func (f *file) read() ([]byte, *roster, error) {
	text, err := readBounded(f.path)
	if err != nil {
		return nil, nil, fmt.Errorf("--auth-callers: %w", err)
	}
	if f.current.Load() != nil && bytes.Equal(text, f.text) {
		return nil, nil, nil
	}
	callers, err := parse(text)
	if err != nil {
		return nil, nil, fmt.Errorf("--auth-callers: %s: %w", f.path, err)
	}
	return text, callers, nil
}

func readBounded(path string) ([]byte, error) {
	opened, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = opened.Close() }()
	text, err := io.ReadAll(io.LimitReader(opened, maxBytes+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxBytes {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxBytes)
	}
	return text, nil
}

// parse reads callers from YAML or JSON. Errors name line, caller and field. They show no token: somebody may have written
// one where its digest belongs.
func parse(text []byte) (*roster, error) {
	root, err := document(text)
	if err != nil {
		return nil, err
	}
	r := &roster{tokens: map[[sha256.Size]byte]*grant{}}
	found := false
	err = fields(root, "the file", []string{"callers"}, func(_ string, list *yaml.Node) error {
		found = true
		return r.add(list)
	})
	if err != nil {
		return nil, err
	}
	for i := range r.entries {
		for _, token := range r.entries[i].tokens {
			r.tokens[token] = &r.entries[i].granted
		}
	}
	if !found {
		return nil, errors.New("callers is missing; give a list, `callers: []` to let nobody in")
	}
	return r, nil
}

func document(text []byte) (*yaml.Node, error) {
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	if trimmed := bytes.TrimSpace(text); len(trimmed) > 0 && trimmed[0] == '{' {
		// JSON may be indented by tabs and YAML not; within a string of either a tab is written as \t.
		text = bytes.ReplaceAll(text, []byte("\t"), []byte(" "))
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var d yaml.Node
	switch err := decoder.Decode(&d); {
	case errors.Is(err, io.EOF):
		return nil, errors.New("it is empty; write `callers: []` to let nobody in")
	case err != nil:
		return nil, fmt.Errorf("not valid YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := decoder.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return nil, errors.New("it holds more than one document; put all callers into one list")
	}
	if len(d.Content) != 1 {
		return nil, errors.New("it is empty; write `callers: []` to let nobody in")
	}
	return d.Content[0], nil
}

// fields calls read for each field of a mapping. Those that are unknown or there twice are refused.
func fields(node *yaml.Node, of string, known []string, read func(field string, value *yaml.Node) error) error {
	if node.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: %s: want a mapping with %s%s", node.Line, of, strings.Join(known, ", "), noAliases(node))
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if key.Kind != yaml.ScalarNode || !slices.Contains(known, key.Value) {
			return fmt.Errorf("line %d: %s: unknown field %q; there are %s", key.Line, of, key.Value, strings.Join(known, ", "))
		}
		if seen[key.Value] {
			return fmt.Errorf("line %d: %s: %s is there twice; keep one", key.Line, of, key.Value)
		}
		seen[key.Value] = true
		if err := read(key.Value, value); err != nil {
			return err
		}
	}
	return nil
}

// noAliases is the remedy where somebody wrote an alias, which could make a small file a large one.
func noAliases(node *yaml.Node) string {
	if node.Kind == yaml.AliasNode {
		return "; write out what the alias stands for"
	}
	return ""
}

func (r *roster) add(list *yaml.Node) error {
	if list.Kind != yaml.SequenceNode {
		return fmt.Errorf("line %d: callers: want a list%s", list.Line, noAliases(list))
	}
	names, tokens := map[string]bool{}, map[[sha256.Size]byte]string{}
	for i, node := range list.Content {
		e, err := parseEntry(node, i)
		if err != nil {
			return err
		}
		if names[e.name] {
			return fmt.Errorf("line %d: caller %q: name is there twice; give each caller its own", node.Line, e.name)
		}
		names[e.name] = true
		for j, token := range e.tokens {
			if other, taken := tokens[token]; taken {
				return fmt.Errorf("line %d: caller %q: tokenSHA256[%d]: caller %q has that token too; give each its own", node.Line, e.name, j, other)
			}
			tokens[token] = e.name
		}
		if len(tokens) > maxTokens {
			return fmt.Errorf("line %d: caller %q: tokenSHA256: more than %d tokens in the file; use ServiceAccounts", node.Line, e.name, maxTokens)
		}
		r.entries = append(r.entries, e)
	}
	return nil
}

// callerFields are the fields of a caller.
var callerFields = []string{"name", "san", "tokenSHA256", "serviceAccounts", "namespaces", "domains", "administrative", "limitOverrides"}

func parseEntry(node *yaml.Node, index int) (entry, error) {
	var e entry
	of := fmt.Sprintf("callers[%d]", index)
	if name := nameOf(node); name != "" {
		of = fmt.Sprintf("caller %q", name)
	}
	err := fields(node, of, callerFields, func(field string, value *yaml.Node) error {
		if err := e.set(field, value); err != nil {
			return fmt.Errorf("line %d: %s: %s%w", value.Line, of, field, err)
		}
		return nil
	})
	switch {
	case err != nil:
		return e, err
	case e.name == "":
		return e, fmt.Errorf("line %d: %s: name is missing; give one, for messages", node.Line, of)
	case len(e.uris)+len(e.emails)+len(e.hosts)+len(e.tokens)+len(e.accounts) == 0:
		return e, fmt.Errorf("line %d: %s: nobody can be this caller; give san, tokenSHA256 or serviceAccounts", node.Line, of)
	}
	return e, nil
}

// nameOf finds the name of a caller before the rest of it is looked at, so that every message can tell it.
func nameOf(node *yaml.Node) string {
	if node.Kind != yaml.MappingNode {
		return ""
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == "name" && node.Content[i+1].Kind == yaml.ScalarNode {
			return node.Content[i+1].Value
		}
	}
	return ""
}

// set sets one field. What its errors say follows the name of the field.
func (e *entry) set(field string, value *yaml.Node) error {
	switch field {
	case "name":
		if value.Kind != yaml.ScalarNode || value.ShortTag() == "!!null" || value.Value == "" {
			return errors.New(": want a string")
		}
		e.name = value.Value
	case "san":
		return each(value, func(text string) error { return e.addName(text) })
	case "tokenSHA256":
		return each(value, func(text string) error { return e.addToken(text) })
	case "serviceAccounts":
		return each(value, func(text string) error { return e.addAccount(text) })
	case "namespaces":
		return each(value, func(text string) error { return e.addNamespace(text) })
	case "domains":
		return each(value, func(text string) error {
			e.granted.domains = append(e.granted.domains, pattern{text: text})
			return nil
		})
	case "administrative":
		return boolean(value, &e.granted.administrative)
	case "limitOverrides":
		return boolean(value, &e.granted.overridesLimits)
	}
	return nil
}

func each(list *yaml.Node, add func(string) error) error {
	if list.Kind != yaml.SequenceNode {
		return fmt.Errorf(": want a list of strings%s", noAliases(list))
	}
	for i, item := range list.Content {
		if item.Kind != yaml.ScalarNode || item.ShortTag() == "!!null" || item.Value == "" {
			return fmt.Errorf("[%d]: want a string%s", i, noAliases(item))
		}
		if len(item.Value) > maxPatternBytes {
			return fmt.Errorf("[%d]: more than %d bytes", i, maxPatternBytes)
		}
		if err := add(item.Value); err != nil {
			return fmt.Errorf("[%d]: %w", i, err)
		}
	}
	return nil
}

func boolean(value *yaml.Node, to *bool) error {
	switch {
	case value.Kind == yaml.ScalarNode && value.ShortTag() == "!!bool" && value.Value == "true":
		*to = true
	case value.Kind == yaml.ScalarNode && value.ShortTag() == "!!bool" && value.Value == "false":
		*to = false
	default:
		return fmt.Errorf(": want true or false%s", noAliases(value))
	}
	return nil
}

func (e *entry) addName(text string) error {
	if _, err := netip.ParseAddr(text); err == nil {
		return errors.New("an address is no name that callers are known by; give a URI, a DNS name or an email, with * for any run")
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return errors.New("want no spaces; give a URI, a DNS name or an email, with * for any run")
	}
	// The form of a pattern tells of which kind of names it is, so that a name of one kind cannot pass for one of another.
	switch {
	case text == "*":
		every := pattern{text: text}
		e.uris, e.emails, e.hosts = append(e.uris, every), append(e.emails, every), append(e.hosts, every)
	case strings.Contains(text, ":"):
		e.uris = append(e.uris, pattern{text, '/'})
	case strings.Contains(text, "@"):
		e.emails = append(e.emails, pattern{text, '@'})
	default:
		e.hosts = append(e.hosts, pattern{strings.ToLower(text), '.'})
	}
	return nil
}

// digestsOfNothing are of what is left of a token when a shell variable was not set: of nothing, and of the newline of echo.
var digestsOfNothing = [][sha256.Size]byte{sha256.Sum256(nil), sha256.Sum256([]byte("\n"))}

func (e *entry) addToken(text string) error {
	const remedy = "give what `printf %s \"$TOKEN\" | sha256sum` prints, 64 hexadecimal digits"
	var digest [sha256.Size]byte
	decoded, err := hex.DecodeString(text)
	if err != nil || len(decoded) != len(digest) {
		return errors.New("no SHA-256 digest of a token; " + remedy)
	}
	copy(digest[:], decoded)
	if slices.Contains(digestsOfNothing, digest) {
		return errors.New("the digest of an empty token; " + remedy)
	}
	e.tokens = append(e.tokens, digest)
	return nil
}

var (
	accountPattern   = regexp.MustCompile(`^[-a-z0-9*]+/[-.a-z0-9*]+$`)
	namespacePattern = regexp.MustCompile(`^[-a-z0-9*]+$`)
)

func (e *entry) addAccount(text string) error {
	if !accountPattern.MatchString(text) {
		return fmt.Errorf("%q is no ServiceAccount; give <namespace>/<name>, with * for any run", text)
	}
	e.accounts = append(e.accounts, pattern{text, '/'})
	return nil
}

func (e *entry) addNamespace(text string) error {
	if !namespacePattern.MatchString(text) {
		return fmt.Errorf("%q is no namespace; give its name in lower-case letters, digits and hyphens, with * for any run", text)
	}
	e.granted.namespaces = append(e.granted.namespaces, pattern{text: text})
	return nil
}
