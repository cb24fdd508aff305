package inspect

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// checkModes wants no power in the mode of a file: nobody starts a program as
// somebody else, nobody but root could write (were it not read-only anyway), and
// devices come from the kernel.
func checkModes(t *tree) ([]Fault, error) {
	var out []Fault
	for _, name := range t.paths {
		mode := t.entries[name].mode
		if mode&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
			out = append(out, Fault{Path: name, Text: "set-user-id or set-group-id: whoever starts it becomes somebody else"})
		}
		if mode&fs.ModeSymlink == 0 && mode&0o022 != 0 {
			out = append(out, Fault{Path: name, Text: "writable for others than root"})
		}
		if mode&(fs.ModeDevice|fs.ModeNamedPipe|fs.ModeSocket) != 0 {
			out = append(out, Fault{Path: name, Text: "a device, pipe or socket: those are made at boot"})
		}
	}
	return out, nil
}

// maxAttributes bounds the names of a file's extended attributes, in bytes.
const maxAttributes = 64 << 10

// checkAttributes wants no extended attributes: a file capability is power that
// no mode shows. SELinux's label is the host's, not the tree's.
func checkAttributes(t *tree) ([]Fault, error) {
	var out []Fault
	buf := make([]byte, maxAttributes)
	for _, name := range t.paths {
		n, err := unix.Llistxattr(t.host(name), buf)
		if errors.Is(err, unix.ENOTSUP) {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "llistxattr", Path: name, Err: err}
		}
		for attr := range strings.SplitSeq(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
			if attr != "" && attr != "security.selinux" {
				out = append(out, Fault{Path: name, Text: "extended attribute " + attr + ": power that no mode shows"})
			}
		}
	}
	return out, nil
}

// banned are programs by name, and why they have no place on the box.
func banned() map[string][]string {
	return map[string][]string{
		"a shell": {"sh", "bash", "rbash", "dash", "ash", "zsh", "ksh", "mksh", "csh", "tcsh", "fish", "busybox", "toybox", "gosh", "elvish"},
		"a login": {"getty", "agetty", "mingetty", "login", "sulogin", "su", "sudo", "sudoedit", "doas", "run0", "pkexec", "newgrp", "passwd",
			"chsh", "sshd", "ssh", "sftp-server", "dropbear", "telnetd", "systemd-sulogin-shell"},
		"an interpreter":    {"perl", "python", "python3", "awk", "gawk", "mawk", "lua", "tclsh", "ruby", "node"},
		"a package manager": {"apt", "apt-get", "dpkg", "dpkg-deb", "rpm", "snap"},
		"a door to other code": {"gdb", "strace", "insmod", "modprobe", "kexec", "nsenter", "unshare", "chroot", "setpriv",
			"systemd-run", "systemd-nspawn", "systemd-debug-generator"},
		"a way to fetch": {"curl", "wget", "nc", "netcat", "socat", "scp", "rsync"},
	}
}

// absent are paths that must not exist, and why.
func absent() map[string]string {
	return map[string]string{
		"/etc/shadow":         "nobody logs in, so there are no passwords",
		"/etc/initrd-release": "systemd would take the root for an initramfs and wait for another",
		"/etc/fstab":          "init mounts, and nothing else does",
		"/etc/crypttab":       "init unlocks, and nothing else does",
		"/etc/ld.so.preload":  "it would put code into every program",
		"/etc/ssh":            "nobody logs in",
	}
}

// codeDirs are folders from which systemd starts whatever lies there.
func codeDirs() []string {
	var out []string
	for _, root := range []string{"/usr/lib/systemd", "/etc/systemd", "/usr/local/lib/systemd"} {
		for _, dir := range []string{"system-generators", "system-environment-generators", "user-generators", "system-shutdown", "system-sleep"} {
			out = append(out, root+"/"+dir)
		}
	}
	return out
}

// checkNames wants nothing that gives people or stolen processes a tool.
func checkNames(t *tree) ([]Fault, error) {
	var out []Fault
	for _, name := range t.paths {
		for what, names := range banned() {
			if slices.Contains(names, path.Base(name)) && t.executable(name) {
				out = append(out, Fault{Path: name, Text: what + ": the box has none"})
			}
		}
		if why, ok := absent()[name]; ok {
			out = append(out, Fault{Path: name, Text: "must not exist: " + why})
		}
		if slices.Contains(codeDirs(), path.Dir(name)) {
			out = append(out, Fault{Path: name, Text: "systemd would start it unasked, from a folder and not from a unit"})
		}
	}
	return out, nil
}

// maxRead bounds a file that is read whole, in bytes.
const maxRead = 256 << 20

// signatures are byte sequences that give a program away under any name.
func signatures() map[string]string {
	return map[string]string{
		"BusyBox v1.":               "BusyBox, which has a shell",
		"GNU bash, version":         "a shell",
		"mvdan.cc/sh/v3/interp.New": "a shell in Go",
		"@(#)MIRBSD KSH":            "a shell",
	}
}

// checkContents looks into the files: no script (nothing could run it), no
// private key, no shell under another name.
func checkContents(t *tree) ([]Fault, error) {
	var out []Fault
	for _, name := range t.files() {
		data, err := readFile(t.host(name))
		if err != nil {
			return nil, err
		}
		if bytes.HasPrefix(data, []byte("#!")) {
			out = append(out, Fault{Path: name, Text: "a script: there is nothing on the box to run it"})
		}
		if !isELF(data) && bytes.Contains(data, []byte("PRIVATE KEY-----")) {
			out = append(out, Fault{Path: name, Text: "a private key: keys are born in the TPM and stay there"})
		}
		for sign, what := range signatures() {
			if isELF(data) && bytes.Contains(data, []byte(sign)) {
				out = append(out, Fault{Path: name, Text: what})
			}
		}
	}
	return out, nil
}

func isELF(data []byte) bool { return bytes.HasPrefix(data, []byte("\x7fELF")) }

func readFile(host string) ([]byte, error) {
	f, err := os.Open(host)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, maxRead))
}

// later are the only links that lead to what is mounted at boot. Masked units
// lead to /dev/null.
func later() []string { return []string{"/etc/resolv.conf", "/etc/mtab"} }

// checkLinks wants every link to lead somewhere in the box.
func checkLinks(t *tree) ([]Fault, error) {
	var out []Fault
	for _, name := range t.paths {
		if t.entries[name].mode&fs.ModeSymlink == 0 {
			continue
		}
		end, ok := t.resolve(name)
		switch {
		case !ok:
			out = append(out, Fault{Path: name, Text: "leads to " + end + ", which does not exist"})
		case laterMounted(end) && !slices.Contains(later(), name) && !(end == "/dev/null" && path.Dir(name) == "/etc/systemd/system"):
			out = append(out, Fault{Path: name, Text: "leads to " + end + ", which others than the image decide about"})
		}
	}
	return out, nil
}
