package seal

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
)

// goodBlob is well formed; no TPM made it.
func goodBlob() Blob {
	return Blob{
		Version: version,
		Root:    bytes.Repeat([]byte{1}, 34),
		Terms: Terms{Kind: kindBootState, Bank: "sha256", PCRs: []PCR{
			{Index: PCRSecureBoot, Value: bytes.Repeat([]byte{7}, 32)},
			{Index: PCRLatch, Value: make([]byte, 32)},
		}},
		Public: []byte{1}, Private: []byte{2}, Creation: []byte{3}, Ticket: []byte{4},
	}
}

func TestParseRefuses(t *testing.T) {
	tests := map[string]func(*Blob){
		"another version":         func(b *Blob) { b.Version = 2 },
		"unknown policy":          func(b *Blob) { b.Terms.Kind = "none" },
		"unknown bank":            func(b *Blob) { b.Terms.Bank = "sha1" },
		"no PCR":                  func(b *Blob) { b.Terms.PCRs = nil },
		"latch missing":           func(b *Blob) { b.Terms.PCRs = b.Terms.PCRs[:1] },
		"other PCR":               func(b *Blob) { b.Terms.PCRs[0].Index = 16 },
		"latch not zero":          func(b *Blob) { b.Terms.PCRs[1].Value[3] = 1 },
		"Secure Boot unmeasured":  func(b *Blob) { clear(b.Terms.PCRs[0].Value) },
		"value of the wrong size": func(b *Blob) { b.Terms.PCRs[0].Value = b.Terms.PCRs[0].Value[:20] },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			b := goodBlob()
			spoil(&b)
			data, err := json.Marshal(b)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Parse(data); !errors.Is(err, ErrFormat) {
				t.Fatalf("got error %v, want %v", err, ErrFormat)
			}
		})
	}
	for name, data := range map[string]string{
		"empty": "", "not JSON": "x", "unknown field": `{"version":1,"x":1}`, "array": "[]",
	} {
		if _, err := Parse([]byte(data)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: got error %v, want %v", name, err, ErrFormat)
		}
	}
	good, err := goodBlob().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(append(good, good...)); !errors.Is(err, ErrFormat) {
		t.Errorf("two objects: got error %v, want %v", err, ErrFormat)
	}
	if _, err := Parse(make([]byte, MaxBlob+1)); !errors.Is(err, ErrFormat) {
		t.Errorf("too long: got error %v, want %v", err, ErrFormat)
	}
}

func FuzzParse(f *testing.F) {
	good, err := goodBlob().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"version":1,"policy":{"kind":"boot-state","bank":"sha384","pcrs":[{},{}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := Parse(data)
		if err != nil {
			return
		}
		again, err := b.Marshal()
		if err != nil {
			return // longer than MaxBlob once written out
		}
		if _, err := Parse(again); err != nil {
			t.Fatalf("own output is refused: %v", err)
		}
	})
}
