package systemd

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"
)

const (
	managerPath  = godbus.ObjectPath("/org/freedesktop/systemd1")
	managerIface = "org.freedesktop.systemd1.Manager"
)

// fake speaks D-Bus as systemd does at its private socket: no bus, no Hello, and
// signals to every peer.
type fake struct {
	t      *testing.T
	socket string

	mu     sync.Mutex
	peers  []net.Conn
	serial uint32
	jobs   int
	calls  []string
	// result of a job by "Method unit"; "" means done, "hang" never, "!name" an error.
	result map[string]string
}

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{t: t, socket: filepath.Join(t.TempDir(), "s"), result: map[string]string{}}
	ln, err := net.Listen("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { f.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		f.mu.Lock()
		for _, c := range f.peers {
			_ = c.Close()
		}
		f.mu.Unlock()
		wg.Wait()
	})
	return f
}

func (f *fake) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.Trim(line, "\x00\r\n")
		switch {
		case strings.HasPrefix(line, "AUTH EXTERNAL"):
			_, _ = fmt.Fprint(c, "OK 00112233445566778899aabbccddeeff\r\n")
		case line == "NEGOTIATE_UNIX_FD":
			_, _ = fmt.Fprint(c, "AGREE_UNIX_FD\r\n")
		case line == "BEGIN":
			f.mu.Lock()
			f.peers = append(f.peers, c)
			f.mu.Unlock()
			f.messages(c, r)
			return
		default:
			_, _ = fmt.Fprint(c, "REJECTED EXTERNAL\r\n")
		}
	}
}

func (f *fake) messages(c net.Conn, r *bufio.Reader) {
	for {
		m, err := godbus.DecodeMessage(r)
		if err != nil {
			return
		}
		f.mu.Lock()
		f.answer(c, m)
		f.mu.Unlock()
	}
}

// answer is called with the lock.
func (f *fake) answer(c net.Conn, m *godbus.Message) {
	name, _ := m.Headers[godbus.FieldMember].Value().(string)
	if name == "AddMatch" {
		f.fail(c, m, "org.freedesktop.DBus.Error.UnknownMethod")
		return
	}
	unit := ""
	if len(m.Body) > 0 {
		unit = fmt.Sprint(m.Body[0])
	}
	call := strings.TrimSpace(name + " " + unit)
	f.calls = append(f.calls, call)
	result := f.result[call]
	if fault, ok := strings.CutPrefix(result, "!"); ok {
		f.fail(c, m, fault)
		return
	}
	switch name {
	case "StartUnit", "StopUnit", "RestartUnit":
		if len(m.Body) != 2 || m.Body[1] != "replace" && m.Body[1] != "replace-irreversibly" {
			f.t.Errorf("%s with mode %v", call, m.Body)
		}
		f.jobs++
		job := managerPath + godbus.ObjectPath(fmt.Sprintf("/job/%d", f.jobs))
		f.reply(c, m, job)
		if result == "" {
			result = "done"
		}
		if result != "hang" {
			f.signal("JobRemoved", uint32(f.jobs), job, unit, result)
		}
	case "Reload":
		f.reply(c, m)
	case "ListUnitsByNames", "ListUnitsFiltered":
		type unit struct {
			Name, Description, Load, Active, Sub, Following string
			Path                                            godbus.ObjectPath
			Job                                             uint32
			JobType                                         string
			JobPath                                         godbus.ObjectPath
		}
		f.reply(c, m, []unit{
			{"a.service", "A", "loaded", "active", "running", "", "/a", 0, "", "/"},
			{"b.service", "B", "loaded", "failed", "failed", "", "/b", 0, "", "/"},
			{"none.service", "", "not-found", "inactive", "dead", "", "/n", 0, "", "/"},
		})
	default:
		f.t.Errorf("unexpected call %s", call)
	}
}

func (f *fake) send(c net.Conn, m *godbus.Message) {
	if len(m.Body) > 0 {
		m.Headers[godbus.FieldSignature] = godbus.MakeVariant(godbus.SignatureOf(m.Body...))
	}
	var b bytes.Buffer
	if err := m.EncodeTo(&b, binary.LittleEndian); err != nil {
		f.t.Error(err)
		return
	}
	f.serial++
	const at = 8 // of the serial number in a message's header
	binary.LittleEndian.PutUint32(b.Bytes()[at:], f.serial)
	_, _ = c.Write(b.Bytes()) // a peer may have left
}

