// Package secret hashes the secrets of systems that log in (SMTP AUTH), so that
// a configuration holds none: argon2id (RFC 9106) as a PHC string,
//
//	$argon2id$v=19$m=19456,t=2,p=1$salt$hash
//
// with salt and hash in unpadded base64.
//
// # What it promises
//
//   - Parse takes this one form only, in its one spelling, and parameters within
//     bounds. So nobody weakens a hash by a typing error, and no configuration
//     makes the box spend more than MaxMemory and MaxPasses on one login.
//   - New makes a hash with a fresh salt and the least parameters that OWASP
//     recommends. Mail servers log in for every connection, often many at once, and
//     the secrets are meant to be generated ones, which nobody guesses at any cost.
//   - Matches compares in constant time.
//
// # What it does not do
//
// It does not bound how many hashes are computed at once, and knows no users:
// that is package tenants'.
//
// Why not bcrypt or scrypt: argon2id is what RFC 9106 and BSI TR-02102-1 name for
// this. Why not SHA-256 for generated secrets, which are strong anyway: nobody can
// see from a hash whether its secret was generated or chosen.
package secret

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
)

// Bounds of a hash's parameters. The lower ones are the least that RFC 9106 §4
// and OWASP still recommend together (19 MiB, two passes).
const (
	MinMemory = 19 << 10 // KiB
	MaxMemory = 64 << 10 // KiB
	MinPasses = 2
	MaxPasses = 8
	MaxLanes  = 4
)

// Bounds of secrets, salts and hashes in bytes.
const (
	MinSecret = 12
	MaxSecret = 128
	minSalt   = 16
	maxSalt   = 48
	minHash   = 32
	maxHash   = 64
	maxText   = 256 // of a PHC string
)

// What New uses; one lane, because logins come in parallel already.
const (
	memory = MinMemory
	passes = MinPasses
	lanes  = 1
)

// ErrForm is wrapped by every error of Parse.
var ErrForm = errors.New("no argon2id hash of a secret")

// Params is what computing a hash costs.
type Params struct {
	Memory uint32 // KiB
	Passes uint32
	Lanes  uint8
}

// Hash is a secret's hash. The zero Hash matches nothing.
type Hash struct {
	params    Params
	salt, sum []byte
}

// New hashes a secret of MinSecret to MaxSecret bytes.
func New(secret string) (Hash, error) {
	if len(secret) < MinSecret || len(secret) > MaxSecret {
		return Hash{}, fmt.Errorf("a secret has %d to %d bytes, this one %d", MinSecret, MaxSecret, len(secret))
	}
	salt := make([]byte, minSalt)
	if _, err := rand.Read(salt); err != nil {
		return Hash{}, fmt.Errorf("hash a secret: %w", err)
	}
	h := Hash{params: Params{memory, passes, lanes}, salt: salt}
	h.sum = h.compute(secret, minHash)
	return h, nil
}

// Generate makes a secret with 160 bits of entropy: 32 lower-case letters and
// digits, easy to read out over the telephone.
func Generate() string { return strings.ToLower(rand.Text() + rand.Text())[:32] }

// Decoy is a hash that nothing matches and that costs as much as one with these
// parameters.
func Decoy(p Params) Hash { return Hash{params: p, salt: make([]byte, minSalt)} }

// Params gives what Matches costs.
func (h Hash) Params() Params { return h.params }

// Matches computes the hash of a secret and compares. It uses Params().Memory
// KiB of memory while it runs, whatever the verdict is; only the zero Hash and a
// secret longer than MaxSecret are refused without work.
func (h Hash) Matches(secret string) bool {
	if h.params.Lanes == 0 || len(secret) > MaxSecret {
		return false
	}
	sum := h.compute(secret, uint32(max(len(h.sum), minHash)))
	return len(h.sum) > 0 && subtle.ConstantTimeCompare(sum, h.sum) == 1
}

func (h Hash) compute(secret string, size uint32) []byte {
	return argon2.IDKey([]byte(secret), h.salt, h.params.Passes, h.params.Memory, h.params.Lanes, size)
}

// String gives the PHC string.
func (h Hash) String() string {
	enc := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.params.Memory, h.params.Passes, h.params.Lanes,
		enc.EncodeToString(h.salt), enc.EncodeToString(h.sum))
}

// Parse reads a PHC string. Its errors wrap ErrForm and never repeat the string.
func Parse(text string) (Hash, error) {
	parts := strings.Split(text, "$")
	if len(text) > maxText || len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != "v="+strconv.Itoa(argon2.Version) {
		return Hash{}, fmt.Errorf("%w: it begins with $argon2id$v=%d$ and has three more parts", ErrForm, argon2.Version)
	}
	p, err := parseParams(parts[3])
	if err != nil {
		return Hash{}, err
	}
	salt, err1 := base64.RawStdEncoding.Strict().DecodeString(parts[4])
	sum, err2 := base64.RawStdEncoding.Strict().DecodeString(parts[5])
	switch {
	case err1 != nil || err2 != nil:
		return Hash{}, fmt.Errorf("%w: salt and hash are base64 without padding", ErrForm)
	case len(salt) < minSalt || len(salt) > maxSalt:
		return Hash{}, fmt.Errorf("%w: the salt has %d to %d bytes", ErrForm, minSalt, maxSalt)
	case len(sum) < minHash || len(sum) > maxHash:
		return Hash{}, fmt.Errorf("%w: the hash has %d to %d bytes", ErrForm, minHash, maxHash)
	}
	h := Hash{params: p, salt: salt, sum: sum}
	if h.String() != text { // line breaks in base64, leading zeros in numbers
		return Hash{}, fmt.Errorf("%w: it is not in its usual spelling", ErrForm)
	}
	return h, nil
}

// parseParams reads "m=65536,t=3,p=1".
func parseParams(text string) (Params, error) {
	var values [3]uint64
	fields := strings.Split(text, ",")
	for i, name := range [...]string{"m=", "t=", "p="} {
		var err error
		if len(fields) != len(values) || !strings.HasPrefix(fields[i], name) {
			return Params{}, fmt.Errorf("%w: its parameters are m=…,t=…,p=…", ErrForm)
		}
		if values[i], err = strconv.ParseUint(fields[i][len(name):], 10, 31); err != nil {
			return Params{}, fmt.Errorf("%w: its parameters are numbers", ErrForm)
		}
	}
	m, t, p := values[0], values[1], values[2]
	if m < MinMemory || m > MaxMemory || t < MinPasses || t > MaxPasses || p < 1 || p > MaxLanes {
		return Params{}, fmt.Errorf("%w: m is %d to %d, t is %d to %d, p is 1 to %d", ErrForm, MinMemory, MaxMemory, MinPasses, MaxPasses, MaxLanes)
	}
	return Params{uint32(m), uint32(t), uint8(p)}, nil
}
