package volume

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestFirstBootFormatsSecondUnlocks(t *testing.T) {
	m := newMachine(t, 1)
	formatted, err := m.volume().Open(t.Context())
	if err != nil || !formatted {
		t.Fatalf("first boot: formatted %v, error %v", formatted, err)
	}
	volumeKey := m.open
	m.reboot()
	m.runs = nil
	formatted, err = m.volume().Open(t.Context())
	if err != nil || formatted {
		t.Fatalf("second boot: formatted %v, error %v", formatted, err)
	}
	if !bytes.Equal(m.open, volumeKey) {
		t.Fatal("second boot opened another volume")
	}
	for _, run := range m.runs {
		if slices.Contains(run, "luksFormat") || strings.HasSuffix(run[0], "mke2fs") {
			t.Fatalf("second boot ran %v", run)
		}
	}
}

// The power fails before every single step of the first format, with every
// sector that was under way there or not. The next boot finishes the job; and
// once a boot succeeded, no later one formats again.
func TestPowerCutBetweenAnyTwoStepsOfFirstFormat(t *testing.T) {
	whole := newMachine(t, 1)
	if _, err := whole.volume().Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	states := map[State]int{}
	for cut := 0; cut < whole.disk.steps; cut++ {
		for seed := range uint64(4) {
			m := newMachine(t, seed)
			m.disk.budget = cut
			if _, err := m.volume().Open(t.Context()); !errors.Is(err, errPower) {
				t.Fatalf("cut at step %d: %v", cut, err)
			}
			m.reboot()
			state, err := Examine(m.disk)
			if err != nil {
				t.Fatal(err)
			}
			states[state]++
			formatted, err := m.volume().Open(t.Context())
			if err != nil {
				t.Fatalf("boot after cut at step %d (seed %d, %v): %v", cut, seed, state, err)
			}
			if formatted == (state == Ready) {
				t.Fatalf("boot after cut at step %d: state %v, formatted %v", cut, state, formatted)
			}
			m.reboot()
			if formatted, err := m.volume().Open(t.Context()); err != nil || formatted {
				t.Fatalf("third boot after cut at step %d: formatted %v, error %v", cut, formatted, err)
			}
		}
	}
	for _, state := range []State{Blank, Unfinished, Ready} {
		if states[state] == 0 {
			t.Errorf("no cut left the partition %v: the test does not see that state", state)
		}
	}
	if states[Foreign] != 0 {
		t.Errorf("%d cuts left the partition foreign", states[Foreign])
	}
}

// The key never reaches the partition, nor any program's arguments.
func TestKeyStaysInMemory(t *testing.T) {
	m := newMachine(t, 1)
	if _, err := m.volume().Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(m.keys) != 1 || len(m.disk.written) == 0 {
		t.Fatalf("%d keys, %d writes", len(m.keys), len(m.disk.written))
	}
	for _, key := range m.keys {
		for _, w := range m.disk.written {
			if bytes.Contains(w, key[:16]) {
				t.Error("the key was written to the partition")
			}
		}
		for _, run := range m.runs {
			if strings.Contains(strings.Join(run, " "), string(key[:16])) {
				t.Errorf("the key is an argument of %s", run[0])
			}
		}
	}
}

// Everything before the ciphertext that is on the disk is the header area as
// made in memory.
func TestOnlyHeaderAndCiphertextAreWritten(t *testing.T) {
	m := newMachine(t, 1)
	if _, err := m.volume().Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	const imitation = 32 // bytes of ciphertext that the fake mke2fs writes
	if got := bytes.Trim(m.disk.medium[dataOffset+imitation:], "\x00"); len(got) != 0 {
		t.Errorf("%d bytes beside the file system were written", len(got))
	}
	if _, err := judge(m.disk.medium[:dataOffset], labelData); err != nil {
		t.Error(err)
	}
}

func TestForeignIsNeverWritten(t *testing.T) {
	tests := map[string]func(b []byte){
		"one byte within the first MiB": func(b []byte) { b[blankSize-1] = 1 },
		"ext4":                          func(b []byte) { copy(b[0x438:], "\x53\xEF") },
		"LUKS2 of somebody else":        func(b []byte) { copy(b, fixture(t)); edit(t, b, "home", nil) },
		"LUKS2 without label":           func(b []byte) { copy(b, fixture(t)); edit(t, b, "", nil) },
		"LUKS1":                         func(b []byte) { copy(b, "LUKS\xba\xbe\x00\x01") },
		"our header, both copies spoiled": func(b []byte) {
			copy(b, fixture(t))
			b[300] ^= 1
			b[headerSize+300] ^= 1
		},
		"our label, JSON is none": func(b []byte) {
			copy(b, fixture(t))
			for _, o := range []int{0, headerSize} {
				copy(b[o+binarySize:], "[[")
				seal(t, b[o:][:headerSize])
			}
		},
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, 1)
			spoil(m.disk.cache)
			before := bytes.Clone(m.disk.cache)
			if _, err := m.volume().Open(t.Context()); !errors.Is(err, ErrForeign) {
				t.Fatalf("got error %v, want %v", err, ErrForeign)
			}
			if !bytes.Equal(before, m.disk.cache) || len(m.runs) != 0 {
				t.Fatal("the partition was touched")
			}
		})
	}
}

