package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestDiskFaults lets one disk operation fail, each in turn, at first only this
// one and then all that follow. The queue must fall sick at once, answer every
// caller, acknowledge nothing that is not stored, and write nothing more; a new
// process must find everything that was acknowledged.
func TestDiskFaults(t *testing.T) {
	cases := []struct {
		name  string
		err   error
		kinds string
		step  int64 // try every step-th operation
	}{
		{"sync", syscall.EIO, "sync", 3},
		{"write", syscall.EIO, "write", 5},
		{"short write", shortWrite{syscall.EIO}, "write", 11},
		{"short write that says nothing", shortWrite{}, "write", 11},
		{"create", syscall.EIO, "create", 1},
		{"rename", syscall.EIO, "rename", 1},
	}
	for _, c := range cases {
		if underRace {
			c.step *= 8
		}
		t.Run(c.name, func(t *testing.T) {
			for _, stays := range []bool{false, true} {
				for at := int64(1); ; at += c.step {
					disk := newFaultDisk(vfs.NewCrashableMem(), c.err, stays, at, c.kinds)
					if err := checkFault(disk, uint64(at)); err != nil {
						t.Fatalf("%s %d, stays %v: %v", c.name, at, stays, err)
					}
					if disk.hits.Load() == 0 {
						t.Logf("stays %v: %d operations, every %d. failed once", stays, disk.count.Load(), c.step)
						break
					}
				}
			}
		})
	}
}

// checkFault runs a workload on a disk that fails, and then looks at what is stored.
func checkFault(disk *faultDisk, seed uint64) error {
	book := newLedger()
	q, err := Open(disk, "/queue", crashOptions())
	if err == nil {
		err = work(q, book, seed, 3, 60)
		if disk.hits.Load() > 0 && err == nil && q.Sick() == nil {
			err = errors.New("a fault passed without anybody noticing")
		} else if err != nil && errors.Is(err, ErrSick) {
			err = checkSick(q)
		}
		if closed := q.Close(); !errors.Is(closed, ErrSick) || disk.hits.Load() == 0 {
			err = errors.Join(err, closed) // the last write may be the one that fails
		}
	} else if disk.hits.Load() > 0 {
		err = nil // refusing to open is right
	}
	if err != nil {
		return err
	}
	mem := disk.FS.(*vfs.MemFS)
	for _, percent := range keptPercents {
		clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(seed, 3))})
		if err := checkPicture(picture{mem: clone, known: book, step: 1}); err != nil {
			return fmt.Errorf("afterwards, %d%% kept: %w", percent, err)
		}
	}
	return nil
}

// checkSick makes sure that a sick queue answers, and says so.
func checkSick(q *Queue) error {
	if err := q.Sick(); !errors.Is(err, ErrSick) {
		return fmt.Errorf("Sick after a fault: %v", err)
	}
	if err := q.Room(1, 1); !errors.Is(err, ErrSick) {
		return fmt.Errorf("Room: %v", err)
	}
	if _, err := q.NewBody(1); !errors.Is(err, ErrSick) {
		return fmt.Errorf("NewBody: %v", err)
	}
	if _, err := q.Due(time.Now(), 1); err != nil && !errors.Is(err, ErrSick) {
		return fmt.Errorf("Due: %v", err)
	}
	for _, c := range q.Conditions() {
		if c.Code == "queue.sick" {
			return nil
		}
	}
	return errors.New("no condition")
}

