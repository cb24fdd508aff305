package seal

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// The PCRs that this package knows (UAPI Group, Linux TPM PCR Registry).
const (
	// PCRSecureBoot holds the Secure Boot state: on or off, keys, and the key
	// that verified what booted.
	PCRSecureBoot = 7
	// PCRLatch is zero until init has unlocked, and never again until power-on.
	PCRLatch = 15
)

// Policy says in which state of the box a secret may come out again. The kinds
// are this package's own.
type Policy interface {
	// terms reads what the policy needs from the TPM, as a record for the blob.
	terms(tpm transport.TPM) (Terms, error)
}

// BootState is the policy for what only init may have: the Secure Boot state of
// this very boot, and a latch that init closes behind itself.
type BootState struct{}

// kindBootState names BootState in a blob.
const kindBootState = "boot-state"

// Terms is a policy as it stands in a blob: what the PCRs must be.
type Terms struct {
	Kind string `json:"kind"`
	Bank string `json:"bank"`
	PCRs []PCR  `json:"pcrs"`
}

// PCR is one register and its value.
type PCR struct {
	Index int    `json:"index"`
	Value []byte `json:"value"`
}

// bank is a hash algorithm that PCRs may be kept in.
type bank struct {
	name string
	alg  tpm2.TPMAlgID
	size int
}

// banks in order of preference. SHA-1 is never used.
func banks() []bank {
	return []bank{
		{"sha256", tpm2.TPMAlgSHA256, 32},
		{"sha384", tpm2.TPMAlgSHA384, 48},
	}
}

func bankNamed(name string) (bank, error) {
	for _, b := range banks() {
		if b.name == name {
			return b, nil
		}
	}
	return bank{}, fmt.Errorf("PCR bank %q: %w", name, ErrFormat)
}

func (BootState) terms(tpm transport.TPM) (Terms, error) {
	for _, b := range banks() {
		state, err := readPCR(tpm, b, PCRSecureBoot)
		if errors.Is(err, errNoBank) || (err == nil && uniform(state)) {
			continue
		}
		if err != nil {
			return Terms{}, err
		}
		latch, err := readPCR(tpm, b, PCRLatch)
		if err != nil {
			return Terms{}, err
		}
		if !zero(latch) {
			return Terms{}, fmt.Errorf("PCR %d is extended already: %w", PCRLatch, ErrState)
		}
		return Terms{Kind: kindBootState, Bank: b.name, PCRs: []PCR{
			{Index: PCRSecureBoot, Value: state},
			{Index: PCRLatch, Value: latch},
		}}, nil
	}
	return Terms{}, fmt.Errorf("PCR %d: %w", PCRSecureBoot, ErrUnmeasured)
}

// valid checks that t is what BootState makes. A blob comes from a disk that
// anybody may have written; a policy over nothing must not pass.
func (t Terms) valid() error {
	if t.Kind != kindBootState {
		return fmt.Errorf("policy of kind %q: %w", t.Kind, ErrFormat)
	}
	b, err := bankNamed(t.Bank)
	if err != nil {
		return err
	}
	if len(t.PCRs) != 2 || t.PCRs[0].Index != PCRSecureBoot || t.PCRs[1].Index != PCRLatch ||
		len(t.PCRs[0].Value) != b.size || len(t.PCRs[1].Value) != b.size ||
		uniform(t.PCRs[0].Value) || !zero(t.PCRs[1].Value) {
		return fmt.Errorf("PCRs of policy %q: %w", t.Kind, ErrFormat)
	}
	return nil
}

