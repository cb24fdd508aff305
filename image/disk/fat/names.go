package fat

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"
)

// Characters beside letters and digits that a name may have: in 8.3 names, and
// only in long names.
const (
	shortExtra = "$%'-_@~`!(){}^#&"
	longExtra  = " +,;=[]."
)

func isAlnum(c byte) bool {
	return c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
}

// checkName refuses what FAT or some reader of it could understand otherwise.
func checkName(name string) error {
	switch {
	case name == "" || len(name) > maxName:
		return fmt.Errorf("name %q has %d characters, 1 to %d are allowed", name, len(name), maxName)
	case name[0] == ' ' || name[0] == '.' || strings.HasSuffix(name, " ") || strings.HasSuffix(name, "."):
		return fmt.Errorf("name %q begins or ends with a space or a dot", name)
	}
	for i := range len(name) {
		if c := name[i]; !isAlnum(c) && !strings.Contains(shortExtra+longExtra, string(rune(c))) {
			return fmt.Errorf("name %q has the character %q", name, c)
		}
	}
	return nil
}

func checkLabel(label string) error {
	if label == "" || len(label) > 11 || strings.TrimSpace(label) != label {
		return fmt.Errorf("label %q must have 1 to 11 characters", label)
	}
	for i := range len(label) {
		if c := label[i]; !(c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == ' ') {
			return fmt.Errorf("label %q has the character %q", label, c)
		}
	}
	return nil
}

// shortName makes the 8.3 name of an entry, unique within taken, and tells
// whether a long name must stand beside it.
func shortName(name string, taken map[[11]byte]bool) (short [11]byte, long bool) {
	base, ext := name, ""
	if dot := strings.LastIndexByte(name, '.'); dot > 0 {
		base, ext = name[:dot], name[dot+1:]
	}
	b, lossyBase := shortPart(base, 8)
	e, lossyExt := shortPart(ext, 3)
	short = pad(b, e)
	if !lossyBase && !lossyExt && !taken[short] {
		return short, strings.ToUpper(name) != name
	}
	for n := 1; ; n++ {
		tail := fmt.Sprintf("~%d", n)
		short = pad(b[:min(len(b), 8-len(tail))]+tail, e)
		if !taken[short] {
			return short, true
		}
	}
}

// shortPart turns part of a name into capitals of at most n allowed characters,
// and tells whether anything but case was lost.
func shortPart(part string, n int) (string, bool) {
	var out []byte
	lossy := false
	for i := range len(part) {
		c := part[i]
		if !isAlnum(c) && !strings.Contains(shortExtra, string(rune(c))) {
			lossy = true
			continue
		}
		out = append(out, c)
	}
	if len(out) > n {
		out, lossy = out[:n], true
	}
	return strings.ToUpper(string(out)), lossy
}

func pad(base, ext string) [11]byte {
	var b [11]byte
	copy(b[:], fmt.Sprintf("%-8s%-3s", base, ext))
	return b
}

func shortChecksum(short [11]byte) byte {
	var sum byte
	for _, c := range short {
		sum = sum>>1 | sum<<7
		sum += c
	}
	return sum
}

// longPositions are the places of the 13 characters in a long-name entry.
func longPositions() [longNameChars]int {
	return [...]int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30}
}

// longEntries encodes name, the last part first, as it stands before the short entry.
func longEntries(name string, short [11]byte) []byte {
	count := (len(name) + longNameChars - 1) / longNameChars
	out := make([]byte, count*entrySize)
	for part := range count {
		e := out[(count-1-part)*entrySize:][:entrySize]
		e[0] = byte(part + 1)
		if part == count-1 {
			e[0] |= lastLongEntry
		}
		e[11], e[13] = attrLongName, shortChecksum(short)
		for i, pos := range longPositions() {
			unit := uint16(0xffff)
			switch at := part*longNameChars + i; {
			case at < len(name):
				unit = uint16(name[at])
			case at == len(name):
				unit = 0
			}
			binary.LittleEndian.PutUint16(e[pos:], unit)
		}
	}
	return out
}

// shortEntry encodes a directory entry.
func shortEntry(short [11]byte, attr byte, cluster uint32, size uint32, stamp time.Time) []byte {
	e := make([]byte, entrySize)
	copy(e, short[:])
	e[11] = attr
	date, clock := dosTime(stamp)
	le := binary.LittleEndian
	le.PutUint16(e[14:], clock)
	le.PutUint16(e[16:], date)
	le.PutUint16(e[18:], date)
	le.PutUint16(e[20:], uint16(cluster>>16))
	le.PutUint16(e[22:], clock)
	le.PutUint16(e[24:], date)
	le.PutUint16(e[26:], uint16(cluster))
	le.PutUint32(e[28:], size)
	return e
}

// dosTime encodes a time; FAT knows the years 1980 to 2107.
func dosTime(t time.Time) (date, clock uint16) {
	t = t.UTC()
	if t.Year() < 1980 {
		t = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	if t.Year() > 2107 {
		t = time.Date(2107, 12, 31, 23, 59, 58, 0, time.UTC)
	}
	date = uint16(t.Year()-1980)<<9 | uint16(t.Month())<<5 | uint16(t.Day())
	return date, uint16(t.Hour())<<11 | uint16(t.Minute())<<5 | uint16(t.Second()/2)
}
