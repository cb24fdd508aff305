// Package seal binds a small secret to this box's TPM and to the state in which
// the box booted. It is what keeps the key of the data volume (design.md §4, §7).
//
// # Promises
//
//   - A sealed secret leaves the TPM only on the TPM that sealed it, and only
//     while the policy of the blob holds. For BootState that is: PCR 7 has the
//     value that it had at sealing (Secure Boot on, with the same keys), and PCR
//     15 is still zero. Init extends PCR 15 before it hands over, so nothing that
//     runs later can unseal, not even as root.
//   - A blob counts only if it was made in that same state. Anybody who can
//     talk to a TPM can seal a secret of his own to a policy that he does not
//     fulfil, and put it on the disk together with a volume of his own. The TPM
//     confirms at unsealing (TPM2_CertifyCreation) which PCR values it saw when
//     it made the object; a blob from elsewhere is ErrForeign.
//   - The secret never crosses the bus in the clear: each session is salted to
//     the storage root key and encrypts its parameters. The root key's name
//     stands in the blob, so that a changed or cleared TPM is recognised
//     (ErrChangedTPM) before anything is sent to it.
//   - A wrong state costs no try: the object is outside the TPM's dictionary
//     attack protection (noDA), since there is no secret to guess. If the TPM
//     is locked out nevertheless, the error is hsm.ErrLockedOut.
//   - A bank of PCRs that nobody measures into (PCR 7 all zeros or all ones) is
//     never used. SHA-256 is taken first, else SHA-384.
//
// It does not stop somebody who can rewire the bus and reset the TPM alone, and
// it does not survive a change of the Secure Boot keys: the owner's recovery key
// in the volume's second slot is for that.
//
// # The storage root key
//
// It is the TCG's ECC P-256 primary key under the owner hierarchy. A persistent
// one at 0x81000001 is used if it has exactly that template; else the key is
// derived again for each use, which gives the same key as long as the TPM is not
// cleared. This package never writes to the TPM's memory, so it cannot wear it
// out, nor fail because it is full.
//
// # Format
//
// A Blob is one JSON object, version 1, below MaxBlob bytes, so that it fits a
// LUKS2 token. The policy is a record with a kind; further kinds (a signed PCR
// 11 with a rollback counter) add records, and old blobs stay readable.
package seal

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"gitlab.opencode.de/pforte/pforte/hsm"
)

// MaxSecret is the longest secret in bytes that a TPM 2.0 seals (TPM 2.0
// Library, MAX_SYM_DATA).
const MaxSecret = 128

// pcrChangedTries bounds how often an unsealing is repeated because somebody
// extended a PCR in the middle of it; the kernel's IMA may do so at any time.
const pcrChangedTries = 8

// Errors that callers test with errors.Is; each needs another remedy.
var (
	// ErrChangedTPM: the blob belongs to another TPM, or this one was cleared.
	ErrChangedTPM = errors.New("the TPM is not the one that sealed this, or it was cleared")
	// ErrState: the box did not boot into the state that the policy asks for.
	ErrState = errors.New("the box did not boot into the sealed state")
	// ErrForeign: the blob was not made by this box in the state it claims.
	ErrForeign = errors.New("the blob was not made by this box in its sealed state")
	// ErrUnmeasured: the firmware does not measure into this TPM.
	ErrUnmeasured = errors.New("the firmware measured nothing into the TPM")
	// ErrFormat: the blob cannot be read.
	ErrFormat = errors.New("not a sealed blob of version 1")
)

// Seal puts secret under policy. The TPM must be in the state that the policy
// will ask for later. An empty secret and one above MaxSecret are refused.
func Seal(tpm transport.TPM, secret []byte, policy Policy) (Blob, error) {
	if len(secret) == 0 || len(secret) > MaxSecret {
		return Blob{}, fmt.Errorf("seal: secret of %d bytes, allowed are 1 to %d", len(secret), MaxSecret)
	}
	terms, err := policy.terms(tpm)
	if err != nil {
		return Blob{}, fmt.Errorf("seal: %w", err)
	}
	root, err := openRoot(tpm)
	if err != nil {
		return Blob{}, fmt.Errorf("seal: %w", err)
	}
	defer root.close()
	blob, err := create(tpm, root, secret, terms)
	if err != nil {
		return Blob{}, fmt.Errorf("seal: %w", known(err))
	}
	return blob, nil
}

