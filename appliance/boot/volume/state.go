package volume

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// State is what a partition holds.
type State int

// The states. Only Blank and Unfinished may be formatted.
const (
	// Foreign is whatever is none of the others. It is never written to.
	Foreign State = iota
	// Blank begins with blankSize zero bytes, as the disk image is shipped.
	Blank
	// Unfinished is a first format that lost its power: nothing was ever stored.
	Unfinished
	// Ready was formatted completely.
	Ready
)

// String names the state for messages.
func (s State) String() string {
	return [...]string{"foreign", "blank", "unfinished", "ready"}[s]
}

// blankSize is how many leading zero bytes make a partition blank.
const blankSize = 1 << 20

// Examine tells the state of a partition from its first bytes.
func Examine(partition io.ReaderAt) (State, error) {
	start := make([]byte, blankSize)
	if _, err := partition.ReadAt(start, 0); err != nil {
		return Foreign, fmt.Errorf("read start of partition: %w", err)
	}
	h, err := readHeader(bytes.NewReader(start))
	switch {
	case err == nil && h.label == labelNew:
		return Unfinished, nil
	case err == nil && h.label == labelData:
		return Ready, nil
	case err == nil:
		return Foreign, nil
	case begun(start):
		return Unfinished, nil
	case bytes.Equal(start, make([]byte, blankSize)):
		return Blank, nil
	}
	return Foreign, nil
}

// begun recognises the first sector of a header of ours whose rest was not yet
// written. A sector is written wholly or not at all, and format writes this one
// first of all.
func begun(start []byte) bool {
	return string(start[:6]) == magicFirst &&
		binary.BigEndian.Uint16(start[6:]) == luksVersion &&
		cString(start[labelOffset:][:labelSize]) == labelNew
}
