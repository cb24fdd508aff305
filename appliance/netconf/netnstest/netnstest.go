// Package netnstest runs a test in a network of its own: the kernel's network
// namespaces, on the real kernel, without touching the machine's network.
//
// A test that begins with
//
//	if !netnstest.Inside(t) {
//		return
//	}
//
// is run again in a process with an empty network: a loopback that is down, and
// nothing else. As root that takes a new network namespace, and as anybody else
// a new user namespace, too, in which the process may change its own network.
// Where the kernel forbids that, the test fails and says what to do; SHORT=1
// skips it by name.
//
// Only tests import this package.
package netnstest

import (
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// mark tells the second process what it is.
const mark = "PFORTE_NETNSTEST"

// Inside reports whether the test runs in a network of its own. If not, it runs
// the test there and takes over the outcome; the caller then returns.
func Inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(mark) == t.Name() {
		return true
	}
	args := []string{os.Args[0], "-test.run=" + pattern(t.Name()), "-test.v", "-test.count=1"}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	output := make(chan string, 1)
	go func() {
		var b strings.Builder
		_, _ = r.WriteTo(&b)
		output <- b.String()
	}()
	p, err := os.StartProcess(os.Args[0], args, &os.ProcAttr{
		Env:   append(os.Environ(), mark+"="+t.Name()),
		Files: []*os.File{nil, w, w},
		Sys:   attributes(),
	})
	_ = w.Close()
	if err != nil {
		refuse(t, err)
		return false
	}
	state, err := p.Wait()
	text := <-output
	switch {
	case err != nil:
		t.Fatal(err)
	case !state.Success():
		t.Fatalf("in a network of its own:\n%s", text)
	case !strings.Contains(text, "--- PASS: "+t.Name()):
		t.Fatalf("the test did not run in a network of its own:\n%s", text)
	}
	t.Logf("in a network of its own:\n%s", text)
	return false
}

func pattern(name string) string {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = "^" + p + "$"
	}
	return strings.Join(parts, "/")
}

func attributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Geteuid() != 0 {
		a.Cloneflags |= syscall.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	return a
}

func refuse(t *testing.T, err error) {
	t.Helper()
	if os.Getenv("SHORT") == "1" {
		t.Skipf("SHORT=1: no network namespaces here: %v", err)
	}
	t.Fatalf("make a network namespace: %v; run as root, or allow user namespaces: sysctl kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0", err)
}

// Machine is another machine: a second network namespace, beside the test's.
type Machine struct {
	calls chan func()
}

// NewMachine makes a machine with an empty network; it ends with the test.
func NewMachine(t *testing.T) *Machine {
	t.Helper()
	m := &Machine{calls: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		ready <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range m.calls {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatalf("second network namespace: %v", err)
	}
	t.Cleanup(func() { close(m.calls) })
	return m
}

// Do runs f on the machine and waits for it. Sockets that f opens stay the
// machine's, whoever uses them later. f must not start goroutines that open
// sockets: they would run elsewhere.
func (m *Machine) Do(f func()) {
	done := make(chan struct{})
	m.calls <- func() { defer close(done); f() }
	<-done
}

// TID gives the thread that lives on the machine, which moves links there: a
// network namespace is named by a process or thread in it.
func (m *Machine) TID() int {
	var tid int
	m.Do(func() { tid = unix.Gettid() })
	return tid
}
