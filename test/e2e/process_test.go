package e2e

import (
	"bytes"
	"fmt"
	"net"
	"os/exec"
	"sync"
	"syscall"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// process is a program of ours that runs beside the test.
type process struct {
	cmd    *exec.Cmd
	output lockedBuffer
	done   chan struct{}
}

// start starts a program; it ends with the spec's container at the latest, and its output is shown when a spec fails.
func start(cmd *exec.Cmd) *process {
	GinkgoHelper()
	p := &process{cmd: cmd, done: make(chan struct{})}
	cmd.Dir = repository
	cmd.Stdout, cmd.Stderr = &p.output, &p.output
	// A group of its own, so that what a wrapper such as make starts ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	Expect(cmd.Start()).To(Succeed())
	go func() {
		_ = cmd.Wait()
		close(p.done)
	}()
	DeferCleanup(func() {
		p.kill()
		if CurrentSpecReport().Failed() {
			fmt.Fprintf(GinkgoWriter, "--- output of %s\n%s\n", cmd, p.output.String())
		}
	})
	return p
}

// kill ends the program at once, as a crash would.
func (p *process) kill() { p.signal(syscall.SIGKILL) }

// signal sends a signal that ends the program, and waits until it has ended.
func (p *process) signal(signal syscall.Signal) {
	select {
	case <-p.done:
		return
	default:
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, signal)
	<-p.done
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

// freeAddress gives a loopback address that nobody listens on.
func freeAddress() string {
	GinkgoHelper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}
