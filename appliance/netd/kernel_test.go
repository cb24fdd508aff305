package netd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"gitlab.opencode.de/pforte/pforte/appliance/firewall"
	"gitlab.opencode.de/pforte/pforte/appliance/netconf"
	"gitlab.opencode.de/pforte/pforte/appliance/netconf/netnstest"
	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
	"gitlab.opencode.de/pforte/pforte/internal/milestone"
)

const patience = 20 * time.Second

// box is a folder with an owner's key and a configuration store, as on a box.
type box struct {
	t      *testing.T
	source Source
	key    *ecdsa.PrivateKey
	marks  chan milestone.Mark
}

func newBox(t *testing.T) *box {
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	must(t, err)
	b := &box{t: t, key: key, marks: make(chan milestone.Mark, 100), source: Source{
		LockedMark: filepath.Join(dir, "locked"), LockedConfig: filepath.Join(dir, "seed.json"),
		ConfigDir: filepath.Join(dir, "config"), OwnerKey: filepath.Join(dir, "owner.pem"),
	}}
	must(t, os.WriteFile(b.source.OwnerKey, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o644))
	must(t, os.Mkdir(b.source.ConfigDir, 0o755))
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// envelope signs the example with another serial and one text replaced.
func (b *box) envelope(serial int, old, new string) []byte {
	b.t.Helper()
	data, err := os.ReadFile("../../internal/config/testdata/example.yaml")
	must(b.t, err)
	data = bytes.Replace(data, []byte("serial: 1 "), fmt.Appendf(nil, "serial: %d ", serial), 1)
	out, err := config.Sign(bytes.Replace(data, []byte(old), []byte(new), 1), b.key)
	must(b.t, err)
	return out
}

func (b *box) put(envelope []byte) {
	b.t.Helper()
	_, err := config.NewStore(b.source.ConfigDir, b.key.Public()).Put(envelope)
	must(b.t, err)
}

// plug gives the box a network card with a link signal.
func plug(t *testing.T, name, mac string) {
	t.Helper()
	hw, err := net.ParseMAC(mac)
	must(t, err)
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: hw}, PeerName: "far"}))
	far, err := netlink.LinkByName("far")
	must(t, err)
	m := netnstest.NewMachine(t)
	must(t, netlink.LinkSetNsPid(far, m.TID()))
	m.Do(func() {
		if far, err = netlink.LinkByName("far"); err == nil {
			err = netlink.LinkSetUp(far)
		}
	})
	must(t, err)
}

// start runs a daemon on the real kernel and gives a client of its socket.
func (b *box) start() *localapi.Client {
	b.t.Helper()
	kernel, err := netconf.Open()
	must(b.t, err)
	dir, err := os.MkdirTemp("", "netd") // a socket's path is short
	must(b.t, err)
	b.t.Cleanup(func() { os.RemoveAll(dir) })
	control, err := net.Listen("unix", filepath.Join(dir, "s"))
	must(b.t, err)
	r, w := io.Pipe()
	go func() {
		for lines := bufio.NewScanner(r); lines.Scan(); {
			if m, ok := milestone.Parse(lines.Text()); ok {
				b.marks <- m
			}
		}
	}()
	d := New(Options{Load: b.source.Load, Network: kernel, Filter: firewall.Apply, Watch: netconf.Watch,
		Resolver: filepath.Join(dir, "resolv.conf"), Control: control, Log: slog.New(slog.NewTextHandler(b.t.Output(), nil)), Milestones: w})
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	b.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("Run = %v", err)
		}
		kernel.Close()
		w.Close()
	})
	return localapi.Dial(filepath.Join(dir, "s"))
}

// expect waits for a milestone.
func (b *box) expect(name, key, value string) {
	b.t.Helper()
	for end := time.After(patience); ; {
		select {
		case m := <-b.marks:
			if m.Name == name && m.Fields[key] == value {
				return
			}
		case <-end:
			b.t.Fatalf("no milestone %s %s=%s", name, key, value)
		}
	}
}

