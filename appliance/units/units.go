// Package units holds what systemd finds on the box: the units of our services
// with their sandboxes, users, and settings of systemd itself; and it writes
// the few units that depend on the configuration, the listening sockets.
//
// The static files lie under root/ as they lie in the box. Every service of
// ours gets hardening.conf as a drop-in: what holds for all of them stands
// once. systemd opens the network sockets, so that no service needs the power
// to bind a low port, and only on the addresses that the configuration gives
// to the role: mail on tenant addresses (25, 465) and provider addresses
// (1465), administration on management addresses.
package units

import (
	"embed"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"strings"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
)

//go:embed all:root
var root embed.FS

//go:embed hardening.conf
var hardening []byte

const (
	unitDir    = "/usr/lib/systemd/system"
	trialGuard = "pforte-trial-guard"
)

// Services are our own units, each of which carries hardening.conf.
func Services() []string {
	return []string{"netd", "keyd", "relayd", "updated", "apid", "console"}
}

// Files returns every static file by its absolute path in the box.
func Files() (map[string][]byte, error) {
	files := map[string][]byte{}
	err := fs.WalkDir(root, "root", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := root.ReadFile(name)
		if err != nil {
			return err
		}
		files[strings.TrimPrefix(name, "root")] = data
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("units: %w", err)
	}
	for _, s := range Services() {
		if _, ok := files[path.Join(unitDir, s+".service")]; !ok {
			return nil, fmt.Errorf("units: no unit for service %s", s)
		}
		files[path.Join(unitDir, s+".service.d", "10-hardening.conf")] = hardening
	}
	return files, nil
}

// Symlinks returns every symbolic link: its absolute path and its target.
// Units that would start a shell or a login are masked.
func Symlinks() map[string]string {
	links := map[string]string{
		"/etc/systemd/system/default.target": unitDir + "/pforte.target",
		"/etc/resolv.conf":                   layout.ResolvConf,
		"/etc/mtab":                          "../proc/self/mounts",
		// As early as can be: the guard is for boots that do not get far.
		unitDir + "/sysinit.target.wants/" + trialGuard + ".timer": "../" + trialGuard + ".timer",
	}
	for _, masked := range []string{
		"emergency.service", "rescue.service", "debug-shell.service", "getty.target", "console-getty.service",
		"getty@.service", "serial-getty@.service", "ctrl-alt-del.target",
	} {
		links["/etc/systemd/system/"+masked] = "/dev/null"
	}
	return links
}

// listener is one dynamic socket unit.
type listener struct {
	name        string
	description string
	service     string
	role        config.Role
	port        uint16
}

func listeners(doc *config.Document) []listener {
	management := doc.Management.Port
	if management == 0 {
		management = layout.PortManagement
	}
	return []listener{
		{"smtp-25", "Mail from tenants (STARTTLS)", "relayd.service", config.RoleTenant, layout.PortSMTP},
		{"smtp-465", "Mail from tenants (TLS)", "relayd.service", config.RoleTenant, layout.PortSubmission},
		{"smtp-1465", "De-Mail from the provider", "relayd.service", config.RoleProvider, layout.PortProvider},
		{"apid-https", "Management API", "apid.service", config.RoleManagement, management},
	}
}

// Sockets returns the socket units that doc asks for, by file name, and the
// links that make sockets.target start them. A role without an address gets none.
func Sockets(doc *config.Document) (files map[string][]byte, wants []string) {
	files = map[string][]byte{}
	for _, l := range listeners(doc) {
		addrs := addresses(doc, l.role)
		if len(addrs) == 0 {
			continue
		}
		var b strings.Builder
		fmt.Fprintf(&b, "[Unit]\nDescription=%s\n", l.description)
		if l.role != config.RoleManagement { // a locked box takes no mail, but its management answers
			fmt.Fprintf(&b, "ConditionPathExists=!%s\n", layout.LockedMark)
		}
		b.WriteString("\n[Socket]\n")
		for _, a := range addrs {
			fmt.Fprintf(&b, "ListenStream=%s\n", netip.AddrPortFrom(a, l.port))
		}
		fmt.Fprintf(&b, "BindIPv6Only=ipv6-only\nFreeBind=yes\nNoDelay=yes\nKeepAlive=yes\nBacklog=512\nFileDescriptorName=%s\nService=%s\n", l.name, l.service)
		files[l.name+".socket"] = []byte(b.String())
		wants = append(wants, l.name+".socket")
	}
	return files, wants
}

func addresses(doc *config.Document, role config.Role) []netip.Addr {
	var out []netip.Addr
	for _, i := range doc.Network.Interfaces {
		if i.Role != role {
			continue
		}
		for _, p := range i.Addresses {
			out = append(out, p.Addr())
		}
	}
	return out
}
