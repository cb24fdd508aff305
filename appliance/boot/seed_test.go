package boot

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/internal/config"
)

// owner signs configurations in tests.
type owner struct {
	t   testing.TB
	key *ecdsa.PrivateKey
}

func newOwner(t testing.TB) owner {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return owner{t, key}
}

// sign makes an envelope of the example document with another serial.
func (o owner) sign(serial int) []byte {
	o.t.Helper()
	doc, err := os.ReadFile("../../internal/config/testdata/example.yaml")
	if err != nil {
		o.t.Fatal(err)
	}
	line := []byte("\nserial: 1 ")
	if !bytes.Contains(doc, line) {
		o.t.Fatal("the example has no line that begins with \"serial: 1\"")
	}
	doc = bytes.Replace(doc, line, fmt.Appendf(nil, "\nserial: %d ", serial), 1)
	envelope, err := config.Sign(doc, o.key)
	if err != nil {
		o.t.Fatal(err)
	}
	return envelope
}

func TestJudgeSeed(t *testing.T) {
	o, stranger := newOwner(t), newOwner(t)
	store := config.NewStore(t.TempDir(), o.key.Public())
	steps := []struct {
		name     string
		envelope []byte
		err      error
		verdict  report.Verdict
		serial   uint64
	}{
		{"no seed, no configuration", nil, nil, report.Kept, 0},
		{"signed by a stranger", stranger.sign(5), nil, report.Refused, 0},
		{"the first", o.sign(5), nil, report.Accepted, 5},
		{"the same again", o.sign(5), nil, report.Kept, 5},
		{"an older one", o.sign(4), nil, report.Refused, 5},
		{"a newer one", o.sign(6), nil, report.Accepted, 6},
		{"no envelope", []byte("hello"), nil, report.Refused, 6},
		{"an empty file", []byte{}, nil, report.Refused, 6},
		{"an unreadable volume", nil, errors.New("input/output error"), report.Refused, 6},
		{"no seed", nil, nil, report.Kept, 6},
	}
	for _, s := range steps {
		var serial uint64
		if current, err := store.Current(); err == nil {
			serial = current.Serial
		}
		got := judgeSeed(store, o.key.Public(), serial, s.envelope, s.err)
		if got.Verdict != s.verdict || got.Serial != s.serial {
			t.Fatalf("%s: got %+v, want %s with serial %d", s.name, got, s.verdict, s.serial)
		}
		if got.Verdict == report.Refused && got.Reason == "" {
			t.Errorf("%s: refused without a reason", s.name)
		}
	}
}

// faulty is a store that finds faults.
type faulty struct{ store }

func (faulty) Put([]byte) (*config.Document, error) {
	return nil, fmt.Errorf("put: %w", config.Faults{
		{Line: 3, Path: "box", Text: "too long", Remedy: "shorten it"}, {Line: 9, Text: "missing role"},
	})
}

func TestJudgeSeedShowsEveryFault(t *testing.T) {
	o := newOwner(t)
	got := judgeSeed(faulty{}, o.key.Public(), 1, o.sign(2), nil)
	if got.Verdict != report.Refused || len(got.Faults) != 2 || got.Faults[0].Line != 3 ||
		!strings.Contains(got.Faults[0].Text, "shorten it") {
		t.Fatalf("got %+v", got)
	}
}

func TestMemoryStore(t *testing.T) {
	o, stranger := newOwner(t), newOwner(t)
	path := filepath.Join(t.TempDir(), "seed")
	s := memoryStore{o.key.Public(), path}
	if got := judgeSeed(s, o.key.Public(), 0, stranger.sign(1), nil); got.Verdict != report.Refused {
		t.Fatalf("got %+v", got)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("a stranger's configuration was kept (%v)", err)
	}
	envelope := o.sign(1)
	if got := judgeSeed(s, o.key.Public(), 0, envelope, nil); got.Verdict != report.Accepted || got.Serial != 1 {
		t.Fatalf("got %+v", got)
	}
	if kept, err := os.ReadFile(path); err != nil || !bytes.Equal(kept, envelope) {
		t.Fatalf("kept another envelope, error %v", err)
	}
}

func TestReadBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(path, []byte("1234"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := readBounded(path, 4); err != nil || string(got) != "1234" {
		t.Errorf("got %q, error %v", got, err)
	}
	if _, err := readBounded(path, 3); err == nil {
		t.Error("read more than allowed")
	}
	link := path + ".link"
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := readBounded(link, 4); err == nil {
		t.Error("followed a link")
	}
}