// check compares the PCRs with t, so that a refusal can say which one differs.
// The TPM checks again by itself.
func (t Terms) check(tpm transport.TPM) error {
	if err := t.valid(); err != nil {
		return err
	}
	b, err := bankNamed(t.Bank)
	if err != nil {
		return err
	}
	for _, want := range t.PCRs {
		got, err := readPCR(tpm, b, want.Index)
		if err != nil {
			return err
		}
		if want.Index == PCRSecureBoot && uniform(got) {
			return fmt.Errorf("PCR %d: %w", want.Index, ErrUnmeasured)
		}
		if !bytes.Equal(got, want.Value) {
			return fmt.Errorf("PCR %d differs: %w", want.Index, ErrState)
		}
	}
	return nil
}

// selection is the list of PCRs in the TPM's form.
func (t Terms) selection() (tpm2.TPMLPCRSelection, error) {
	b, err := bankNamed(t.Bank)
	if err != nil {
		return tpm2.TPMLPCRSelection{}, err
	}
	indexes := make([]uint, len(t.PCRs))
	for i, p := range t.PCRs {
		indexes[i] = uint(p.Index)
	}
	return selectPCRs(b, indexes...), nil
}

func selectPCRs(b bank, indexes ...uint) tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
		Hash:      b.alg,
		PCRSelect: tpm2.PCClientCompatible.PCRs(indexes...),
	}}}
}

// pcrDigest is SHA-256 over the values in ascending order, the form in which
// PolicyPCR and creation data hold them (TPM 2.0 Library, Part 3, 23.7).
func (t Terms) pcrDigest() []byte {
	h := sha256.New()
	for _, p := range t.PCRs {
		h.Write(p.Value)
	}
	return h.Sum(nil)
}

// digest is the policy digest of the sealed object.
func (t Terms) digest() ([]byte, error) {
	selection, err := t.selection()
	if err != nil {
		return nil, err
	}
	calculator, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		return nil, fmt.Errorf("calculate policy: %w", err)
	}
	pcr := tpm2.PolicyPCR{PcrDigest: tpm2.TPM2BDigest{Buffer: t.pcrDigest()}, Pcrs: selection}
	if err := pcr.Update(calculator); err != nil {
		return nil, fmt.Errorf("calculate policy: %w", err)
	}
	return calculator.Hash().Digest, nil
}

// satisfy runs the policy in a session.
func (t Terms) satisfy(tpm transport.TPM, session tpm2.TPMHandle) error {
	selection, err := t.selection()
	if err != nil {
		return err
	}
	_, err = tpm2.PolicyPCR{
		PolicySession: session,
		PcrDigest:     tpm2.TPM2BDigest{Buffer: t.pcrDigest()},
		Pcrs:          selection,
	}.Execute(tpm)
	if err != nil {
		return fmt.Errorf("policy over PCRs: %w", err)
	}
	return nil
}

// errNoBank: the TPM does not keep this PCR in this bank.
var errNoBank = errors.New("no such PCR bank")

func readPCR(tpm transport.TPM, b bank, index int) ([]byte, error) {
	rsp, err := tpm2.PCRRead{PCRSelectionIn: selectPCRs(b, uint(index))}.Execute(tpm)
	if errors.Is(err, tpm2.TPMRCHash) || errors.Is(err, tpm2.TPMRCValue) {
		return nil, fmt.Errorf("read PCR %d of bank %s: %w: %w", index, b.name, errNoBank, err)
	}
	if err != nil {
		return nil, fmt.Errorf("read PCR %d of bank %s: %w", index, b.name, known(err))
	}
	if len(rsp.PCRValues.Digests) != 1 || len(rsp.PCRValues.Digests[0].Buffer) != b.size {
		return nil, fmt.Errorf("read PCR %d of bank %s: %w", index, b.name, errNoBank)
	}
	return rsp.PCRValues.Digests[0].Buffer, nil
}

// uniform reports whether v is all zeros or all ones: what a PCR shows that
// nobody ever extended.
func uniform(v []byte) bool { return all(v, 0) || all(v, 0xff) }

func zero(v []byte) bool { return all(v, 0) }

func all(v []byte, want byte) bool {
	for _, b := range v {
		if b != want {
			return false
		}
	}
	return true
}
