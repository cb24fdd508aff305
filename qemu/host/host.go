// Package host prepares the machine on which Pforte is built and tested: it
// finds out which Debian packages are missing and installs them with apt-get,
// as root or through sudo. When it may do neither, it says which one command
// to run and changes nothing.
//
// Packages are recognised by a program or file that they bring, not by dpkg's
// opinion, so that tools installed in another way count.
package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// Need is a Debian package and what shows that it is there: a program's name
// or the absolute path of a file.
type Need struct {
	Package string
	Shows   string
}

// Needs lists what building and testing ask for beyond Go itself.
func Needs() []Need {
	return []Need{
		{"qemu-system-x86", "qemu-system-x86_64"}, // the virtual box
		{"qemu-utils", "qemu-img"},                // its disk overlays
		{"ovmf", "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"},
		{"swtpm", "swtpm"},                                              // its TPM
		{"squashfs-tools", "mksquashfs"},                                // the root of the image
		{"dosfstools", "/sbin/fsck.vfat"},                               // checks the EFI system partition
		{"mtools", "mdir"},                                              // reads it
		{"gdisk", "/sbin/sgdisk"},                                       // checks the partition table
		{"sbsigntool", "sbverify"},                                      // checks Secure Boot signatures
		{"nftables", "/usr/sbin/nft"},                                   // checks the firewall
		{"openssl", "openssl"},                                          // checks signatures and certificates
		{"binutils", "objcopy"},                                         // reads the image's sections
		{"swaks", "swaks"},                                              // lets a person send mail by hand
		{"libnet-ssleay-perl", "/usr/share/doc/libnet-ssleay-perl"},     // TLS for swaks
		{"xmlsec1", "xmlsec1"},                                          // checks XML signatures
		{"poppler-utils", "pdftotext"},                                  // reads PDFs
		{"python3-aiosmtpd", "/usr/lib/python3/dist-packages/aiosmtpd"}, // a peer of `make interop`; the other mail servers are never installed
		{"sslscan", "sslscan"},                                          // tries every TLS version and suite on the relay
		{"debian-archive-keyring", "/usr/share/keyrings/debian-archive-keyring.gpg"},
		{"gcc", "gcc"}, // the race detector
		{"libc6-dev", "/usr/include/stdlib.h"},
		{"ca-certificates", "/etc/ssl/certs/ca-certificates.crt"},
	}
}

// Missing returns the packages that show no sign of being installed.
func Missing(needs []Need) []string {
	var out []string
	for _, n := range needs {
		var err error
		if strings.HasPrefix(n.Shows, "/") {
			_, err = os.Stat(n.Shows)
		} else {
			_, err = exec.LookPath(n.Shows)
		}
		if err != nil {
			out = append(out, n.Package)
		}
	}
	return out
}

// ErrNoRoot: packages are missing and there is neither root nor sudo.
var ErrNoRoot = errors.New("packages are missing, and neither root nor sudo is at hand")

// Setup installs what is missing and tells on out what it does. With nothing
// missing it says nothing. The error of a machine without root carries the one
// command to run.
func Setup(ctx context.Context, out io.Writer) error {
	missing := Missing(Needs())
	if len(missing) == 0 {
		return nil
	}
	apt := []string{"env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "--no-install-recommends"}
	apt = append(apt, missing...)
	var prefix []string
	if os.Geteuid() != 0 {
		if _, err := exec.LookPath("sudo"); err != nil {
			return fmt.Errorf("%w; run as root: apt-get update && %s", ErrNoRoot, strings.Join(apt[2:], " "))
		}
		prefix = []string{"sudo"}
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("packages are missing (%s) and there is no apt-get; Pforte is built on Debian 12 or 13", strings.Join(missing, " "))
	}
	fmt.Fprintf(out, "installing with apt-get: %s\n", strings.Join(missing, " "))
	for _, args := range [][]string{{"apt-get", "update", "-q"}, apt} {
		args = append(append([]string(nil), prefix...), args...)
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Stdout, cmd.Stderr, cmd.Stdin = out, out, os.Stdin
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("install packages: %s: %w", strings.Join(args, " "), err)
		}
	}
	if still := Missing(Needs()); len(still) > 0 {
		return fmt.Errorf("install packages: apt-get ended well, but these still show no sign: %s", strings.Join(still, " "))
	}
	return nil
}
