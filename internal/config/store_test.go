package config

import (
	"bytes"
	"crypto/elliptic"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gitlab.opencode.de/pforte/pforte/internal/layout"
)

func TestStoreName(t *testing.T) {
	if got := filepath.Join(layout.ConfigDir, currentName); got != layout.ConfigFile {
		t.Errorf("the store writes %s, others read %s", got, layout.ConfigFile)
	}
}

func TestStore(t *testing.T) {
	k := ecKey(t, elliptic.P256())
	stranger := ecKey(t, elliptic.P256())
	dir := t.TempDir()
	s := NewStore(dir, k.Public())
	if doc, err := s.Current(); doc != nil || !errors.Is(err, ErrNone) {
		t.Fatalf("Current of an empty store = %v, %v", doc, err)
	}
	if serial, box, err := s.Accepted(); serial != 0 || box != "" || err != nil {
		t.Fatalf("Accepted of an empty store = %d, %q, %v", serial, box, err)
	}
	envelope := func(serial int, box string, key int) []byte {
		text := bytes.Replace(example(t), []byte("serial: 1 "), fmt.Appendf(nil, "serial: %d ", serial), 1)
		text = bytes.Replace(text, []byte("box: pforte-1 "), []byte("box: "+box+" "), 1)
		signer := k
		if key != 0 {
			signer = stranger
		}
		out, err := Sign(text, signer)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	faulty := strings.Replace(string(envelope(9, "pforte-1", 0)), PayloadType, "x", 1)
	tests := []struct {
		name     string
		envelope []byte
		want     error
		serial   uint64 // in force afterwards
	}{
		{"signed by a stranger", envelope(1, "pforte-1", 1), ErrSignature, 0},
		{"first", envelope(3, "pforte-1", 0), nil, 3},
		{"the same again", envelope(3, "pforte-1", 0), ErrNotNewer, 3},
		{"older", envelope(2, "pforte-1", 0), ErrNotNewer, 3},
		{"newer, of another box", envelope(4, "pforte-2", 0), ErrWrongBox, 3},
		{"newer, signed by a stranger", envelope(4, "pforte-1", 1), ErrSignature, 3},
		{"no envelope", []byte(faulty), ErrSignature, 3},
		{"newer", envelope(4, "pforte-1", 0), nil, 4},
	}
	for _, tt := range tests {
		doc, err := s.Put(tt.envelope)
		if !errors.Is(err, tt.want) || (doc != nil) != (tt.want == nil) {
			t.Fatalf("%s: Put = %v, %v, want %v", tt.name, doc, err, tt.want)
		}
		now, err := NewStore(dir, k.Public()).Current()
		if tt.serial == 0 {
			if !errors.Is(err, ErrNone) {
				t.Fatalf("%s: Current = %v, want ErrNone", tt.name, err)
			}
			continue
		}
		if err != nil || now.Serial != tt.serial {
			t.Fatalf("%s: Current = %v, %v; want serial %d", tt.name, now, err, tt.serial)
		}
	}
	if serial, box, err := s.Accepted(); serial != 4 || box != "pforte-1" || err != nil {
		t.Errorf("Accepted = %d, %q, %v", serial, box, err)
	}
}

// stored gives a store that accepted serial 1.
func stored(t *testing.T) (s *Store, dir string, again []byte, newer []byte) {
	t.Helper()
	k := ecKey(t, elliptic.P256())
	dir = t.TempDir()
	s = NewStore(dir, k.Public())
	again, err := Sign(example(t), k)
	if err != nil {
		t.Fatal(err)
	}
	newer, err = Sign(bytes.Replace(example(t), []byte("serial: 1 "), []byte("serial: 2 "), 1), k)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(again); err != nil {
		t.Fatal(err)
	}
	return s, dir, again, newer
}

// TestStoreRemembers: whatever becomes of one of the two files, an old
// configuration does not come back.
func TestStoreRemembers(t *testing.T) {
	damage := map[string]func(t *testing.T, dir string){
		"envelope lost":    func(t *testing.T, dir string) { remove(t, dir, currentName) },
		"envelope damaged": func(t *testing.T, dir string) { write(t, dir, currentName, "{") },
		"mark lost, as by a power cut after the first envelope": func(t *testing.T, dir string) { remove(t, dir, markName) },
		"mark one behind, as by a power cut":                    func(t *testing.T, dir string) { write(t, dir, markName, `{"version":1,"serial":0,"box":""}`) },
	}
	for name, f := range damage {
		t.Run(name, func(t *testing.T) {
			s, dir, again, newer := stored(t)
			f(t, dir)
			if _, err := s.Put(again); !errors.Is(err, ErrNotNewer) {
				t.Errorf("Put of the same serial = %v, want ErrNotNewer", err)
			}
			if doc, err := s.Put(newer); err != nil || doc.Serial != 2 {
				t.Errorf("Put of a newer one = %v, %v", doc, err)
			}
		})
	}
}

func TestStoreDamagedMark(t *testing.T) {
	for _, content := range []string{"", "{", `{"version":2,"serial":1}`, strings.Repeat(" ", maxMark+1)} {
		s, dir, _, newer := stored(t)
		before, err := s.Current()
		if err != nil {
			t.Fatal(err)
		}
		write(t, dir, markName, content)
		if _, err := s.Put(newer); err == nil {
			t.Errorf("with the mark %.20q Put succeeds", content)
		}
		after, err := s.Current()
		if d := cmp.Diff(before, after, equal); err != nil || d != "" {
			t.Errorf("the configuration changed: %v %s", err, d)
		}
	}
}

// TestStoreReadable: services of other users read what a process with a strict
// umask wrote.
func TestStoreReadable(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	s, dir, _, _ := stored(t)
	check := func() {
		t.Helper()
		info, err := os.Stat(filepath.Join(dir, currentName))
		if err != nil || info.Mode().Perm() != storePerm {
			t.Fatalf("the envelope has mode %v, %v", info.Mode(), err)
		}
	}
	check()
	if err := os.Chmod(filepath.Join(dir, currentName), 0o600); err != nil { // as after a power cut
		t.Fatal(err)
	}
	if _, err := s.Current(); err != nil {
		t.Fatal(err)
	}
	check()
}

func TestStoreFaultyDocument(t *testing.T) {
	s, _, _, _ := stored(t)
	var faults Faults
	k := ecKey(t, elliptic.P256())
	s.owner = k.Public()
	if _, err := s.Put(signed(t, []byte("version: 1\nserial: 7\n"), k)); !errors.As(err, &faults) {
		t.Errorf("Put of a faulty document = %v, want its faults", err)
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
