package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/hsm/hsmtest"
)

func open(t testing.TB, dev transport.TPM, dir string) *Store {
	t.Helper()
	s, err := Open(t.Context(), dev, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() }) // some tests share one TPM
	return s
}

// create makes the key of tenant-server and returns it.
func create(t testing.TB, s *Store) crypto.Signer {
	t.Helper()
	if _, err := s.Create(t.Context(), hsm.TenantServer); err != nil {
		t.Fatal(err)
	}
	k, err := s.Signer(hsm.TenantServer)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var digest = sha256.Sum256([]byte("pforte"))

// mustSign signs digest and verifies it.
func mustSign(t *testing.T, k crypto.Signer) {
	t.Helper()
	sig, err := k.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if !ecdsa.VerifyASN1(k.Public().(*ecdsa.PublicKey), digest[:], sig) {
		t.Fatal("the signature does not verify")
	}
}

func TestConformance(t *testing.T) {
	hsmtest.TestKeys(t, func(t *testing.T) hsmtest.Keys {
		return open(t, hsmtest.StartTPM(t), t.TempDir())
	})
}

func TestKeysSurvivePowerAndRestart(t *testing.T) {
	dev, dir := hsmtest.StartTPM(t), t.TempDir()
	k := create(t, open(t, dev, dir))
	dev.PowerCycle(t)
	mustSign(t, k) // the state in the TPM is gone; Sign sets it up anew
	again := create(t, open(t, dev, dir))
	if !k.Public().(*ecdsa.PublicKey).Equal(again.Public()) {
		t.Error("another key after a restart")
	}
	mustSign(t, again)
	dev.PowerOff()
	if _, err := again.Sign(rand.Reader, digest[:], crypto.SHA256); err == nil {
		t.Error("a TPM without power signed")
	}
	dev.PowerOn(t)
	mustSign(t, again)
}

func TestAnotherTPM(t *testing.T) {
	dev, other, dir := hsmtest.StartTPM(t), hsmtest.StartTPM(t), t.TempDir()
	swap := &switchable{now: dev}
	k := create(t, open(t, swap, dir))
	before, err := os.ReadFile(filepath.Join(dir, "tenant-server.pem"))
	if err != nil {
		t.Fatal(err)
	}
	swap.now = other
	_, signErr := k.Sign(rand.Reader, digest[:], crypto.SHA256)
	_, openErr := Open(t.Context(), other, dir)
	for _, err := range []error{signErr, openErr} {
		if !errors.Is(err, hsm.ErrDeviceChanged) || !strings.Contains(err.Error(), "put the original TPM back") {
			t.Errorf("with another TPM: %v, want ErrDeviceChanged and its remedy", err)
		}
	}
	after, err := os.ReadFile(filepath.Join(dir, "tenant-server.pem"))
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the key file was touched: %v", err)
	}
	swap.now = dev
	mustSign(t, k)
}

func TestKeyOfAnotherTPM(t *testing.T) {
	ours, theirs := t.TempDir(), t.TempDir()
	dev := hsmtest.StartTPM(t)
	s := open(t, dev, ours)
	create(t, open(t, hsmtest.StartTPM(t), theirs))
	if err := os.Rename(filepath.Join(theirs, "tenant-server.pem"), filepath.Join(ours, "tenant-server.pem")); err != nil {
		t.Fatal(err)
	}
	_, err := create(t, s).Sign(rand.Reader, digest[:], crypto.SHA256)
	if !errors.Is(err, hsm.ErrDeviceChanged) {
		t.Errorf("Sign = %v, want ErrDeviceChanged", err)
	}
}

// switchable stands between the store and one of several TPMs. Its hook sees
// each command and may answer instead of the TPM.
type switchable struct {
	now   transport.TPM
	hook  func(command []byte) (answer []byte, handled bool)
	after func(command, response []byte)
}

func (s *switchable) Send(command []byte) ([]byte, error) {
	if s.hook != nil {
		if answer, ok := s.hook(command); ok {
			return answer, nil
		}
	}
	response, err := s.now.Send(command)
	if err == nil && s.after != nil {
		s.after(command, response)
	}
	return response, err
}

func commandCode(command []byte) tpm2.TPMCC {
	return tpm2.TPMCC(binary.BigEndian.Uint32(command[6:]))
}

// failure is a response with only a code.
func failure(rc tpm2.TPMRC) []byte {
	return binary.BigEndian.AppendUint32([]byte{0x80, 0x01, 0, 0, 0, 10}, uint32(rc))
}

func TestLockedOut(t *testing.T) {
	dev := &switchable{now: hsmtest.StartTPM(t)}
	k := create(t, open(t, dev, t.TempDir()))
	tries := 0
	dev.hook = func(command []byte) ([]byte, bool) {
		if commandCode(command) != tpm2.TPMCCSign {
			return nil, false
		}
		tries++
		return failure(tpm2.TPMRCLockout), true
	}
	_, err := k.Sign(rand.Reader, digest[:], crypto.SHA256)
	if !errors.Is(err, hsm.ErrLockedOut) || tries != 1 {
		t.Errorf("Sign = %v after %d tries, want ErrLockedOut after one", err, tries)
	}
	dev.hook = nil
	mustSign(t, k)
}