// TestNoSecondSyncOfTheSameFile: after a failed fsync the kernel may have dropped
// the pages, so a later one that succeeds proves nothing.
func TestNoSyncAfterTheFirstFailure(t *testing.T) {
	syncs := 0
	disk := newFaultDisk(vfs.NewCrashableMem(), syscall.EIO, false, 0, "sync")
	q, err := Open(disk, "/queue", testOptions())
	if err != nil {
		t.Fatal(err)
	}
	disk.at = disk.count.Load() + 1
	under := disk.stepFS.step
	disk.stepFS.step = func(op, name string) error {
		if op == "sync" && disk.hits.Load() > 0 {
			syncs++
		}
		return under(op, name)
	}
	for range 5 {
		b, err := q.NewBody(10)
		if err == nil {
			err = q.Commit(context.Background(), testEnvelope("a", "x@y"), b)
		}
		if !errors.Is(err, ErrSick) {
			t.Fatalf("got %v, want ErrSick", err)
		}
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
	if syncs != 0 {
		t.Errorf("%d syncs after the first one failed", syncs)
	}
}

func TestDiskFull(t *testing.T) {
	disk := newSmallDisk(vfs.NewMem(), 80<<20)
	o := crashOptions()
	o.Ballast = 16 << 20
	q, err := Open(disk, "/queue", o)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	first := mustCommit(t, q, testEnvelope("a", "x@y"), testBody(10_000, 1))
	mustDue(t, q, 1)

	const maxSize = 200_000
	accepted := 0
	for q.Room(maxSize, 1) == nil {
		mustCommit(t, q, testEnvelope("a", "x@y"), testBody(20_000, 1))
		if accepted++; accepted > 5000 {
			t.Fatal("the disk never gets full")
		}
	}
	if err := q.Room(maxSize, 1); !errors.Is(err, ErrFull) {
		t.Fatalf("Room: %v", err)
	}
	// Whoever does not ask gets the rest of the disk and then finds it full.
	for disk.spend(4 << 10) {
	}
	b, err := q.NewBody(disk.total)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil { // a log that is not needed any more may just have given space back
		_, err = b.Write(testBody(maxSize, 2))
	}
	if !errors.Is(err, ErrFull) {
		t.Fatalf("large body on a full disk: %v", err)
	}
	b.Abort()
	// States and reports fit all the same.
	failing := append(mustDue(t, q, 100), &Envelope{ID: first})
	for _, e := range failing {
		for !q.health.usesReserve() && disk.spend(4<<10) { // what was given back meanwhile
		}
		report := testEnvelope("a", "sender@a")
		report.ReportOf = e.ID
		err = q.Finish(e.ID, Outcome{
			Results: []Result{{Recipient: 0, State: Failed}},
			Births:  []Birth{{report, mustBody(t, q, testBody(5000, 3))}},
		})
		if err != nil {
			t.Fatalf("report on a full disk: %v", err)
		}
	}
	if err := q.Sick(); err != nil {
		t.Fatalf("a full disk made the store sick: %v", err)
	}
	checkCondition(t, q, "queue.reserve", true)
	if err := q.Room(1, 1); !errors.Is(err, ErrFull) {
		t.Errorf("Room with the reserve in use: %v", err)
	}
	disk.mu.Lock()
	disk.free = 79 << 20
	disk.mu.Unlock()
	if err := q.Room(maxSize, 1); err != nil {
		t.Errorf("Room after space was made: %v", err)
	}
	checkCondition(t, q, "queue.reserve", false)
}

func checkCondition(t testing.TB, q *Queue, code string, want bool) {
	t.Helper()
	found := false
	for _, c := range q.Conditions() {
		if c.Text == "" || c.Remedy == "" || c.Severity == "" {
			t.Errorf("condition without text, remedy or severity: %+v", c)
		}
		found = found || c.Code == code
	}
	if found != want {
		t.Errorf("condition %s: %v, want %v", code, found, want)
	}
}

func TestRoomRule(t *testing.T) {
	mem := vfs.NewMem()
	q := openTest(t, mem)
	if err := q.Room(64<<20, 100); err != nil {
		t.Errorf("a disk of unknown size: %v", err)
	}
	mem.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 2000 << 20, TotalBytes: 10_000 << 20})
	for _, c := range []struct {
		size     int64
		sessions int
		want     error
	}{
		{64 << 20, 1, nil},  // 200 reserve + 96
		{64 << 20, 18, nil}, // 200 + 1728
		{64 << 20, 19, ErrFull},
		{1 << 40, 1, ErrFull},
	} {
		if err := q.Room(c.size, c.sessions); !errors.Is(err, c.want) {
			t.Errorf("%d sessions of %d bytes: %v, want %v", c.sessions, c.size, err, c.want)
		}
	}
}

func TestOpenRefusals(t *testing.T) {
	newer := vfs.NewMem()
	if err := newer.MkdirAll("/queue", 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, newer, "/queue/format", "pforte-queue 2\n")

	noIndex := vfs.NewMem()
	q := openTest(t, noIndex)
	mustCommit(t, q, testEnvelope("a", "x@y"), testBody(200_000, 1))
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if err := noIndex.RemoveAll("/queue/index"); err != nil {
		t.Fatal(err)
	}
	noFormat := vfs.NewMem()
	q = openTest(t, noFormat)
	mustCommit(t, q, testEnvelope("a", "x@y"), testBody(200_000, 1))
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"/queue/index", "/queue/format"} {
		if err := noFormat.RemoveAll(name); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		fs   vfs.FS
		want string
	}{
		"newer format":       {newer, "boot the release that wrote it"},
		"index is gone":      {noIndex, "does not exist"},
		"all but the bodies": {noFormat, "put back the index"},
	} {
		q, err := Open(c.fs, "/queue", testOptions())
		if err == nil {
			_ = q.Close()
			t.Errorf("%s: opened", name)
			continue
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestOneProcessOnly(t *testing.T) {
	dir := t.TempDir()
	q, err := Open(vfs.Default, dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if second, err := Open(vfs.Default, dir, Options{}); err == nil {
		_ = second.Close()
		t.Error("opened twice")
	}
	id := mustCommit(t, q, testEnvelope("a", "x@y"), testBody(200_000, 1))
	if got := readBody(t, q, id); len(got) != 200_012 {
		t.Errorf("body of %d bytes", len(got))
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir + "/format"); err != nil || info.Size() != int64(len(formatText)) {
		t.Errorf("format file: %v, %v", info, err)
	}
}

func writeFile(t testing.TB, fsys vfs.FS, name, content string) {
	t.Helper()
	f, err := fsys.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}
