package volume

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
)

// fixture is a header that cryptsetup 2.7.5 made, both copies, with the options
// of this package, a token whose blob is {"a":1} and label "pforte-data".
func fixture(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/luks2-cryptsetup-2.7.5.header")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// edit changes both copies of a header: the label, and the JSON through change.
func edit(t testing.TB, area []byte, label string, change func(map[string]any)) {
	t.Helper()
	for _, offset := range []int{0, headerSize} {
		b := area[offset:][:headerSize]
		var meta map[string]any
		text := bytes.TrimRight(b[binarySize:], "\x00")
		if err := json.Unmarshal(text, &meta); err != nil {
			t.Fatal(err)
		}
		if change != nil {
			change(meta)
		}
		text, err := json.Marshal(meta)
		if err != nil {
			t.Fatal(err)
		}
		clear(b[binarySize:])
		copy(b[binarySize:], text)
		clear(b[labelOffset:][:labelSize])
		copy(b[labelOffset:], label)
		binary.BigEndian.PutUint64(b[16:], binary.BigEndian.Uint64(b[16:])+1)
		seal(t, b)
	}
}

// seal corrects the checksum of one copy.
func seal(t testing.TB, b []byte) {
	t.Helper()
	sum, err := checksum(b)
	if err != nil {
		t.Fatal(err)
	}
	clear(b[checksumStart:][:checksumSize])
	copy(b[checksumStart:], sum)
}

var errPower = errors.New("the power failed")

// disk is a partition in memory. Writes reach the medium with Sync, or, when
// the power fails, sector by sector as chance wants it.
type disk struct {
	medium  []byte // survives a power cut
	cache   []byte
	dirty   []span // ranges of cache that are not on the medium
	chance  *rand.Rand
	budget  int // steps until the power fails
	steps   int
	written [][]byte // everything that was ever written
}

const sector = 512

func newDisk(size int, seed uint64) *disk {
	return &disk{
		medium: make([]byte, size), cache: make([]byte, size),
		chance: rand.New(rand.NewPCG(seed, 1)), budget: 1 << 30,
	}
}

// step counts one step and fails from the budget on.
func (d *disk) step() error {
	if d.steps++; d.steps > d.budget {
		return errPower
	}
	return nil
}

// reboot gives power back: what was not synced is there or not, per sector.
func (d *disk) reboot() {
	for _, s := range d.dirty {
		for at := s.from / sector * sector; at < s.to; at += sector {
			if d.chance.IntN(2) == 0 {
				copy(d.medium[at:at+sector], d.cache[at:])
			}
		}
	}
	d.dirty = nil
	copy(d.cache, d.medium)
	d.budget = 1 << 30
}

func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(d.cache).ReadAt(p, off)
}

func (d *disk) WriteAt(p []byte, off int64) (int, error) {
	err := d.step()
	copy(d.cache[off:], p)
	d.dirty = append(d.dirty, span{off, off + int64(len(p))})
	d.written = append(d.written, bytes.Clone(p))
	return len(p), err
}

func (d *disk) Sync() error {
	if err := d.step(); err != nil {
		return err
	}
	copy(d.medium, d.cache)
	d.dirty = nil
	return nil
}

// machine is a box with a disk, programs and a key keeper that behave as the
// real ones do, as far as this package can see. The ciphertext is imitated: the
// file system "is there" if its volume key's hash stands at dataOffset.
type machine struct {
	t       testing.TB
	disk    *disk
	open    []byte // volume key of the open volume
	runs    [][]string
	keys    map[string][]byte // keeper: blob → key
	failing map[string]error  // program and first argument → error
}

func newMachine(t testing.TB, seed uint64) *machine {
	return &machine{t: t, disk: newDisk(dataOffset+1<<16, seed), keys: map[string][]byte{}, failing: map[string]error{}}
}

func (m *machine) volume() Volume {
	return Volume{
		Partition: m.disk, Path: "/dev/vda2", Size: MinSize,
		Scratch: m.t.TempDir(), Tools: m, Keeper: m,
	}
}

// reboot is a power cut and a new start.
func (m *machine) reboot() {
	m.disk.reboot()
	m.open = nil
}

