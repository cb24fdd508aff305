package update

import (
	"context"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/appliance/update/control"
	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
	"gitlab.opencode.de/pforte/pforte/internal/rollout"
)

// TestGoodUpdate is the story of an update that works, from the question of
// hosting to the blessing.
func TestGoodUpdate(t *testing.T) {
	w := newWorld(t)
	w.release("1.1.0")
	r := w.on(nil)
	r.settled()
	var list control.Releases
	r.call(control.MethodList, nil, &list)
	if len(list.Allowed) != 1 || list.Allowed[0].Version != "1.1.0" {
		t.Errorf("%+v", list)
	}
	var taken control.Accepted
	r.call(control.MethodUpdate, control.UpdateStart{Actor: "hosting/RSS"}, &taken)
	if taken.Version != "1.1.0" {
		t.Errorf("took %q", taken.Version)
	}
	r.rebooted()

	r = w.on(nil)
	if r.boot.Version != "1.1.0" || r.boot.Slot != report.SlotB || !r.boot.Trial {
		t.Fatalf("%+v", r.boot)
	}
	if m := r.await("updated.trial"); m.Fields["version"] != "1.1.0" || m.Fields["slot"] != "b" {
		t.Errorf("%+v", m)
	}
	<-r.judged
	r.await("updated.blessed")
	r.await("updated.settled")
	var s control.Status
	r.settled().call(control.MethodStatus, nil, &s)
	want := map[string]string{"a": "1.0.0", "b": "1.1.0", "fallback": "1.1.0"}
	if diff := cmp.Diff(want, s.Slots); diff != "" || s.Last == nil || !s.Last.Blessed || s.Trial != "" {
		t.Errorf("%s %+v", diff, s)
	}
	r.off()

	r = w.on(nil)
	if r.boot.Version != "1.1.0" || r.boot.Trial {
		t.Errorf("the next boot: %+v", r.boot)
	}
	r.settled().off()
	if diff := cmp.Diff([]string{"update.start asked", "update.start done", "update.install done", "update.verdict done"}, w.deeds()); diff != "" {
		t.Error(diff)
	}
}

// TestSickUpdate ends in the old release, which remembers.
func TestSickUpdate(t *testing.T) {
	w := newWorld(t)
	w.release("1.1.0")
	w.sick["1.1.0"] = true
	r := w.on(nil).settled()
	if err := r.start(""); err != nil {
		t.Fatal(err)
	}
	r.rebooted()
	r = w.on(nil)
	r.await("updated.failed")
	r.rebooted()
	r = w.on(nil).settled()
	if r.boot.Version != "1.0.0" || r.boot.Slot != report.SlotA {
		t.Fatalf("%+v", r.boot)
	}
	var s control.Status
	r.call(control.MethodStatus, nil, &s)
	if len(s.Failed) != 1 || !strings.Contains(s.Failed[0].Why, "relay: does not answer") {
		t.Errorf("%+v", s.Failed)
	}
	if !slices.ContainsFunc(s.Health, func(c control.Condition) bool { return c.Code == "update.failed" }) {
		t.Errorf("health: %+v", s.Health)
	}
	if err := r.start("1.1.0"); !errors.Is(err, control.ErrRefused) || !strings.Contains(err.Error(), "failed on this box before") {
		t.Errorf("again: %v", err)
	}
	w.release("1.2.0")
	if err := r.start(""); err != nil {
		t.Errorf("the next release: %v", err)
	}
	r.rebooted()
	r = w.on(nil)
	r.await("updated.blessed")
}

// TestTamperedSlot: somebody changes the file between writing and booting.
func TestTamperedSlot(t *testing.T) {
	w := newWorld(t)
	w.release("1.1.0")
	r := w.on(nil).settled()
	if err := r.start(""); err != nil {
		t.Fatal(err)
	}
	r.rebooted()
	flip(t, filepath.Join(w.disk.Root, layout.SlotB))
	r = w.on(nil)
	if m := r.await("updated.failed"); r.boot.Version != "1.0.0" || m.Fields["why"] != changedFile {
		t.Errorf("%+v, %+v", r.boot, m)
	}
}

// TestTamperedFile: the vendor's server holds another file than was signed.
func TestTamperedFile(t *testing.T) {
	w := newWorld(t)
	w.release("1.1.0")
	flip(t, w.parties.Target("1.1.0"))
	r := w.on(nil).settled()
	if err := r.start(""); err != nil {
		t.Fatal(err)
	}
	var s control.Status
	for s.Progress.Error == "" {
		r.call(control.MethodStatus, nil, &s)
	}
	if !strings.Contains(s.Progress.Error, "SHA-256 on the disk") || s.Trial != "" || s.Slots["b"] != "" || len(r.reboots) > 0 {
		t.Errorf("%+v", s)
	}
	if next := w.vars.Raw("BootNext"); next != nil {
		t.Errorf("BootNext %x", next)
	}
	r.off()
	if got := w.deeds(); got[len(got)-1] != "update.install failed" {
		t.Errorf("%q", got)
	}
}

