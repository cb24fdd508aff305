package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/image/disk"
	"gitlab.opencode.de/pforte/pforte/image/secureboot"
	"gitlab.opencode.de/pforte/pforte/image/uki"
	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/internal/operator"
	"gitlab.opencode.de/pforte/pforte/qemu/vm"
)

// A factory-new box boots, has its keys enrolled, restarts with Secure Boot and
// lockdown on, formats its data volume, seals the key, takes the owner's seed.
func TestFirstBoot(t *testing.T) {
	s := setting(t)
	for _, want := range []struct{ name, key, value string }{
		{"boot.enrolled", "", ""},
		{"boot.formatted", "", ""},
		{"boot.unlocked", "by", "tpm"},
		{"boot.seed", "verdict", "accepted"},
		{"keyd.ready", "keys", "3"},
		{"netd.up", "interfaces", "3"},
	} {
		if m, ok := find(s.first, want.name); !ok || m.Fields[want.key] != want.value {
			t.Errorf("%s: %v, want %s=%s", want.name, m.Fields, want.key, want.value)
		}
	}
	var secure []string
	for _, m := range s.first {
		if m.Name == "boot.secureboot" {
			secure = append(secure, m.Fields["on"]+"/"+m.Fields["lockdown"])
		}
	}
	if len(secure) != 2 || secure[1] != "true/integrity" {
		t.Errorf("Secure Boot and lockdown by boot: %v, want on and integrity at the second", secure)
	}
}

// The second boot unlocks what the first one sealed. A configuration that is
// broken, or older, changes nothing: all faults are shown, the old one stays.
func TestSecondBootAndBrokenConfiguration(t *testing.T) {
	s := setting(t)
	m := s.clone(t)
	seed, err := s.world.Seed("broken.img", 2, func(doc *config.Document) {
		doc.Network.Interfaces[0].Addresses[0] = prefix(addr("10.20.0.5"), 24) // overlaps the provider network
		doc.Network.Interfaces[2].Role = "tourist"
	}, func(text []byte) []byte { return append(text, "unknownKey: 1\n"...) })
	if err != nil {
		t.Fatal(err)
	}
	m.SetSeed(seed)
	box := s.boot(t, m)
	marks := m.Serial().Marks()
	if _, ok := find(marks, "boot.formatted"); ok {
		t.Error("the second boot formatted the data volume")
	}
	if u, ok := find(marks, "boot.unlocked"); !ok || u.Fields["by"] != "tpm" {
		t.Errorf("boot.unlocked: %v", u.Fields)
	}
	if v, _ := find(marks, "boot.seed"); v.Fields["verdict"] != "refused" || v.Fields["serial"] != "1" {
		t.Errorf("the broken seed: %v, want refused, serial 1 in force", v.Fields)
	}
	var faults []string
	for _, k := range marks {
		if k.Name == "boot.fault" {
			if k.Fields["line"] == "" || k.Fields["line"] == "0" {
				t.Errorf("a fault without its line: %v", k.Fields)
			}
			faults = append(faults, k.Fields["text"])
		}
	}
	all := strings.Join(faults, "\n")
	for _, want := range []string{"unknownKey", "tourist", "overlap"} {
		if !strings.Contains(all, want) {
			t.Errorf("no fault shown about %q; shown were:\n%s", want, all)
		}
	}
	status, err := box.Status(within(t, mailTime))
	if err != nil {
		t.Fatal(err)
	}
	if status.Serial != 1 || !status.Boot.SecureBoot || status.Boot.Lockdown != "integrity" {
		t.Errorf("status: serial %d, Secure Boot %v, lockdown %s", status.Serial, status.Boot.SecureBoot, status.Boot.Lockdown)
	}
	changeThroughAPI(t, box)
}

// changeThroughAPI brings configurations to a running box: an older one and one
// from hosting are refused, a newer one takes effect without a restart.
func changeThroughAPI(t *testing.T, box *Box) {
	w, a := box.World, partyA()
	ctx := within(t, mailTime)
	put := func(role string, serial uint64, change func(*config.Document)) error {
		t.Helper()
		envelope, err := w.Envelope(serial, change, nil)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "config.dsse.json")
		if err := os.WriteFile(file, envelope, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = box.Pforte(ctx, role, "config", "put", file)
		return err
	}
	var refused *Refusal
	if err := put("owner", 1, nil); !errors.As(err, &refused) {
		t.Errorf("an equal serial: %v, want a refusal", err)
	}
	if err := put("hosting", 3, nil); !errors.As(err, &refused) || refused.Code != operator.ExitRefused {
		t.Errorf("a configuration from hosting: %v, want exit code %d", err, operator.ExitRefused)
	}
	letter := func() error {
		d := Draft{From: a.Address("neu"), To: citizen, Subject: "neue Adresse"}
		_, err := w.Submit(ctx, "a", d.From, []string{d.To}, d.Bytes())
		return err
	}
	if err := letter(); err == nil {
		t.Error("an address was served before the configuration named it")
	}
	if err := put("owner", 3, func(doc *config.Document) {
		doc.Tenants[0].Mappings = append(doc.Tenants[0].Mappings, config.Mapping{Mail: a.Address("neu"), DeMail: a.DeMailAddress("neu")})
	}); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		err := letter()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("the new configuration took no effect: %v", err)
		}
	}
}

