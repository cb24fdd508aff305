package vm

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// needQEMU fails without QEMU, or skips by name with SHORT=1.
func needQEMU(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		if os.Getenv("SHORT") == "1" {
			t.Skip("SHORT=1 and no QEMU: skipped")
		}
		t.Fatal("no QEMU: install the Debian packages qemu-system-x86 and ovmf, or set SHORT=1")
	}
}

func TestProbeDiskEndsUnderTCG(t *testing.T) {
	needQEMU(t)
	if got := probeBoot(t.Context(), "tcg"); got != kvmProbeExit {
		t.Fatalf("the probe disk ended QEMU with %d under TCG, want %d: a working KVM would not be recognised either", got, kvmProbeExit)
	}
}

func TestProbeUnknownAccelerator(t *testing.T) {
	needQEMU(t)
	if got := probeBoot(t.Context(), "nonesuch"); got == kvmProbeExit {
		t.Fatal("an accelerator that does not exist was taken for a working one")
	}
}

func TestSerialWait(t *testing.T) {
	s := newSerial()
	r, w := io.Pipe()
	go s.read(r, io.Discard)
	go func() {
		_, _ = io.WriteString(w, "\x1b[2J\x1b[01;01HBdsDxe\r\n[ 1.0] x: PFORTE boot.start version=1\r\n")
		_, _ = io.WriteString(w, strings.Repeat("x", 3*maxLine)+"\nPFORTE boot.unlocked by=tpm\n")
		_ = w.Close()
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, name := range []string{"boot.unlocked", "boot.start"} { // the past counts, too
		if _, err := s.Wait(ctx, name, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Wait(ctx, "boot.unlocked", func(m Mark) bool { return m.Fields["by"] == "key" }); err == nil {
		t.Fatal("waiting for a mark that never came ended without an error")
	} else if !strings.Contains(err.Error(), "boot.unlocked by=tpm") {
		t.Errorf("the error does not show the last lines: %v", err)
	}
	if !s.Contains("BdsDxe") || s.Contains("\x1b") {
		t.Error("control sequences were not removed")
	}
}

func TestNewRefusesLongPaths(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("a", 100))
	_, err := New(Options{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "shorter folder") {
		t.Fatalf("New in a folder with a long path: %v", err)
	}
}

// TestFirmwareWithoutADisk boots OVMF with an empty disk: firmware, TPM, QMP
// and power cut work without any guest.
func TestFirmwareWithoutADisk(t *testing.T) {
	needQEMU(t)
	fw, err := FindFirmware()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "vm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	disk := filepath.Join(dir, "empty.img")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := New(Options{Dir: filepath.Join(dir, "m"), Disk: disk, Firmware: fw, Memory: 256})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for range 2 { // twice: the second start finds the first one's state
		if err := m.Start(ctx); err != nil {
			t.Fatal(err)
		}
		for !m.Serial().Contains("BdsDxe") {
			m.Serial().mu.Lock()
			changed, closed := m.Serial().changed, m.Serial().closed
			m.Serial().mu.Unlock()
			if closed {
				log, _ := os.ReadFile(m.path("qemu.log"))
				t.Fatalf("QEMU went off: %s\n%s", log, m.Serial().Tail(20))
			}
			select {
			case <-changed:
			case <-ctx.Done():
				t.Fatalf("the firmware printed nothing: %s", m.Serial().Tail(20))
			}
		}
		if err := m.Reset(ctx); err != nil {
			t.Error(err)
		}
		if _, err := m.Clone(filepath.Join(dir, "c"), nil); err == nil {
			t.Error("a running machine was cloned")
		}
		if err := m.Cut(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.Clone(filepath.Join(dir, "c"), nil); err != nil {
		t.Errorf("clone: %v", err)
	}
}