func (m *machine) Seal(key []byte) ([]byte, error) {
	if err := m.disk.step(); err != nil {
		return nil, err
	}
	blob := fmt.Sprintf(`{"sealed":%d}`, len(m.keys))
	m.keys[blob] = bytes.Clone(key)
	return []byte(blob), nil
}

func (m *machine) Unseal(blob []byte) ([]byte, error) {
	var compact bytes.Buffer
	if err := json.Compact(&compact, blob); err != nil {
		return nil, err
	}
	key, ok := m.keys[compact.String()]
	if !ok {
		return nil, fmt.Errorf("the TPM did not make the blob %s", blob)
	}
	return bytes.Clone(key), nil
}

func (m *machine) Sync(device string) error {
	if device != Mapped {
		return fmt.Errorf("sync of %s", device)
	}
	return m.disk.Sync()
}

// exit is a program's exit code.
type exit int

func (e exit) Error() string { return fmt.Sprintf("exit code %d", int(e)) }
func (e exit) ExitCode() int { return int(e) }

func (m *machine) Run(_ context.Context, stdin []byte, program string, args ...string) error {
	m.runs = append(m.runs, append([]string{program}, args...))
	if err := m.disk.step(); err != nil {
		return err
	}
	if err := m.failing[program+" "+args[0]]; err != nil {
		return err
	}
	switch program + " " + args[0] {
	case "/usr/sbin/cryptsetup luksFormat":
		return m.luksFormat(stdin, argument(args, "--header"), argument(args, "--label"))
	case "/usr/sbin/cryptsetup token":
		return m.change(argument(args, "--header"), labelNew, func(meta map[string]any) {
			var token any
			if err := json.Unmarshal(stdin, &token); err != nil {
				m.t.Fatal(err)
			}
			meta["tokens"] = map[string]any{"0": token}
		})
	case "/usr/sbin/cryptsetup config":
		return m.change(argument(args, "--header"), argument(args, "--label"), nil)
	case "/usr/sbin/cryptsetup open":
		return m.luksOpen(stdin, argument(args, "--header"))
	case "/usr/sbin/cryptsetup close":
		m.open = nil
		return nil
	case "/usr/sbin/mke2fs -q":
		sum := sha256.Sum256(m.open)
		_, err := m.disk.WriteAt(sum[:], dataOffset)
		return err
	case "/usr/sbin/e2fsck -p":
		sum := sha256.Sum256(m.open)
		if !bytes.Equal(m.disk.cache[dataOffset:][:len(sum)], sum[:]) {
			return exit(8)
		}
		return nil
	}
	return fmt.Errorf("unknown program: %s %v", program, args)
}

func argument(args []string, name string) string {
	if i := slices.Index(args, name); i >= 0 && i+1 < len(args) {
		return args[i+1]
	}
	return ""
}

// luksFormat puts a fresh volume key into the key slot area, under key.
func (m *machine) luksFormat(key []byte, file, label string) error {
	area := make([]byte, dataOffset)
	copy(area, fixture(m.t))
	edit(m.t, area, label, func(meta map[string]any) { delete(meta, "tokens") })
	binary.BigEndian.PutUint64(area[2*headerSize:], m.disk.chance.Uint64())
	sum := sha256.Sum256(append(bytes.Clone(key), area[2*headerSize:][:8]...))
	copy(area[2*headerSize+8:], sum[:])
	return m.overwrite(file, area)
}

// overwrite changes the start of a header file in place, as cryptsetup does.
func (m *machine) overwrite(file string, area []byte) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(bytes.TrimRight(area, "\x00"))
	return errors.Join(err, f.Close())
}

func (m *machine) change(file, label string, change func(map[string]any)) error {
	area, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	edit(m.t, area, label, change)
	return m.overwrite(file, area)
}

func (m *machine) luksOpen(key []byte, file string) error {
	area, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(append(bytes.Clone(key), area[2*headerSize:][:8]...))
	if !bytes.Equal(area[2*headerSize+8:][:len(sum)], sum[:]) {
		return exit(2)
	}
	m.open = sum[:]
	return nil
}
