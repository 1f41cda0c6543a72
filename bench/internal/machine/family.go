package machine

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// FamilyCPUTime gives the CPU time that this process and all its children have used, those that have ended and were waited for
// included.
func FamilyCPUTime() (time.Duration, error) {
	own := os.Getpid()
	total, err := CPUTime(own)
	if err != nil {
		return 0, err
	}
	var ended syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &ended); err != nil {
		return 0, fmt.Errorf("reading CPU time: %w", err)
	}
	total += time.Duration(ended.Utime.Nano() + ended.Stime.Nano())
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, fmt.Errorf("reading CPU time: %w", err)
	}
	for _, file := range files {
		stat, err := os.ReadFile(file)
		if err != nil || parentOf(stat) != own { // a process may end at any time
			continue
		}
		spent, err := parseProcessStat(stat)
		if err != nil {
			return 0, err
		}
		total += spent
	}
	return total, nil
}

// parentOf gives the process id of the parent, from a /proc/<pid>/stat; 0 when it is none.
func parentOf(stat []byte) int {
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 2 {
		return 0
	}
	parent, err := strconv.Atoi(string(fields[1]))
	if err != nil {
		return 0
	}
	return parent
}

// Memory gives the bytes of RAM that a process has now, and the most that it ever had (VmRSS and VmHWM).
func Memory(pid int) (now, most int64, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, fmt.Errorf("reading memory: %w", err)
	}
	if now, err = parseStatus(string(status), "VmRSS"); err != nil {
		return 0, 0, err
	}
	most, err = parseStatus(string(status), "VmHWM")
	return now, most, err
}

// parseStatus gives a field of /proc/<pid>/status that is in kB, in bytes.
func parseStatus(status, name string) (int64, error) {
	for line := range strings.Lines(status) {
		key, value, _ := strings.Cut(line, ":")
		if key != name {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading memory: %s: %w", name, err)
		}
		return n << 10, nil
	}
	return 0, errors.New("reading memory: there is no " + name)
}
