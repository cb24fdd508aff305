package seal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// version of the blob's format.
const version = 1

// MaxBlob bounds a blob in bytes; a LUKS2 header has 12 KiB for all its JSON.
const MaxBlob = 8 << 10

// Blob is a sealed secret with all that is needed to unseal it on the same TPM.
// It holds nothing secret. Public, Private, Creation and Ticket are in the
// TPM's own encoding.
type Blob struct {
	Version  int    `json:"version"`
	Root     []byte `json:"root"` // name of the storage root key
	Terms    Terms  `json:"policy"`
	Public   []byte `json:"public"`
	Private  []byte `json:"private"`
	Creation []byte `json:"creation"`
	Ticket   []byte `json:"ticket"`
}

// Marshal gives the blob's JSON form, one object without line breaks.
func (b Blob) Marshal() ([]byte, error) {
	data, err := json.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("marshal sealed blob: %w", err)
	}
	if len(data) > MaxBlob {
		return nil, fmt.Errorf("marshal sealed blob: %d bytes, allowed are %d", len(data), MaxBlob)
	}
	return data, nil
}

// Parse reads what Marshal wrote. Unknown fields, another version and policies
// that this package does not make are ErrFormat.
func Parse(data []byte) (Blob, error) {
	if len(data) > MaxBlob {
		return Blob{}, fmt.Errorf("parse sealed blob of %d bytes: %w", len(data), ErrFormat)
	}
	var b Blob
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&b); err != nil {
		return Blob{}, fmt.Errorf("parse sealed blob: %w: %w", ErrFormat, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return Blob{}, fmt.Errorf("parse sealed blob: data after the object: %w", ErrFormat)
	}
	if b.Version != version {
		return Blob{}, fmt.Errorf("parse sealed blob: version %d: %w", b.Version, ErrFormat)
	}
	if err := b.Terms.valid(); err != nil {
		return Blob{}, fmt.Errorf("parse sealed blob: %w", err)
	}
	return b, nil
}
