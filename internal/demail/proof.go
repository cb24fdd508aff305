package demail

import (
	"encoding/base64"
	"fmt"
)

// Proof is what an integrity field says, unchecked: for finding the message that
// a confirmation quotes (TR-01201-3.4 §3.5.1).
type Proof struct {
	Algorithm Algorithm
	BodyHash  []byte // bh=
	Value     []byte // b=: the signature, or the header's hash if unsigned
}

// ParseProof reads the value of an x-de-mail-integrity field. Errors wrap
// ErrIntegrityField.
func ParseProof(value string) (Proof, error) {
	in, err := parseIntegrity(integrityField(value))
	if err != nil {
		return Proof{}, fmt.Errorf("%w: %w", ErrIntegrityField, err)
	}
	return Proof{Algorithm: in.alg, BodyHash: in.bh, Value: in.b}, nil
}

// IsZero reports whether there is no proof at all.
func (p Proof) IsZero() bool { return p.Algorithm.Hash == 0 }

// BodyKey is bh= in base64 without white space.
func (p Proof) BodyKey() string { return base64.StdEncoding.EncodeToString(p.BodyHash) }

// ValueKey is b= in base64 without white space.
func (p Proof) ValueKey() string { return base64.StdEncoding.EncodeToString(p.Value) }
