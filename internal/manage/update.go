package manage

import (
	"net/netip"
	"time"
)

// Subject is what a certificate request asks to be certified.
type Subject struct {
	CommonName string       `json:"commonName"`
	DNSNames   []string     `json:"dnsNames,omitempty"`
	Addresses  []netip.Addr `json:"addresses,omitempty"`
}

// Request is a certificate request, signed by the key (PKCS #10, PEM).
type Request struct {
	PEM string `json:"pem"`
}

// Chain is a certificate for a key, then its issuers in order (PEM).
type Chain struct {
	PEM string `json:"pem"`
}

// ConfigTaken says which configuration is in force now.
type ConfigTaken struct {
	Serial uint64 `json:"serial"`
	Box    string `json:"box"`
}

// Phases of an update.
const (
	PhaseIdle        = "idle"
	PhaseJudging     = "judging" // a release on trial runs, and its health is watched
	PhaseChecking    = "checking"
	PhaseDownloading = "downloading" // and writing, reading back
	PhaseRebooting   = "rebooting"
)

// Update is the state of slots and releases.
type Update struct {
	Slots    map[string]string `json:"slots"` // "a", "b", "fallback" → version
	Trial    string            `json:"trial,omitempty"`
	Failed   []FailedRelease   `json:"failed,omitempty"`
	Last     *Outcome          `json:"last,omitempty"`
	Progress Progress          `json:"progress"`
}

// FailedRelease is a release that the box will not try again.
type FailedRelease struct {
	Release string    `json:"release"`
	Why     string    `json:"why"`
	At      time.Time `json:"at"`
}

// Outcome is how the last trial ended.
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

// UpdateStart names a release; empty means the newest that is allowed.
type UpdateStart struct {
	Version string `json:"version,omitempty"`
}

// UpdateStarted says which release was chosen; the update then goes on by itself.
type UpdateStarted struct {
	Version string `json:"version"`
}

// Releases are those of both repositories.
type Releases struct {
	Allowed []Release `json:"allowed"`
	Refused []Release `json:"refused"`
}

// Release is one release and, if it is refused, why.
type Release struct {
	Version string `json:"version"`
	Epoch   uint64 `json:"epoch,omitempty"`
	SHA256  string `json:"sha256,omitempty"`
	Length  int64  `json:"length,omitempty"`
	Why     string `json:"why,omitempty"`
}

// Queue is how the mail queue stands: what relayd tells at its socket, as
// "GET /v1/queue". It names no message and no address.
type Queue struct {
	Total       QueueCounts            `json:"total"`
	Tenants     map[string]QueueCounts `json:"tenants,omitempty"`
	Oldest      time.Time              `json:"oldest,omitzero"` // when the oldest message was accepted
	Quarantined int64                  `json:"quarantined,omitempty"`
}

// QueueCounts are a tenant's share of the queue.
type QueueCounts struct {
	Messages   int64 `json:"messages"`
	Recipients int64 `json:"recipients"`
	Bytes      int64 `json:"bytes"`
	Dead       int64 `json:"dead"`
	Held       int64 `json:"held,omitempty"`
}

// AuditHead is the newest entry of apid's audit record, for keeping elsewhere:
// a record that no longer contains it was changed.
type AuditHead struct {
	Number uint64 `json:"number"`
	SHA256 string `json:"sha256"`
}
