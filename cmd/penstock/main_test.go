package main_test

import (
	"bufio"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const samples = "../../config/samples"

// build builds the binary as `make build` does.
func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "penstock")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-X main.version=v9.9.9", "-o", binary, ".").CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}

func TestBinary(t *testing.T) {
	binary := build(t)

	t.Run("dev serves what curl is refused by, and ends on an interrupt", func(t *testing.T) {
		policies := filepath.Join(t.TempDir(), "policies.yaml")
		write(t, policies, 3)
		cmd := exec.CommandContext(t.Context(), binary, "dev", "-f", policies, "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
		cmd.Stderr = os.Stderr
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := follow(stdout)
		curl := await(t, lines, "curl ")
		await(t, lines, "Ctrl-C ends this.")
		if got := shell(t, curl); got != "3 200 1 429" {
			t.Errorf("the line of curl prints %q", got)
		}
		write(t, policies, 5)
		await(t, lines, "~ default/a  5/1h sliding log")
		if got := shell(t, curl); got != "2 200 2 429" {
			t.Errorf("after the edit, the line of curl prints %q", got)
		}
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		await(t, lines, "penstock dev: ended")
		if err := cmd.Wait(); err != nil {
			t.Errorf("after an interrupt: %v, want exit code 0", err)
		}
	})

	t.Run("dev says which port is in use", func(t *testing.T) {
		taken, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = taken.Close() }()
		code, out := run(t, binary, "dev", "-f", samples, "--http", taken.Addr().String(), "--grpc", "127.0.0.1:0")
		if want := "penstock: " + taken.Addr().String() + " is in use by another program"; code != 1 || !strings.HasPrefix(out, want) {
			t.Errorf("exit code %d, output %q, want 1 and %q", code, out, want)
		}
	})

	for name, test := range map[string]struct {
		args     []string
		wantCode int
		want     string
	}{
		"validate takes the samples":             {[]string{"validate", "-f", samples}, 0, "12 valid, 0 refused, 2 skipped\n"},
		"validate refuses the invalid ones":      {[]string{"validate", "-R", "-f", samples}, 1, "window must be from 100ms to 744h (31 days)"},
		"validate does not find what is not":     {[]string{"validate", "-f", "gone.yaml"}, 2, "penstock: gone.yaml: no such file or folder\n"},
		"version is what the linker was told":    {[]string{"version"}, 0, "penstock v9.9.9 ("},
		"a command that is not there is refused": {[]string{"serve"}, 2, `penstock: unknown command "serve" for "penstock"`},
	} {
		t.Run(name, func(t *testing.T) {
			code, out := run(t, binary, test.args...)
			if code != test.wantCode || !strings.Contains(out, test.want) {
				t.Errorf("exit code %d, output %q, want %d and %q", code, out, test.wantCode, test.want)
			}
		})
	}
}

// write replaces a file with a RateLimit.
func write(t *testing.T, path string, requests int) {
	t.Helper()
	text := "apiVersion: penstock.dev/v1\nkind: RateLimit\nmetadata: {name: a}\nspec:\n  descriptors: [{key: remote_address}]\n  limits: [{requests: " +
		string(rune('0'+requests)) + ", window: 1h}]\n"
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// follow reads lines for as long as there are any.
func follow(out interface{ Read([]byte) (int, error) }) <-chan string {
	lines := make(chan string, 1000)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			lines <- strings.TrimSpace(scanner.Text())
		}
	}()
	return lines
}

// await gives the first line that holds a text.
func await(t *testing.T, lines <-chan string, want string) string {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case line, open := <-lines:
			if !open {
				t.Fatalf("the process ended without a line with %q", want)
			}
			if strings.Contains(line, want) {
				return line
			}
		case <-deadline:
			t.Fatalf("no line with %q", want)
		}
	}
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

// run runs the binary to its end, which is not by a signal.
func run(t *testing.T, binary string, args ...string) (code int, out string) {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), binary, args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signaled()) {
		t.Fatalf("%v: %v\n%s", args, err, output)
	}
	if exit != nil {
		code = exit.ExitCode()
	}
	return code, string(output)
}
