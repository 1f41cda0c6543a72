package dev_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock-dev/penstock/internal/cli/dev"
)

// patience is how long a test waits for what takes milliseconds on an idle machine.
const patience = 20 * time.Second

// terminal is what a session writes to. It can be waited on.
type terminal struct {
	mu      sync.Mutex
	text    strings.Builder
	written chan struct{}
}

func newTerminal() *terminal { return &terminal{written: make(chan struct{}, 1)} }

func (o *terminal) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.written <- struct{}{}:
	default:
	}
	return o.text.Write(p)
}

func (o *terminal) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// await waits for a text after the first skip bytes, and gives what stands there by then.
func (o *terminal) await(t *testing.T, skip int, want string) string {
	t.Helper()
	deadline := time.After(patience)
	for {
		text := o.String()[skip:]
		if strings.Contains(text, want) {
			return text
		}
		select {
		case <-o.written:
		case <-deadline:
			t.Fatalf("no %q after %s in:\n%s", want, patience, text)
		}
	}
}

// running is a session in this process.
type running struct {
	*terminal
	folder string
	stop   func() error
}

// start runs a session on the files, and waits until it serves.
func start(t *testing.T, options dev.Options, files map[string]string) *running {
	t.Helper()
	r := &running{terminal: newTerminal(), folder: t.TempDir()}
	for name, text := range files {
		r.write(t, name, text)
	}
	if options.Files == nil {
		options.Files = []string{r.folder}
	}
	options.HTTP, options.GRPC = "127.0.0.1:0", "127.0.0.1:0"
	options.Out, options.Log = r.terminal, slog.New(slog.NewTextHandler(r.terminal, &slog.HandlerOptions{Level: slog.LevelWarn}))

	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		err := dev.Run(ctx, options)
		_, _ = io.WriteString(r.terminal, "returned\n")
		ended <- err
	}()
	r.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(patience):
			return errors.New("the session did not end")
		}
	})
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("the session failed: %v", err)
		}
	})
	r.await(t, 0, "Ctrl-C ends this.")
	return r
}

// write replaces a file as most editors do: a new one beside it is renamed.
func (r *running) write(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(r.folder, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	beside := filepath.Join(filepath.Dir(path), ".4913")
	if err := os.WriteFile(beside, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(beside, path); err != nil {
		t.Fatal(err)
	}
}

// edit changes files by a function, and gives what the session said until it said want.
func (r *running) edit(t *testing.T, want string, change func()) string {
	t.Helper()
	before := len(r.String())
	change()
	return r.await(t, before, want)
}

// address gives what the banner says after a word.
func (r *running) address(t *testing.T, word string) string {
	t.Helper()
	match := regexp.MustCompile(`(?m)^  ` + word + ` +(?:http://)?([0-9.:]+)`).FindStringSubmatch(r.String())
	if match == nil {
		t.Fatalf("no %s address in:\n%s", word, r)
	}
	return match[1]
}

// status asks the HTTP door about a policy.
func (r *running) status(t *testing.T, policy string) int {
	t.Helper()
	response, err := http.Get("http://" + r.address(t, "http") + "/auth/" + policy) //nolint:noctx // ends with the server
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	return response.StatusCode
}

func (r *running) wantStatus(t *testing.T, policy string, want ...int) {
	t.Helper()
	for i, status := range want {
		if got := r.status(t, policy); got != status {
			t.Fatalf("request %d of %s: status %d, want %d; the session says:\n%s", i+1, policy, got, status, r)
		}
	}
}

// curlLine gives the line of shell that the banner prints.
func curlLine(t *testing.T, output string) string {
	t.Helper()
	for line := range strings.Lines(output) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "curl ") {
			return line
		}
	}
	t.Fatalf("no line of curl in:\n%s", output)
	return ""
}

// shell runs a line as a user would, and gives its output with single spaces.
func shell(t *testing.T, line string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "sh", "-c", line).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
	return strings.Join(strings.Fields(string(out)), " ")
}

// rateLimit is a manifest of a RateLimit by address with one limit, in YAML's flow style.
func rateLimit(name, limit string) string {
	return "apiVersion: penstock.dev/v1\nkind: RateLimit\nmetadata:\n  name: " + name +
		"\nspec:\n  descriptors:\n  - key: remote_address\n  limits:\n  - {" + limit + "}\n"
}
