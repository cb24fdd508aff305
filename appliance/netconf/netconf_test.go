package netconf

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestPathOf(t *testing.T) {
	sys := t.TempDir()
	tests := []struct{ name, device, want string }{
		{"virtio", "devices/pci0000:00/0000:00:03.0/virtio0", "pci-0000:00:03.0"},
		{"pci", "devices/pci0000:00/0000:00:1f.6", "pci-0000:00:1f.6"},
		{"behind a bridge", "devices/pci0000:00/0000:00:01.0/0000:01:00.1", "pci-0000:01:00.1"},
		{"usb", "devices/pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0", ""},
		{"none", "", ""},
	}
	for _, tt := range tests {
		link := filepath.Join(sys, "class/net", tt.name)
		if err := os.MkdirAll(link, 0o755); err != nil {
			t.Fatal(err)
		}
		if tt.device != "" {
			device := filepath.Join(sys, tt.device)
			if err := os.MkdirAll(device, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(device, filepath.Join(link, "device")); err != nil {
				t.Fatal(err)
			}
		}
		if got := pathOf(sys, tt.name); got != tt.want {
			t.Errorf("%s: path %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestWriteResolver(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	path := filepath.Join(t.TempDir(), "resolv.conf")
	servers := []netip.Addr{netip.MustParseAddr("10.30.0.53"), netip.MustParseAddr("fd10::53")}
	for i, want := range []bool{true, false} {
		if wrote, err := WriteResolver(path, servers); wrote != want || err != nil {
			t.Fatalf("write %d: %v, %v; want %v", i+1, wrote, err, want)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != resolverPerm {
		t.Errorf("mode %v, %v: other services cannot read it", info.Mode(), err)
	}
	want := "# Written by netd from the configuration of the box.\nnameserver 10.30.0.53\nnameserver fd10::53\noptions edns0 timeout:3 attempts:2\n"
	if d := cmp.Diff(want, string(got)); d != "" {
		t.Error(d)
	}
	if wrote, err := WriteResolver(path, nil); !wrote || err != nil {
		t.Errorf("without servers: %v, %v", wrote, err)
	}
	if _, err := WriteResolver(filepath.Join(path, "below"), nil); err == nil {
		t.Error("a file below a file is written")
	}
}

// TestDump: an answer that the kernel calls inconsistent is asked for again, but
// not for ever.
func TestDump(t *testing.T) {
	for interruptions, want := range map[int]bool{0: true, 1: true, maxDumps - 1: true, maxDumps: false} {
		asked := 0
		got, err := dump(t.Context(), "links", func() ([]int, error) {
			if asked++; asked <= interruptions {
				return []int{0}, netlink.ErrDumpInterrupted
			}
			return []int{42}, nil
		})
		if want != (err == nil && len(got) == 1 && got[0] == 42) || asked > maxDumps {
			t.Errorf("after %d interruptions: %v, %v, asked %d times", interruptions, got, err, asked)
		}
	}
	if _, err := dump(t.Context(), "links", func() ([]int, error) { return nil, unix.EPERM }); !errors.Is(err, unix.EPERM) {
		t.Errorf("another error: %v", err)
	}
}

func TestCheck(t *testing.T) {
	cfg := network(t, "link a "+macA, "link b "+macB, "link c pci-0000:00:09.0", "interface a fd10::2/64")
	twin := card(5, "eth5", macB)
	a := card(2, "a", macA)
	a.Up, a.AcceptRA = true, true
	a.Addresses = []Address{{Prefix: netip.MustParsePrefix("fd10::2/64"), Duplicate: true}}
	unused := Link{Index: 9, Name: "eth9", Kind: KindCard, AcceptRA: true, Up: true}
	var got []string
	for _, p := range Check(cfg, State{Links: []Link{lo, a, card(3, "b", macB), twin, unused}}) {
		got = append(got, p.String())
	}
	want := []string{
		"b: 2 network cards have MAC 52:54:00:50:46:02; describe it by what it alone has, its MAC or its path",
		"c: there is no network card with path pci-0000:00:09.0; correct the configuration or put the card in",
		"a: there is no link signal; check cable and switch port",
		"a: the kernel accepts router advertisements or forwards packets; the image's sysctl.d must switch it off",
		"a: another machine on the network has the address fd10::2; give each machine its own address",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	a.Carrier, a.AcceptRA, a.Addresses[0].Duplicate = true, false, false
	if found := Check(network(t, "link a "+macA), State{Links: []Link{lo, a}}); len(found) > 0 {
		t.Errorf("found %v where all is well", found)
	}
}