func flip(t *testing.T, name string) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestRefusedStarts: everything that hosting cannot start, and why. Nothing is
// written.
func TestRefusedStarts(t *testing.T) {
	image := func(w *world) []byte { return w.image("1.1.0") }
	everybody := rollout.Order{Boxes: []string{"*"}}
	tests := []struct {
		name    string
		set     func(*world)
		version string
		want    error
		text    string
	}{
		{"nothing published", func(*world) {}, "", control.ErrRefused, "no newer release"},
		{"only the vendor signed", func(w *world) { w.parties.Publish("1.1.0", 0, image(w)) }, "1.1.0", control.ErrRefused, "the owner has not authorised it"},
		{"only the owner signed", func(w *world) { w.parties.Authorise("1.1.0", everybody, image(w)) }, "1.1.0", control.ErrRefused, "the vendor has not signed it"},
		{"only one signed, newest", func(w *world) { w.parties.Publish("1.1.0", 0, image(w)) }, "", control.ErrRefused, "no newer release"},
		{"different files", func(w *world) {
			w.parties.Publish("1.1.0", 0, image(w))
			w.parties.Authorise("1.1.0", everybody, w.image("1.1.1"))
		}, "1.1.0", control.ErrRefused, "different files"},
		{"another box", func(w *world) {
			w.parties.Publish("1.1.0", 0, image(w))
			w.parties.Authorise("1.1.0", rollout.Order{Boxes: []string{"sn-gw-02"}}, image(w))
		}, "", control.ErrRefused, "does not name this box"},
		{"window to come", func(w *world) {
			w.parties.Publish("1.1.0", 0, image(w))
			w.parties.Authorise("1.1.0", rollout.Order{Boxes: []string{"*"}, NotBefore: w.parties.Now.AddDate(0, 0, 1)}, image(w))
		}, "", control.ErrRefused, "outside the window"},
		{"older", func(w *world) {
			w.parties.Publish("0.9.0", 0, w.image("0.9.0"))
			w.parties.Authorise("0.9.0", everybody, w.image("0.9.0"))
		}, "0.9.0", control.ErrRefused, "older than the running"},
		{"no version", func(*world) {}, "../../etc/passwd", localapi.ErrBadRequest, "is no version"},
		{"repository out of reach", func(w *world) {
			gone := httptest.NewServer(nil)
			gone.Close()
			w.urls.Owner = gone.URL
		}, "", control.ErrSource, "owner repository"},
		{"repository of a stranger", func(w *world) { w.urls.Vendor = w.urls.Owner }, "", control.ErrSource, "vendor repository"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			tt.set(w)
			r := w.on(nil).settled()
			err := r.start(tt.version)
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%v, want %v: %q", err, tt.want, tt.text)
			}
			if localapi.Remedy(err) == "" && tt.want != localapi.ErrBadRequest && tt.text != "no newer release" {
				t.Errorf("%v has no remedy", err)
			}
			if _, _, err := w.disk.Hash(report.SlotB); err == nil || w.vars.Raw("BootNext") != nil {
				t.Error("something was written")
			}
		})
	}
}

// TestWhoMayCall: nobody but apid and root.
func TestWhoMayCall(t *testing.T) {
	w := newWorld(t)
	for uid, want := range map[uint32]error{0: nil, layout.UIDApid: nil, layout.UIDConsole: localapi.ErrDenied, layout.UIDRelayd: localapi.ErrDenied, 1000: localapi.ErrDenied} {
		r := w.on(func(r *running) { r.peer.UID = uid })
		for _, method := range []string{control.MethodStatus, control.MethodList} {
			if err := r.client.Call(t.Context(), method, nil, nil); !errors.Is(err, want) {
				t.Errorf("%s as %d: %v, want %v", method, uid, err, want)
			}
		}
		if err := r.client.Call(t.Context(), control.MethodPower, control.Power{Do: "dance"}, nil); want == nil && !errors.Is(err, localapi.ErrBadRequest) || want != nil && !errors.Is(err, want) {
			t.Errorf("power as %d: %v", uid, err)
		}
		r.off()
	}
}

// TestLockedBox refuses what would be lost, and says why.
func TestLockedBox(t *testing.T) {
	w := newWorld(t)
	w.release("1.1.0")
	r := w.on(func(r *running) {
		r.daemon.Manager.Boot.Locked = &report.Fault{Code: "tpm-changed", English: "This is not the TPM."}
	}).settled()
	if err := r.start(""); !errors.Is(err, control.ErrRefused) || !strings.Contains(err.Error(), "This is not the TPM") {
		t.Errorf("update: %v", err)
	}
	if err := r.client.Call(t.Context(), control.MethodConfig, control.ConfigPut{Envelope: []byte("x"), Actor: "owner"}, nil); !errors.Is(err, control.ErrRefused) {
		t.Errorf("configuration: %v", err)
	}
	if w.vars.Writes != nil {
		t.Errorf("wrote %v", w.vars.Writes)
	}
}

