package slot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/appliance/update/slot/slottest"
	"gitlab.opencode.de/pforte/pforte/internal/durable"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/internal/release"
)

// partition is an EFI system partition with a whole slot A and its fallback copy.
func partition(t *testing.T) Disk {
	t.Helper()
	d := Disk{Root: t.TempDir()}
	for _, name := range []string{layout.SlotA, layout.FallbackSlot} {
		name = filepath.Join(d.Root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, []byte("old release"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func TestWrite(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 300_000) // three chunks
	sum := sha256.Sum256(content)
	cut := errors.New("connection lost")
	tests := []struct {
		name   string
		reader func() io.Reader
		length int64
		want   [32]byte
		err    error
		text   string
	}{
		{"good", func() io.Reader { return bytes.NewReader(content) }, int64(len(content)), sum, nil, ""},
		{"in pieces", func() io.Reader { return iotest.HalfReader(bytes.NewReader(content)) }, int64(len(content)), sum, nil, ""},
		{"short", func() io.Reader { return bytes.NewReader(content[:100]) }, int64(len(content)), sum, ErrContent, "not the 3000000 bytes"},
		{"long", func() io.Reader { return io.MultiReader(bytes.NewReader(content), strings.NewReader("x")) }, int64(len(content)), sum, ErrContent, "not the 3000000 bytes"},
		{"one bit", func() io.Reader { return bytes.NewReader(append([]byte("1"), content[1:]...)) }, int64(len(content)), sum, ErrContent, "SHA-256 on the disk"},
		{"connection lost", func() io.Reader { return io.MultiReader(bytes.NewReader(content[:2<<20]), iotest.ErrReader(cut)) }, int64(len(content)), sum, cut, "after 2097152 bytes"},
		{"nothing signed", func() io.Reader { return bytes.NewReader(nil) }, 0, sum, nil, "allowed are"},
		{"too large", func() io.Reader { return bytes.NewReader(nil) }, release.MaxLength + 1, sum, nil, "allowed are"},
	}
	for _, tt := range tests {
		for _, s := range []report.Slot{report.SlotA, report.SlotB} { // over an old file, and into an empty slot
			t.Run(tt.name+" "+string(s), func(t *testing.T) {
				d := partition(t)
				told := int64(0)
				err := d.Write(t.Context(), s, tt.reader(), tt.length, tt.want, func(n int64) { told = n })
				if failed := tt.err != nil || tt.text != ""; failed != (err != nil) || tt.err != nil && !errors.Is(err, tt.err) || failed && !strings.Contains(err.Error(), tt.text) {
					t.Fatalf("%v, want %v %q", err, tt.err, tt.text)
				}
				got, n, hashErr := d.Hash(s)
				switch {
				case err == nil && (got != sum || n != tt.length || told != tt.length):
					t.Errorf("%x, %d bytes, told %d, %v", got, n, told, hashErr)
				case err != nil && strings.Contains(tt.text, "allowed are"): // nothing was touched
				case err != nil && !errors.Is(hashErr, fs.ErrNotExist):
					t.Errorf("the slot is not empty afterwards: %d bytes, %v", n, hashErr)
				}
			})
		}
	}
}

// sickFile fails at one of its steps.
type sickFile struct {
	durable.File
	room  int // bytes that still fit
	fault string
}

func (f *sickFile) Write(p []byte) (int, error) {
	if len(p) > f.room {
		n, _ := f.File.Write(p[:f.room])
		return n, unix.ENOSPC
	}
	f.room -= len(p)
	return f.File.Write(p)
}

func (f *sickFile) Sync() error {
	if f.fault == "sync" {
		return unix.EIO
	}
	return f.File.Sync()
}

func (f *sickFile) Close() error {
	return errors.Join(f.File.Close(), map[string]error{"close": unix.EIO}[f.fault])
}

// TestWriteOnASickDisk: the slot is empty afterwards, the others are as before.
func TestWriteOnASickDisk(t *testing.T) {
	content := bytes.Repeat([]byte("release "), 300_000)
	sum := sha256.Sum256(content)
	for name, tt := range map[string]struct {
		room  int
		fault string
		want  error
	}{
		"full at once":   {0, "", unix.ENOSPC},
		"full later":     {1<<20 + 17, "", unix.ENOSPC},
		"sync fails":     {1 << 30, "sync", unix.EIO},
		"close fails":    {1 << 30, "close", unix.EIO},
		"cannot be made": {-1, "", unix.EROFS},
	} {
		t.Run(name, func(t *testing.T) {
			d := partition(t)
			d.create = func(name string) (durable.File, error) {
				if tt.room < 0 {
					return nil, unix.EROFS
				}
				f, err := createFile(name)
				return &sickFile{f, tt.room, tt.fault}, err
			}
			if err := d.Write(t.Context(), report.SlotB, bytes.NewReader(content), int64(len(content)), sum, nil); !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if _, _, err := d.Hash(report.SlotB); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("slot b afterwards: %v", err)
			}
			if got, _, err := d.Hash(report.SlotA); err != nil || got != sha256.Sum256([]byte("old release")) {
				t.Errorf("slot a was touched: %v", err)
			}
		})
	}
}

func TestWriteStops(t *testing.T) {
	d := partition(t)
	ctx, cancel := context.WithCancel(t.Context())
	content := bytes.Repeat([]byte("x"), 4<<20)
	err := d.Write(ctx, report.SlotB, bytes.NewReader(content), int64(len(content)), sha256.Sum256(content), func(int64) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestUnknownSlot(t *testing.T) {
	d := partition(t)
	for _, s := range []report.Slot{report.SlotUnknown, "c", "../../etc/passwd"} {
		if err := d.Write(t.Context(), s, strings.NewReader("x"), 1, [32]byte{}, nil); err == nil || !strings.Contains(err.Error(), "no such slot") {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestCopy(t *testing.T) {
	d := partition(t)
	want := sha256.Sum256([]byte("old release"))
	if sum, err := d.Copy(t.Context(), report.SlotA, report.SlotB); err != nil || sum != want {
		t.Fatalf("%x, %v", sum, err)
	}
	d.create = func(string) (durable.File, error) { return nil, errors.New("written again") }
	if sum, err := d.Copy(t.Context(), report.SlotA, report.SlotFallback); err != nil || sum != want {
		t.Errorf("onto the same content: %x, %v", sum, err)
	}
	if err := os.Remove(filepath.Join(d.Root, layout.SlotA)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Copy(t.Context(), report.SlotA, report.SlotFallback); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("from an empty slot: %v", err)
	}
}

func TestNote(t *testing.T) {
	d := partition(t)
	if n, err := d.ReadNote(); err != nil || n != (Note{}) {
		t.Errorf("none: %+v, %v", n, err)
	}
	want := Note{Slot: report.SlotB, Release: "2.0", Why: "locked"}
	if err := d.WriteNote(want); err != nil {
		t.Fatal(err)
	}
	if n, err := d.ReadNote(); err != nil || n != want {
		t.Errorf("%+v, %v", n, err)
	}
	long := want
	long.Why = strings.Repeat("x", 2*maxNote)
	if err := d.WriteNote(long); err != nil {
		t.Fatal(err)
	}
	if n, err := d.ReadNote(); err != nil || len(n.Why) != maxWhy {
		t.Errorf("long: %d bytes, %v", len(n.Why), err)
	}
	for _, torn := range []string{"", `{"slot":"b"`, strings.Repeat("x", 2*maxNote)} {
		if err := os.WriteFile(filepath.Join(d.Root, noteName), []byte(torn), 0o600); err != nil {
			t.Fatal(err)
		}
		if n, err := d.ReadNote(); err != nil || n != (Note{}) {
			t.Errorf("torn %.20q: %+v, %v", torn, n, err)
		}
	}
	for range 2 {
		if err := d.ClearNote(); err != nil {
			t.Error(err)
		}
	}
}

func TestVersion(t *testing.T) {
	tests := []struct {
		name string
		file []byte
		want string
		text string
	}{
		{"good", slottest.Image(".osrel", "ID=pforte\nVERSION_ID=1.2.3\n\x00\x00"), "1.2.3", ""},
		{"quoted", slottest.Image(".osrel", "VERSION_ID=\"1.2.3\""), "1.2.3", ""},
		{"no version", slottest.Image(".osrel", "ID=pforte\n"), "", "names no version"},
		{"another program", slottest.Image(".text", "VERSION_ID=1"), "", "no .osrel"},
		{"no program", []byte("text"), "", "slot a"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := partition(t)
			if err := os.WriteFile(filepath.Join(d.Root, layout.SlotA), tt.file, 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := d.Version(report.SlotA)
			if got != tt.want || (err == nil) != (tt.text == "") || err != nil && !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	if _, err := partition(t).Version(report.SlotB); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("empty slot: %v", err)
	}
}
