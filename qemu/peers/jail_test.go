package peers

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	// A process that does not exist has no schedstat, so ticks count.
	text := "4194304 (a (b) c) S 77 1 1 0 -1 4194560 100 0 0 0 10 20 300 400 20 0 1 0 1 1 1"
	pid, ppid, cpu, ok := parseStat(text)
	if !ok || pid != 4194304 || ppid != 77 || cpu != 7300*time.Millisecond {
		t.Errorf("parseStat gave %d %d %v %v, want 4194304 77 7.3s true", pid, ppid, cpu, ok)
	}
	for _, bad := range []string{"", "1", "1 (x", "1 (x) S 1 2", "x (x) S 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1"} {
		if _, _, _, ok := parseStat(bad); ok {
			t.Errorf("parseStat took %q", bad)
		}
	}
}

// TestUsageCountsTheDead: CPU time of children that ended is not lost.
func TestUsageCountsTheDead(t *testing.T) {
	cmd := exec.Command("sh", "-c", "sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done'; echo; read x")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); _ = cmd.Wait() }()
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	u := UsageOf(cmd.Process.Pid, true)
	if u.CPU < 20*time.Millisecond || u.N != 1 || u.RSS == 0 {
		t.Errorf("usage of a shell whose child has counted to 200000: %+v", u)
	}
	if u := UsageOf(os.Getpid(), false); u.N < 2 {
		t.Errorf("this process and its child are %d processes", u.N)
	}
}
