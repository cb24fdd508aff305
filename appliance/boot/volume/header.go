package volume

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strconv"
)

// The LUKS2 on-disk format (LUKS2 On-Disk Format Specification 1.1.3, section 2).
const (
	headerSize    = 16 << 10 // binary header and JSON area, the smallest and the one we make
	binarySize    = 4 << 10
	labelOffset   = 24
	labelSize     = 48
	checksumStart = 448
	checksumSize  = 64
	magicFirst    = "LUKS\xba\xbe"
	magicSecond   = "SKUL\xba\xbe"
	luksVersion   = 2
)

// What we make, and so the only thing that we open.
const (
	labelNew  = "pforte-new"  // formatted, but nothing was ever stored
	labelData = "pforte-data" // in use
	tokenType = "pforte-tpm"
	cipher    = "aes-xts-plain64"
	keyBytes  = 64 // AES-256 in XTS has two keys
	// dataOffset is where the ciphertext begins, in bytes. Before it: two
	// headers, and keyslotsSize bytes for four key slots.
	dataOffset   = 2 << 20
	keyslotsSize = 1 << 20
	maxKeyslots  = 8
	maxTokens    = 8
)

// header is one valid copy of the LUKS2 header.
type header struct {
	sequence uint64
	label    string
	meta     metadata
}

// metadata is the JSON area, as far as we judge it.
type metadata struct {
	Keyslots map[string]struct {
		Type    string `json:"type"`
		KeySize int    `json:"key_size"`
		AF      struct {
			Type string `json:"type"`
		} `json:"af"`
		Area struct {
			Type       string `json:"type"`
			Offset     string `json:"offset"`
			Size       string `json:"size"`
			Encryption string `json:"encryption"`
			KeySize    int    `json:"key_size"`
		} `json:"area"`
		KDF struct {
			Type string `json:"type"`
		} `json:"kdf"`
	} `json:"keyslots"`
	Tokens   map[string]json.RawMessage `json:"tokens"`
	Segments map[string]struct {
		Type       string          `json:"type"`
		Offset     string          `json:"offset"`
		Size       string          `json:"size"`
		Encryption string          `json:"encryption"`
		SectorSize int             `json:"sector_size"`
		Integrity  json.RawMessage `json:"integrity"`
		Flags      json.RawMessage `json:"flags"`
	} `json:"segments"`
	Digests map[string]struct {
		Type     string   `json:"type"`
		Keyslots []string `json:"keyslots"`
		Segments []string `json:"segments"`
	} `json:"digests"`
	Config struct {
		Flags        json.RawMessage `json:"flags"`
		Requirements json.RawMessage `json:"requirements"`
	} `json:"config"`
}

// errNoHeader: there is no valid header at this place.
var errNoHeader = errors.New("no valid LUKS2 header")

// readHeader reads the newer of the two copies of the header.
func readHeader(area io.ReaderAt) (header, error) {
	first, errFirst := readCopy(area, 0, magicFirst)
	second, errSecond := readCopy(area, headerSize, magicSecond)
	switch {
	case errFirst != nil && errSecond != nil:
		return header{}, errFirst
	case errFirst != nil || (errSecond == nil && second.sequence > first.sequence):
		return second, nil
	}
	return first, nil
}

// readCopy reads the copy at offset. A header of another size than ours is no
// valid header here: we never made it.
func readCopy(area io.ReaderAt, offset int64, magic string) (header, error) {
	b := make([]byte, headerSize)
	if _, err := area.ReadAt(b, offset); err != nil {
		return header{}, fmt.Errorf("read header at %d: %w", offset, err)
	}
	be := binary.BigEndian
	if string(b[:6]) != magic || be.Uint16(b[6:]) != luksVersion || be.Uint64(b[8:]) != headerSize ||
		be.Uint64(b[256:]) != uint64(offset) {
		return header{}, fmt.Errorf("header at %d: %w", offset, errNoHeader)
	}
	want := bytes.Clone(b[checksumStart:][:checksumSize])
	got, err := checksum(b)
	if err != nil {
		return header{}, err
	}
	if !bytes.Equal(got, want[:len(got)]) {
		return header{}, fmt.Errorf("header at %d: checksum: %w", offset, errNoHeader)
	}
	h := header{sequence: be.Uint64(b[16:]), label: cString(b[labelOffset:][:labelSize])}
	text := b[binarySize:]
	if end := bytes.IndexByte(text, 0); end >= 0 {
		text = text[:end]
	}
	if err := json.Unmarshal(text, &h.meta); err != nil {
		return header{}, fmt.Errorf("header at %d: %w: %w", offset, errNoHeader, err)
	}
	return h, nil
}

