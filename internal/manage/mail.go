package manage

import "time"

// States of a message in the queue, for QueueFilter.State.
const (
	QueueWaiting = "waiting" // for an attempt, or being tried
	QueueHeld    = "held"    // on hold, until the operator releases or bounces it
	QueueDead    = "dead"    // nobody could be told about it
)

// Bounds of the queue's methods.
const (
	MaxQueuePage   = 500    // messages of one QueuePage
	MaxQueueAct    = 10_000 // messages that one act changes; Rest says if there are more
	MaxQueueIDs    = 1000   // messages that one act names
	MaxQueueShort  = 5      // recipients of a message in a page
	MaxQueueEvents = 1000   // events of a QueueDetail: the newest
)

// QueueFilter chooses messages; empty fields choose all. It is the argument of
// MethodQueueList.
type QueueFilter struct {
	Tenant    string    `json:"tenant,omitempty"`
	Direction string    `json:"direction,omitempty"` // "out" (to the provider) or "in"
	State     string    `json:"state,omitempty"`
	Before    time.Time `json:"before,omitzero"`     // accepted before
	Reason    string    `json:"reason,omitempty"`    // part of the last answer, or of why it is held or dead
	Sender    string    `json:"sender,omitempty"`    // reverse-path
	Recipient string    `json:"recipient,omitempty"` // a forward-path
	After     string    `json:"after,omitempty"`     // continue behind this one
	Limit     int       `json:"limit,omitempty"`     // at most MaxQueuePage, which is also the default
}

// QueuePage is a page of the queue, oldest first.
type QueuePage struct {
	Messages []QueueMessage `json:"messages"`
	Next     string         `json:"next,omitempty"` // for QueueFilter.After; empty at the end
}

// QueueMessage is one message without its content.
type QueueMessage struct {
	ID         string            `json:"id"`
	Tenant     string            `json:"tenant"`
	Direction  string            `json:"direction"`
	State      string            `json:"state,omitempty"`  // empty: it has left the queue
	Reason     string            `json:"reason,omitempty"` // why it is held or dead
	Class      string            `json:"class"`            // "urgent", "normal" or "bulk"
	From       string            `json:"from"`             // empty: a report
	Size       int64             `json:"size"`             // bytes
	Received   time.Time         `json:"received"`
	ReportOf   string            `json:"reportOf,omitempty"`
	Recipients []QueueRecipient  `json:"recipients"`           // in a page: the first MaxQueueShort
	More       int               `json:"more,omitempty"`       // recipients that a page leaves out
	Attributes map[string]string `json:"attributes,omitempty"` // not in a page
}

// QueueRecipient is how a message stands with one recipient, with the last answer.
type QueueRecipient struct {
	Address  string    `json:"address"`
	State    string    `json:"state"` // "waiting", "delivered" (handed over) or "failed"
	Attempts int       `json:"attempts"`
	NextTry  time.Time `json:"nextTry,omitzero"`
	Code     int       `json:"code,omitempty"`
	Enhanced string    `json:"enhanced,omitempty"`
	Text     string    `json:"text,omitempty"`
}

// QueueID names one message.
type QueueID struct {
	ID string `json:"id"`
}

// QueueDetail is one message and what happened to it, oldest first.
type QueueDetail struct {
	Message QueueMessage `json:"message"`
	Events  []QueueEvent `json:"events"`
}

// QueueEvent is one step of a message.
type QueueEvent struct {
	Kind      string            `json:"kind"`
	Time      time.Time         `json:"time"`
	Recipient string            `json:"recipient,omitempty"`
	Code      int               `json:"code,omitempty"`
	Enhanced  string            `json:"enhanced,omitempty"`
	Text      string            `json:"text,omitempty"`
	Other     string            `json:"other,omitempty"` // another message
	Data      map[string]string `json:"data,omitempty"`
}

// QueueAct says to which messages an act is done: those with IDs, or, without any,
// those that Match chooses (of which After and Limit do not count). Reason is for
// the message's trace; MethodQueueBounce shows it to the sender, too.
type QueueAct struct {
	IDs    []string     `json:"ids,omitempty"`
	Match  *QueueFilter `json:"match,omitempty"`
	Reason string       `json:"reason,omitempty"`
}

// QueueActed is what an act did.
type QueueActed struct {
	Changed int      `json:"changed"`
	Left    []string `json:"left,omitempty"` // "ID: why it could not be done"
	Rest    bool     `json:"rest,omitempty"` // more messages match: ask again
}

// Metrics is text in Prometheus' exposition format, as relayd tells it at its
// socket; apid serves it with its own as MethodMetrics.
type Metrics struct {
	Text string `json:"text"`
}
