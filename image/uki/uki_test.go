package uki

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"debug/pe"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tool runs a program of the host and fails the test, naming the package that
// has it, if it is missing.
func tool(t *testing.T, pkg, name string, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("SHORT") == "1" {
			t.Skipf("SHORT=1: %s is missing", name)
		}
		t.Fatalf("%s is missing: apt-get install %s", name, pkg)
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	return string(out), err
}

// fakeKernel is a small PE file with or without NX_COMPAT.
func fakeKernel(nx bool) []byte {
	b := testStub(func(h *stubHeaders) {
		if !nx {
			h.opt.DllCharacteristics = 0
		}
	})
	return b
}

// testParts are parts on the real stub with contents of awkward lengths.
func testParts(t testing.TB) Parts {
	return Parts{
		Stub:      realStub(t),
		Kernel:    fakeKernel(true),
		Initrd:    bytes.Repeat([]byte("initramfs"), 12345),
		OSRelease: []byte("ID=pforte\nVERSION_ID=1.2.3\nVARIANT_ID=dev\nPFORTE_EPOCH=7\n"),
		Cmdline:   "console=ttyS0 lockdown=integrity quiet",
		Uname:     "6.12.1-amd64",
		SBAT:      []byte("pforte,1,Pforte,pforte,1.2.3,https://example.org\n"),
	}
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newKey(t testing.TB, bits int) *rsa.PrivateKey {
	return must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, bits))
}

func newCertificate(t testing.TB, key crypto.Signer, name string) *x509.Certificate {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	return must[*x509.Certificate](t)(x509.ParseCertificate(der))
}

func TestBuildIsWellFormed(t *testing.T) {
	p := testParts(t)
	p.PCRPublicKey = must[[]byte](t)(PublicKeyPEM(newKey(t, 2048).Public()))
	p.PCRSignature = []byte("{}")
	image := must[[]byte](t)(Build(p))
	f := must[*pe.File](t)(pe.NewFile(bytes.NewReader(image)))
	opt := f.OptionalHeader.(*pe.OptionalHeader64)

	fileEnd, memoryEnd := opt.SizeOfHeaders, opt.SizeOfHeaders
	for _, s := range f.Sections {
		if s.Offset != fileEnd || s.Size%opt.FileAlignment != 0 {
			t.Errorf("%s: in the file at %d with %d bytes, the one before ended at %d", s.Name, s.Offset, s.Size, fileEnd)
		}
		if s.VirtualAddress < memoryEnd || s.VirtualAddress%4096 != 0 {
			t.Errorf("%s: in memory at %#x, the one before ended at %#x", s.Name, s.VirtualAddress, memoryEnd)
		}
		fileEnd, memoryEnd = s.Offset+s.Size, s.VirtualAddress+s.VirtualSize
	}
	if int(fileEnd) != len(image) {
		t.Errorf("sections end at %d, the file at %d", fileEnd, len(image))
	}
	if want := (memoryEnd + 4095) &^ 4095; opt.SizeOfImage != want {
		t.Errorf("SizeOfImage %#x, want %#x", opt.SizeOfImage, want)
	}
	if opt.DllCharacteristics&pe.IMAGE_DLLCHARACTERISTICS_NX_COMPAT == 0 {
		t.Error("NX_COMPAT is lost although stub and kernel have it")
	}
	got := map[string]string{}
	for _, s := range must[[]Section](t)(Sections(image)) {
		got[s.Name] = string(s.Data)
	}
	for name, want := range map[string]string{
		SectionLinux: string(p.Kernel), SectionInitrd: string(p.Initrd), SectionOSRel: string(p.OSRelease),
		SectionCmdline: p.Cmdline, SectionUname: p.Uname, SectionPCRPKey: string(p.PCRPublicKey), SectionPCRSig: "{}",
	} {
		if got[name] != want {
			t.Errorf("%s: got %d bytes, want %d", name, len(got[name]), len(want))
		}
	}
	if sbat := got[SectionSBAT]; !strings.HasPrefix(sbat, "sbat,1,") || strings.Count(sbat, "\nsystemd-stub,") != 1 ||
		!strings.HasSuffix(sbat, "\n"+string(p.SBAT)) {
		t.Errorf(".sbat is %q", sbat)
	}
}