// A box with another TPM stays locked and says so; its management answers from
// the seed's configuration, and no mail is taken.
func TestChangedTPM(t *testing.T) {
	s := setting(t)
	m := s.clone(t)
	if err := m.ReplaceTPM(); err != nil {
		t.Fatal(err)
	}
	seed, err := s.world.Seed("locked.img", 1, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	m.SetSeed(seed)
	box, err := s.world.Boot(within(t, bootTime), m)
	if err != nil {
		t.Fatal(err)
	}
	locked, ok := find(m.Serial().Marks(), "boot.locked")
	if !ok || locked.Fields["why"] != "tpm-changed" {
		t.Errorf("boot.locked: %v, want why=tpm-changed", locked.Fields)
	}
	status, err := box.Status(within(t, mailTime))
	if err != nil {
		t.Fatal(err)
	}
	if status.Locked == nil || status.Locked.Code != "tpm-changed" || status.Locked.German == "" {
		t.Errorf("status says of the lock: %+v", status.Locked)
	}
	ctx := within(t, 20*time.Second)
	if _, err := s.world.Submit(ctx, "a", partyA().Address("poststelle"), []string{"x@buerger.de-mail.example"}, []byte("Subject: x\r\n\r\n")); err == nil {
		t.Error("a locked box took mail")
	}
	if _, ok := find(m.Serial().Marks(), "boot.formatted"); ok {
		t.Error("a locked box formatted its data volume")
	}
}

// The firmware refuses what is not exactly what was signed.
func TestFirmwareRefuses(t *testing.T) {
	s := setting(t)
	signed, err := os.ReadFile(s.image.UKI)
	if err != nil {
		t.Fatal(err)
	}
	unsigned, err := os.ReadFile(s.image.UnsignedUKI)
	if err != nil {
		t.Fatal(err)
	}
	flipped := append([]byte(nil), signed...)
	flipped[len(flipped)/2] ^= 1
	stranger, err := secureboot.NewPair("A stranger", time.Now().Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := uki.Sign(unsigned, stranger.Signer, stranger.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string][]byte{"one flipped byte": flipped, "unsigned": unsigned, "signed by a stranger": foreign} {
		t.Run(name, func(t *testing.T) {
			m := s.machineWith(t, file)
			ctx := within(t, bootTime)
			if err := m.Start(ctx); err != nil {
				t.Fatal(err)
			}
			if err := m.Serial().WaitText(ctx, "Access Denied"); err != nil {
				t.Fatal(err)
			}
			if _, ok := find(m.Serial().Marks(), "boot.start"); ok {
				t.Error("it booted")
			}
		})
	}
}

// machineWith is a box whose firmware has our keys and whose disk holds file in
// every place that firmware boots from.
func (s *stage) machineWith(t *testing.T, file []byte) *vm.Machine {
	t.Helper()
	dir := filepath.Join(s.world.Dir, RandomName()[:6])
	image := filepath.Join(t.TempDir(), "disk.img")
	uki := filepath.Join(t.TempDir(), "file.efi")
	if err := os.WriteFile(uki, file, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := disk.Build(image, disk.Options{DataSize: 64 << 20, Files: map[string]string{
		layout.SlotA: uki, layout.SlotB: uki, layout.FallbackSlot: uki,
	}}); err != nil {
		t.Fatal(err)
	}
	firmware := vm.Firmware{Code: s.world.Firmware.Code, Vars: filepath.Join(filepath.Dir(s.golden.DiskPath()), "vars.fd")}
	m, err := vm.New(vm.Options{Dir: dir, Disk: image, Firmware: firmware, KVM: s.world.KVM})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Cut(); err != nil {
			t.Error(err)
		}
		if t.Failed() && m.Serial() != nil {
			t.Logf("last lines of the serial port:\n%s", m.Serial().Tail(40))
		}
		_ = os.RemoveAll(dir)
	})
	return m
}

// Whoever runs the machine can add to the command line through SMBIOS, Secure
// Boot or not. Such a boot ends before anything is unlocked.
func TestForeignCommandLine(t *testing.T) {
	s := setting(t)
	m := s.clone(t)
	m.SetSMBIOS("io.systemd.stub.kernel-cmdline-extra=systemd.unit=rescue.target")
	if err := m.Start(within(t, bootTime)); err != nil {
		t.Fatal(err)
	}
	failed := wait(t, m, "boot.failed", nil)
	if !strings.Contains(failed.Fields["why"], "systemd.unit=rescue.target") {
		t.Errorf("boot.failed: %v", failed.Fields)
	}
	if _, ok := find(m.Serial().Marks(), "boot.unlocked"); ok {
		t.Error("the data volume was unlocked")
	}
}
