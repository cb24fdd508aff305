package vm

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

const (
	kvmProbeTime  = 8 * time.Second
	probeDiskSize = 1 << 20 // SeaBIOS skips a disk of a single sector
	// kvmProbeExit is what QEMU exits with after the boot sector has written
	// kvmProbeByte to isa-debug-exit: (value << 1) | 1.
	kvmProbeByte = 0x31
	kvmProbeExit = kvmProbeByte<<1 | 1
)

// ProbeKVM reports whether KVM works, by booting a tiny disk with it whose
// only deed is to end the machine with a known exit code. A /dev/kvm that
// exists but hangs or refuses counts as none. It takes at most kvmProbeTime.
func ProbeKVM(ctx context.Context) bool {
	if f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err != nil {
		return false
	} else if f.Close() != nil {
		return false
	}
	code := probeBoot(ctx, "kvm")
	return code == kvmProbeExit
}

// probeBoot boots the probe disk with an accelerator and returns QEMU's exit
// code, -1 if it did not end by itself.
func probeBoot(ctx context.Context, accel string) int {
	dir, err := os.MkdirTemp("", "kvmprobe")
	if err != nil {
		return -1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	disk := filepath.Join(dir, "boot")
	if err := os.WriteFile(disk, bootSector(), 0o600); err != nil {
		return -1
	}
	ctx, cancel := context.WithTimeout(ctx, kvmProbeTime)
	defer cancel()
	cpu := "max"
	if accel == "kvm" {
		cpu = "host"
	}
	// Machine and processor as in args: some hosts have a KVM that knows no SMM.
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-nodefaults", "-display", "none", "-accel", accel,
		"-machine", "q35,smm=on,vmport=off", "-cpu", cpu, "-m", "64", "-device", "isa-debug-exit,iobase=0x501,iosize=1",
		"-drive", "if=none,id=d,format=raw,snapshot=on,file="+disk, "-device", "virtio-blk-pci,drive=d,bootindex=0")
	cmd.WaitDelay = time.Second
	done := make(chan error, 1)
	if err := cmd.Start(); err != nil {
		return -1
	}
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return exit.ExitCode()
		}
		return -1
	case <-time.After(kvmProbeTime + 2*time.Second): // a hanging KVM may hold the process in the kernel
		return -1
	}
}

// bootSector is real-mode code: mov dx,0x501; mov al,kvmProbeByte; out dx,al; hlt; jmp $.
func bootSector() []byte {
	s := make([]byte, probeDiskSize)
	copy(s, []byte{0xba, 0x01, 0x05, 0xb0, kvmProbeByte, 0xee, 0xf4, 0xeb, 0xfe})
	s[510], s[511] = 0x55, 0xaa
	return s
}
