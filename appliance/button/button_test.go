package button

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func event(kind, code uint16, value int32) []byte {
	b := make([]byte, 16, eventSize)
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, code)
	return binary.NativeEndian.AppendUint32(b, uint32(value))
}

func TestOnlyThePressOfPower(t *testing.T) {
	tests := []struct {
		name   string
		events [][]byte
		want   int
	}{
		{"press and release", [][]byte{event(1, 116, 1), event(0, 0, 0), event(1, 116, 0)}, 1},
		{"held down", [][]byte{event(1, 116, 1), event(1, 116, 2), event(1, 116, 2)}, 1},
		{"other keys", [][]byte{event(1, 30, 1), event(1, 142, 1), event(1, 372, 1)}, 0},
		{"no key", [][]byte{event(2, 116, 1), event(4, 116, 1)}, 0},
		{"twice", [][]byte{event(1, 116, 1), event(1, 116, 0), event(1, 116, 1)}, 2},
	}
	for _, tt := range tests {
		got := 0
		if err := read(bytes.NewReader(bytes.Join(tt.events, nil)), func() { got++ }); !errors.Is(err, io.EOF) || got != tt.want {
			t.Errorf("%s: %d presses, want %d; %v", tt.name, got, tt.want, err)
		}
	}
	if err := read(bytes.NewReader(make([]byte, eventSize+3)), func() {}); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("part of an event: %v", err)
	}
}

// TestWatch: a pipe stands for the device; Watch ends although it says nothing.
func TestWatch(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "event0")
	if err := unix.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	device, err := os.OpenFile(name, os.O_RDWR, 0) // so that neither side waits for the other
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	ctx, cancel := context.WithCancel(t.Context())
	pressed, done := make(chan struct{}), make(chan error)
	go func() {
		done <- Watch(ctx, dir, slog.New(slog.DiscardHandler), func() { close(pressed) })
	}()
	if _, err := device.Write(event(1, 116, 1)); err != nil {
		t.Fatal(err)
	}
	<-pressed
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestNoDevices(t *testing.T) {
	for _, dir := range []string{t.TempDir(), "/nonexistent"} {
		if err := Watch(t.Context(), dir, slog.New(slog.DiscardHandler), func() { t.Error("pressed") }); err != nil {
			t.Error(err)
		}
	}
}
