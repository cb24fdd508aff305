// Package vm boots one virtual machine the way a technician's box boots: OVMF
// firmware with Secure Boot, a TPM 2.0 (swtpm), a disk, a hardware watchdog and
// network cards on networks of package lan. It needs no root.
//
// A Machine is a folder: the firmware's variables, the TPM's state and a
// copy-on-write overlay over the disk image live in it and survive [Machine.Cut]
// and [Machine.PowerOff], as they do in a real box. [Machine.Clone] copies them,
// so that a scenario can start from a provisioned box.
//
// Waiting is by milestone lines on the serial port (package milestone), never
// by sleeping. A power cut is SIGKILL to QEMU and swtpm: what the guest had not
// yet given to its disk is lost, as with a pulled plug. What the disk itself
// had taken without being asked to flush is kept; that part of a real power
// cut is proved elsewhere, on the queue's crash simulator.
//
// The accelerator is KVM only if [ProbeKVM] really booted something with it;
// /dev/kvm may exist and hang. Boot one machine at a time where there is none.
package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

const (
	// DefaultMemory is the guest's RAM in MiB.
	DefaultMemory = 2048
	exitWait      = 15 * time.Second // for QEMU to go after SIGKILL or quit
	qmpWait       = 20 * time.Second
	maxSocketPath = 107 // bytes, of a Unix socket's path
)

// NIC is a network card: its MAC address and the socket of a lan.Network.
type NIC struct {
	MAC    string
	Socket string
}

// Options describe a machine. Dir, Disk and Firmware are required.
type Options struct {
	Dir      string   // the machine's folder, made if missing; keep its path short
	Disk     string   // raw disk image, never written to
	Seed     string   // raw image of a removable volume, or empty
	Firmware Firmware // see FindFirmware
	Memory   int      // MiB, 0 means DefaultMemory
	KVM      bool     // see ProbeKVM
	NICs     []NIC
	NoTPM    bool
	SMBIOS   []string // OEM strings (type 11), which the host may give to the guest
}

// Firmware names the two parts of OVMF: the code, and a template of its
// variables in setup mode (no Secure Boot keys enrolled).
type Firmware struct {
	Code string
	Vars string
}

// FindFirmware looks for Debian's OVMF with Secure Boot and 4 MiB flash.
func FindFirmware() (Firmware, error) {
	f := Firmware{
		Code: "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd",
		Vars: "/usr/share/OVMF/OVMF_VARS_4M.fd",
	}
	for _, p := range []string{f.Code, f.Vars} {
		if _, err := os.Stat(p); err != nil {
			return Firmware{}, fmt.Errorf("vm: no firmware with Secure Boot: %w; install the Debian package ovmf", err)
		}
	}
	return f, nil
}

// Machine is one virtual machine. Its methods may be called from several
// goroutines, except Start, Cut, PowerOff and Clone, which one owner calls.
type Machine struct {
	opts Options

	mu     sync.Mutex
	qemu   *exec.Cmd
	swtpm  *exec.Cmd
	gone   chan struct{} // closed when the running QEMU has ended
	exit   error
	serial *Serial
}

// New prepares a machine in its folder without starting it. Parts that are
// there already (variables, TPM state, overlay) are kept.
func New(opts Options) (*Machine, error) {
	if opts.Memory == 0 {
		opts.Memory = DefaultMemory
	}
	abs, err := filepath.Abs(opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("vm: %w", err)
	}
	opts.Dir = abs
	m := &Machine{opts: opts}
	if n := len(m.path("qmp.sock")); n > maxSocketPath {
		return nil, fmt.Errorf("vm: folder %s: socket paths of %d bytes are too long (at most %d); choose a shorter folder", abs, n, maxSocketPath)
	}
	if err := os.MkdirAll(m.path("tpm"), 0o700); err != nil {
		return nil, fmt.Errorf("vm: %w", err)
	}
	if err := copyMissing(m.path("vars.fd"), opts.Firmware.Vars); err != nil {
		return nil, fmt.Errorf("vm: firmware variables: %w", err)
	}
	if _, err := os.Stat(m.path("disk.qcow2")); errors.Is(err, fs.ErrNotExist) {
		if err := m.overlay(); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *Machine) path(name string) string { return filepath.Join(m.opts.Dir, name) }

// overlay makes the empty copy-on-write disk.
func (m *Machine) overlay() error {
	base, err := filepath.Abs(m.opts.Disk)
	if err != nil {
		return fmt.Errorf("vm: %w", err)
	}
	out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, m.path("disk.qcow2")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("vm: make disk overlay: %w: %s", err, out)
	}
	return nil
}

