package uki

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
)

// PolicyKeyBits is the least modulus of a key for PCR signatures. TPMs check RSA
// signatures of 2048 bits everywhere, of 3072 and 4096 bits not.
const PolicyKeyBits = 2048

// signedPolicy is one entry of the signature file (systemd-measure(1)).
type signedPolicy struct {
	PCRs        []int  `json:"pcrs"`
	Fingerprint string `json:"pkfp"` // SHA-256 of the PKCS#1 public key
	Policy      string `json:"pol"`  // PolicyPCR digest
	Signature   []byte `json:"sig"`  // RSASSA-PKCS1-v1_5, SHA-256
}

// PCRSignature returns the content of .pcrsig: for each of the given phase lists
// the TPM policy "PCR 11 of the SHA-256 bank has the predicted value", signed
// by key. It is what `systemd-measure sign --bank=sha256 --phase=…` prints. The
// key must be RSA of PolicyKeyBits at least, because systemd and the TPM's
// PolicyAuthorize as systemd uses it know no other. p.PCRSignature is ignored.
//
// Whoever holds key can make a policy for any value: it is worth as much as the
// release key itself.
func PCRSignature(p Parts, key crypto.Signer, paths ...[]string) ([]byte, error) {
	pub, err := policyKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("sign PCR policy: %w", err)
	}
	if len(paths) == 0 {
		return nil, errors.New("sign PCR policy: no phase given")
	}
	p.PCRSignature = nil
	fingerprint := sha256.Sum256(x509.MarshalPKCS1PublicKey(pub))
	var entries []signedPolicy
	for _, phases := range paths {
		value, err := PCR11(p, phases...)
		if err != nil {
			return nil, fmt.Errorf("sign PCR policy: %w", err)
		}
		policy := PolicyPCR11(value)
		digest := sha256.Sum256(policy)
		sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
		if err != nil {
			return nil, fmt.Errorf("sign PCR policy: %w", err)
		}
		if err := rsa.VerifyPKCS1v15(pub, crypto.SHA256, digest[:], sig); err != nil {
			return nil, fmt.Errorf("sign PCR policy: the signer's own public key refuses its signature: %w", err)
		}
		entries = append(entries, signedPolicy{[]int{PCR}, hex.EncodeToString(fingerprint[:]), hex.EncodeToString(policy), sig})
	}
	b, err := json.Marshal(map[string][]signedPolicy{"sha256": entries})
	if err != nil {
		return nil, fmt.Errorf("sign PCR policy: %w", err)
	}
	return append(b, '\n'), nil
}

// PolicyPCR11 returns the digest of a TPM 2.0 session after TPM2_PolicyPCR
// with PCR 11 of the SHA-256 bank at the given value (TPM 2.0 Library, part 3,
// "TPM2_PolicyPCR": H(old ‖ TPM_CC_PolicyPCR ‖ pcrs ‖ H(values))).
func PolicyPCR11(value []byte) []byte {
	const commandPolicyPCR = 0x0000017f
	const algorithmSHA256 = 0x000b
	values := sha256.Sum256(value)
	b := make([]byte, sha256.Size) // a fresh session's digest is zero
	b = binary.BigEndian.AppendUint32(b, commandPolicyPCR)
	b = binary.BigEndian.AppendUint32(b, 1) // one selection:
	b = binary.BigEndian.AppendUint16(b, algorithmSHA256)
	b = append(b, 3, 0, 1<<(PCR-8), 0) // bitmap of 3 bytes
	b = append(b, values[:]...)
	digest := sha256.Sum256(b)
	return digest[:]
}

// PublicKeyPEM returns the content of .pcrpkey: the public key in PEM as PKIX.
func PublicKeyPEM(pub crypto.PublicKey) ([]byte, error) {
	key, err := policyKey(pub)
	if err != nil {
		return nil, fmt.Errorf("encode PCR key: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode PCR key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

func policyKey(pub crypto.PublicKey) (*rsa.PublicKey, error) {
	key, ok := pub.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("key is %T: an RSA key is needed", pub)
	}
	if n := key.N.BitLen(); n < PolicyKeyBits {
		return nil, fmt.Errorf("key has %d bits: %d are needed", n, PolicyKeyBits)
	}
	return key, nil
}
