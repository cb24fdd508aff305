package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/image"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
	"gitlab.opencode.de/pforte/pforte/internal/operator"
	"gitlab.opencode.de/pforte/pforte/qemu/vm"
)

// trialTime is how long a release on trial may take until its verdict: the
// download, the boot, the health gate, and for a bad one the way back.
const trialTime = 12 * time.Minute

// An update needs vendor, owner and hosting. It goes from A to B and is
// blessed; a release that never gets healthy costs one boot and ends where it
// began; what only one of the two signed, or whoever lacks the role asks for,
// is refused.
func TestUpdate(t *testing.T) {
	s := setting(t)
	ctx := within(t, 40*time.Minute)
	b, err := s.images.Build(ctx, "b", "0.2.0", nil)
	if err != nil {
		t.Fatal(err)
	}
	bad, err := s.images.Build(ctx, "bad", "0.3.0", func(o *image.Options) { o.Overlay = unhealthy(t) })
	if err != nil {
		t.Fatal(err)
	}
	m := s.clone(t)
	box := s.boot(t, m)
	w := s.world
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	refused := func(why, role string, args ...string) {
		t.Helper()
		var r *Refusal
		if _, err := box.Pforte(ctx, role, args...); !errors.As(err, &r) || r.Code != operator.ExitRefused {
			t.Errorf("%s: %v, want exit code %d", why, err, operator.ExitRefused)
		}
	}
	do(w.Vendor.Release(b.UKI, "0.2.0", 0))
	refused("only the vendor signed", "hosting", "update", "start", "--version", "0.2.0")
	do(w.Owner.Authorise(b.UKI, "0.2.1"))
	refused("only the owner signed", "hosting", "update", "start", "--version", "0.2.1")
	do(w.Owner.Authorise(b.UKI, "0.2.0"))
	refused("the monitor asked", "monitor", "update", "start", "--version", "0.2.0")
	refused("the owner asked", "owner", "update", "start", "--version", "0.2.0")

	_, err = box.Pforte(ctx, "hosting", "update", "start", "--version", "0.2.0")
	do(err)
	trial := waitLong(t, m, "updated.trial", field("version", "0.2.0"))
	if trial.Fields["slot"] != "b" {
		t.Errorf("the trial runs in slot %s, want b", trial.Fields["slot"])
	}
	waitLong(t, m, "updated.settled", field("version", "0.2.0"))
	status := s.status(ctx, t, box)
	if status.Version != "0.2.0" || status.Boot.Slot != "b" {
		t.Errorf("after the update: version %s in slot %s", status.Version, status.Boot.Slot)
	}

	do(w.Vendor.Release(bad.UKI, "0.3.0", 0))
	do(w.Owner.Authorise(bad.UKI, "0.3.0"))
	_, err = box.Pforte(ctx, "hosting", "update", "start", "--version", "0.3.0")
	do(err)
	waitLong(t, m, "updated.trial", field("version", "0.3.0"))
	failed := waitLong(t, m, "updated.failed", field("version", "0.3.0"))
	t.Logf("the unhealthy release: %s", failed.Fields["why"])
	waitLong(t, m, "updated.ready", func(k vm.Mark) bool { return k.Fields["version"] == "0.2.0" && k.At > failed.At })
	waitLong(t, m, "relayd.ready", func(k vm.Mark) bool { return k.At > failed.At })
	status = s.status(ctx, t, box)
	if status.Version != "0.2.0" {
		t.Errorf("after the bad release: version %s runs", status.Version)
	}
	if status.Update == nil || !slices.ContainsFunc(status.Update.Failed, func(f manage.FailedRelease) bool { return f.Release == "0.3.0" }) {
		t.Errorf("the failed release is not remembered: %+v", status.Update)
	}
	refused("a release that failed before", "hosting", "update", "start", "--version", "0.3.0")
	if _, err := w.MailOut(within(t, mailTime), Draft{From: partyA().Address("poststelle"), To: citizen, Subject: "nach dem Update"}); err != nil {
		t.Error(err)
	}
}

// unhealthy is an overlay that makes a release which boots, but whose relay
// never runs; its gate is shorter than the usual one, to spare time.
func unhealthy(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for unit, start := range map[string]string{
		"relayd":  "/usr/bin/relayd --no-such-flag",
		"updated": "/usr/bin/updated -gate 90s",
	} {
		name := filepath.Join(dir, "usr/lib/systemd/system", unit+".service.d", "99-broken.conf")
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		text := "[Service]\nExecStart=\nExecStart=" + start + "\n"
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func waitLong(t *testing.T, m *vm.Machine, name string, fits func(vm.Mark) bool) vm.Mark {
	t.Helper()
	mark, err := m.Serial().Wait(within(t, trialTime), name, fits)
	if err != nil {
		t.Fatal(err)
	}
	return mark
}

// status asks until the management answers: it may still be starting.
func (s *stage) status(ctx context.Context, t *testing.T, box *Box) manage.Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, mailTime)
	defer cancel()
	for {
		status, err := box.Status(ctx)
		if err == nil {
			return status
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-time.After(time.Second):
		}
	}
}
