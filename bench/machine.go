package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// machine is what the figures depend on.
type machine struct {
	CPU         string    `json:"cpu"`
	Cores       int       `json:"cores"`
	Kernel      string    `json:"kernel"`
	Go          string    `json:"go"`
	Redis       string    `json:"redis"`
	Commit      string    `json:"commit"`
	PeerVersion string    `json:"ratelimitVersion"`
	When        time.Time `json:"when"`
}

// describeMachine collects the facts; what cannot be found out is "unknown".
func describeMachine(redisVersion, commit, peerVersion string, now time.Time) machine {
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		kernel = []byte("unknown")
	}
	return machine{
		CPU: cpuModel(), Cores: runtime.NumCPU(), Kernel: strings.TrimSpace(string(kernel)), Go: runtime.Version(),
		Redis: redisVersion, Commit: commit, PeerVersion: peerVersion, When: now.UTC(),
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
func (m machine) String() string {
	return fmt.Sprintf("%s, %d cores, Linux %s, %s, redis-server %s\ncommit %s, envoyproxy/ratelimit %s, %s",
		m.CPU, m.Cores, m.Kernel, m.Go, m.Redis, m.Commit, m.PeerVersion, m.When.Format(time.RFC3339))
}
