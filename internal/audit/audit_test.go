package audit

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func open(t *testing.T, dir string) *Log {
	t.Helper()
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func appendN(t *testing.T, l *Log, n int) {
	t.Helper()
	for range n {
		if err := l.Append(Event{Action: "update.start", Actor: "hosting/someone", Outcome: "done", Detail: map[string]string{"version": "1.2"}}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestChainContinuesAcrossOpens(t *testing.T) {
	dir := t.TempDir()
	for range 3 {
		l := open(t, dir)
		appendN(t, l, 4)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if err := l.Append(Event{}); err == nil {
			t.Error("a closed log took an entry")
		}
	}
	if first, last, err := Verify(dir); first != 1 || last != 12 || err != nil {
		t.Fatalf("Verify = %d, %d, %v", first, last, err)
	}
}

func TestTornLineIsCutOff(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	appendN(t, l, 3)
	_ = l.Close()
	name := filepath.Join(dir, "audit-000000000001.jsonl")
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	second := bytes.IndexByte(data, '\n') + 1
	for cut := range len(data) { // the power goes at every single byte
		if err := os.WriteFile(name, data[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		l := open(t, dir)
		appendN(t, l, 1)
		_ = l.Close()
		_, last, err := Verify(dir)
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if cut < second && last != 1 || cut >= second && last < 2 {
			t.Fatalf("cut at %d of %d: the chain ends with %d", cut, len(data), last)
		}
	}
}

func TestVerifyFindsTampering(t *testing.T) {
	tests := []struct {
		name   string
		tamper func([]string) []string
	}{
		{"changed", func(l []string) []string { l[1] = strings.Replace(l[1], "someone", "nobody", 1); return l }},
		{"removed", func(l []string) []string { return append(l[:1:1], l[2:]...) }},
		{"swapped", func(l []string) []string { l[0], l[1] = l[1], l[0]; return l }},
		{"not JSON", func(l []string) []string { l[1] = "x\n"; return l }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			l := open(t, dir)
			appendN(t, l, 4)
			_ = l.Close()
			name := filepath.Join(dir, "audit-000000000001.jsonl")
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			lines := tt.tamper(strings.SplitAfter(string(data), "\n"))
			if err := os.WriteFile(name, []byte(strings.Join(lines, "")), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, _, err := Verify(dir); !errors.Is(err, ErrChain) {
				t.Errorf("Verify = %v", err)
			}
		})
	}
}

func TestRotationKeepsTheChain(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	appendN(t, l, 2)
	l.size = MaxFile // as if the file were full
	appendN(t, l, 2)
	_ = l.Close()
	names, err := files(dir)
	if err != nil || len(names) != 2 || names[1] != "audit-000000000003.jsonl" {
		t.Fatalf("files %v, %v", names, err)
	}
	if err := os.WriteFile(filepath.Join(dir, names[1]), nil, 0o600); err != nil { // begun, no entry whole
		t.Fatal(err)
	}
	l = open(t, dir)
	appendN(t, l, 1)
	_ = l.Close()
	if first, last, err := Verify(dir); first != 1 || last != 3 || err != nil {
		t.Fatalf("Verify = %d, %d, %v", first, last, err)
	}
}

func TestEntryIsBounded(t *testing.T) {
	l := open(t, t.TempDir())
	if err := l.Append(Event{Action: strings.Repeat("a", maxEntry)}); err == nil {
		t.Error("an entry beyond the bound was taken")
	}
	appendN(t, l, 1)
}
