package manage

import "time"

// Status is the box at one moment. What a silent service would have told is
// missing, and Silent says so.
type Status struct {
	Time      time.Time   `json:"time"` // the box's clock
	Box       string      `json:"box,omitempty"`
	Serial    uint64      `json:"serial"` // of the configuration in force; 0: none
	Version   string      `json:"version"`
	Variant   string      `json:"variant"` // "dev" or "release"
	Epoch     int         `json:"epoch"`
	Addresses []string    `json:"addresses,omitempty"` // of the management API, host:port
	Boot      Boot        `json:"boot"`
	Locked    *Locked     `json:"locked,omitempty"` // set if the data volume could not be unlocked
	Seed      *Seed       `json:"seed,omitempty"`   // set if the boot refused a configuration
	Update    *Update     `json:"update,omitempty"`
	Keys      []Key       `json:"keys,omitempty"`
	Network   *Network    `json:"network,omitempty"`
	Mail      *Mail       `json:"mail,omitempty"`
	Health    []Condition `json:"health,omitempty"`
	Memory    *Memory     `json:"memory,omitempty"`
	Silent    []Silent    `json:"silent,omitempty"`
}

// Memory is the box's RAM in bytes; Available is what a program could still get.
type Memory struct {
	Total     int64 `json:"total"`
	Available int64 `json:"available"`
}

// Boot is what init reported.
type Boot struct {
	Slot       string `json:"slot"` // "a", "b", "fallback" or ""
	Trial      bool   `json:"trial"`
	SecureBoot bool   `json:"secureBoot"`
	Lockdown   string `json:"lockdown"`
	Watchdog   string `json:"watchdog,omitempty"`
	Formatted  bool   `json:"formatted"` // this boot made the data volume
}

// Locked says why no mail flows; the texts are fault, then remedy.
type Locked struct {
	Code    string `json:"code"`
	English string `json:"en"`
	German  string `json:"de"`
	Detail  string `json:"detail,omitempty"`
}

// Seed is a configuration that the boot found and refused.
type Seed struct {
	Reason string  `json:"reason,omitempty"`
	Faults []Fault `json:"faults,omitempty"`
}

// Fault is one fault of a configuration. Line is that of the YAML document.
type Fault struct {
	Line   int    `json:"line,omitempty"`
	Path   string `json:"path,omitempty"`
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
}

// Condition is one finding about the box's health.
type Condition struct {
	Code     string `json:"code"`
	Severity string `json:"severity"` // "ok", "notice", "warning", "fault"
	English  string `json:"en"`
	German   string `json:"de"`
	Remedy   string `json:"remedy,omitempty"`
}

// Silent is a service that did not answer.
type Silent struct {
	Service string `json:"service"`
	Text    string `json:"text"`
}

// Health is the findings alone. Healthy means that none is a fault.
type Health struct {
	Healthy    bool        `json:"healthy"`
	Conditions []Condition `json:"conditions,omitempty"`
}

// Key is one private key of the box, by purpose.
type Key struct {
	Purpose     string       `json:"purpose"`
	Fingerprint string       `json:"fingerprint,omitempty"` // "sha256:…" of the public key; "" without one
	Uses        uint64       `json:"uses"`
	Certificate *Certificate `json:"certificate,omitempty"`
	Fault       string       `json:"fault,omitempty"`
}

// Certificate is an installed certificate.
type Certificate struct {
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	Serial    string    `json:"serial"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	DNSNames  []string  `json:"dnsNames,omitempty"`
}

// Keys is the list of every purpose.
type Keys struct {
	Keys []Key `json:"keys"`
}

// Network is what netd tells of itself at its socket, as "GET /v1/status".
type Network struct {
	Interfaces []NetworkInterface `json:"interfaces,omitempty"`
	Fault      string             `json:"fault,omitempty"` // why the network is not as configured
}

// NetworkInterface is one interface with a role.
type NetworkInterface struct {
	Name      string   `json:"name"`
	Role      string   `json:"role,omitempty"`
	Up        bool     `json:"up"`
	Addresses []string `json:"addresses,omitempty"`
}

// Mail is what relayd tells of itself at its socket, as "GET /v1/status".
type Mail struct {
	Messages   int64       `json:"messages"` // waiting or being tried
	Dead       int64       `json:"dead"`     // dead letters
	Oldest     time.Time   `json:"oldest,omitzero"`
	Conditions []Condition `json:"conditions,omitempty"`
}
