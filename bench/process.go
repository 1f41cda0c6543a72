package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// stopGrace is how long a child gets between SIGTERM and SIGKILL. penstockd drains for seconds before it ends and
// nothing of it is measured by then, so it is short.
const stopGrace = 2 * time.Second

// process is a child that the bench started, and therefore ends.
type process struct {
	name   string
	cmd    *exec.Cmd
	output *lastOutput
	ended  chan struct{}
}

// startProcess starts a child with exactly these environment variables besides PATH and HOME.
func startProcess(name string, env []string, binary string, args ...string) (*process, error) {
	p := &process{name: name, output: &lastOutput{}, ended: make(chan struct{})}
	p.cmd = exec.Command(binary, args...)
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}, env...)
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	// Its own group, so that ^C reaches the bench only and the children end in order; and no child outlives a bench
	// that was killed (main keeps its thread, on whose life Pdeathsig depends).
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

func (p *process) pid() int { return p.cmd.Process.Pid }

// alive gives an error with the last output when the child has ended by itself.
func (p *process) alive() error {
	select {
	case <-p.ended:
		return fmt.Errorf("%s ended by itself (%s); its last output: %s", p.name, p.cmd.ProcessState, p.output)
	default:
		return nil
	}
}

// stop ends the child and waits for it. It may be called more than once.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(stopGrace):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// stopAll ends the children at the same time.
func stopAll(processes []*process) {
	var all sync.WaitGroup
	for _, p := range processes {
		all.Go(p.stop)
	}
	all.Wait()
}

// eventually calls ready until it succeeds, the child ends, or 15 s have passed.
func (p *process) eventually(ctx context.Context, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		if ended := p.alive(); ended != nil {
			return ended
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w; its last output: %s", p.name, errors.Join(ctx.Err(), err), p.output)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// freeAddress gives a loopback address that nobody listens on.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("finding a free port: %w", err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String(), nil
}

// freeAddresses gives n different ones.
func freeAddresses(n int) ([]string, error) {
	addresses := make([]string, 0, n)
	for len(addresses) < n {
		address, err := freeAddress()
		if err != nil {
			return nil, err
		}
		addresses = append(addresses, address)
	}
	return addresses, nil
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
