// Package control is what the control socket of updated speaks: the names of
// its methods, their arguments and results, and the errors that keep their
// meaning across the socket (internal/localapi). It is all that apid and the
// console need to know of updated.
package control

import (
	"errors"
	"time"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
)

// Methods of the socket layout.UpdatedSocket.
const (
	MethodStatus = "GET /v1/status"        // → Status
	MethodUpdate = "POST /v1/update/start" // UpdateStart → Accepted
	MethodList   = "GET /v1/releases"      // → Releases
	MethodConfig = "POST /v1/config"       // ConfigPut → ConfigTaken
	MethodPower  = "POST /v1/power"        // Power → nothing
)

// MaxEnvelope bounds the configuration in a ConfigPut, in bytes as JSON.
const MaxEnvelope = 64 << 20

// Phases of an update.
const (
	Idle        = "idle"
	Judging     = "judging" // this boot: a release on trial, what a power cut left
	Checking    = "checking"
	Downloading = "downloading" // and writing, reading back
	Rebooting   = "rebooting"
)

// Status is the state of boot, slots and updates.
type Status struct {
	Boot     report.Report     `json:"boot"`
	Slots    map[string]string `json:"slots"` // "a", "b", "fallback" → version
	Trial    string            `json:"trial,omitempty"`
	Failed   []Failed          `json:"failed,omitempty"`
	Last     *Outcome          `json:"last,omitempty"`
	Progress Progress          `json:"progress"`
	Serial   uint64            `json:"serial"` // of the configuration in force, 0: none
	Box      string            `json:"box,omitempty"`
	Health   []Condition       `json:"health,omitempty"`
	Memory   *Memory           `json:"memory,omitempty"`
}

// Memory is the box's RAM in bytes. Available is what could be used without
// swapping, page cache included.
type Memory struct {
	Total     int64 `json:"total"`
	Available int64 `json:"available"`
}

// Failed is a release that this box will not try again.
type Failed struct {
	Release string    `json:"release"`
	Why     string    `json:"why"`
	At      time.Time `json:"at"`
}

// Outcome is how the last update ended.
type Outcome struct {
	Release string    `json:"release"`
	Blessed bool      `json:"blessed"`
	Why     string    `json:"why,omitempty"`
	At      time.Time `json:"at"`
}

// Progress is how far an update is.
type Progress struct {
	Phase   string `json:"phase,omitempty"`
	Release string `json:"release,omitempty"`
	Bytes   int64  `json:"bytes,omitempty"`
	Of      int64  `json:"of,omitempty"`
	Error   string `json:"error,omitempty"` // why the last one did not come to a trial
}

// Condition is one finding about the box's health (appliance/health).
type Condition struct {
	Code     string `json:"code"`
	Severity string `json:"severity"` // "ok", "notice", "warning", "fault"
	English  string `json:"en"`
	German   string `json:"de"`
	Remedy   string `json:"remedy,omitempty"`
}

// UpdateStart names a release; empty means the newest that is allowed. Actor is
// who asked, as apid proved it, for the audit.
type UpdateStart struct {
	Version string `json:"version,omitempty"`
	Actor   string `json:"actor"`
}

// Accepted says which release was chosen; the update then goes on by itself.
type Accepted struct {
	Version string `json:"version"`
}

// Releases are the releases of both repositories.
type Releases struct {
	Allowed []ReleaseInfo `json:"allowed"`
	Refused []ReleaseInfo `json:"refused"`
}

// ReleaseInfo is one release and, if it is refused, why.
type ReleaseInfo struct {
	Version string `json:"version"`
	Epoch   uint64 `json:"epoch,omitempty"`
	SHA256  string `json:"sha256,omitempty"`
	Length  int64  `json:"length,omitempty"`
	Why     string `json:"why,omitempty"`
}

// ConfigPut brings a signed configuration.
type ConfigPut struct {
	Envelope []byte `json:"envelope"`
	Actor    string `json:"actor"`
}

// ConfigTaken answers it: the new serial, or every fault of the document.
type ConfigTaken struct {
	Serial uint64         `json:"serial,omitempty"`
	Box    string         `json:"box,omitempty"`
	Faults []config.Fault `json:"faults,omitempty"`
}

// Power asks for "off" or "reboot".
type Power struct {
	Do    string `json:"do"`
	Actor string `json:"actor"`
}

// Errors that callers test.
var (
	ErrRefused = errors.New("refused")               // by signatures, by the owner's order, or by the box's state
	ErrSource  = errors.New("repository not usable") // not reachable, not verified, expired
)

// Codes are the errors that keep their meaning across the socket.
func Codes() []localapi.Code {
	return []localapi.Code{
		{Name: "update-refused", Err: ErrRefused, Status: 409},
		{Name: "repository", Err: ErrSource, Status: 502},
		{Name: "not-newer", Err: config.ErrNotNewer, Status: 409},
		{Name: "wrong-box", Err: config.ErrWrongBox, Status: 409},
		{Name: "signature", Err: config.ErrSignature, Status: 403},
	}
}
