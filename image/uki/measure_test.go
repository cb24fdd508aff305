package uki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

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
