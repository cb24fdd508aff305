// Package proof tells how far a message has come with each recipient, from its
// envelope and the events of its trace alone (TR-01201-3.4 §3.5: what
// confirmations and notifications say of it). It is a pure function: what the
// operator sees can be computed again from what is stored.
//
// # The states
//
//	accepted     the box has it; it waits or is tried
//	handed over  the next hop has taken it: the provider, or for a message to a
//	             tenant the tenant's server
//	dispatched   the provider has proved that it sent it on
//	received     it lies in the recipient's mailbox
//	retrieved    the recipient has logged in at level high after it came
//	failed       we gave up, or the provider says that it cannot be delivered
//
// # Order and contradiction
//
// Proofs may come in any order and more than once: the order of the events counts
// for our own doings only. Of a provider's proofs the one that says most counts:
//
//   - retrieved, then received: nothing takes them back, also no later notification.
//   - A notification of failure counts before dispatched: what was sent on may still
//     not arrive.
//   - dispatched counts before our own giving up: an attempt whose answer was lost
//     may have succeeded.
//   - Our own failure ends with a later revival or delivery.
//
// What does not fit together is listed in Recipient.Contradictions.
package proof

import (
	"cmp"
	"slices"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/queue"
)

// State is how far a message has come.
type State string

// The states, as people read them.
const (
	Accepted   State = "accepted"
	HandedOver State = "handed over"
	Dispatched State = "dispatched"
	Received   State = "received"
	Retrieved  State = "retrieved"
	Failed     State = "failed"
)

// Names in queue.Event.Data of a proof.
const (
	DataTime      = "time"      // when it happened, by the provider's proof, RFC 3339
	DataDelivered = "delivered" // when it came into the mailbox (retrieved only), RFC 3339
	DataProof     = "proof"     // x-de-mail-message-id of what proves it
	DataType      = "type"      // x-de-mail-message-type of what proves it
	DataRecipient = "recipient" // whom it is about, if that is nobody of the envelope
)

// Step is one state that was reached.
type Step struct {
	State State
	Time  time.Time // when: by the proof, else when we noted it
	Noted time.Time // when we learned of it
	Other queue.ID  // the message that proves it
	Text  string    // the next hop's answer, or why it failed
}

// Recipient is how a message stands with one recipient.
type Recipient struct {
	Address  string
	Original string
	State    State
	Since    time.Time
	Steps    []Step // each state once, in their order
	// Contradictions are what does not fit together, for people.
	Contradictions []string
}

// Of tells how a message stands. events are its trace; the envelope is as it was
// accepted.
func Of(e *queue.Envelope, events []queue.Event) []Recipient {
	events = slices.Clone(events)
	slices.SortStableFunc(events, func(a, b queue.Event) int { return a.Time.Compare(b.Time) })
	ledgers := make([]ledger, len(e.Recipients))
	for _, event := range events {
		switch i := event.Recipient; {
		case i < 0:
			for i := range ledgers {
				ledgers[i].enter(event)
			}
		case i < len(ledgers):
			ledgers[i].enter(event)
		}
	}
	out := make([]Recipient, len(e.Recipients))
	for i := range out {
		out[i] = ledgers[i].balance()
		out[i].Address, out[i].Original = e.Recipients[i].Address, e.Recipients[i].Original
	}
	return out
}

// ledger collects what is known of one recipient.
type ledger struct {
	accepted, handed, dispatched, received, retrieved *Step

	implied *Step // received, by a proof of retrieval
	refused *Step // by the provider's notification
	gaveUp  *Step // by ourselves
	odd     []string
}

// enter takes one event, in the order of time.
func (l *ledger) enter(e queue.Event) {
	switch e.Kind {
	case queue.Accepted:
		l.first(&l.accepted, Accepted, e)
	case queue.Delivery:
		l.first(&l.handed, HandedOver, e)
		l.gaveUp = nil
	case queue.Failure, queue.DeadEnd:
		if l.handed == nil {
			l.first(&l.gaveUp, Failed, e)
		}
	case queue.Revived:
		l.gaveUp = nil
	case queue.Dispatched:
		l.proof(&l.dispatched, Dispatched, e)
	case queue.Received:
		l.proof(&l.received, Received, e)
	case queue.Retrieved:
		l.proof(&l.retrieved, Retrieved, e)
		if at, ok := told(e, DataDelivered); ok && l.implied == nil {
			l.implied = &Step{State: Received, Time: at, Noted: e.Time, Other: e.Other}
		}
	case queue.Refused:
		l.proof(&l.refused, Failed, e)
	}
}

// first keeps the first step of its kind.
func (l *ledger) first(to **Step, s State, e queue.Event) {
	if *to == nil {
		*to = &Step{State: s, Time: e.Time, Noted: e.Time, Other: e.Other, Text: e.Reply.Text}
	}
}

// proof keeps the first proof of its kind; another one should say the same.
func (l *ledger) proof(to **Step, s State, e queue.Event) {
	at, ok := told(e, DataTime)
	if !ok {
		at = e.Time
	}
	if old := *to; old != nil {
		if ok && !old.Time.Equal(at) {
			l.say("two proofs of " + string(s) + " differ in their time")
		}
		return
	}
	*to = &Step{State: s, Time: at, Noted: e.Time, Other: e.Other, Text: e.Reply.Text}
}

// told is a time among what a proof says.
func told(e queue.Event, name string) (time.Time, bool) {
	at, err := time.Parse(time.RFC3339Nano, e.Data[name])
	return at, err == nil
}

func (l *ledger) say(what string) {
	if !slices.Contains(l.odd, what) {
		l.odd = append(l.odd, what)
	}
}

// balance is the state that counts, by the rules of the package comment.
func (l *ledger) balance() Recipient {
	l.received = cmp.Or(l.received, l.implied)
	arrived := cmp.Or(l.retrieved, l.received)
	proved := cmp.Or(arrived, l.dispatched)
	if l.refused != nil && arrived != nil {
		l.say("failed by a notification, and " + string(arrived.State))
	}
	if l.gaveUp != nil && proved != nil {
		l.say("given up here, and " + string(proved.State))
	}
	r := Recipient{State: Accepted, Steps: []Step{}, Contradictions: l.odd}
	if now := cmp.Or(arrived, l.refused, l.dispatched, l.gaveUp, l.handed, l.accepted); now != nil {
		r.State, r.Since = now.State, now.Time
	}
	for _, s := range []*Step{l.accepted, l.handed, l.dispatched, l.received, l.retrieved, cmp.Or(l.refused, l.gaveUp)} {
		if s != nil {
			r.Steps = append(r.Steps, *s)
		}
	}
	return r
}
