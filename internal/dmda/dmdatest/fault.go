package dmdatest

import (
	"strconv"
	"strings"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
)

// fault is what a recipient's local part asks for.
type fault struct {
	name string // "code", "data", or one of the names below; "" for none
	code int    // for "code" (at RCPT) and "data" (at the final dot)
	max  int    // how often; 0: always
}

// parseFault reads a local part by the table of the package comment.
func parseFault(local string) fault {
	if f := plainFault(local); f.name != "" {
		return f
	}
	i := strings.LastIndexByte(local, '-')
	if i < 0 || len(local)-i > 3 {
		return fault{}
	}
	n, err := strconv.ParseUint(local[i+1:], 10, 8)
	if err != nil || n == 0 {
		return fault{}
	}
	f := plainFault(local[:i])
	f.max = int(n)
	return f
}

func plainFault(name string) fault {
	switch name {
	case "temperror":
		return fault{name: "code", code: 451}
	case "permerror":
		return fault{name: "code", code: 550}
	case "timeout", "slow", "drop-after-data", "lock-token",
		"malware", "malware-notification", "unknown-recipient", "closed-account", "invalid-format", "other",
		"faulty-notification", "identification", "retrieve":
		return fault{name: name}
	}
	kind, digits := "code", name
	if rest, ok := strings.CutPrefix(name, "data-"); ok {
		kind, digits = "data", rest
	}
	if code, err := strconv.Atoi(digits); err == nil && len(digits) == 3 && code >= 421 && code <= 599 {
		return fault{name: kind, code: code}
	}
	return fault{}
}

// undelivered reports whether mail for such a recipient reaches no mailbox.
func (f fault) undelivered() bool {
	return f.name == "malware" || f.notification() != ""
}

// notification is the type that the fault asks for, or "".
func (f fault) notification() demail.NotificationType {
	switch f.name {
	case "unknown-recipient", "closed-account", "invalid-format", "other":
		return demail.NotificationType(f.name)
	case "faulty-notification":
		return demail.NotifyUnknownRecipient
	case "malware-notification":
		return demail.NotifyOther
	}
	return ""
}

// faultOf gives the fault that a asks for, and counts it; none once its number is
// used up.
func (p *Provider) faultOf(a demail.Address) fault {
	f := parseFault(a.Local())
	if f.name == "" || f.max == 0 {
		return f
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.faults[a.String()] >= f.max || len(p.faults) >= MaxStored {
		return fault{}
	}
	p.faults[a.String()]++
	return f
}
