package relay

import (
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"

	"gitlab.opencode.de/pforte/pforte/internal/dmda"
	"gitlab.opencode.de/pforte/pforte/internal/milestone"
	"gitlab.opencode.de/pforte/pforte/internal/nexthop"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
	"gitlab.opencode.de/pforte/pforte/internal/smtpguard"
	"gitlab.opencode.de/pforte/pforte/internal/tenants"
)

// Connection is the way to the provider that holds now.
type Connection struct {
	Provider dmda.Provider
	Signers  Signers // who may sign incoming messages
}

// Signers are the authorities whose certificates may sign De-Mails: our provider's,
// and those of others, from which De-Mails come as well.
type Signers struct {
	Roots *x509.CertPool
	// Revoked reports whether a certificate is revoked (dmda.ErrRevoked), or that this
	// cannot be learned now (any other error).
	Revoked func(certificate, issuer *x509.Certificate) error
}

// Options make a Relay. Queue, Tenants, Connection, Hostname and Log are required.
type Options struct {
	Queue      *queue.Queue
	Tenants    tenants.Source
	Connection func() Connection
	Hostname   func() string // our name, as in the server's certificate
	Log        *slog.Logger
	Marks      io.Writer // gets milestones; nil: none
	Schedule   queue.Schedule
	Limits     nexthop.Limits // towards tenants' servers
}

// Bounds of the relay. Those of sessions are smtpguard's.
const (
	// maxHeader bounds an incoming message's header in bytes; an open session holds
	// it while it works on it. A De-Mail to a thousand recipients names them three times.
	maxHeader = 512 << 10
	// maxTenantsPerMessage bounds the copies of one incoming message.
	maxTenantsPerMessage = 16
	// maxReading bounds how many confirmations are read at once: the largest XML takes
	// some 20 MB for a moment, and the provider may send fifty side by side.
	maxReading = 4
	// headroom is what rewriting may add to a header.
	headroom = 64 << 10
)

// Relay is the relay's logic; listeners and the queue belong to the caller.
type Relay struct {
	o          Options
	routes     routes
	dispatcher *dispatcher
	bounced    inbox         // what the operator has given back
	meters     meters        // of tenants' systems
	reading    chan struct{} // taken by who reads a confirmation
	counts     counts
}

// New makes a relay. Deliver makes it deliver; Outgoing and Incoming accept.
func New(o Options) *Relay {
	if o.Marks == nil {
		o.Marks = io.Discard
	}
	r := &Relay{o: o, bounced: inbox{rang: make(chan struct{}, 1)}, reading: make(chan struct{}, maxReading)}
	r.routes.open = r.tenantRoute
	r.dispatcher = newDispatcher(r)
	return r
}

// Outgoing serves the listeners on the tenant network.
func (r *Relay) Outgoing() smtpguard.Backend { return outgoing{r} }

// Incoming serves the listener on the provider network.
func (r *Relay) Incoming() smtpguard.Backend { return incoming{r} }

// Ready is for smtpguard.Options.Ready: a sick queue means 421 at connect.
func (r *Relay) Ready() error { return r.o.Queue.Sick() }

// accepted reports a message that was just taken over.
func (r *Relay) accepted(e *queue.Envelope, from string) {
	r.counts.add(e, CountAccepted, 1)
	milestone.Print(r.o.Marks, "relayd.accepted", "id", e.ID, "tenant", e.Tenant, "direction", e.Direction, "size", e.Size, "uptime", Uptime())
	r.o.Log.Info("accepted", "id", e.ID, "tenant", e.Tenant, "direction", e.Direction, "from", from,
		"recipients", len(e.Recipients), "size", e.Size)
}

// Uptime is how long the kernel has run, in seconds to the hundredth, for
// milestones; 0 if it does not say.
func Uptime() string {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return "0"
	}
	return fmt.Sprintf("%.2f", float64(ts.Nano())/float64(time.Second))
}

// now is the time that goes into trace fields and envelopes.
func now() time.Time { return time.Now() }