// create makes the sealed object under root, with the PCRs of terms in its
// creation data.
func create(tpm transport.TPM, root *rootKey, secret []byte, terms Terms) (Blob, error) {
	public, err := template(terms)
	if err != nil {
		return Blob{}, err
	}
	selection, err := terms.selection()
	if err != nil {
		return Blob{}, err
	}
	rsp, err := tpm2.Create{
		ParentHandle: root.auth(in()),
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
			Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: secret}),
		}},
		InPublic:    tpm2.New2B(public),
		CreationPCR: selection,
	}.Execute(tpm)
	if err != nil {
		return Blob{}, fmt.Errorf("create sealed object: %w", err)
	}
	return Blob{
		Version:  version,
		Root:     root.name.Buffer,
		Terms:    terms,
		Public:   rsp.OutPublic.Bytes(),
		Private:  rsp.OutPrivate.Buffer,
		Creation: rsp.CreationData.Bytes(),
		Ticket:   tpm2.Marshal(rsp.CreationTicket),
	}, nil
}

// template is the public area of the sealed object: usable by policy only,
// bound to this TPM and this parent, outside the dictionary attack protection.
func template(terms Terms) (tpm2.TPMTPublic, error) {
	digest, err := terms.digest()
	if err != nil {
		return tpm2.TPMTPublic{}, err
	}
	return tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgKeyedHash,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM:        true,
			FixedParent:     true,
			AdminWithPolicy: true,
			NoDA:            true,
		},
		AuthPolicy: tpm2.TPM2BDigest{Buffer: digest},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{
			Scheme: tpm2.TPMTKeyedHashScheme{Scheme: tpm2.TPMAlgNull},
		}),
	}, nil
}

// Unseal gives the secret back if blob was made by this TPM and its policy
// holds now. The caller wipes the secret with clear after use.
func Unseal(tpm transport.TPM, blob Blob) ([]byte, error) {
	root, err := openRoot(tpm)
	if err != nil {
		return nil, fmt.Errorf("unseal: %w", err)
	}
	defer root.close()
	if !bytes.Equal(root.name.Buffer, blob.Root) {
		return nil, fmt.Errorf("unseal: %w", ErrChangedTPM)
	}
	if err := blob.Terms.check(tpm); err != nil {
		return nil, fmt.Errorf("unseal: %w", err)
	}
	object, err := load(tpm, root, blob)
	if err != nil {
		return nil, fmt.Errorf("unseal: %w", known(err))
	}
	defer object.close()
	if err := certify(tpm, root, object, blob); err != nil {
		return nil, fmt.Errorf("unseal: %w", known(err))
	}
	secret, err := open(tpm, root, object, blob.Terms)
	if err != nil {
		return nil, fmt.Errorf("unseal: %w", known(err))
	}
	return secret, nil
}

// load brings the sealed object into the TPM, after it was seen to be what
// template says.
func load(tpm transport.TPM, root *rootKey, blob Blob) (*loaded, error) {
	want, err := template(blob.Terms)
	if err != nil {
		return nil, err
	}
	public := tpm2.BytesAs2B[tpm2.TPMTPublic](blob.Public)
	got, err := public.Contents()
	if err != nil {
		return nil, fmt.Errorf("public area: %w", ErrFormat)
	}
	if got.Type != want.Type || got.NameAlg != want.NameAlg || got.ObjectAttributes != want.ObjectAttributes ||
		!bytes.Equal(got.AuthPolicy.Buffer, want.AuthPolicy.Buffer) {
		return nil, fmt.Errorf("public area: %w", ErrForeign)
	}
	rsp, err := tpm2.Load{
		ParentHandle: root.auth(in()),
		InPrivate:    tpm2.TPM2BPrivate{Buffer: blob.Private},
		InPublic:     public,
	}.Execute(tpm)
	if errors.Is(err, tpm2.TPMRCIntegrity) {
		return nil, fmt.Errorf("load sealed object: %w: %w", ErrForeign, err)
	}
	if err != nil {
		return nil, fmt.Errorf("load sealed object: %w", err)
	}
	return &loaded{tpm: tpm, handle: rsp.ObjectHandle, name: rsp.Name}, nil
}

