// Package report is what init tells the services about this boot: one JSON file
// in layout.BootReport, written once before systemd starts and only read after.
//
// It does no I/O: Marshal and Parse turn a Report into bytes and back. Readers
// trust the file as far as they trust root, who alone can write it. Fields are
// only ever added; a reader of an older release ignores those it does not know,
// because a trial boot and the one before it may read each other's reports in
// bundles for the support.
package report

import (
	"encoding/json"
	"fmt"
)

// MaxSize bounds the file in bytes.
const MaxSize = 1 << 20

// Slot says which file on the EFI system partition booted.
type Slot string

// The slots of design.md §3. Unknown means that the firmware and the stub left
// no trace; the services then treat the boot as neither blessed nor on trial.
const (
	SlotA        Slot = "a"
	SlotB        Slot = "b"
	SlotFallback Slot = "fallback"
	SlotUnknown  Slot = ""
)

// Report is one boot.
type Report struct {
	// Version, Variant ("dev" or "release") and Epoch are those of os-release.
	Version string `json:"version"`
	Variant string `json:"variant"`
	Epoch   int    `json:"epoch"`

	// Slot booted. Trial: it is a slot, but not the one at the top of the
	// firmware's boot order.
	Slot  Slot `json:"slot"`
	Trial bool `json:"trial"`
	// BootCurrent and BootOrder are the firmware's variables, as "0003".
	BootCurrent string   `json:"bootCurrent,omitempty"`
	BootOrder   []string `json:"bootOrder,omitempty"`

	// SecureBoot: the firmware verified what booted. Lockdown is the kernel's
	// mode: "none", "integrity" or "confidentiality".
	SecureBoot bool   `json:"secureBoot"`
	Lockdown   string `json:"lockdown"`
	// Watchdog names the hardware watchdog that init armed, or is empty.
	Watchdog string `json:"watchdog,omitempty"`

	// Disk, ESP and Data are device paths. Formatted: this boot made the data volume.
	Disk      string `json:"disk,omitempty"`
	ESP       string `json:"esp,omitempty"`
	Data      string `json:"data,omitempty"`
	Formatted bool   `json:"formatted"`

	// Locked is set if and only if the data volume could not be unlocked.
	Locked *Fault `json:"locked,omitempty"`
	// Seed is what became of the configuration on the seed volume.
	Seed Seed `json:"seed"`
	// ConfigFile is the envelope that the services start with: layout.ConfigFile,
	// or in a locked box the seed's; empty if there is none.
	ConfigFile string `json:"configFile,omitempty"`

	// Steps lists the seconds since kernel start at which each step ended.
	Steps []Step `json:"steps,omitempty"`
	// Uptime is the seconds from kernel start to the hand-over to systemd.
	Uptime float64 `json:"uptime"`
}

// Fault says why the box is locked. Code is for programs and never changes its
// meaning; the texts are fault, then remedy.
type Fault struct {
	Code    string `json:"code"`
	English string `json:"en"`
	German  string `json:"de"`
	Detail  string `json:"detail,omitempty"` // the error as it came, for engineers
}

// Verdict on a seed.
type Verdict string

// Verdicts. Kept means that the box stayed with what it had (or with nothing)
// because there was no seed, or an older or equal one.
const (
	Accepted Verdict = "accepted"
	Refused  Verdict = "refused"
	Kept     Verdict = "kept"
)

// Seed is the outcome of looking for a configuration at boot.
type Seed struct {
	Device  string      `json:"device,omitempty"`
	Verdict Verdict     `json:"verdict"`
	Serial  uint64      `json:"serial"` // of the configuration in force afterwards; 0: none
	Reason  string      `json:"reason,omitempty"`
	Faults  []SeedFault `json:"faults,omitempty"`
}

// SeedFault is one fault of a refused configuration. Line is that of the YAML
// document, 0 if none fits; Text is fault, then remedy.
type SeedFault struct {
	Line int    `json:"line"`
	Text string `json:"text"`
}

// Step is one step of init.
type Step struct {
	Name string  `json:"name"`
	At   float64 `json:"at"`
}

// Marshal gives the file's content.
func (r Report) Marshal() ([]byte, error) {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("marshal boot report: %w", err)
	}
	if len(data) >= MaxSize {
		return nil, fmt.Errorf("marshal boot report: %d bytes, allowed are %d", len(data), MaxSize)
	}
	return append(data, '\n'), nil
}

// Parse reads the file's content.
func Parse(data []byte) (Report, error) {
	if len(data) > MaxSize {
		return Report{}, fmt.Errorf("parse boot report: %d bytes, allowed are %d", len(data), MaxSize)
	}
	var r Report
	if err := json.Unmarshal(data, &r); err != nil {
		return Report{}, fmt.Errorf("parse boot report: %w", err)
	}
	return r, nil
}
