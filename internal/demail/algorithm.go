package demail

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha256" // the hashes of TR-01201-3.4 §3.1.21
	_ "crypto/sha512"
	"errors"
	"fmt"
	"strings"
)

// Scheme is the second half of a= (TR-01201-3.4 §3.1.21); empty means hashed only.
type Scheme string

// The signature schemes of TR-01201-3.4 §3.1.21.
const (
	Unsigned  Scheme = ""
	RSA       Scheme = "rsa"        // RSASSA-PKCS1-v1_5, RFC 5754
	ECDSA     Scheme = "ec-dsa"     // RFC 5754
	RSASSAPSS Scheme = "rsassa-pss" // RFC 4056
)

// Algorithm is the value of a=.
type Algorithm struct {
	Hash   crypto.Hash // SHA256, SHA384 or SHA512
	Scheme Scheme
}

// minRSA is the smallest RSA modulus in bits that a signature is believed for;
// certificates that still run may be older than the 3000 bits of BSI TR-03116-4.
const minRSA = 2048

// String is the form that stands in a=.
func (a Algorithm) String() string {
	s := hashName(a.Hash)
	if a.Scheme != Unsigned {
		s += "/" + string(a.Scheme)
	}
	return s
}

// ParseAlgorithm reads the value of a=, which is case-sensitive.
func ParseAlgorithm(s string) (Algorithm, error) {
	name, scheme, signed := strings.Cut(s, "/")
	a := Algorithm{Scheme: Scheme(scheme)}
	for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		if name == hashName(h) {
			a.Hash = h
		}
	}
	switch {
	case a.Hash == 0:
		return Algorithm{}, errors.New("unknown hash algorithm in a=")
	case signed && a.Scheme != RSA && a.Scheme != ECDSA && a.Scheme != RSASSAPSS:
		return Algorithm{}, errors.New("unknown signature algorithm in a=")
	}
	return a, nil
}

func hashName(h crypto.Hash) string {
	switch h {
	case crypto.SHA256:
		return "sha256"
	case crypto.SHA384:
		return "sha384"
	case crypto.SHA512:
		return "sha512"
	}
	return ""
}

// sign makes the value of b= from the header hash.
func (a Algorithm) sign(signer crypto.Signer, digest []byte) ([]byte, error) {
	if a.Scheme == Unsigned {
		return digest, nil
	}
	var opts crypto.SignerOpts = a.Hash
	if a.Scheme == RSASSAPSS {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: a.Hash}
	}
	sig, err := signer.Sign(rand.Reader, digest, opts)
	if err != nil {
		return nil, fmt.Errorf("sign header: %w", err)
	}
	return sig, nil
}

// verify checks a signature over digest. The key must be of the scheme's kind.
func (a Algorithm) verify(key crypto.PublicKey, digest, sig []byte) error {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < minRSA {
			return fmt.Errorf("RSA key under %d bits", minRSA)
		}
		switch a.Scheme {
		case RSA:
			return rsa.VerifyPKCS1v15(k, a.Hash, digest, sig)
		case RSASSAPSS:
			return rsa.VerifyPSS(k, a.Hash, digest, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto, Hash: a.Hash})
		}
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize < 256 {
			return errors.New("elliptic curve under 256 bits")
		}
		if a.Scheme == ECDSA {
			if !ecdsa.VerifyASN1(k, digest, sig) {
				return errors.New("ECDSA: verification error")
			}
			return nil
		}
	}
	return fmt.Errorf("the certificate's key does not fit %s", a.Scheme)
}
