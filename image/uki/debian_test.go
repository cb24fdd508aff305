package uki

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"gitlab.opencode.de/pforte/pforte/image/debian"
)

const stubPath = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"

// trixie fetches the real stub and the real systemd-measure, which are what this
// package is checked against.
var trixie = sync.OnceValues(func() (*debian.Set, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	lockFile, err := os.Open("../debian.lock")
	if err != nil {
		return nil, err
	}
	defer lockFile.Close()
	lock, err := debian.ParseLock(lockFile)
	if err != nil {
		return nil, err
	}
	var requests []debian.Request
	for name := range strings.FieldsSeq(`systemd-boot-efi systemd libsystemd-shared libc6 libssl3t64 libacl1
		libblkid1 libcap2 libcrypt1 libmount1 libpam0g libseccomp2 libselinux1 zlib1g libzstd1 libpcre2-8-0 libaudit1
		libcap-ng0 libtss2-esys-3.0.2-0t64 libtss2-mu-4.0.1-0t64 libtss2-rc0t64 libtss2-sys1t64`) {
		requests = append(requests, debian.Request{Name: name})
	}
	return debian.Fetch(context.Background(), debian.Options{
		Cache:  filepath.Join(cache, "pforte"),
		Lock:   lock,
		Mirror: func() (debian.Mirror, error) { return debian.HostMirror(os.DirFS("/etc/apt")) },
	}, requests)
})

// realSet returns the packages and fails the test if they cannot be had.
func realSet(t testing.TB) *debian.Set {
	t.Helper()
	set, err := trixie()
	if err != nil {
		t.Fatalf("packages of Debian 13: %v", err)
	}
	return set
}

// realStub returns Debian 13's sd-stub.
func realStub(t testing.TB) []byte {
	t.Helper()
	f, err := realSet(t).Lookup(stubPath)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(f.Host)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// measure runs Debian 13's systemd-measure over the parts, written to files, and
// returns its standard output.
func measure(t *testing.T, verb string, sections []Section, args ...string) string {
	t.Helper()
	set := realSet(t)
	dir := t.TempDir()
	args = append([]string{verb, "--bank=sha256"}, args...)
	for _, s := range sections {
		path := filepath.Join(dir, strings.TrimPrefix(s.Name, "."))
		if err := os.WriteFile(path, s.Data, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--"+strings.TrimPrefix(s.Name, ".")+"="+path)
	}
	cmd, err := set.Command(t.Context(), "/usr/lib/systemd/systemd-measure", args...)
	if err != nil {
		t.Fatal(err)
	}
	// It loads the TPM library at run time, which the headers do not tell.
	i := slices.Index(cmd.Args, "--library-path") + 1
	for _, p := range set.Packages {
		if strings.HasPrefix(p.Name, "libtss2-") {
			cmd.Args[i] += ":" + filepath.Join(p.Root, "usr/lib/x86_64-linux-gnu")
		}
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("systemd-measure %s: %v\n%s", verb, err, stderr.String())
	}
	return string(out)
}