func (f *fake) reply(c net.Conn, to *godbus.Message, body ...any) {
	f.send(c, &godbus.Message{Type: godbus.TypeMethodReply, Body: body,
		Headers: map[godbus.HeaderField]godbus.Variant{godbus.FieldReplySerial: godbus.MakeVariant(to.Serial())}})
}

func (f *fake) fail(c net.Conn, to *godbus.Message, name string) {
	f.send(c, &godbus.Message{Type: godbus.TypeError, Body: []any{"no"}, Headers: map[godbus.HeaderField]godbus.Variant{
		godbus.FieldReplySerial: godbus.MakeVariant(to.Serial()), godbus.FieldErrorName: godbus.MakeVariant(name)}})
}

func (f *fake) signal(name string, body ...any) {
	for _, c := range f.peers {
		f.send(c, &godbus.Message{Type: godbus.TypeSignal, Body: body, Headers: map[godbus.HeaderField]godbus.Variant{
			godbus.FieldPath: godbus.MakeVariant(managerPath), godbus.FieldInterface: godbus.MakeVariant(managerIface), godbus.FieldMember: godbus.MakeVariant(name)}})
	}
}

func TestJobs(t *testing.T) {
	tests := []struct {
		name   string
		do     func(Manager, context.Context) error
		call   string
		result string
		want   string // of the error, "" for none
	}{
		{"start", func(m Manager, ctx context.Context) error { return m.Start(ctx, "a.service") }, "StartUnit a.service", "done", ""},
		{"start without its condition", func(m Manager, ctx context.Context) error { return m.Start(ctx, "a.service") }, "StartUnit a.service", "skipped", ""},
		{"start fails", func(m Manager, ctx context.Context) error { return m.Start(ctx, "a.service") }, "StartUnit a.service", "failed", "systemd: start a.service: job failed: failed"},
		{"a dependency fails", func(m Manager, ctx context.Context) error { return m.Restart(ctx, "a.service") }, "RestartUnit a.service", "dependency", "job failed: dependency"},
		{"stop", func(m Manager, ctx context.Context) error { return m.Stop(ctx, "a.service") }, "StopUnit a.service", "done", ""},
		{"stop what is not known", func(m Manager, ctx context.Context) error { return m.Stop(ctx, "a.service") }, "StopUnit a.service", "!" + noSuchUnit, ""},
		{"start what is not known", func(m Manager, ctx context.Context) error { return m.Start(ctx, "a.service") }, "StartUnit a.service", "!" + noSuchUnit, "systemd: start a.service: no"},
		{"never ends", func(m Manager, ctx context.Context) error { return m.Start(ctx, "a.service") }, "StartUnit a.service", "hang", "deadline exceeded"},
		{"reload", Manager.Reload, "Reload", "", ""},
		{"reload fails", Manager.Reload, "Reload", "!org.freedesktop.DBus.Error.AccessDenied", "systemd: reload: no"},
		{"reboot", Manager.Reboot, "StartUnit reboot.target", "hang", ""},
		{"power off", Manager.PowerOff, "StartUnit poweroff.target", "hang", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			f.result[tt.call] = tt.result
			limit := 5 * time.Second
			if tt.result == "hang" && tt.want != "" {
				limit = 300 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			err := tt.do(Manager{Socket: f.socket}, ctx)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			if strings.Contains(tt.want, "job failed") && !errors.Is(err, ErrJob) {
				t.Errorf("%v is no ErrJob", err)
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			if diff := cmp.Diff([]string{tt.call}, f.calls); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestStates(t *testing.T) {
	m := Manager{Socket: newFake(t).socket}
	got, err := m.States(t.Context(), "a.service", "b.service", "none.service")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]State{"a.service": {"active", "running"}, "b.service": {"failed", "failed"}}, got); diff != "" {
		t.Error(diff)
	}
	failed, err := m.Failed(t.Context())
	if err != nil || len(failed) != 3 { // the filter is systemd's
		t.Errorf("%v, %v", failed, err)
	}
}

func TestNobodyThere(t *testing.T) {
	if err := (Manager{Socket: filepath.Join(t.TempDir(), "none")}).Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "systemd: reload: connect") {
		t.Errorf("%v", err)
	}
}
