// Package process starts the programs that a benchmark measures, and ends them.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// stopGrace is how long a child gets between SIGTERM and SIGKILL. penstockd drains for seconds before it ends and
// nothing of it is measured by then, so it is short.
const stopGrace = 2 * time.Second

// Process is a child that the benchmark started, and therefore ends.
type Process struct {
	name   string
	cmd    *exec.Cmd
	output *lastOutput
	ended  chan struct{}
}

// Start starts a child with exactly these environment variables besides PATH and HOME. The child ends with the thread that
// started it, so that none outlives a benchmark that was killed: call it from a goroutine that keeps its thread.
func Start(name string, env []string, binary string, args ...string) (*Process, error) {
	p := &Process{name: name, output: &lastOutput{}, ended: make(chan struct{})}
	p.cmd = exec.Command(binary, args...)
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}, env...)
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	// Its own group, so that ^C reaches the benchmark only and the children end in order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Alive gives an error with the last output when the child has ended by itself.
func (p *Process) Alive() error {
	select {
	case <-p.ended:
		return fmt.Errorf("%s ended by itself (%s); its last output: %s", p.name, p.cmd.ProcessState, p.output)
	default:
		return nil
	}
}

// Stop ends the child and waits for it. It may be called more than once.
func (p *Process) Stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(stopGrace):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// Kill ends the child at once, as a crash does, and waits for it.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// Output gives the end of what the child has printed.
func (p *Process) Output() string { return p.output.String() }

// StopAll ends the children at the same time.
func StopAll(processes []*Process) {
	var all sync.WaitGroup
	for _, p := range processes {
		all.Go(p.Stop)
	}
	all.Wait()
}

// Eventually calls ready until it succeeds, the child ends, or 15 s have passed.
func (p *Process) Eventually(ctx context.Context, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		if ended := p.Alive(); ended != nil {
			return ended
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w; its last output: %s", p.name, errors.Join(ctx.Err(), err), p.output)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// lastOutput keeps the end of what a child prints, for error messages.
type lastOutput struct {
	mu  sync.Mutex
	buf []byte
}

const keptOutput = 4096

// Write implements io.Writer.
func (o *lastOutput) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf = append(o.buf, p...)
	if extra := len(o.buf) - keptOutput; extra > 0 {
		o.buf = append(o.buf[:0], o.buf[extra:]...)
	}
	return len(p), nil
}

// String gives the output.
func (o *lastOutput) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.buf) == 0 {
		return "(none)"
	}
	return "\n" + string(bytes.TrimSpace(o.buf))
}