// TestPutConfig: the answer comes first, the services follow.
func TestPutConfig(t *testing.T) {
	w := newWorld(t)
	r := w.on(nil).settled()
	var taken control.ConfigTaken
	r.call(control.MethodConfig, control.ConfigPut{Envelope: []byte("sn-gw-01"), Actor: "owner/SID"}, &taken)
	if taken.Serial != 8 || taken.Box != "sn-gw-01" || len(taken.Faults) != 0 {
		t.Errorf("%+v", taken)
	}
	if m := r.await("updated.applied"); m.Fields["serial"] != "8" {
		t.Errorf("%+v", m)
	}
	r.off()
	if r.daemon.Applier.Left() {
		t.Error("it is still noted as pending")
	}
	if diff := cmp.Diff([]string{"config.put asked", "config.put done"}, w.deeds()); diff != "" {
		t.Error(diff)
	}
}

func TestPutConfigRefused(t *testing.T) {
	faults := config.Faults{{Line: 3, Path: "box", Text: "is missing", Remedy: "name the box"}}
	for name, tt := range map[string]struct {
		fault   error
		want    error
		outcome string
	}{
		"faults":    {faults, nil, "refused"},
		"older":     {config.ErrNotNewer, config.ErrNotNewer, "refused"},
		"wrong box": {config.ErrWrongBox, config.ErrWrongBox, "refused"},
		"stranger":  {config.ErrSignature, config.ErrSignature, "refused"},
		"sick disk": {os.ErrPermission, nil, "failed"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := w.on(func(r *running) { r.daemon.Store.(*docs).err = tt.fault }).settled()
			var taken control.ConfigTaken
			err := r.client.Call(t.Context(), control.MethodConfig, control.ConfigPut{Envelope: []byte("x"), Actor: "owner"}, &taken)
			switch {
			case name == "faults":
				if diff := cmp.Diff([]config.Fault(faults), taken.Faults); diff != "" || err != nil {
					t.Errorf("%s %v", diff, err)
				}
			case err == nil || tt.want != nil && !errors.Is(err, tt.want):
				t.Errorf("%v, want %v", err, tt.want)
			}
			r.off()
			if got := w.deeds(); got[len(got)-1] != "config.put "+tt.outcome || r.daemon.Applier.Left() {
				t.Errorf("%q, pending %v", got, r.daemon.Applier.Left())
			}
		})
	}
}

// TestInterruptedConfig: updated crashed between accepting and applying.
func TestInterruptedConfig(t *testing.T) {
	w := newWorld(t)
	r := w.on(func(r *running) {
		if err := r.daemon.Applier.Announce(); err != nil {
			t.Fatal(err)
		}
	})
	if m := r.await("updated.applied"); m.Fields["serial"] != "7" || m.Fields["rebound"] != "true" {
		t.Errorf("%+v", m)
	}
}

// TestNoConfigDuringATrial: the old release might not understand it.
func TestNoConfigDuringATrial(t *testing.T) {
	w := newWorld(t)
	w.release("1.1.0")
	r := w.on(nil).settled()
	if err := r.start(""); err != nil {
		t.Fatal(err)
	}
	r.rebooted()
	gate := make(chan struct{})
	r = w.on(func(r *running) {
		r.daemon.Manager.Gate = func(ctx context.Context) error {
			<-gate
			return nil
		}
	})
	r.await("updated.trial")
	if err := r.client.Call(t.Context(), control.MethodConfig, control.ConfigPut{Envelope: []byte("x"), Actor: "owner"}, nil); !errors.Is(err, control.ErrRefused) {
		t.Errorf("%v", err)
	}
	if err := r.start(""); !errors.Is(err, control.ErrRefused) {
		t.Errorf("an update during a trial: %v", err)
	}
	close(gate)
	r.await("updated.blessed")
}

func TestPower(t *testing.T) {
	for do, want := range map[string]string{"off": "off", "reboot": "reboot"} {
		w := newWorld(t)
		r := w.on(nil).settled()
		m := r.daemon.Power.(*manager)
		m.ended = make(chan string, 1)
		r.call(control.MethodPower, control.Power{Do: do, Actor: "hosting"}, nil)
		if got := <-m.ended; got != want {
			t.Errorf("%s: %s", do, got)
		}
		r.off()
		if diff := cmp.Diff([]string{"power." + do + " asked", "power." + do + " done"}, w.deeds()); diff != "" {
			t.Error(diff)
		}
	}
}

// TestNothingWithoutRecord: what cannot be recorded is not done.
func TestNothingWithoutRecord(t *testing.T) {
	w := newWorld(t)
	w.release("1.1.0")
	r := w.on(func(r *running) { r.daemon.Audit = deaf{} }).settled()
	for name, err := range map[string]error{
		"update": r.start(""),
		"config": r.client.Call(t.Context(), control.MethodConfig, control.ConfigPut{Envelope: []byte("x"), Actor: "owner"}, nil),
		"power":  r.client.Call(t.Context(), control.MethodPower, control.Power{Do: "off"}, nil),
	} {
		if err == nil || !strings.Contains(err.Error(), "cannot be recorded") || localapi.Remedy(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if doc, _ := r.daemon.Store.Current(); doc.Serial != 7 || w.vars.Raw("BootNext") != nil {
		t.Error("something was done")
	}
}