// certify lets the TPM confirm that it made object while the PCRs had the
// values of blob.Terms.
func certify(tpm transport.TPM, root *rootKey, object *loaded, blob Blob) error {
	area := tpm2.BytesAs2B[tpm2.TPMSCreationData](blob.Creation)
	creation, err := area.Contents()
	if err != nil {
		return fmt.Errorf("creation data: %w", ErrFormat)
	}
	ticket, err := tpm2.Unmarshal[tpm2.TPMTTKCreation](blob.Ticket)
	if err != nil {
		return fmt.Errorf("creation ticket: %w", ErrFormat)
	}
	selection, err := blob.Terms.selection()
	if err != nil {
		return err
	}
	if !bytes.Equal(tpm2.Marshal(creation.PCRSelect), tpm2.Marshal(selection)) ||
		!bytes.Equal(creation.PCRDigest.Buffer, blob.Terms.pcrDigest()) {
		return fmt.Errorf("creation data: %w", ErrForeign)
	}
	_, err = tpm2.CertifyCreation{
		SignHandle: tpm2.AuthHandle{
			Handle: tpm2.TPMRHNull,
			Name:   tpm2.HandleName(tpm2.TPMRHNull),
			Auth:   root.session(in()),
		},
		ObjectHandle:   tpm2.NamedHandle{Handle: object.handle, Name: object.name},
		CreationHash:   tpm2.TPM2BDigest{Buffer: sha256Sum(blob.Creation)},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		CreationTicket: *ticket,
	}.Execute(tpm)
	if errors.Is(err, tpm2.TPMRCTicket) {
		return fmt.Errorf("creation ticket: %w: %w", ErrForeign, err)
	}
	if err != nil {
		return fmt.Errorf("certify creation: %w", err)
	}
	return nil
}

// open runs the policy and unseals, again if a PCR changed in between.
func open(tpm transport.TPM, root *rootKey, object *loaded, terms Terms) ([]byte, error) {
	var err error
	for range pcrChangedTries {
		var secret []byte
		if secret, err = openOnce(tpm, root, object, terms); err == nil {
			return secret, nil
		}
		if !errors.Is(err, tpm2.TPMRCPCRChanged) {
			break
		}
	}
	if errors.Is(err, tpm2.TPMRCPolicyFail) || errors.Is(err, tpm2.TPMRCValue) {
		return nil, fmt.Errorf("%w: %w", ErrState, err)
	}
	return nil, err
}

func openOnce(tpm transport.TPM, root *rootKey, object *loaded, terms Terms) ([]byte, error) {
	session, closeSession, err := tpm2.PolicySession(tpm, tpm2.TPMAlgSHA256, nonceSize, root.salted(out())...)
	if err != nil {
		return nil, fmt.Errorf("start policy session: %w", err)
	}
	defer func() { _ = closeSession() }() // a lost session ends with the power
	if err := terms.satisfy(tpm, session.Handle()); err != nil {
		return nil, err
	}
	rsp, err := tpm2.Unseal{
		ItemHandle: tpm2.AuthHandle{Handle: object.handle, Name: object.name, Auth: session},
	}.Execute(tpm)
	if err != nil {
		return nil, fmt.Errorf("unseal object: %w", err)
	}
	return rsp.OutData.Buffer, nil
}

// known adds the sentinel that callers test to a TPM's answer that has one.
func known(err error) error {
	if errors.Is(err, tpm2.TPMRCLockout) {
		return fmt.Errorf("%w: %w", hsm.ErrLockedOut, err)
	}
	return err
}
