package update

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gitlab.opencode.de/pforte/pforte/appliance/units"
	"gitlab.opencode.de/pforte/pforte/internal/audit"
	"gitlab.opencode.de/pforte/pforte/internal/config"
)

// manager is a service manager that obeys, and minds what systemd minds: no
// socket is started while its service runs.
type manager struct {
	mu    sync.Mutex
	did   []string
	up    map[string]bool
	fails map[string]error
	ended chan string
}

func (m *manager) do(what, unit string, up bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	deed := strings.TrimSpace(what + " " + unit)
	m.did = append(m.did, deed)
	if err := m.fails[deed]; err != nil {
		return err
	}
	if m.up == nil {
		m.up = map[string]bool{}
	}
	service := units.DynamicSockets()[unit]
	if what == "start" && service != "" && m.up[service] {
		return errors.New("service already active, refusing")
	}
	if unit != "" {
		m.up[unit] = up
	}
	return nil
}

func (m *manager) Start(_ context.Context, unit string) error   { return m.do("start", unit, true) }
func (m *manager) Stop(_ context.Context, unit string) error    { return m.do("stop", unit, false) }
func (m *manager) Restart(_ context.Context, unit string) error { return m.do("restart", unit, true) }
func (m *manager) Reload(context.Context) error                 { return m.do("reload", "", false) }
func (m *manager) Reboot(context.Context) error                 { m.ended <- "reboot"; return nil }
func (m *manager) PowerOff(context.Context) error               { m.ended <- "off"; return nil }

func idle(context.Context) error { return nil }

// deaf is a record that takes nothing.
type deaf struct{}

func (deaf) Append(audit.Event) error { return errors.New("disk failed before") }

// network is a configuration with an address per role.
func network(tenant, provider, management string) *config.Document {
	doc := &config.Document{Serial: 2}
	for role, address := range map[config.Role]string{config.RoleTenant: tenant, config.RoleProvider: provider, config.RoleManagement: management} {
		if address != "" {
			doc.Network.Interfaces = append(doc.Network.Interfaces, config.Interface{Name: string(role), Role: role,
				Addresses: []netip.Prefix{netip.MustParsePrefix(address)}})
		}
	}
	return doc
}

func TestApply(t *testing.T) {
	before := network("10.10.0.2/24", "10.20.0.2/24", "10.30.0.2/24")
	relayDown := []string{"stop smtp-1465.socket", "stop smtp-25.socket", "stop smtp-465.socket", "stop relayd.socket", "stop relayd.service"}
	relayUp := []string{"start relayd.socket", "start smtp-1465.socket", "start smtp-25.socket", "start smtp-465.socket", "start relayd.service"}
	apidDown := []string{"stop apid-https.socket", "stop apid.socket", "stop apid.service"}
	apidUp := []string{"start apid.socket", "start apid-https.socket", "start apid.service"}
	tests := []struct {
		name       string
		doc        *config.Document
		everything bool
		want       []string
	}{
		{"same addresses", before, false, []string{"network", "relay", "restart apid.service"}},
		{"tenant moves", network("10.10.0.3/24", "10.20.0.2/24", "10.30.0.2/24"), false,
			slices.Concat(relayDown, []string{"reload", "network"}, relayUp, []string{"restart apid.service"})},
		{"management moves", network("10.10.0.2/24", "10.20.0.2/24", "10.30.0.3/24"), false,
			slices.Concat(apidDown, []string{"reload", "network", "relay"}, apidUp)},
		{"provider goes", network("10.10.0.2/24", "", "10.30.0.2/24"), false,
			slices.Concat(relayDown, []string{"reload", "network", "start relayd.socket", "start smtp-25.socket", "start smtp-465.socket", "start relayd.service", "restart apid.service"})},
		{"after a crash", before, true, slices.Concat(relayDown, apidDown, []string{"reload", "network"}, relayUp, apidUp)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := &manager{up: map[string]bool{"relayd.service": true, "apid.service": true}}
			a := applier(t, m, before)
			if err := a.Apply(t.Context(), tt.doc, tt.everything); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(tt.want, m.did); diff != "" {
				t.Error(diff)
			}
			want, _ := units.Sockets(tt.doc)
			got, err := units.ReadSockets(a.Dir)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			for name := range want {
				if tt.everything && !m.up[name] {
					t.Errorf("%s is down", name)
				}
			}
		})
	}
}

// applier is one whose sockets stand as doc says.
func applier(t *testing.T, m *manager, doc *config.Document) *Applier {
	t.Helper()
	a := &Applier{Services: m, Dir: t.TempDir(), Pending: filepath.Join(t.TempDir(), "pending"), Log: slog.New(slog.DiscardHandler), Milestones: io.Discard,
		Network: func(context.Context) error { return m.do("network", "", false) },
		Relay:   func(context.Context) error { return m.do("relay", "", false) },
	}
	if err := units.WriteSockets(a.Dir, doc); err != nil {
		t.Fatal(err)
	}
	return a
}

// TestApplyGoesOn: one failure keeps nothing else from coming up, and is told.
func TestApplyGoesOn(t *testing.T) {
	before, after := network("10.10.0.2/24", "10.20.0.2/24", "10.30.0.2/24"), network("10.10.0.3/24", "10.20.0.2/24", "10.30.0.3/24")
	for _, fails := range []string{"stop smtp-25.socket", "stop relayd.service", "reload", "network", "start smtp-25.socket", "start relayd.service", "start apid.service"} {
		t.Run(fails, func(t *testing.T) {
			fault := errors.New("not today")
			m := &manager{up: map[string]bool{}, fails: map[string]error{fails: fault}}
			err := applier(t, m, before).Apply(t.Context(), after, false)
			if !errors.Is(err, fault) {
				t.Errorf("%v", err)
			}
			for _, unit := range []string{"relayd.service", "apid.service", "apid-https.socket", "smtp-465.socket"} {
				if fails != "start "+unit && !m.up[unit] {
					t.Errorf("%s is down", unit)
				}
			}
		})
	}
}

func TestPendingNote(t *testing.T) {
	a := applier(t, &manager{}, network("10.10.0.2/24", "", ""))
	if a.Left() {
		t.Error("pending from the start")
	}
	if err := a.Announce(); err != nil || !a.Left() {
		t.Errorf("%v", err)
	}
	for range 2 {
		if err := a.Done(); err != nil || a.Left() {
			t.Errorf("%v", err)
		}
	}
	a.Pending = filepath.Join(t.TempDir(), "no", "folder")
	if err := a.Announce(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}
