package hsmtest

import (
	"bytes"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// extend puts a value into PCR 16, which is for debugging and resets with power.
func extend(t *testing.T, tpm *TPM) {
	t.Helper()
	_, err := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(16), Auth: tpm2.PasswordAuth(nil)},
		Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{
			{HashAlg: tpm2.TPMAlgSHA256, Digest: bytes.Repeat([]byte{1}, 32)},
		}},
	}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
}

func readPCR(t *testing.T, tpm *TPM) []byte {
	t.Helper()
	response, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
		{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(16)},
	}}}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	return response.PCRValues.Digests[0].Buffer
}

func primary(t *testing.T, tpm *TPM) []byte {
	t.Helper()
	response, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.TPMRHOwner,
		InPublic:      tpm2.New2B(tpm2.ECCSRKTemplate),
	}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.FlushContext{FlushHandle: response.ObjectHandle}).Execute(tpm); err != nil {
		t.Fatal(err)
	}
	return response.Name.Buffer
}

func TestPowerCycle(t *testing.T) {
	tpm := StartTPM(t)
	name := primary(t, tpm)
	extend(t, tpm)
	if bytes.Equal(readPCR(t, tpm), make([]byte, 32)) {
		t.Fatal("PCR 16 is zero after an extend")
	}
	tpm.PowerCycle(t)
	if !bytes.Equal(readPCR(t, tpm), make([]byte, 32)) {
		t.Error("PCR 16 survived the power cycle")
	}
	if !bytes.Equal(primary(t, tpm), name) {
		t.Error("the storage seed did not survive the power cycle")
	}
	if other := StartTPM(t); bytes.Equal(primary(t, other), name) {
		t.Error("two TPMs have one storage seed")
	}
	tpm.PowerOff()
	if _, err := tpm.Send([]byte{0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0}); err == nil {
		t.Error("a TPM without power answered")
	}
}
