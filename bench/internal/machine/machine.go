// Package machine tells what a benchmark runs on, and who uses its CPU time.
package machine

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// Facts are what figures depend on.
type Facts struct {
	CPU    string    `json:"cpu"`
	Cores  int       `json:"cores"`
	Kernel string    `json:"kernel"`
	Go     string    `json:"go"`
	Redis  string    `json:"redis"`
	Commit string    `json:"commit"`
	When   time.Time `json:"when"`
}

// Describe collects the facts; what cannot be found out is "unknown".
func Describe(redisVersion, commit string, now time.Time) Facts {
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		kernel = []byte("unknown")
	}
	return Facts{
		CPU: cpuModel(), Cores: runtime.NumCPU(), Kernel: strings.TrimSpace(string(kernel)), Go: runtime.Version(),
		Redis: redisVersion, Commit: commit, When: now.UTC(),
	}
}

func cpuModel() string {
	file, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	defer func() { _ = file.Close() }()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if key, value, found := strings.Cut(lines.Text(), ":"); found && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// String gives the facts in two lines.
func (f Facts) String() string {
	return fmt.Sprintf("%s, %d cores, Linux %s, %s, redis-server %s\ncommit %s, %s",
		f.CPU, f.Cores, f.Kernel, f.Go, f.Redis, f.Commit, f.When.Format(time.RFC3339))
}