// Clone copies the machine's variables, TPM and disk into dir and returns the
// copy as a machine of its own with the given network cards. The original must
// not be running.
func (m *Machine) Clone(dir string, nics []NIC) (*Machine, error) {
	if m.Running() {
		return nil, errors.New("vm: clone: the machine is running; power it off first")
	}
	for _, name := range []string{"vars.fd", "disk.qcow2"} {
		if err := copyFile(filepath.Join(dir, name), m.path(name)); err != nil {
			return nil, fmt.Errorf("vm: clone: %w", err)
		}
	}
	if err := os.CopyFS(filepath.Join(dir, "tpm"), os.DirFS(m.path("tpm"))); err != nil {
		return nil, fmt.Errorf("vm: clone: %w", err)
	}
	opts := m.opts
	opts.Dir, opts.NICs = dir, nics
	return New(opts)
}

// ReplaceTPM throws the TPM's state away: the next start finds a different,
// factory-new TPM in the same box.
func (m *Machine) ReplaceTPM() error {
	if m.Running() {
		return errors.New("vm: replace TPM: the machine is running; power it off first")
	}
	if err := os.RemoveAll(m.path("tpm")); err != nil {
		return fmt.Errorf("vm: replace TPM: %w", err)
	}
	if err := os.MkdirAll(m.path("tpm"), 0o700); err != nil {
		return fmt.Errorf("vm: replace TPM: %w", err)
	}
	return nil
}

// SetSeed changes the removable volume that the next start plugs in; an empty
// path unplugs it.
func (m *Machine) SetSeed(path string) { m.opts.Seed = path }

// SetSMBIOS changes the OEM strings that the host gives to the guest at the
// next start, as whoever runs a machine can.
func (m *Machine) SetSMBIOS(values ...string) { m.opts.SMBIOS = values }

// DiskPath is the qcow2 overlay, for tests that change the disk of a machine
// that is off.
func (m *Machine) DiskPath() string { return m.path("disk.qcow2") }

// Start powers the machine on. It returns when QEMU runs; wait for milestones
// with Serial. The machine ends with ctx.
func (m *Machine) Start(ctx context.Context) error {
	if m.Running() {
		return errors.New("vm: start: already running")
	}
	for _, s := range []string{"qmp.sock", "tpm.sock"} {
		if err := os.Remove(m.path(s)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("vm: start: %w", err)
		}
	}
	if !m.opts.NoTPM {
		if err := m.startTPM(ctx); err != nil {
			return err
		}
	}
	return m.startQEMU(ctx)
}

func (m *Machine) startQEMU(ctx context.Context) error {
	log, err := os.OpenFile(m.path("serial.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("vm: start: %w", err)
	}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", m.args()...)
	cmd.WaitDelay = exitWait
	cmd.SysProcAttr = ownGroup()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return errors.Join(fmt.Errorf("vm: start: %w", err), log.Close())
	}
	errLog, err := os.Create(m.path("qemu.log"))
	if err != nil {
		return errors.Join(fmt.Errorf("vm: start: %w", err), log.Close())
	}
	cmd.Stderr = errLog
	if err := cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("vm: start QEMU: %w; install the Debian package qemu-system-x86", err), log.Close(), errLog.Close())
	}
	gone := make(chan struct{})
	serial := newSerial()
	m.mu.Lock()
	m.qemu, m.gone, m.serial, m.exit = cmd, gone, serial, nil
	m.mu.Unlock()
	go func() {
		serial.read(stdout, log)
		err := cmd.Wait()
		_ = log.Close()
		_ = errLog.Close()
		m.mu.Lock()
		m.exit = err
		m.mu.Unlock()
		close(gone)
		m.stopTPM()
	}()
	return nil
}

