package dmdatest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
)

// Delivery is one message in one recipient's mailbox.
type Delivery struct {
	ID         string // x-de-mail-message-id
	Token      string
	From       demail.Address // reverse-path
	Recipient  demail.Address
	Header     *demail.Header // as delivered; do not change it
	Received   []byte         // the header block as the sender handed it in
	Body       []byte         // shared between copies; nil with Config.HashOnly
	BodySHA256 [sha256.Size]byte
	Time       time.Time // when it came into the mailbox
}

// Receipt is one transaction that reached the final dot and was taken.
type Receipt struct {
	MessageID    string // Message-ID as handed in
	Token        string
	From         demail.Address
	Recipients   []demail.Address
	BodySHA256   [sha256.Size]byte
	Size         int64 // header and body
	Time         time.Time
	Acknowledged bool // answered with 250; false: closed without an answer
}

// Deliveries are all messages in the mailboxes, in order of arrival.
func (p *Provider) Deliveries() []Delivery {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.stored)
}

// Ledger lists every transaction that was taken, in order.
func (p *Provider) Ledger() []Receipt {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.ledger)
}

// Duplicate is a message that one recipient got more than once.
type Duplicate struct {
	MessageID string
	Recipient demail.Address
}

// Duplicates counts, per Message-ID and recipient, the transactions beyond the
// first; what came once only is not in it.
func (p *Provider) Duplicates() map[Duplicate]int {
	times := map[Duplicate]int{}
	for _, r := range p.Ledger() {
		for _, a := range r.Recipients {
			times[Duplicate{r.MessageID, a}]++
		}
	}
	for d, n := range times {
		if times[d] = n - 1; n == 1 {
			delete(times, d)
		}
	}
	return times
}

// Await waits for the first delivery, past or future, that match wants.
func (p *Provider) Await(ctx context.Context, match func(Delivery) bool) (Delivery, error) {
	for next := 0; ; {
		p.mu.Lock()
		stored, changed := p.stored, p.changed
		p.mu.Unlock()
		for ; next < len(stored); next++ {
			if match(stored[next]) {
				return stored[next], nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Delivery{}, fmt.Errorf("wait for a delivery: %w", ctx.Err())
		}
	}
}

// full reports whether one more message of size bytes would break the bounds.
func (p *Provider) full(size int64, copies int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.stored)+copies > MaxStored || len(p.ledger) >= MaxStored || p.bytes+size > MaxStoredBytes ||
		!p.roomForAnswers(answersPerCopy*copies)
}

// record takes a transaction with all that comes of it, and wakes who waits.
func (p *Provider) record(r Receipt, deliveries []Delivery, answers []*Answer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ledger = append(p.ledger, r)
	p.stored = append(p.stored, deliveries...)
	if len(deliveries) > 0 {
		p.bytes += int64(len(deliveries[0].Body))
	}
	p.answers = append(p.answers, answers...)
	p.wake()
}

// wake tells who waits that something arrived. p.mu is held.
func (p *Provider) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}
