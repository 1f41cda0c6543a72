// Package interop tests what programs in other languages rely on: the key of a counter, and the functions called through
// their own Redis clients. The programs run what docs/clients.md shows, against a real redis-server and the built
// penstockd.
package interop

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

// patience bounds how long anything here may take before the test fails.
const patience = 30 * time.Second

// languages start the program of a language in a folder that holds this one's files.
var languages = map[string]func(t *testing.T, dir string, args ...string) *exec.Cmd{
	"JavaScript": func(t *testing.T, dir string, args ...string) *exec.Cmd {
		t.Helper()
		if err := os.Symlink(tool(t, "PENSTOCK_NODE_MODULES"), filepath.Join(dir, "node_modules")); err != nil {
			t.Fatal(err)
		}
		return exec.Command("node", append([]string{"drive.mjs"}, args...)...)
	},
	"Python": func(t *testing.T, _ string, args ...string) *exec.Cmd {
		t.Helper()
		return exec.Command(tool(t, "PENSTOCK_PYTHON"), append([]string{"drive.py"}, args...)...)
	},
}

// tool gives the path that `make test` puts into a variable.
func tool(t *testing.T, variable string) string {
	t.Helper()
	path := os.Getenv(variable)
	if path == "" {
		t.Fatalf("%s is not set: run `make test`, which installs what the tests need, or see CONTRIBUTING.md", variable)
	}
	return path
}

// inEveryLanguage runs a test with a program of each language; see drive.mjs for its argument.
func inEveryLanguage(t *testing.T, run func(t *testing.T, start func(args ...string) *program)) {
	for name, command := range languages {
		t.Run(name, func(t *testing.T) {
			run(t, func(args ...string) *program {
				t.Helper()
				dir := copied(t)
				cmd := command(t, dir, args...)
				cmd.Dir = dir
				return startProgram(t, cmd)
			})
		})
	}
}

// copied gives a new folder with the programs: node looks for packages beside a file, and they are not in the tree.
func copied(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, pattern := range []string{"*.mjs", "*.py"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("no %s (%v)", pattern, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// part is a key or a value. As JSON it is a string where it can be one, unless asBytes.
type part struct {
	text    string
	asBytes bool
}

func (p part) MarshalJSON() ([]byte, error) {
	if !p.asBytes && utf8.ValidString(p.text) {
		return json.Marshal(p.text)
	}
	return json.Marshal(map[string][]byte{"base64": []byte(p.text)})
}

// question is what drive.mjs reads.
type question struct {
	N       int      `json:"n"`
	Policy  string   `json:"policy"`
	Subject [][]part `json:"subject"`
	Cost    any      `json:"cost,omitempty"`
	ID      string   `json:"id,omitempty"`
	Key     string   `json:"key,omitempty"`
}

// row is what limit.mjs and limit.py make of a row.
type row struct {
	Allowed      bool   `json:"allowed"`
	Limit        int64  `json:"limit"`
	Remaining    int64  `json:"remaining"`
	ResetMs      int64  `json:"resetMs"`
	RetryAfterMs int64  `json:"retryAfterMs"`
	LimitName    string `json:"limitName"`
	Reason       string `json:"reason"`
}

// answer is what drive.mjs writes.
type answer struct {
	N     int    `json:"n"`
	Key   string `json:"key"`
	Row   row    `json:"row"`
	Error string `json:"error"`
}

// program is a drive.mjs or drive.py that runs. It ends with the test.
type program struct {
	tb     testing.TB
	cmd    *exec.Cmd
	errors lockedBuffer

	mu      sync.Mutex
	stdin   io.WriteCloser
	asked   int
	waiting map[int]chan answer
	ended   chan struct{}
}

func startProgram(t *testing.T, cmd *exec.Cmd) *program {
	t.Helper()
	p := &program{tb: t, cmd: cmd, waiting: map[int]chan answer{}, ended: make(chan struct{})}
	stdout := p.start()
	go p.read(stdout)
	t.Cleanup(func() {
		_ = p.stdin.Close()
		select {
		case <-p.ended:
		case <-time.After(patience):
			t.Errorf("%s does not end with its input", cmd)
			_ = cmd.Process.Kill()
			<-p.ended
		}
		if err := cmd.Wait(); err != nil || p.errors.String() != "" {
			t.Errorf("%s: %v\n%s", cmd, err, p.errors.String())
		}
	})
	return p
}

func (p *program) start() io.Reader {
	p.tb.Helper()
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		p.tb.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		p.tb.Fatal(err)
	}
	p.stdin, p.cmd.Stderr = stdin, &p.errors
	if err := p.cmd.Start(); err != nil {
		p.tb.Fatalf("%v (`make test` installs what the tests need)", err)
	}
	return stdout
}

// read hands each answer to whoever asked.
func (p *program) read(stdout io.Reader) {
	defer close(p.ended)
	for scanner := bufio.NewScanner(stdout); scanner.Scan(); {
		var a answer
		if err := json.Unmarshal(scanner.Bytes(), &a); err != nil {
			p.tb.Errorf("%s says %q: %v", p.cmd, scanner.Text(), err)
			continue
		}
		p.mu.Lock()
		p.waiting[a.N] <- a
		delete(p.waiting, a.N)
		p.mu.Unlock()
	}
}

// ask asks one question. It may be called from many goroutines at once.
func (p *program) ask(q question) answer {
	p.tb.Helper()
	replied := make(chan answer, 1)
	p.mu.Lock()
	p.asked++
	q.N = p.asked
	p.waiting[q.N] = replied
	line, err := json.Marshal(q)
	if err == nil {
		_, err = p.stdin.Write(append(line, '\n'))
	}
	p.mu.Unlock()
	if err != nil {
		p.tb.Errorf("asking %s: %v\n%s", p.cmd, err, p.errors.String())
		return answer{Error: err.Error()}
	}
	select {
	case a := <-replied:
		return a
	case <-p.ended:
		p.tb.Errorf("%s ended\n%s", p.cmd, p.errors.String())
	case <-time.After(patience):
		p.tb.Errorf("%s does not answer", p.cmd)
	}
	return answer{Error: "no answer"}
}

// spend asks for a row, which there has to be.
func (p *program) spend(q question) row {
	p.tb.Helper()
	a := p.ask(q)
	if a.Error != "" {
		p.tb.Errorf("%+v: %s", q, a.Error)
	}
	return a.Row
}

// lockedBuffer lets a test read what a process is still writing.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
