package dmdatest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
)

// Bounds of what the provider says on its own.
const (
	MaxAnswers     = MaxStored
	answerQueue    = 10_000 // made and not handed over yet
	answersPerCopy = 6      // at most: dispatch, receipt and retrieve to two each, ident or notification
	answerAttempts = 30
	answerWait     = 100 * time.Millisecond // after the first failure, then twice as long each time
	answerMaxWait  = 5 * time.Second
)

// Answer is a confirmation, notification or ident confirmation that the provider
// made because of a message.
type Answer struct {
	Type     demail.MessageType
	Notify   demail.NotificationType
	To       demail.Address
	About    []demail.Address // recipients of the original
	Original string           // x-de-mail-message-id of the copy that it is about
	Composed Composed
	Pushed   bool  // a gateway answered 250
	Err      error // why it never did
}

// Answers are all that were made, in order; those that are on their way too.
func (p *Provider) Answers() []Answer {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]Answer, 0, len(p.answers))
	for _, a := range p.answers {
		out = append(out, *a)
	}
	return out
}

// AwaitAnswer waits for the first answer that has found its end (pushed, given up,
// or not for a gateway) and that match wants.
func (p *Provider) AwaitAnswer(ctx context.Context, match func(Answer) bool) (Answer, error) {
	for next := 0; ; {
		p.mu.Lock()
		ended, changed := p.answers[:p.ended], p.changed
		p.mu.Unlock()
		for ; next < len(ended); next++ { // nothing changes any more in these
			if match(*ended[next]) {
				return *ended[next], nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Answer{}, fmt.Errorf("wait for an answer: %w", ctx.Err())
		}
	}
}

// SetGateway says where answers to the accounts of tokens are pushed to; empty:
// they are made and kept only.
func (p *Provider) SetGateway(address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gateway = address
}

// Retrieve lets a recipient log in: every message in his mailbox whose sender
// asked for it, and that was not fetched before, is confirmed as retrieved. It
// reports how many there are.
func (p *Provider) Retrieve(recipient string) (int, error) {
	a, err := demail.ParseAddress(recipient)
	if err != nil {
		return 0, fmt.Errorf("retrieve: %w", err)
	}
	p.mu.Lock()
	var fetched []Delivery
	for i, d := range p.stored {
		if d.Recipient == a && !p.fetched[i] && d.Header.Get(demail.FieldConfirmRetrieve) == "yes" {
			p.fetched[i] = true
			fetched = append(fetched, d)
		}
	}
	p.mu.Unlock()
	m := &answerMaker{p: p}
	for _, d := range fetched {
		m.confirmBoth(demail.TypeRetrieve, d)
	}
	if m.err != nil {
		return 0, fmt.Errorf("retrieve: %w", m.err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.roomForAnswers(len(m.out)) {
		return 0, fmt.Errorf("retrieve: %w", errAnswers)
	}
	p.answers = append(p.answers, m.out...)
	p.wake()
	return len(fetched), nil
}

// errAnswers: too many answers wait.
var errAnswers = errors.New("the simulator has no room for another confirmation")

// roomForAnswers holds the bounds. p.mu is held.
func (p *Provider) roomForAnswers(n int) bool {
	return len(p.answers)+n <= MaxAnswers && len(p.answers)-p.ended+n <= answerQueue
}

// deliverAnswers hands answers over, one after the other, until ctx ends. It runs
// once at a time.
func (p *Provider) deliverAnswers(ctx context.Context) {
	select {
	case p.delivering <- struct{}{}:
		defer func() { <-p.delivering }()
	case <-ctx.Done():
		return
	}
	for ctx.Err() == nil {
		p.mu.Lock()
		changed := p.changed
		var next *Answer
		if p.ended < len(p.answers) {
			next = p.answers[p.ended]
		}
		p.mu.Unlock()
		if next == nil {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		pushed, err := p.deliverAnswer(ctx, next)
		if ctx.Err() != nil && !pushed {
			return // the next Serve begins with it again
		}
		p.mu.Lock()
		next.Pushed, next.Err = pushed, err
		p.ended++
		p.wake()
		p.mu.Unlock()
	}
}

// deliverAnswer pushes to the gateway what is for an account of a token. Everything
// else is kept in Answers only.
func (p *Provider) deliverAnswer(ctx context.Context, a *Answer) (pushed bool, err error) {
	if !p.onToken(a.To) {
		return false, nil
	}
	wait := answerWait
	for range answerAttempts {
		gateway := p.currentGateway()
		if gateway == "" {
			return false, nil
		}
		err = p.PushComposed(ctx, gateway, a.Composed)
		var refused *Refusal
		if err == nil || ctx.Err() != nil || errors.As(err, &refused) && refused.Code >= 500 {
			break
		}
		pause(wait, ctx.Done())
		wait = min(2*wait, answerMaxWait)
	}
	return err == nil, err
}

func (p *Provider) currentGateway() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gateway
}

// onToken reports whether the address is reached through a gateway.
func (p *Provider) onToken(a demail.Address) bool {
	for _, t := range p.tokens {
		if _, ok := t.account(a); ok {
			return true
		}
	}
	return false
}