func TestKernel(t *testing.T) {
	if !netnstest.Inside(t) {
		return
	}
	b := newBox(t)
	for _, setting := range []string{"accept_ra", "autoconf"} { // as the image's sysctl.d does
		must(t, os.WriteFile("/proc/sys/net/ipv6/conf/default/"+setting, []byte("0"), 0))
	}
	for i, name := range []string{"eth0", "eth1", "eth2"} {
		plug(t, name, fmt.Sprintf("52:54:00:50:46:0%d", i+1))
	}
	client := b.start()
	b.expect("netd.up", "why", "no-configuration")

	b.put(b.envelope(1, "", ""))
	var network manage.Network
	must(t, client.Call(t.Context(), "POST /v1/reload", nil, &network))
	b.expect("netd.up", "interfaces", "3")
	if network.Fault != "" || len(network.Interfaces) != 3 {
		t.Errorf("network is %+v", network)
	}

	t.Log("somebody else takes an address away and adds one")
	l, err := netlink.LinkByName("mgmt0")
	must(t, err)
	own, err := netlink.ParseAddr("10.30.0.2/24")
	must(t, err)
	foreign, err := netlink.ParseAddr("10.66.0.1/24")
	must(t, err)
	must(t, netlink.AddrAdd(l, foreign))
	must(t, netlink.AddrDel(l, own))
	for end := time.Now().Add(patience); ; {
		must(t, client.Call(t.Context(), "GET /v1/status", nil, &network))
		addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
		must(t, err)
		if len(addrs) == 1 && addrs[0].Equal(*own) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("addresses are %v", addrs)
		}
	}

	t.Log("a damaged configuration changes nothing")
	must(t, os.WriteFile(filepath.Join(b.source.ConfigDir, "current.dsse.json"), []byte("{}"), 0o644))
	err = client.Call(t.Context(), "POST /v1/reload", nil, &network)
	if err == nil || !strings.Contains(err.Error(), "not signed by the owner") {
		t.Errorf("reload of a damaged configuration: %v", err)
	}
	b.expect("netd.fault", "link", "configuration")
	must(t, client.Call(t.Context(), "GET /v1/status", nil, &network))
	if len(network.Interfaces) != 3 || !network.Interfaces[2].Up {
		t.Errorf("network is %+v", network)
	}

	t.Log("a missing card is a fault, and the others work")
	b.put(b.envelope(2, "mac: 52:54:00:50:46:02", "mac: 52:54:00:50:46:99"))
	must(t, client.Call(t.Context(), "POST /v1/reload", nil, &network))
	b.expect("netd.fault", "link", "provider0")
	b.expect("netd.up", "interfaces", "2")

	t.Log("no configuration any more: everything goes down")
	must(t, os.Remove(filepath.Join(b.source.ConfigDir, "current.dsse.json")))
	must(t, client.Call(t.Context(), "POST /v1/reload", nil, &network))
	b.expect("netd.up", "why", "no-configuration")
	links, err := netlink.LinkList()
	must(t, err)
	for _, l := range links {
		if up := l.Attrs().Flags&net.FlagUp != 0; up != (l.Attrs().Name == "lo") {
			t.Errorf("%s is up: %v", l.Attrs().Name, up)
		}
	}
}

func TestSource(t *testing.T) {
	b := newBox(t)
	if doc, err := b.source.Load(); doc != nil || err != nil {
		t.Errorf("without configuration: %v, %v", doc, err)
	}
	b.put(b.envelope(3, "", ""))
	if doc, err := b.source.Load(); err != nil || doc.Serial != 3 {
		t.Errorf("with configuration: %v, %v", doc, err)
	}
	must(t, os.WriteFile(b.source.LockedMark, nil, 0o644))
	if doc, err := b.source.Load(); doc != nil || err != nil {
		t.Errorf("locked, without configuration: %v, %v", doc, err)
	}
	must(t, os.WriteFile(b.source.LockedConfig, b.envelope(5, "", ""), 0o644))
	if doc, err := b.source.Load(); err != nil || doc.Serial != 5 {
		t.Errorf("locked, with configuration: %v, %v", doc, err)
	}
	must(t, os.WriteFile(b.source.LockedConfig, []byte("{}"), 0o644))
	if doc, err := b.source.Load(); err == nil || doc != nil {
		t.Errorf("locked, with a damaged configuration: %v, %v", doc, err)
	}
	must(t, os.Remove(b.source.OwnerKey))
	if doc, err := b.source.Load(); err == nil || doc != nil {
		t.Errorf("without the owner's key: %v, %v", doc, err)
	}
}
