// Package button waits for somebody to press the power button.
//
// The kernel tells of keys through input devices, /dev/input/event* (input.h,
// Documentation/input/input.rst): the button of the machine (ACPI), and the power
// key of a keyboard, which takes the same hands. There is no logind in the box
// that would listen.
//
// Devices are looked for once, at the start: a power button does not come later.
// Only the press of KEY_POWER is looked at; what else somebody types is read and
// forgotten.
package button

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
)

// Dir is where the kernel has its input devices.
const Dir = "/dev/input"

const (
	maxDevices = 32
	// eventSize is that of struct input_event where long has 64 bits: seconds,
	// microseconds, type, code, value.
	eventSize = 24
	batch     = 64 // events read at once

	typeKey    = 1   // EV_KEY
	keyPower   = 116 // KEY_POWER
	valuePress = 1
)

// Watch calls pressed at each press of a power button, until ctx ends. Without any
// input device it returns at once. A device that fails is not read any more.
func Watch(ctx context.Context, dir string, log *slog.Logger, pressed func()) error {
	devices, err := open(dir)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() {
		for _, f := range devices {
			_ = f.Close() // ends its Read
		}
	})
	defer stop()
	var wg sync.WaitGroup
	for _, f := range devices {
		wg.Go(func() {
			defer func() { _ = f.Close() }()
			if err := read(f, pressed); ctx.Err() == nil {
				log.Warn("a power button may not be heard any more", "device", f.Name(), "error", err)
			}
		})
	}
	wg.Wait()
	return nil
}

func open(dir string) ([]*os.File, error) {
	names, err := filepath.Glob(filepath.Join(dir, "event*"))
	if err != nil {
		return nil, fmt.Errorf("input devices: %w", err)
	}
	var devices []*os.File
	for _, name := range names {
		if len(devices) == maxDevices {
			break
		}
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // unplugged meanwhile
		}
		if err != nil {
			for _, f := range devices {
				_ = f.Close()
			}
			return nil, fmt.Errorf("input device: %w", err)
		}
		devices = append(devices, f)
	}
	return devices, nil
}

// read reads events until r ends or fails, and returns how.
func read(r io.Reader, pressed func()) error {
	buffer := make([]byte, batch*eventSize)
	for {
		n, err := io.ReadAtLeast(r, buffer, eventSize)
		if err != nil {
			return err
		}
		for event := buffer[:n-n%eventSize]; len(event) > 0; event = event[eventSize:] {
			if isPress(event) {
				pressed()
			}
		}
		if n%eventSize != 0 { // the kernel hands out whole events only
			return fmt.Errorf("%d bytes of an event", n%eventSize)
		}
	}
}

func isPress(event []byte) bool {
	order := binary.NativeEndian
	return order.Uint16(event[16:]) == typeKey && order.Uint16(event[18:]) == keyPower && order.Uint32(event[20:]) == valuePress
}
