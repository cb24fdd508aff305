package uki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"debug/pe"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
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

// measuredByTool are the sections as systemd-measure is to get them.
func measuredByTool(t *testing.T, p Parts) []Section {
	sbat := mergeSBAT(must[*Stub](t)(ReadStub(p.Stub)).SBAT, p.SBAT)
	return slices.DeleteFunc(append(p.payload(), Section{SectionSBAT, sbat}),
		func(s Section) bool { return s.Name == SectionPCRSig })
}

func TestPCR11IsWhatSystemdMeasureCalculates(t *testing.T) {
	withKey := testParts(t)
	withKey.PCRPublicKey = must[[]byte](t)(PublicKeyPEM(newKey(t, 2048).Public()))
	withKey.PCRSignature = []byte("{}")
	least := testParts(t)
	least.Uname, least.SBAT = "", nil
	all := []string{PhaseEnterInitrd, PhaseLeaveInitrd, PhaseSysinit, PhaseReady}
	for name, p := range map[string]Parts{"all parts": withKey, "least parts": least} {
		t.Run(name, func(t *testing.T) {
			image := must[[]byte](t)(Build(p))
			var got string
			for n := 1; n <= len(all); n++ {
				value := must[[]byte](t)(PCR11(p, all[:n]...))
				if of := must[[]byte](t)(PCR11Of(image, all[:n]...)); !bytes.Equal(of, value) {
					t.Errorf("%v: PCR11Of %x, PCR11 %x", all[:n], of, value)
				}
				got += "11:sha256=" + hex.EncodeToString(value) + "\n"
			}
			if diff := cmp.Diff(measure(t, "calculate", measuredByTool(t, p)), got); diff != "" {
				t.Errorf("systemd-measure says (-), we say (+):\n%s", diff)
			}
			zero := measure(t, "calculate", measuredByTool(t, p), "--phase=:")
			if want := "11:sha256=" + hex.EncodeToString(must[[]byte](t)(PCR11(p))) + "\n"; zero != want {
				t.Errorf("before the first phase: systemd-measure says %s, we say %s", zero, want)
			}
		})
	}
}

func TestPCR11DependsOnEveryMeasuredPart(t *testing.T) {
	base := testParts(t)
	base.PCRPublicKey = []byte("key")
	want := must[[]byte](t)(PCR11(base, PhaseEnterInitrd))
	for name, change := range map[string]func(*Parts){
		"kernel":     func(p *Parts) { p.Kernel = fakeKernel(false) },
		"initramfs":  func(p *Parts) { p.Initrd = append(bytes.Clone(p.Initrd), 0) },
		"os-release": func(p *Parts) { p.OSRelease = []byte("ID=x\n") },
		"cmdline":    func(p *Parts) { p.Cmdline += " " },
		"uname":      func(p *Parts) { p.Uname = "" },
		"sbat":       func(p *Parts) { p.SBAT = nil },
		"key":        func(p *Parts) { p.PCRPublicKey = []byte("other") },
	} {
		p := base
		change(&p)
		if bytes.Equal(must[[]byte](t)(PCR11(p, PhaseEnterInitrd)), want) {
			t.Errorf("another %s gives the same PCR 11", name)
		}
	}
	signed := base
	signed.PCRSignature = []byte("{}")
	if !bytes.Equal(must[[]byte](t)(PCR11(signed, PhaseEnterInitrd)), want) {
		t.Error("the signature of the measurement is itself measured")
	}
	if _, err := PCR11(base, ""); err == nil {
		t.Error("an empty phase was taken")
	}
}