func TestObjcopyReadsTheSections(t *testing.T) {
	p := testParts(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "image.efi")
	if err := os.WriteFile(path, must[[]byte](t)(Build(p)), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	if log, err := tool(t, "binutils", "objcopy", "-O", "binary", "--only-section=.initrd", path, out); err != nil {
		t.Fatalf("objcopy: %v\n%s", err, log)
	}
	if got := must[[]byte](t)(os.ReadFile(out)); !bytes.Equal(got, p.Initrd) {
		t.Errorf("objcopy extracted %d bytes, want %d", len(got), len(p.Initrd))
	}
}

func TestBuildIsReproducible(t *testing.T) {
	p := testParts(t)
	stub := bytes.Clone(p.Stub)
	a, b := must[[]byte](t)(Build(p)), must[[]byte](t)(Build(p))
	if !bytes.Equal(a, b) {
		t.Error("the same parts give two images")
	}
	if !bytes.Equal(p.Stub, stub) {
		t.Error("Build changed the stub it was given")
	}
}

func TestKernelWithoutNXTakesItFromTheImage(t *testing.T) {
	for name, kernel := range map[string][]byte{"without NX": fakeKernel(false), "not PE": []byte("kernel")} {
		p := testParts(t)
		p.Kernel = kernel
		f := must[*pe.File](t)(pe.NewFile(bytes.NewReader(must[[]byte](t)(Build(p)))))
		if f.OptionalHeader.(*pe.OptionalHeader64).DllCharacteristics&pe.IMAGE_DLLCHARACTERISTICS_NX_COMPAT != 0 {
			t.Errorf("%s: the image claims NX_COMPAT", name)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Parts)
		want   string
	}{
		"no kernel":              {func(p *Parts) { p.Kernel = nil }, "kernel is empty"},
		"no initramfs":           {func(p *Parts) { p.Initrd = nil }, "initramfs is empty"},
		"no os-release":          {func(p *Parts) { p.OSRelease = nil }, "os-release is empty"},
		"no command line":        {func(p *Parts) { p.Cmdline = "" }, "command line is empty"},
		"line end":               {func(p *Parts) { p.Cmdline = "quiet\n" }, "only printable ASCII"},
		"zero byte":              {func(p *Parts) { p.Cmdline = "quiet\x00init=/bin/sh" }, "only printable ASCII"},
		"umlaut":                 {func(p *Parts) { p.Uname = "ü" }, "uname has byte"},
		"signature without key":  {func(p *Parts) { p.PCRSignature = []byte("{}") }, "without its public key"},
		"SBAT without line end":  {func(p *Parts) { p.SBAT = []byte("pforte,1") }, "must end with a newline"},
		"SBAT with header":       {func(p *Parts) { p.SBAT = []byte("sbat,1\n") }, "leave out"},
		"SBAT too long":          {func(p *Parts) { p.SBAT = []byte(strings.Repeat("pforte,1\n", 500)) }, "room for 4096"},
		"too large":              {func(p *Parts) { p.Initrd = make([]byte, MaxSize) }, "exceed the limit"},
		"no stub":                {func(p *Parts) { p.Stub = nil }, "read stub"},
		"an image for a stub":    {func(p *Parts) { p.Stub = must[[]byte](t)(Build(*p)) }, "not a stub"},
		"two faults, both named": {func(p *Parts) { p.Kernel, p.Initrd = nil, nil }, "kernel is empty\ninitramfs is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			p := testParts(t)
			tc.change(&p)
			if _, err := Build(p); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}