// A header that opens with any key, or without encryption, or that we cannot
// judge, is refused before cryptsetup sees it.
func TestChangedHeaderIsRefused(t *testing.T) {
	at := func(meta map[string]any, path ...string) map[string]any {
		for _, p := range path {
			meta = meta[p].(map[string]any)
		}
		return meta
	}
	tests := map[string]func(meta map[string]any){
		"key slot without encryption": func(m map[string]any) {
			at(m, "keyslots", "0", "area")["encryption"] = "cipher_null-ecb"
		},
		"segment without encryption": func(m map[string]any) {
			at(m, "segments", "0")["encryption"] = "cipher_null-ecb"
		},
		"linear segment": func(m map[string]any) { at(m, "segments", "0")["type"] = "linear" },
		"short volume key": func(m map[string]any) {
			at(m, "keyslots", "0")["key_size"] = 32
		},
		"data elsewhere": func(m map[string]any) { at(m, "segments", "0")["offset"] = "4194304" },
		"two segments": func(m map[string]any) {
			at(m, "segments")["1"] = at(m, "segments", "0")
		},
		"key slot over the header": func(m map[string]any) {
			at(m, "keyslots", "0", "area")["offset"] = "4096"
		},
		"key slot over the data": func(m map[string]any) {
			at(m, "keyslots", "0", "area")["offset"] = "2000000"
		},
		"re-encryption under way": func(m map[string]any) {
			at(m, "config")["requirements"] = map[string]any{"mandatory": []string{"online-reencrypt"}}
		},
		"discards allowed": func(m map[string]any) { at(m, "config")["flags"] = []string{"allow-discards"} },
		"no key slot":      func(m map[string]any) { m["keyslots"] = map[string]any{} },
		"no digest":        func(m map[string]any) { m["digests"] = map[string]any{} },
		"no token":         func(m map[string]any) { m["tokens"] = map[string]any{} },
		"two tokens": func(m map[string]any) {
			at(m, "tokens")["1"] = at(m, "tokens", "0")
		},
		"token is none": func(m map[string]any) { at(m, "tokens")["0"] = 7 },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, 1)
			if _, err := m.volume().Open(t.Context()); err != nil {
				t.Fatal(err)
			}
			m.reboot()
			m.runs = nil
			edit(t, m.disk.cache, labelData, spoil)
			if _, err := m.volume().Open(t.Context()); !errors.Is(err, ErrHeader) {
				t.Fatalf("got error %v, want %v", err, ErrHeader)
			}
			if len(m.runs) != 0 {
				t.Fatalf("ran %v", m.runs)
			}
		})
	}
}

func TestOneSpoiledCopyIsEnough(t *testing.T) {
	for _, offset := range []int{0, headerSize} {
		m := newMachine(t, 1)
		if _, err := m.volume().Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.reboot()
		m.disk.cache[offset+binarySize+10] ^= 1
		if _, err := m.volume().Open(t.Context()); err != nil {
			t.Errorf("copy at %d spoiled: %v", offset, err)
		}
	}
}

func TestOpenReportsWhatFailed(t *testing.T) {
	tests := map[string]struct {
		spoil func(m *machine)
		want  error
	}{
		"key of another volume": {func(m *machine) {
			for blob := range m.keys {
				m.keys[blob] = make([]byte, keyBytes)
			}
		}, ErrKey},
		"damaged file system":  {func(m *machine) { m.disk.cache[dataOffset] ^= 1 }, ErrFileSystem},
		"file system repaired": {func(m *machine) { m.failing["/usr/sbin/e2fsck -p"] = exit(1) }, nil},
		"reboot asked for":     {func(m *machine) { m.failing["/usr/sbin/e2fsck -p"] = exit(2) }, ErrFileSystem},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, 1)
			if _, err := m.volume().Open(t.Context()); err != nil {
				t.Fatal(err)
			}
			m.reboot()
			test.spoil(m)
			_, err := m.volume().Open(t.Context())
			if !errors.Is(err, test.want) {
				t.Fatalf("got error %v, want %v", err, test.want)
			}
			if err != nil && m.open != nil {
				t.Fatal("the volume stays open")
			}
		})
	}
}

func TestTooSmall(t *testing.T) {
	m := newMachine(t, 1)
	v := m.volume()
	v.Size = MinSize - 1
	if _, err := v.Open(t.Context()); !errors.Is(err, ErrTooSmall) {
		t.Fatalf("got error %v, want %v", err, ErrTooSmall)
	}
	if len(m.disk.written) != 0 {
		t.Fatal("the partition was written")
	}
}
