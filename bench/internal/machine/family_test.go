package machine

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestFamilyCPUTimeHasThatOfChildrenThatEnded(t *testing.T) {
	before, err := FamilyCPUTime()
	if err != nil {
		t.Fatal(err)
	}
	if err := exec.Command("/bin/sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done").Run(); err != nil {
		t.Fatal(err)
	}
	after, err := FamilyCPUTime()
	if err != nil || after-before < 20*time.Millisecond {
		t.Errorf("a child that counted to 200000 took %v, %v", after-before, err)
	}
}

func TestParentIsTheFieldBehindTheState(t *testing.T) {
	for stat, want := range map[string]int{"7 (a) b) S 42 7 1 0": 42, "7 (a) S": 0, "7 (a) S x": 0, "": 0} {
		if got := parentOf([]byte(stat)); got != want {
			t.Errorf("%q gives %d, want %d", stat, got, want)
		}
	}
}

func TestMemoryIsNeverMoreThanItsPeak(t *testing.T) {
	now, most, err := Memory(os.Getpid())
	if err != nil || now <= 0 || most < now {
		t.Errorf("got %d and at most %d, %v", now, most, err)
	}
}

func TestParseStatusReadsKilobytes(t *testing.T) {
	const status = "Name:\tx\nVmHWM:\t  300 kB\nVmRSS:\t  many kB\n"
	if got, err := parseStatus(status, "VmHWM"); err != nil || got != 300<<10 {
		t.Errorf("got %d, %v", got, err)
	}
	for _, bad := range []string{"VmRSS", "VmSwap"} {
		if _, err := parseStatus(status, bad); err == nil {
			t.Errorf("%s was found", bad)
		}
	}
}