// checksum hashes a copy of the header with its checksum field zeroed.
func checksum(b []byte) ([]byte, error) {
	var h hash.Hash
	switch name := cString(b[72:104]); name {
	case "sha256":
		h = sha256.New()
	case "sha512":
		h = sha512.New()
	default:
		return nil, fmt.Errorf("checksum %q: %w", name, errNoHeader)
	}
	h.Write(b[:checksumStart])
	h.Write(make([]byte, checksumSize))
	h.Write(b[checksumStart+checksumSize:])
	return h.Sum(nil), nil
}

func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// check refuses every header that we would not have made. The header has a
// checksum but no signature: whoever holds the disk may write another one, for
// example with a key slot that any key opens, or without encryption.
func (h header) check() error {
	m := h.meta
	fail := func(what string) error { return fmt.Errorf("%s: %w", what, ErrHeader) }
	if len(m.Keyslots) == 0 || len(m.Keyslots) > maxKeyslots {
		return fail("number of key slots")
	}
	for _, k := range m.Keyslots {
		if k.Type != "luks2" || k.KeySize != keyBytes || k.AF.Type != "luks1" ||
			k.Area.Type != "raw" || k.Area.Encryption != cipher || k.Area.KeySize != keyBytes ||
			!slices.Contains([]string{"pbkdf2", "argon2id"}, k.KDF.Type) ||
			!within(k.Area.Offset, k.Area.Size, 2*headerSize, dataOffset) {
			return fail("key slot")
		}
	}
	s, ok := m.Segments["0"]
	if !ok || len(m.Segments) != 1 || s.Type != "crypt" || s.Encryption != cipher ||
		s.Offset != strconv.Itoa(dataOffset) || s.Size != "dynamic" ||
		(s.SectorSize != 512 && s.SectorSize != 4096) || s.Integrity != nil || s.Flags != nil {
		return fail("segment")
	}
	d, ok := m.Digests["0"]
	if !ok || len(m.Digests) != 1 || d.Type != "pbkdf2" || !slices.Equal(d.Segments, []string{"0"}) {
		return fail("digest")
	}
	if !empty(m.Config.Flags) || !empty(m.Config.Requirements) {
		return fail("flags or requirements")
	}
	return nil
}

// within reports whether the decimal numbers offset and size describe a range
// between low and high.
func within(offset, size string, low, high uint64) bool {
	o, err1 := strconv.ParseUint(offset, 10, 32)
	n, err2 := strconv.ParseUint(size, 10, 32)
	return err1 == nil && err2 == nil && o >= low && n > 0 && o+n <= high
}

// empty reports whether a JSON value is absent or holds nothing.
func empty(v json.RawMessage) bool {
	switch string(bytes.TrimSpace(v)) {
	case "", "null", "[]", "{}":
		return true
	}
	return false
}

// token is our LUKS2 token: where the TPM's blob is kept.
type token struct {
	Type     string          `json:"type"`
	Keyslots []string        `json:"keyslots"`
	Blob     json.RawMessage `json:"blob"`
}

// blob finds the one token of our type.
func (h header) blob() ([]byte, error) {
	if len(h.meta.Tokens) > maxTokens {
		return nil, fmt.Errorf("%d tokens: %w", len(h.meta.Tokens), ErrHeader)
	}
	var found []byte
	for _, raw := range h.meta.Tokens {
		var t token
		if err := json.Unmarshal(raw, &t); err != nil {
			return nil, fmt.Errorf("token: %w: %w", ErrHeader, err)
		}
		if t.Type != tokenType {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("two tokens %s: %w", tokenType, ErrHeader)
		}
		found = t.Blob
	}
	if found == nil {
		return nil, fmt.Errorf("no token %s: %w", tokenType, ErrHeader)
	}
	return found, nil
}