func TestPCRSignatureIsWhatSystemdMeasureSigns(t *testing.T) {
	key := newKey(t, 2048)
	p := testParts(t)
	p.PCRPublicKey = must[[]byte](t)(PublicKeyPEM(key.Public()))
	dir := t.TempDir()
	private := filepath.Join(dir, "private.pem")
	der := must[[]byte](t)(x509.MarshalPKCS8PrivateKey(key))
	if err := os.WriteFile(private, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	got := must[[]byte](t)(PCRSignature(p, key, []string{PhaseEnterInitrd}, []string{PhaseEnterInitrd, PhaseLeaveInitrd}))
	want := measure(t, "sign", measuredByTool(t, p), "--private-key="+private,
		"--phase=enter-initrd", "--phase=enter-initrd:leave-initrd")
	var g, w any
	if err := errors.Join(json.Unmarshal(got, &g), json.Unmarshal([]byte(want), &w)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(w, g); diff != "" {
		t.Errorf("systemd-measure says (-), we say (+):\n%s", diff)
	}
}

func TestPCRSignatureRefuses(t *testing.T) {
	p := testParts(t)
	ec := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	if _, err := PCRSignature(p, ec, []string{PhaseEnterInitrd}); err == nil {
		t.Error("signed with an elliptic curve")
	}
	if _, err := PCRSignature(p, newKey(t, 1024), []string{PhaseEnterInitrd}); err == nil {
		t.Error("signed with 1024 bits")
	}
	if _, err := PCRSignature(p, newKey(t, 2048)); err == nil {
		t.Error("signed nothing")
	}
	liar := struct{ crypto.Signer }{newKey(t, 2048)}
	if _, err := PCRSignature(p, mismatched{liar, newKey(t, 2048).Public()}, []string{PhaseEnterInitrd}); err == nil {
		t.Error("took a signature that the signer's public key refuses")
	}
}

// mismatched is a signer whose public key is another one's.
type mismatched struct {
	crypto.Signer
	public crypto.PublicKey
}

func (m mismatched) Public() crypto.PublicKey { return m.public }

func TestSignPassesSbverify(t *testing.T) {
	key, stranger := newKey(t, 2048), newKey(t, 2048)
	cert, other := newCertificate(t, key, "Test db"), newCertificate(t, stranger, "Stranger")
	image := must[[]byte](t)(Build(testParts(t)))
	signed := must[[]byte](t)(Sign(image, key, cert))

	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	certPath := write("db.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	otherPath := write("other.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: other.Raw}))
	signedPath := write("signed.efi", signed)
	if out, err := tool(t, "sbsigntool", "sbverify", "--cert", certPath, signedPath); err != nil || strings.Contains(out, "warning") {
		t.Errorf("sbverify: %v\n%s", err, out)
	}
	if out, err := tool(t, "sbsigntool", "sbverify", "--cert", otherPath, signedPath); err == nil {
		t.Errorf("sbverify accepts a stranger's certificate:\n%s", out)
	}
	if out, err := tool(t, "sbsigntool", "sbverify", "--cert", certPath, write("plain.efi", image)); err == nil {
		t.Errorf("sbverify accepts an unsigned image:\n%s", out)
	}
	// And the other way round: what sbsign signs, Verify accepts.
	keyPath := write("db.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must[[]byte](t)(x509.MarshalPKCS8PrivateKey(key))}))
	theirs := filepath.Join(dir, "theirs.efi")
	if out, err := tool(t, "sbsigntool", "sbsign", "--key", keyPath, "--cert", certPath, "--output", theirs, filepath.Join(dir, "plain.efi")); err != nil {
		t.Fatalf("sbsign: %v\n%s", err, out)
	}
	if err := Verify(must[[]byte](t)(os.ReadFile(theirs)), cert); err != nil {
		t.Errorf("signed by sbsign: %v", err)
	}
}

func TestSigningKeepsTheContent(t *testing.T) {
	key := newKey(t, 2048)
	image := must[[]byte](t)(Build(testParts(t)))
	signed := must[[]byte](t)(Sign(image, key, newCertificate(t, key, "db")))
	if a, b := must[[]byte](t)(PCR11Of(image)), must[[]byte](t)(PCR11Of(signed)); !bytes.Equal(a, b) {
		t.Error("the signature changes what is measured")
	}
	second := newKey(t, 2048)
	cert := newCertificate(t, second, "second")
	twice := must[[]byte](t)(Sign(signed, second, cert))
	if err := Verify(twice, cert); err != nil {
		t.Errorf("second signature: %v", err)
	}
	if blobs := must[[][]byte](t)(signatures(twice)); len(blobs) != 2 {
		t.Errorf("%d signatures after signing twice", len(blobs))
	}
}

func TestSignRefuses(t *testing.T) {
	image := must[[]byte](t)(Build(testParts(t)))
	key := newKey(t, 2048)
	ec := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	if _, err := Sign(image, key, newCertificate(t, newKey(t, 2048), "other")); err == nil {
		t.Error("signed with a key that is not the certificate's")
	}
	if _, err := Sign(image, ec, newCertificate(t, ec, "ec")); err == nil {
		t.Error("signed with an elliptic curve")
	}
	if _, err := Sign(image[:len(image)-1], key, newCertificate(t, key, "db")); err == nil {
		t.Error("signed a truncated image")
	}
}

func TestVerifyFindsEveryFlippedByte(t *testing.T) {
	key := newKey(t, 2048)
	cert := newCertificate(t, key, "db")
	p := testParts(t)
	p.Initrd = []byte("small")
	image := must[[]byte](t)(Build(p))
	signed := must[[]byte](t)(Sign(image, key, cert))
	f := must[*pe.File](t)(pe.NewFile(bytes.NewReader(image)))
	off := must[int](t)(peOffset(image))
	checksum := off + sizeFileHeader + offCheckSum
	for _, s := range f.Sections {
		for _, at := range []int{int(s.Offset), int(s.Offset + s.VirtualSize - 1), int(s.Offset + s.Size - 1)} {
			b := bytes.Clone(signed)
			b[at] ^= 1
			if err := Verify(b, cert); !errors.Is(err, ErrSignature) {
				t.Errorf("%s: byte %d flipped: %v", s.Name, at, err)
			}
		}
	}
	// In the headers each byte matters but the checksum. What the certificate table holds
	// beside the signature does not, yet no change there may upset Verify.
	for at := range signed {
		if at >= checksum && at < checksum+4 || at >= int(f.Sections[0].Offset) && at < len(image) {
			continue
		}
		b := bytes.Clone(signed)
		b[at] ^= 0x10
		if err := Verify(b, cert); err == nil && at < len(image) {
			t.Errorf("byte %d of the headers flipped: accepted", at)
		}
	}
	if err := Verify(image, cert); !errors.Is(err, ErrNotSigned) {
		t.Errorf("unsigned: %v", err)
	}
	if err := Verify(signed, newCertificate(t, newKey(t, 2048), "stranger")); !errors.Is(err, ErrSignature) {
		t.Errorf("stranger: %v", err)
	}
}

// A signature whose attributes name the digest of another content must not count.
func TestVerifyComparesDigestAndContent(t *testing.T) {
	key := newKey(t, 2048)
	cert := newCertificate(t, key, "db")
	p := testParts(t)
	signed := must[[]byte](t)(Sign(must[[]byte](t)(Build(p)), key, cert))
	p.Cmdline = strings.Replace(p.Cmdline, "quiet", "QUIET", 1)
	other := must[[]byte](t)(Build(p))
	oldDigest, newDigest := imageDigest(t, signed), imageDigest(t, other)
	forged := append(bytes.Clone(other), signed[len(other):]...)
	off := must[int](t)(peOffset(signed))
	copy(forged[off+sizeFileHeader+offSecurityEntry:][:8], signed[off+sizeFileHeader+offSecurityEntry:])
	forged = bytes.Replace(forged, oldDigest, newDigest, 1)
	if !bytes.Contains(forged, newDigest) {
		t.Fatal("the forgery was not made")
	}
	if err := Verify(forged, cert); !errors.Is(err, ErrSignature) {
		t.Errorf("forged: %v", err)
	}
}

// imageDigest is the Authenticode digest, computed by hand: everything but the
// checksum, the certificate table entry and the certificate table.
func imageDigest(t *testing.T, image []byte) []byte {
	t.Helper()
	opt := must[int](t)(peOffset(image)) + sizeFileHeader
	end := len(image)
	if at := binary.LittleEndian.Uint32(image[opt+offSecurityEntry:]); at != 0 {
		end = int(at)
	}
	h := sha256.New()
	h.Write(image[:opt+offCheckSum])
	h.Write(image[opt+offCheckSum+4 : opt+offSecurityEntry])
	h.Write(image[opt+offSecurityEntry+8 : end])
	return h.Sum(nil)
}
