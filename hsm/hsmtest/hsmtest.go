// Package hsmtest provides key devices for tests: a real TPM 2.0 emulator
// (swtpm) and software keys.
//
// The emulator is a child process that speaks TPM commands over a socket pair,
// so there is no path to collide and nothing to clean up when a test dies: at
// the end of the pair the emulator ends too. Its state lies in a folder of its
// own and survives PowerCycle, as the state of a soldered TPM does. There is no
// resource manager in front of it, unlike /dev/tpmrm0: code that forgets to
// flush a handle fails here after three of them.
//
// The software keys answer the same questions without any device. TestKeys is
// the conformance suite that both must pass.
//
// Nothing here ships: internal/rules forbids every command of the box to
// import this package.
package hsmtest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	// commandTimeout bounds one TPM command of the emulator. Key generation on
	// a loaded machine takes a second; minutes mean that it hangs.
	commandTimeout = 2 * time.Minute
	// maxResponse is larger than any response of a TPM 2.0 (the profile allows 4096).
	maxResponse = 1 << 16
	// headerSize is the size of a TPM response header: tag, size, code
	// (TPM 2.0 Library, Part 1, clause 18.2).
	headerSize = 10
	// stateFile is where swtpm keeps a TPM 2.0's permanent state in its folder.
	stateFile = "tpm2-00.permall"
)

// errOff reports a command to an emulator whose power is off.
var errOff = errors.New("the power is off")

// TPM is a running TPM 2.0 emulator. It implements go-tpm's transport.TPM and
// may be used by several goroutines at once.
type TPM struct {
	dir string // the emulator's state, absolute

	mu      sync.Mutex
	conn    net.Conn // nil while the power is off
	process *exec.Cmd
}

// StartTPM starts a factory-new TPM emulator that ends with the test. When
// swtpm is not installed the test fails, or is skipped with SHORT=1.
func StartTPM(t testing.TB) *TPM {
	t.Helper()
	return start(t, "")
}

// RestoreTPM starts an emulator from what Save wrote.
func RestoreTPM(t testing.TB, path string) *TPM {
	t.Helper()
	return start(t, path)
}

func start(t testing.TB, saved string) *TPM {
	t.Helper()
	if _, err := exec.LookPath("swtpm"); err != nil {
		if os.Getenv("SHORT") == "1" {
			t.Skip("SHORT=1 and no TPM emulator: swtpm is not installed")
		}
		t.Fatal("no TPM emulator: install it with `apt-get install swtpm`, or skip these tests with SHORT=1")
	}
	dir, err := filepath.Abs(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if saved != "" {
		copyFile(t, saved, filepath.Join(dir, stateFile))
	}
	tpm := &TPM{dir: dir}
	t.Cleanup(tpm.PowerOff)
	if err := tpm.powerOn(); err != nil {
		t.Fatal(err)
	}
	return tpm
}

// PowerOff cuts the TPM's power, as a power cut of the box does: the emulator
// is killed. Every command fails until PowerOn. It may be called twice.
func (t *TPM) PowerOff() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conn == nil {
		return
	}
	_ = t.conn.Close()
	_ = t.process.Process.Kill()
	_ = t.process.Wait()
	t.conn, t.process = nil, nil
}

// PowerOn gives power back and sends TPM2_Startup(CLEAR): transient objects and
// sessions are gone, PCRs are at their start values, keys and NV are as before.
func (t *TPM) PowerOn(tb testing.TB) {
	tb.Helper()
	if err := t.powerOn(); err != nil {
		tb.Fatal(err)
	}
}

// Save writes the TPM's permanent state, seeds included, to path, for a fixture.
// The power must be off.
func (t *TPM) Save(tb testing.TB, path string) {
	tb.Helper()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conn != nil {
		tb.Fatal("save TPM state: the power is on")
	}
	copyFile(tb, filepath.Join(t.dir, stateFile), path)
}

func copyFile(tb testing.TB, from, to string) {
	tb.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// PowerCycle is PowerOff and PowerOn.
func (t *TPM) PowerCycle(tb testing.TB) {
	tb.Helper()
	t.PowerOff()
	t.PowerOn(tb)
}

func (t *TPM) powerOn() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conn != nil {
		return nil
	}
	conn, theirs, err := socketPair()
	if err != nil {
		return fmt.Errorf("start TPM emulator: %w", err)
	}
	defer theirs.Close()
	cmd := exec.Command("swtpm", "socket", "--tpm2",
		"--tpmstate", "dir="+t.dir,
		"--fd", "3", // the first of ExtraFiles
		"--log", "file="+filepath.Join(t.dir, "swtpm.log"),
		"--flags", "not-need-init,startup-clear")
	cmd.ExtraFiles = []*os.File{theirs}
	if err := cmd.Start(); err != nil {
		_ = conn.Close()
		return fmt.Errorf("start TPM emulator: %w", err)
	}
	t.conn, t.process = conn, cmd
	return nil
}

// socketPair returns our end as a connection and the emulator's end as a file.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	ours := os.NewFile(uintptr(fds[0]), "tpm")
	defer ours.Close()
	theirs := os.NewFile(uintptr(fds[1]), "swtpm")
	conn, err := net.FileConn(ours)
	if err != nil {
		_ = theirs.Close()
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	return conn, theirs, nil
}

// Send executes one TPM command; it is go-tpm's transport.TPM.
func (t *TPM) Send(input []byte) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conn == nil {
		return nil, fmt.Errorf("send TPM command: %w", errOff)
	}
	if err := t.conn.SetDeadline(time.Now().Add(commandTimeout)); err != nil {
		return nil, fmt.Errorf("send TPM command: %w", err)
	}
	if _, err := t.conn.Write(input); err != nil {
		return nil, fmt.Errorf("send TPM command: %w", err)
	}
	response := make([]byte, headerSize)
	if _, err := io.ReadFull(t.conn, response); err != nil {
		return nil, fmt.Errorf("read TPM response: %w", err)
	}
	size := binary.BigEndian.Uint32(response[2:6])
	if size < headerSize || size > maxResponse {
		return nil, fmt.Errorf("read TPM response: impossible size %d", size)
	}
	response = append(response, make([]byte, size-headerSize)...)
	if _, err := io.ReadFull(t.conn, response[headerSize:]); err != nil {
		return nil, fmt.Errorf("read TPM response: %w", err)
	}
	return response, nil
}
