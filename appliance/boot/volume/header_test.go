package volume

import (
	"bytes"
	"testing"
)

// The fixture is what the real cryptsetup wrote.
func TestReadHeaderOfCryptsetup(t *testing.T) {
	h, err := readHeader(bytes.NewReader(fixture(t)))
	if err != nil {
		t.Fatal(err)
	}
	if h.label != labelData {
		t.Errorf("label %q, want %q", h.label, labelData)
	}
	if err := h.check(); err != nil {
		t.Error(err)
	}
	blob, err := h.blob()
	if err != nil {
		t.Fatal(err)
	}
	if string(bytes.ReplaceAll(blob, []byte(" "), nil)) != `{"a":1}` {
		t.Errorf("blob %s", blob)
	}
}

func TestNewerCopyCounts(t *testing.T) {
	area := fixture(t)
	older := bytes.Clone(area[:headerSize])
	edit(t, area, labelNew, nil)
	copy(area, older)
	h, err := readHeader(bytes.NewReader(area))
	if err != nil {
		t.Fatal(err)
	}
	if h.label != labelNew {
		t.Errorf("label %q, want that of the newer second copy", h.label)
	}
}

func FuzzHeader(f *testing.F) {
	f.Add(fixture(f))
	f.Fuzz(func(_ *testing.T, data []byte) {
		area := make([]byte, blankSize)
		copy(area, data)
		for _, o := range []int{0, headerSize} { // let the fuzzer past the checksum
			if sum, err := checksum(area[o:][:headerSize]); err == nil {
				clear(area[o+checksumStart:][:checksumSize])
				copy(area[o+checksumStart:], sum)
			}
		}
		if state, err := Examine(bytes.NewReader(area)); err != nil || state != Ready {
			return
		}
		_, _ = judge(area, labelData)
	})
}