// args is QEMU's command line.
func (m *Machine) args() []string {
	o := m.opts
	accel, cpu := "tcg,thread=multi", "max"
	if o.KVM {
		accel, cpu = "kvm", "host"
	}
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-vga", "none",
		"-machine", "q35,smm=on,vmport=off", "-accel", accel, "-cpu", cpu, "-smp", "2",
		"-m", strconv.Itoa(o.Memory),
		"-global", "driver=cfi.pflash01,property=secure,value=on",
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file=" + o.Firmware.Code,
		"-drive", "if=pflash,unit=1,format=raw,file=" + m.path("vars.fd"),
		"-drive", "if=none,id=disk,format=qcow2,cache=writeback,file=" + m.path("disk.qcow2"),
		"-device", "virtio-blk-pci,drive=disk,bootindex=1,serial=pforte-disk",
		"-device", "virtio-rng-pci",
		"-device", "i6300esb", "-action", "watchdog=reset",
		"-rtc", "base=utc",
		"-serial", "stdio", "-qmp", "unix:" + m.path("qmp.sock") + ",server=on,wait=off",
	}
	if o.Seed != "" {
		args = append(args, "-device", "qemu-xhci",
			"-drive", "if=none,id=seed,format=raw,readonly=on,file="+o.Seed,
			"-device", "usb-storage,drive=seed,removable=on")
	}
	if !o.NoTPM {
		args = append(args, "-chardev", "socket,id=chrtpm,path="+m.path("tpm.sock"),
			"-tpmdev", "emulator,id=tpm0,chardev=chrtpm", "-device", "tpm-crb,tpmdev=tpm0")
	}
	for _, v := range o.SMBIOS {
		args = append(args, "-smbios", "type=11,value="+v)
	}
	for i, n := range o.NICs {
		id := "net" + strconv.Itoa(i)
		args = append(args,
			"-netdev", "stream,id="+id+",server=off,addr.type=unix,addr.path="+n.Socket,
			"-device", "virtio-net-pci,netdev="+id+",mac="+n.MAC+",romfile=")
	}
	return args
}

// Running reports whether QEMU runs.
func (m *Machine) Running() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gone == nil {
		return false
	}
	select {
	case <-m.gone:
		return false
	default:
		return true
	}
}

// Serial is the serial port of the current or last run, nil before the first Start.
func (m *Machine) Serial() *Serial {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.serial
}

// Cut pulls the plug: QEMU and the TPM are killed at once.
func (m *Machine) Cut() error {
	m.mu.Lock()
	cmd, gone := m.qemu, m.gone
	m.mu.Unlock()
	if cmd == nil || !m.Running() {
		return nil
	}
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("vm: cut power: %w", err)
	}
	m.stopTPM()
	return waitGone(context.Background(), gone)
}

// PowerOff presses the power button and waits until the machine is off, at
// most until ctx ends.
func (m *Machine) PowerOff(ctx context.Context) error {
	if !m.Running() {
		return nil
	}
	if err := m.command(ctx, "system_powerdown"); err != nil {
		return err
	}
	return m.WaitOff(ctx)
}

// Reset presses the reset button.
func (m *Machine) Reset(ctx context.Context) error { return m.command(ctx, "system_reset") }

// WaitOff waits until the machine has switched itself off.
func (m *Machine) WaitOff(ctx context.Context) error {
	m.mu.Lock()
	gone := m.gone
	m.mu.Unlock()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("vm: wait for power-off: %w", ctx.Err())
	}
}

func waitGone(ctx context.Context, gone <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, exitWait)
	defer cancel()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return errors.New("vm: QEMU did not end after being killed")
	}
}

// CPUSeconds is the processor time that QEMU used so far, for reports.
func (m *Machine) CPUSeconds() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.qemu == nil || m.qemu.ProcessState == nil {
		return 0
	}
	return (m.qemu.ProcessState.UserTime() + m.qemu.ProcessState.SystemTime()).Seconds()
}
