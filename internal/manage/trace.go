package manage

import "time"

// Bounds of MethodMailTrace.
const (
	MaxTraces      = 100 // messages of one answer; MailTraceQuery.Limit is at most that, 0 means 20
	MaxTraceEvents = 500 // events of one message
	// MaxTraceSize bounds the events and recipients of one answer together, but one
	// message is always there.
	MaxTraceSize = 10_000
)

// MailTraceQuery asks what became of messages. Query is a queue ID, an address (of
// the sender or of a recipient, De-Mail or e-mail), a Message-ID, an
// x-de-mail-message-id or the sender's own reference (x-de-mail-private-id).
type MailTraceQuery struct {
	Query  string `json:"query"`
	Tenant string `json:"tenant,omitempty"` // only this one's; empty: all
	Limit  int    `json:"limit,omitempty"`
}

// MailTraces are the messages that fit, newest first; More says that there may be
// others. Nothing that fits is no error.
type MailTraces struct {
	Traces []MailTrace `json:"traces"`
	More   bool        `json:"more,omitempty"`
}

// MailTrace is what became of one message, without its content.
type MailTrace struct {
	Message    QueueMessage   `json:"message"` // without recipients
	Recipients []MailProgress `json:"recipients"`
	Events     []QueueEvent   `json:"events"` // oldest first; of very many the newest
}

// States of MailProgress, each further than the one before, but for the last.
const (
	MailAccepted   = "accepted"
	MailHandedOver = "handed over"
	MailDispatched = "dispatched"
	MailReceived   = "received"
	MailRetrieved  = "retrieved"
	MailFailed     = "failed"
)

// MailProgress is how far a message has come with one recipient.
type MailProgress struct {
	Address  string     `json:"address"`
	Original string     `json:"original,omitempty"` // whom Address stands for
	State    string     `json:"state"`
	Since    time.Time  `json:"since,omitzero"`
	Steps    []MailStep `json:"steps"` // each state that was reached, once
	// Contradictions are what does not fit together in the proofs.
	Contradictions []string `json:"contradictions,omitempty"`
}

// MailStep is one state that a message has reached.
type MailStep struct {
	State string    `json:"state"`
	Time  time.Time `json:"time"`            // by the provider's proof, else when it was noted
	Noted time.Time `json:"noted"`           // when the box learned of it
	Other string    `json:"other,omitempty"` // queue ID of the message that proves it
	Text  string    `json:"text,omitempty"`  // the next hop's answer, or the reason
}
