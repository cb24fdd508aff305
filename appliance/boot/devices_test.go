package boot

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"gitlab.opencode.de/pforte/pforte/internal/layout"
)

const ourESP = "0F1E2D3C-4B5A-6978-8796-A5B4C3D2E1F0"

// fakeBlock is a sysBlock in a folder, with the kernel's arrangement: links in
// class/block, partitions below their disk.
type fakeBlock struct {
	sysBlock
	t       testing.TB
	devices string
}

func newFakeBlock(t testing.TB) fakeBlock {
	dir := t.TempDir()
	f := fakeBlock{sysBlock{filepath.Join(dir, "class"), filepath.Join(dir, "dev")}, t, filepath.Join(dir, "devices")}
	for _, d := range []string{f.sys, f.dev, f.devices} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// add makes one device with its files in sysfs and its link.
func (f fakeBlock) add(path string, files map[string]string) {
	f.t.Helper()
	dir := filepath.Join(f.devices, path)
	for name, content := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			f.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content+"\n"), 0o644); err != nil {
			f.t.Fatal(err)
		}
	}
	if err := os.Symlink(dir, filepath.Join(f.sys, filepath.Base(path))); err != nil {
		f.t.Fatal(err)
	}
}

// disk adds a disk whose node is a file of the given size in MiB.
func (f fakeBlock) disk(name string, megabytes int64) string {
	f.t.Helper()
	f.add(name, map[string]string{"size": fmt.Sprint(megabytes << 11), "queue/logical_block_size": "512"})
	node := filepath.Join(f.dev, name)
	if err := os.WriteFile(node, nil, 0o600); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Truncate(node, megabytes<<20); err != nil {
		f.t.Fatal(err)
	}
	return node
}

func (f fakeBlock) partition(disk string, number, start, size int) {
	f.t.Helper()
	f.add(fmt.Sprintf("%s/%s%d", disk, disk, number), map[string]string{
		"partition": fmt.Sprint(number), "start": fmt.Sprint(start), "size": fmt.Sprint(size),
	})
}

// sgdisk runs the tool on a node.
func sgdisk(t testing.TB, node string, args ...string) {
	t.Helper()
	path, err := exec.LookPath("sgdisk")
	if err != nil {
		if os.Getenv("SHORT") == "1" {
			t.Skip("SHORT=1 and sgdisk is not installed")
		}
		t.Fatal("sgdisk is not installed: apt-get install gdisk, or skip with SHORT=1")
	}
	if out, err := exec.Command(path, append(args, node)...).CombinedOutput(); err != nil {
		t.Fatalf("sgdisk: %v\n%s", err, out)
	}
}

// ours partitions a disk as the installer does.
func (f fakeBlock) ours(name string, extra ...string) {
	f.t.Helper()
	node := f.disk(name, 64)
	sgdisk(f.t, node, append([]string{
		"--new=1:2048:34815", "--typecode=1:ef00", "--change-name=1:" + layout.ESPLabel, "--partition-guid=1:" + ourESP,
		"--new=2:34816:100000", "--typecode=2:" + layout.DataType, "--change-name=2:" + layout.DataLabel,
	}, extra...)...)
	f.partition(name, 1, 2048, 32768)
	f.partition(name, 2, 34816, 65185)
}

func TestFindOurDisk(t *testing.T) {
	t.Parallel() // sgdisk sleeps for a second
	f := newFakeBlock(t)
	f.disk("sda", 1) // no table
	f.ours("vdb")
	f.add("loop0", map[string]string{"size": "0"})
	for name, id := range map[string]string{"by the stub's partition": ourESP, "by name": ""} {
		got, err := f.find(id)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got.name != "vdb" || got.esp.path != filepath.Join(f.dev, "vdb1") ||
			got.data.path != filepath.Join(f.dev, "vdb2") || got.data.size != 65185 {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

func TestFindRefuses(t *testing.T) {
	tests := map[string]struct {
		make func(f fakeBlock)
		id   string
		want error
	}{
		"no disk at all": {func(fakeBlock) {}, ourESP, errNoDisk},
		"only a disk that did not boot": {
			func(f fakeBlock) { f.ours("vda") }, "11111111-2222-3333-4444-555555555555", errNoDisk,
		},
		"a copy of our disk": {func(f fakeBlock) { f.ours("vda"); f.ours("vdb") }, ourESP, errManyDisks},
		"no data partition": {func(f fakeBlock) {
			f.ours("vda")
			sgdisk(f.t, filepath.Join(f.dev, "vda"), "--typecode=2:8300")
		}, ourESP, errNoData},
		"two data partitions": {func(f fakeBlock) {
			f.ours("vda", "--new=3:110000:120000", "--typecode=3:"+layout.DataType)
		}, ourESP, errNoData},
		"the kernel sees another start": {func(f fakeBlock) {
			f.ours("vda")
			start := filepath.Join(f.devices, "vda/vda2/start")
			if err := os.WriteFile(start, []byte("34824\n"), 0o644); err != nil {
				f.t.Fatal(err)
			}
		}, ourESP, errNoDisk},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFakeBlock(t)
			test.make(f)
			if got, err := f.find(test.id); !errors.Is(err, test.want) {
				t.Fatalf("got %+v, error %v, want %v", got, err, test.want)
			}
		})
	}
}

func TestLabelledVolume(t *testing.T) {
	f := newFakeBlock(t)
	f.disk("sda", 4)
	if got, err := f.labelled(layout.SeedVolume); err != nil || got != "" {
		t.Fatalf("without a volume: got %q, error %v", got, err)
	}
	node := f.disk("sdb", 4)
	path, err := exec.LookPath("mkfs.vfat")
	if err != nil {
		if os.Getenv("SHORT") == "1" {
			t.Skip("SHORT=1 and mkfs.vfat is not installed")
		}
		t.Fatal("mkfs.vfat is not installed: apt-get install dosfstools, or skip with SHORT=1")
	}
	if out, err := exec.Command(path, "-n", layout.SeedVolume, node).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.vfat: %v\n%s", err, out)
	}
	if got, err := f.labelled(layout.SeedVolume); err != nil || got != node {
		t.Fatalf("got %q, error %v, want %q", got, err, node)
	}
}

func TestUSBStorage(t *testing.T) {
	dir := t.TempDir()
	put := func(name, class string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "bInterfaceClass"), []byte(class), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("1-0:1.0", "09\n")
	if usbStorage(dir) {
		t.Error("a hub counts as storage")
	}
	put("1-1:1.0", "08\n")
	if !usbStorage(dir) {
		t.Error("storage is not seen")
	}
}
