// Command lualint runs luacheck on the Lua that Redis gets, and reports what it finds at the files it is made of.
//
// Those files are parts of one chunk with common locals: checked alone, each would use what it does not define, and
// define what it does not use. So the chunks are checked, and line numbers are translated back.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/penstock-dev/penstock/internal/policy"
	"github.com/penstock-dev/penstock/internal/redisops/library"
)

const sources = "internal/redisops/library/*.lua"

func main() {
	luacheck := "luacheck"
	if len(os.Args) > 1 {
		luacheck = os.Args[1]
	}
	findings, err := check(luacheck)
	if err != nil {
		fmt.Fprintln(os.Stderr, "lualint:", err)
		os.Exit(2)
	}
	for _, f := range findings {
		fmt.Println(f)
	}
	if len(findings) > 0 {
		os.Exit(1)
	}
}

// check gives the findings as file:line:column: (code) message, sorted.
func check(luacheck string) ([]string, error) {
	chunks, err := chunks()
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(sources)
	if err != nil {
		return nil, err
	}
	users := map[string]int{} // chunks that a file is part of
	seen := map[string]int{}  // chunks that a finding is from
	fileOf := map[string]string{}
	for name, chunk := range chunks {
		parts, err := split(chunk, files)
		if err != nil {
			return nil, err
		}
		for _, p := range parts {
			users[p.file]++
		}
		warnings, err := run(luacheck, chunk)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for _, w := range warnings {
			at, file := locate(parts, name, w.line)
			text := otherLine.ReplaceAllStringFunc(w.text, func(m string) string {
				line, _ := strconv.Atoi(strings.TrimPrefix(m, otherLinePrefix)) // digits, by the pattern
				at, _ := locate(parts, name, line)
				return "at " + at
			})
			finding := fmt.Sprintf("%s:%s: %s", at, w.column, text)
			seen[finding]++
			fileOf[finding] = file
		}
	}

	var findings []string
	for finding, n := range seen {
		// What one chunk leaves unused, another may use.
		if unused.MatchString(finding) && n < users[fileOf[finding]] {
			continue
		}
		findings = append(findings, finding)
	}
	for _, file := range files {
		if users[file] == 0 {
			findings = append(findings, file+":1:1: is part of no chunk")
		}
	}
	slices.Sort(findings)
	return findings, nil
}

// chunks gives all that is sent to Redis, by name.
func chunks() (map[string]string, error) {
	functions, err := library.Render(policy.NewSet(nil))
	if err != nil {
		return nil, err
	}
	chunks := map[string]string{"the function library": functions}
	for _, s := range library.Scripts() {
		chunks["script "+s.Name] = s.Text
	}
	return chunks, nil
}

// part is a file's place in a chunk: its first line there, and how many it has.
type part struct {
	file         string
	first, count int
}

func split(chunk string, files []string) ([]part, error) {
	var parts []part
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if before, _, found := strings.Cut(chunk, string(text)); found {
			parts = append(parts, part{file, strings.Count(before, "\n") + 1, strings.Count(string(text), "\n")})
		}
	}
	return parts, nil
}

// locate gives file:line, and the file, of a chunk's line; for a line that is of no file, the chunk's name.
func locate(parts []part, chunk string, line int) (at, file string) {
	for _, p := range parts {
		if line >= p.first && line < p.first+p.count {
			return fmt.Sprintf("%s:%d", p.file, line-p.first+1), p.file
		}
	}
	return fmt.Sprintf("%s:%d", chunk, line), ""
}

const otherLinePrefix = "on line "

type warning struct {
	line         int
	column, text string
}

var (
	report = regexp.MustCompile(`(?m)^stdin:(\d+):(\d+): (.*)$`)
	// Codes of luacheck: 2xx unused or never set, 3xx values never used.
	unused = regexp.MustCompile(`\(W[23]\d\d\)`)
	// Another line of the chunk, in a message.
	otherLine = regexp.MustCompile(otherLinePrefix + `\d+`)
)

func run(luacheck, chunk string) ([]warning, error) {
	cmd := exec.Command(luacheck, "--formatter=plain", "--codes", "--no-cache", "-")
	cmd.Stdin = strings.NewReader(chunk)
	out, err := cmd.CombinedOutput()
	var warnings []warning
	for _, m := range report.FindAllStringSubmatch(string(out), -1) {
		line, _ := strconv.Atoi(m[1]) // digits, by the pattern
		warnings = append(warnings, warning{line, m[2], m[3]})
	}
	if err != nil && len(warnings) == 0 {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return warnings, nil
}
