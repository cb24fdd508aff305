package health

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/appliance/systemd"
	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/hsm/keyclient"
)

// codes are the findings, those that block with an exclamation mark. Each must
// have both languages.
func codes(t *testing.T, all []Finding) []string {
	t.Helper()
	var out []string
	for _, f := range all {
		mark := ""
		if f.Blocks {
			mark = "!"
		}
		if f.English == "" || f.German == "" || f.Remedy == "" || !slices.Contains([]string{Notice, Warning, Fault}, f.Severity) || f.Blocks && f.Severity != Fault {
			t.Errorf("incomplete: %+v", f)
		}
		out = append(out, f.Code+mark)
	}
	return out
}

func TestBoot(t *testing.T) {
	good := report.Report{SecureBoot: true, Lockdown: "integrity", Watchdog: "i6300ESB", ESP: "/dev/vda1", Variant: "release"}
	tests := []struct {
		name   string
		change func(*report.Report)
		want   []string
	}{
		{"good", func(*report.Report) {}, nil},
		{"locked", func(r *report.Report) { r.Locked, r.SecureBoot = &report.Fault{Code: "x"}, false }, []string{"boot.locked!"}},
		{"secure boot off", func(r *report.Report) { r.SecureBoot = false }, []string{"boot.secureboot!"}},
		{"open kernel", func(r *report.Report) { r.Lockdown = "none" }, []string{"boot.lockdown!"}},
		{"no watchdog", func(r *report.Report) { r.Watchdog = "" }, []string{"boot.watchdog"}},
		{"no partition", func(r *report.Report) { r.ESP = "" }, []string{"boot.esp"}},
		{"development", func(r *report.Report) { r.Variant = "dev" }, []string{"boot.dev"}},
	}
	for _, tt := range tests {
		r := good
		tt.change(&r)
		if diff := cmp.Diff(tt.want, codes(t, Boot(r)(t.Context()))); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
}

// fakeUnits are units by their state.
type fakeUnits struct {
	states map[string]systemd.State
	failed []string
	err    error
}

func (u fakeUnits) States(context.Context, ...string) (map[string]systemd.State, error) {
	return u.states, u.err
}

func (u fakeUnits) Failed(context.Context) ([]string, error) { return u.failed, u.err }

func TestServices(t *testing.T) {
	up := systemd.State{Active: "active", Sub: "running"}
	all := map[string]systemd.State{"netd.service": up, "apid.service": up, "relayd.service": up}
	without := func(name string, s systemd.State) map[string]systemd.State {
		out := map[string]systemd.State{}
		for k, v := range all {
			out[k] = v
		}
		out[name] = s
		return out
	}
	crashed := systemd.State{Active: "activating", Sub: "auto-restart"}
	tests := []struct {
		name  string
		units fakeUnits
		mail  bool
		want  []string
	}{
		{"all up", fakeUnits{states: all}, true, nil},
		{"one starts again and again", fakeUnits{states: without("apid.service", crashed)}, true, []string{"service.apid.service!"}},
		{"relay down", fakeUnits{states: without("relayd.service", crashed)}, true, []string{"service.relayd.service!"}},
		{"relay down, nothing configured", fakeUnits{states: without("relayd.service", systemd.State{Active: "inactive"})}, false, nil},
		{"unknown", fakeUnits{states: map[string]systemd.State{}}, false, []string{"service.netd.service!", "service.apid.service!"}},
		{"something else failed", fakeUnits{states: all, failed: []string{"tmp.mount", "apid.service"}}, true, []string{"failed.tmp.mount"}},
		{"no answer", fakeUnits{err: errors.New("connection refused")}, true, []string{"systemd!"}},
	}
	for _, tt := range tests {
		check := Services(tt.units, func() bool { return tt.mail }, "netd.service", "apid.service")
		if diff := cmp.Diff(tt.want, codes(t, check(t.Context()))); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
}

// keys are keyd's answers.
type keys struct {
	list []keyclient.Status
	err  error
}

func (k keys) List(context.Context) ([]keyclient.Status, error) { return k.list, k.err }

func ready(p hsm.Purpose) keyclient.Status {
	return keyclient.Status{Purpose: p, Fingerprint: "sha256:00", Certificate: &keyclient.Certificate{}}
}

func provisioned() []keyclient.Status {
	return []keyclient.Status{ready(hsm.ProviderClient), ready(hsm.TenantServer), ready(hsm.ManagementServer)}
}

func TestKeys(t *testing.T) {
	change := func(f func(*keyclient.Status)) keys {
		list := provisioned()
		f(&list[0])
		return keys{list: list}
	}
	tests := []struct {
		name string
		keys keys
		want []string
	}{
		{"good", keys{list: provisioned()}, nil},
		{"no certificate yet", change(func(s *keyclient.Status) { s.Certificate = nil }), []string{"certificate.provider-client"}},
		{"certificate expired", change(func(s *keyclient.Status) { s.Fault = "expired" }), []string{"certificate.provider-client"}},
		{"no key", change(func(s *keyclient.Status) { s.Fingerprint, s.Fault = "", "no TPM" }), []string{"key.provider-client!"}},
		{"no answer", keys{err: errors.New("refused")}, []string{"keyd!"}},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, codes(t, Keys(tt.keys)(t.Context()))); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
}

// answer is what a local socket says, as JSON; "" is no answer.
type answer string

func (a answer) Call(_ context.Context, _ string, _, out any) error {
	if a == "" {
		return errors.New("service does not answer")
	}
	return json.Unmarshal([]byte(a), out)
}

func TestRelay(t *testing.T) {
	unprovisioned := keys{list: provisioned()[:1]}
	tests := []struct {
		name   string
		relayd answer
		keys   keys
		mail   bool
		want   []string
	}{
		{"accepting", `{"accepting":true,"queue":{"messages":3}}`, keys{list: provisioned()}, true, nil},
		{"not accepting", `{"accepting":false,"waiting":"starting"}`, keys{list: provisioned()}, true, []string{"relay!"}},
		{"no answer", "", keys{list: provisioned()}, true, []string{"relay!"}},
		{"no certificates yet", `{"accepting":false}`, unprovisioned, true, nil},
		{"keyd gone", `{"accepting":false}`, keys{err: errors.New("refused")}, true, nil},
		{"not configured", "", keys{list: provisioned()}, false, nil},
	}
	for _, tt := range tests {
		check := Relay(tt.relayd, tt.keys, func() bool { return tt.mail })
		if diff := cmp.Diff(tt.want, codes(t, check(t.Context()))); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
}

func TestNetwork(t *testing.T) {
	for in, want := range map[answer][]string{
		`{"interfaces":[{"name":"t0","up":true}]}`: nil,
		`{"fault":"link t0 has no signal"}`:        {"network"},
		``:                                         {"network!"},
	} {
		if diff := cmp.Diff(want, codes(t, Network(in)(t.Context()))); diff != "" {
			t.Errorf("%s: %s", in, diff)
		}
	}
}

func TestStorage(t *testing.T) {
	dir := t.TempDir()
	check := Storage(dir)
	blocks := func() (out []string) {
		for _, code := range codes(t, check(t.Context())) {
			if code != "storage.room" { // of the machine that tests
				out = append(out, code)
			}
		}
		return out
	}
	if got := blocks(); got != nil {
		t.Errorf("good: %v", got)
	}
	if _, err := os.Stat(filepath.Join(dir, probeName)); err != nil {
		t.Errorf("nothing was written: %v", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"storage!"}, blocks()); diff != "" {
		t.Errorf("gone: %s", diff)
	}
	for _, tt := range []struct {
		free uint64
		want []string
	}{{50, nil}, {10, nil}, {9, []string{"storage.room"}}, {1, []string{"storage.room"}}, {0, []string{"storage.room"}}} {
		if diff := cmp.Diff(tt.want, codes(t, room(tt.free, 100))); diff != "" {
			t.Errorf("%d free: %s", tt.free, diff)
		}
	}
}
