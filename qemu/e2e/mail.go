package e2e

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/dmda/dmdatest"
	"gitlab.opencode.de/pforte/pforte/qemu/vm"
)

// Sent is a letter that went out: as the tenant handed it in, and as it lies in
// the De-Mail recipient's mailbox.
type Sent struct {
	Queue     string // id from the 250
	Before    []byte // as handed in
	Draft     Draft
	Delivered dmdatest.Delivery
}

var queueID = regexp.MustCompile(`[0-9A-HJKMNP-TV-Z]{26}`)

// Accept hands a letter of a tenant's system in and returns the queue id of the 250.
func (w *World) Accept(ctx context.Context, cert string, d *Draft, to ...string) (string, error) {
	reply, err := w.Submit(ctx, cert, d.From, to, d.Bytes())
	if err != nil {
		return "", err
	}
	id := queueID.FindString(reply)
	if id == "" {
		return "", fmt.Errorf("e2e: the 250 names no queue id: %q", reply)
	}
	return id, nil
}

// MailOut sends a letter from tenant A to a citizen and waits until it lies in
// the citizen's mailbox.
func (w *World) MailOut(ctx context.Context, d Draft) (Sent, error) {
	to := d.To
	before := d.Bytes()
	reply, err := w.Submit(ctx, "a", d.From, []string{to}, before)
	if err != nil {
		return Sent{}, fmt.Errorf("hand in: %w", err)
	}
	s := Sent{Queue: queueID.FindString(reply), Before: before, Draft: d}
	s.Delivered, err = w.Provider.Await(ctx, func(x dmdatest.Delivery) bool {
		return x.Recipient.String() == to && strings.Contains(x.Header.Get("Message-ID"), d.MessageID)
	})
	if err != nil {
		return s, fmt.Errorf("delivery to the provider: %w", err)
	}
	return s, nil
}

// MailIn pushes a De-Mail from a citizen to tenant B and waits until it lies on
// the tenant's server.
func (b *Box) MailIn(ctx context.Context, d dmdatest.DeMail) (dmdatest.Composed, Letter, error) {
	c, err := b.Push(ctx, d)
	if err != nil {
		return c, Letter{}, fmt.Errorf("push: %w", err)
	}
	server := b.World.ServerB
	if strings.HasSuffix(c.Recipients[0], "@"+partyA().DeMail) {
		server = b.World.ServerA
	}
	l, err := server.Wait(ctx, c.MessageID, func(l Letter) bool { return strings.Contains(l.Header, c.MessageID) })
	return c, l, err
}

// HeaderText is the header block as lines.
func HeaderText(h *demail.Header) string {
	var b bytes.Buffer
	_, _ = h.WriteTo(&b) // a buffer takes everything
	return b.String()
}

// SameBody compares what was handed in with what was delivered.
func (s Sent) SameBody() error {
	if got, want := hex.EncodeToString(s.Delivered.BodySHA256[:]), s.Draft.BodyHash(); got != want {
		return fmt.Errorf("the body changed on its way: SHA-256 %s, was %s", got, want)
	}
	return nil
}

// FirstAccepted is the guest's seconds from kernel start to the first 250.
func FirstAccepted(s *vm.Serial) string {
	for _, m := range s.Marks() {
		if m.Name == "relayd.accepted" {
			return m.Fields["uptime"]
		}
	}
	return ""
}