// TestStrangersTriesDoNotLockUs brings the real TPM into lockout by wrong
// passwords for an object that is protected against them.
func TestStrangersTriesDoNotLockUs(t *testing.T) {
	dev := hsmtest.StartTPM(t)
	k := create(t, open(t, dev, t.TempDir()))
	template := keyTemplate()
	template.ObjectAttributes.NoDA = false
	victim, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.TPMRHOwner,
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
			UserAuth: tpm2.TPM2BAuth{Buffer: []byte("right")},
		}},
		InPublic: tpm2.New2B(template),
	}.Execute(dev)
	if err != nil {
		t.Fatal(err)
	}
	for try := 0; !errors.Is(err, tpm2.TPMRCLockout); try++ {
		if try > 100 {
			t.Fatalf("no lockout after %d wrong passwords: %v", try, err)
		}
		_, err = tpm2.Sign{
			KeyHandle:  tpm2.AuthHandle{Handle: victim.ObjectHandle, Name: victim.Name, Auth: tpm2.PasswordAuth([]byte("wrong"))},
			Digest:     tpm2.TPM2BDigest{Buffer: digest[:]},
			InScheme:   tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSchemeHash{HashAlg: tpm2.TPMAlgSHA256})},
			Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
		}.Execute(dev)
	}
	flush(dev, victim.ObjectHandle)
	mustSign(t, k)
}

// TestBus plays somebody on the wires between processor and TPM.
func TestBus(t *testing.T) {
	dev := &switchable{now: hsmtest.StartTPM(t)}
	var traffic bytes.Buffer
	dev.after = func(command, response []byte) { traffic.Write(command); traffic.Write(response) }
	k := create(t, open(t, dev, t.TempDir()))
	mustSign(t, k)
	if bytes.Contains(traffic.Bytes(), digest[:]) {
		t.Error("the digest crossed the bus in plain text")
	}
	for _, cc := range []tpm2.TPMCC{tpm2.TPMCCSign, tpm2.TPMCCLoad} {
		t.Run(fmt.Sprintf("command %#x", uint32(cc)), func(t *testing.T) {
			changes := 0
			dev.after = func(command, response []byte) {
				if commandCode(command) == cc && len(response) > 60 {
					response[len(response)/2] ^= 1
					changes++
				}
			}
			k.(*signer).store.forget()
			if sig, err := k.Sign(rand.Reader, digest[:], crypto.SHA256); err == nil {
				t.Errorf("signed %x through an altered response", sig)
			}
			if changes == 0 {
				t.Error("no response was altered")
			}
		})
	}
	dev.after = nil
	mustSign(t, k)
}

// TestNothingStays counts what lies in the TPM: there is no resource manager to
// clean up behind us in this test, and few places.
func TestNothingStays(t *testing.T) {
	dev := hsmtest.StartTPM(t)
	s := open(t, dev, t.TempDir())
	for range 2 {
		for _, p := range hsm.Purposes() {
			if _, err := s.Create(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			k, err := s.Signer(p)
			if err != nil {
				t.Fatal(err)
			}
			mustSign(t, k)
			if objects, sessions := inside(t, dev); objects > maxLoaded || sessions != 1 {
				t.Errorf("%d objects and %d sessions in the TPM, want at most %d and 1", objects, sessions, maxLoaded)
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if objects, sessions := inside(t, dev); objects+sessions != 0 {
		t.Errorf("after Close %d objects and %d sessions in the TPM", objects, sessions)
	}
}

func inside(t *testing.T, dev transport.TPM) (objects, sessions int) {
	t.Helper()
	count := func(first tpm2.TPMHandle) int {
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: uint32(first), PropertyCount: 100}.Execute(dev)
		if err != nil {
			t.Fatal(err)
		}
		h, err := rsp.CapabilityData.Data.Handles()
		if err != nil {
			t.Fatal(err)
		}
		return len(h.Handle)
	}
	return count(0x80000000), count(0x02000000)
}

// TestNeverExported asks the TPM itself for what is promised of the keys.
func TestNeverExported(t *testing.T) {
	dev := hsmtest.StartTPM(t)
	s := open(t, dev, t.TempDir())
	create(t, s)
	l := s.state.loaded[0]
	rsp, err := tpm2.ReadPublic{ObjectHandle: l.handle}.Execute(dev)
	if err != nil {
		t.Fatal(err)
	}
	public, err := rsp.OutPublic.Contents()
	if err != nil {
		t.Fatal(err)
	}
	if a := public.ObjectAttributes; !a.FixedTPM || !a.FixedParent || !a.SensitiveDataOrigin || a.Decrypt || a.Restricted {
		t.Errorf("attributes %+v", a)
	}
	_, err = tpm2.Duplicate{
		ObjectHandle:    tpm2.AuthHandle{Handle: l.handle, Name: l.name, Auth: tpm2.PasswordAuth(nil)},
		NewParentHandle: tpm2.TPMRHNull,
		Symmetric:       tpm2.TPMTSymDef{Algorithm: tpm2.TPMAlgNull},
	}.Execute(dev)
	if err == nil {
		t.Error("the TPM duplicated the key")
	}
}
