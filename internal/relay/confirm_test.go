package relay

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/demail/confirmation"
	"gitlab.opencode.de/pforte/pforte/internal/dmda/dmdatest"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
	"gitlab.opencode.de/pforte/pforte/internal/relay/proof"
)

// out stores a message as if the tenant had sent it, and it had been read for the provider.
func (w *inWorld) out(tenant, messageID, privateID, body string, to ...string) queue.ID {
	w.t.Helper()
	h := demail.NewHeader()
	if messageID != "" {
		_ = h.Append("message-id", messageID)
	}
	if privateID != "" {
		_ = h.Append(demail.FieldPrivateID, privateID)
	}
	e := &queue.Envelope{Tenant: tenant, Direction: queue.Out, Hop: hopProvider, From: "post@" + tenant + ".de-mail.example", Received: time.Now(),
		Attributes: map[string]string{}}
	e.Keys = own(tenant, queue.Out, identify(h, e.Attributes))
	for _, a := range to {
		e.Recipients = append(e.Recipients, queue.Recipient{Address: a})
	}
	b, err := w.queue.NewBody(100)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.queue.Commit(context.Background(), e, b); err != nil {
		w.t.Fatal(err)
	}
	if taken, err := w.queue.Take(time.Now(), e.ID); err != nil || len(taken) != 1 {
		w.t.Fatal(len(taken), err)
	}
	var o queue.Outcome
	c := newContent()
	c.read([]byte("X: y\r\n\r\n"+body), io.EOF)
	c.tell(e, &o)
	if err := w.queue.Finish(e.ID, o); err != nil {
		w.t.Fatal(err)
	}
	return e.ID
}

// confirm stores a message that says c, as if it had come in.
func (w *inWorld) confirm(tenant string, c *confirmation.Confirmation, id string) (about string) {
	w.t.Helper()
	h := demail.NewHeader()
	if id != "" {
		_ = h.Append(demail.FieldMessageID, id)
	}
	m := &taken{h: h, news: news{is: true, said: c}}
	b, err := w.queue.NewBody(100)
	if err != nil {
		w.t.Fatal(err)
	}
	e := &queue.Envelope{ID: b.ID(), Tenant: tenant, Direction: queue.In, Hop: hopTenant, Received: time.Now(), Recipients: []queue.Recipient{{Address: "x@y.example"}},
		Attributes: map[string]string{}}
	if err := w.r.tellOthers(e, m); err != nil {
		w.t.Fatal(err)
	}
	if err := w.queue.Commit(context.Background(), e, b); err != nil {
		w.t.Fatal(err)
	}
	return e.Attributes[attrConfirms]
}

// states are how a message stands with each recipient.
func (w *inWorld) states(id queue.ID) string {
	w.t.Helper()
	e, events, err := w.queue.Trace(id)
	if err != nil {
		w.t.Fatal(err)
	}
	var out []string
	for _, r := range proof.Of(e, events) {
		out = append(out, string(r.State))
	}
	return strings.Join(out, ", ")
}

func (w *inWorld) notes(id queue.ID) (n int) {
	w.t.Helper()
	_, events, err := w.queue.Trace(id)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range events {
		if e.Other != "" {
			n++
		}
	}
	return n
}

func addresses(t *testing.T, list ...string) (out []demail.Address) {
	for _, s := range list {
		a, err := demail.ParseAddress(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, a)
	}
	return out
}

func bodyProof(body string) demail.Proof {
	digest := demail.NewBodyDigest(sha256.New())
	_, _ = digest.Write([]byte(body))
	return demail.Proof{Algorithm: demail.Algorithm{Hash: crypto.SHA256}, BodyHash: digest.Sum(), Value: []byte("seal of " + body)}
}

const (
	erika = "erika@buerger.de-mail.example"
	hans  = "hans@buerger.de-mail.example"
)

// What a confirmation finds, by what it says of the original.
func TestMatching(t *testing.T) {
	receipt := func(c confirmation.Confirmation, to ...string) *confirmation.Confirmation {
		c.Type, c.Time, c.Recipients = demail.TypeReceipt, time.Now(), addresses(t, to...)
		return &c
	}
	for _, test := range []struct {
		name string
		c    *confirmation.Confirmation
		want string // states of the messages 1 (erika, hans), 2 (erika, the same reference), 3 (hans, the same body)
	}{
		{"by Message-ID", receipt(confirmation.Confirmation{OriginalMessageID: "<1@amt>"}, erika), "received, accepted; accepted; accepted"},
		{"by Message-ID, for both", receipt(confirmation.Confirmation{OriginalMessageID: "<1@amt>"}, hans, erika), "received, received; accepted; accepted"},
		{"with all that agrees", receipt(confirmation.Confirmation{OriginalMessageID: "<1@amt>", PrivateID: "AZ 1", Hash: bodyProof("one")}, hans), "accepted, received; accepted; accepted"},
		{"by Message-ID, with another reference", receipt(confirmation.Confirmation{OriginalMessageID: "<1@amt>", PrivateID: "AZ 2"}, erika), "accepted, accepted; accepted; accepted"},
		{"by Message-ID, with another body", receipt(confirmation.Confirmation{OriginalMessageID: "<1@amt>", Hash: bodyProof("other")}, erika), "accepted, accepted; accepted; accepted"},
		{"by reference, which two have", receipt(confirmation.Confirmation{PrivateID: "AZ 1"}, erika), "accepted, accepted; accepted; accepted"},
		{"by reference, which one of them fits", receipt(confirmation.Confirmation{PrivateID: "AZ 1"}, hans), "accepted, received; accepted; accepted"},
		{"by reference, folded anew", receipt(confirmation.Confirmation{PrivateID: "AZ  1"}, hans), "accepted, received; accepted; accepted"},
		{"by reference, without a recipient", receipt(confirmation.Confirmation{PrivateID: "AZ 3"}), "accepted, accepted; accepted; accepted"},
		{"by reference and body, with a new Message-ID", receipt(confirmation.Confirmation{OriginalMessageID: "<new@provider>", PrivateID: "AZ 1", Hash: bodyProof("two")}, erika), "accepted, accepted; received; accepted"},
		{"by reference, with a strange Message-ID", receipt(confirmation.Confirmation{OriginalMessageID: "<new@provider>", PrivateID: "AZ 3"}, hans), "accepted, accepted; accepted; accepted"},
		{"by body, with a strange Message-ID", receipt(confirmation.Confirmation{OriginalMessageID: "<new@provider>", Hash: bodyProof("two")}, hans), "accepted, accepted; accepted; accepted"},
		{"by body, which two have", receipt(confirmation.Confirmation{Hash: bodyProof("two")}, erika), "accepted, accepted; received; accepted"},
		{"forwarded, from the only recipient", receipt(confirmation.Confirmation{OriginalMessageID: "<2@amt>"}, "neu@buerger.de-mail.example"), "accepted, accepted; received; accepted"},
		{"forwarded, from one of two", receipt(confirmation.Confirmation{OriginalMessageID: "<1@amt>"}, "neu@buerger.de-mail.example"), "accepted, accepted; accepted; accepted"},
		{"of nothing that was sent", receipt(confirmation.Confirmation{OriginalMessageID: "<9@amt>", PrivateID: "AZ 9", Hash: bodyProof("nine")}, erika), "accepted, accepted; accepted; accepted"},
		{"of nothing at all", receipt(confirmation.Confirmation{}, erika), "accepted, accepted; accepted; accepted"},
	} {
		w := newInWorld(t, nil)
		one := w.out("amt-a", "<1@amt>", "AZ 1", "one", erika, hans)
		two := w.out("amt-a", "<2@amt>", "AZ 1", "two", erika)
		three := w.out("amt-a", "<3@amt>", "AZ 3", "two", hans)
		if about := w.confirm("amt-b", test.c, "n0"); about != "none" {
			t.Errorf("%s: matched for another tenant: %s", test.name, about)
		}
		about := w.confirm("amt-a", test.c, "n1")
		got := w.states(one) + "; " + w.states(two) + "; " + w.states(three)
		if got != test.want {
			t.Errorf("%s: %s", test.name, got)
		}
		if noted := w.notes(one)+w.notes(two)+w.notes(three) > 0; noted != (about != "none") {
			t.Errorf("%s: says that it is about %q, noted %v", test.name, about, noted)
		}
	}
}

func TestProofsOfEachKind(t *testing.T) {
	w := newInWorld(t, nil)
	id := w.out("amt-a", "<1@amt>", "", "one", erika)
	at := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	for i, test := range []struct {
		kind  demail.MessageType
		about demail.NotificationType
		want  string
	}{
		{demail.TypeIdentification, "", "accepted"},
		{demail.TypeNotification, demail.NotifyOther, "accepted"},
		{demail.TypeRetrieve, "", "retrieved"}, // before what comes before it
		{demail.TypeDispatch, "", "retrieved"},
		{demail.TypeReceipt, "", "retrieved"},
		{demail.TypeNotification, demail.NotifyClosedAccount, "retrieved"},
	} {
		w.confirm("amt-a", &confirmation.Confirmation{Type: test.kind, NotificationType: test.about, Time: at, OriginalMessageID: "<1@amt>", Recipients: addresses(t, erika)}, fmt.Sprint("n", i))
		if got := w.states(id); got != test.want {
			t.Errorf("%s %s: %s, want %s", test.kind, test.about, got, test.want)
		}
	}
	for i, c := range []confirmation.Confirmation{
		{Type: demail.TypeNotification, NotificationType: demail.NotifyUnknownRecipient}, {Type: demail.TypeNotification, NotificationType: demail.NotifyInvalidFormat},
		{Type: demail.TypeMalwareAcknowledge}, {Type: demail.TypeMalwareNotification},
	} {
		message := fmt.Sprintf("<f%d@amt>", i)
		id := w.out("amt-a", message, "", "one", hans, erika)
		c.OriginalMessageID, c.Recipients, c.Time = message, addresses(t, erika), at
		w.confirm("amt-a", &c, fmt.Sprint("f", i))
		if got := w.states(id); got != "accepted, failed" {
			t.Errorf("%s %s: %s", c.Type, c.NotificationType, got)
		}
	}
	e, events, err := w.queue.Trace(id)
	if err != nil {
		t.Fatal(err)
	}
	if r := proof.Of(e, events)[0]; !r.Since.Equal(at) || len(r.Contradictions) != 1 {
		t.Errorf("%+v", r)
	}
}

// The same confirmation twice, and a message that was sent twice.
func TestDuplicateConfirmations(t *testing.T) {
	w := newInWorld(t, nil)
	old := w.out("amt-a", "<1@amt>", "", "one", erika, hans)
	recent := w.out("amt-a", "<1@amt>", "", "one", erika)
	c := &confirmation.Confirmation{Type: demail.TypeReceipt, Time: time.Now(), OriginalMessageID: "<1@amt>", Recipients: addresses(t, erika)}
	for range 3 {
		w.confirm("amt-a", c, "n1")
		if got := w.states(recent) + "; " + w.states(old); got != "received; accepted, accepted" || w.notes(recent) != 1 {
			t.Fatalf("%s, %d notes", got, w.notes(recent))
		}
	}
	w.confirm("amt-a", c, "n2") // a second delivery has a confirmation of its own
	if got := w.states(recent) + "; " + w.states(old); got != "received; received, accepted" {
		t.Error(got)
	}
	third := w.out("amt-a", "<1@amt>", "", "one", erika)
	w.confirm("amt-a", c, "n1") // known to an older message
	if got := w.states(third); got != "accepted" {
		t.Error(got)
	}
	for i := range 20 { // more than there can be stays within bounds
		w.confirm("amt-a", c, fmt.Sprint("m", i))
	}
	if n := w.notes(third) + w.notes(recent) + w.notes(old); n != 3*maxProofs {
		t.Errorf("%d notes", n)
	}
}

// A confirmation that the recipient gets too is noted with what he received.
func TestConfirmationAtTheRecipient(t *testing.T) {
	w := newInWorld(t, nil)
	message := w.compose(dmdatest.DeMail{})
	id := w.mustHand(erika, message, postA)[0]
	h, _ := demail.ReadHeader(bufio.NewReader(bytes.NewReader(message)), 0)
	p, err := demail.ParseProof(h.Get(demail.FieldIntegrity))
	if err != nil {
		t.Fatal(err)
	}
	c := &confirmation.Confirmation{Type: demail.TypeReceipt, Time: time.Now(), OriginalMessageID: h.Get("message-id"), Hash: p, Recipients: addresses(t, postA)}
	for range 2 {
		if about := w.confirm("amt-a", c, "n1"); about != string(id) {
			t.Errorf("about %q", about)
		}
	}
	if w.notes(id) != 1 || w.states(id) != "accepted" {
		t.Errorf("%d notes, %s", w.notes(id), w.states(id))
	}
}

// Only so many confirmations are in memory at once; other mail does not wait for them.
func TestConfirmationsAreReadInTurn(t *testing.T) {
	w := newInWorld(t, nil)
	for range maxReading {
		w.r.reading <- struct{}{}
	}
	w.mustHand(erika, w.compose(dmdatest.DeMail{}), postA)
	d := dmdatest.DeMail{From: "eingangsbestaetigung@provider.de-mail.example", Type: demail.TypeReceipt}
	message, s, done := w.compose(d), w.session(), make(chan error, 1)
	if err := errors.Join(s.Mail(d.From, &smtp.MailOptions{}), s.Rcpt(postA, &smtp.RcptOptions{})); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := s.Data(bytes.NewReader(message))
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("one more was read: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	<-w.r.reading
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(w.r.reading) != maxReading-1 {
		t.Errorf("%d places are taken", len(w.r.reading))
	}
}

// What is not proved changes no state, is delivered all the same, and says why.
func TestUnprovedConfirmation(t *testing.T) {
	w := newInWorld(t, nil)
	id := w.out("amt-a", "<1@amt>", "AZ 1", "one", erika)
	for name, d := range map[string]dmdatest.DeMail{
		"only hashed":    {Integrity: &demail.IntegrityOptions{}},
		"without XML":    {},
		"with other XML": {Body: []byte("<Acknowledge-Message xmlns='urn:de-mail'/>\r\n")},
	} {
		d.From, d.Type, d.PrivateID = "eingangsbestaetigung@provider.de-mail.example", demail.TypeReceipt, "AZ 1"
		message := w.compose(d)
		got := w.mustHand(d.From, message, postA)[0]
		e, err := w.queue.Show(got)
		if err != nil || e.Attributes[attrUnproved] == "" || e.Attributes[attrConfirms] != "" || e.Hold {
			t.Errorf("%s: %+v, %v", name, e.Attributes, err)
		}
		if s := w.results(got); !strings.Contains(s, "; x-de-mail-confirmation=fail reason=") || !strings.Contains(s, "x-de-mail-integrity=pass") {
			t.Errorf("%s: %s", name, s)
		}
		if _, below := w.stored(got); below != string(message) {
			t.Errorf("%s: changed", name)
		}
		if w.states(id) != "accepted" || w.notes(id) != 0 {
			t.Errorf("%s: %s, %d notes", name, w.states(id), w.notes(id))
		}
	}
}

// Whoever got a letter knows its Message-ID, reference and body. With them he writes
// one of his own, and has its confirmations sent to the first sender (Reply-To): real
// ones, of another message.
func TestConfirmationOfSomebodyElsesMessage(t *testing.T) {
	w := newInWorld(t, nil)
	id := w.out("amt-a", "<1@amt>", "AZ 1", "one", erika)
	c := &confirmation.Confirmation{Type: demail.TypeMalwareAcknowledge, Time: time.Now(), OriginalMessageID: "<1@amt>", PrivateID: "AZ 1", Hash: bodyProof("one"),
		OriginalSender: addresses(t, hans)[0], Recipients: addresses(t, erika)}
	if about := w.confirm("amt-a", c, "n1"); about != "none" || w.states(id) != "accepted" || w.notes(id) != 0 {
		t.Errorf("about %s: %s, %d notes", about, w.states(id), w.notes(id))
	}
	c.OriginalSender = addresses(t, "post@amt-b.de-mail.example")[0]
	if about := w.confirm("amt-a", c, "n2"); about != "none" {
		t.Errorf("of another tenant's: %s", w.states(id))
	}
	c.Type, c.OriginalSender = demail.TypeReceipt, addresses(t, "zentrale@amt-a.de-mail.example")[0] // the provider put the account there
	if w.confirm("amt-a", c, "n3"); w.states(id) != "received" {
		t.Error(w.states(id))
	}
}

// A notification does not tell whose message it is about. The addresses that its
// text names must not belong to somebody else's.
func TestNotificationOfSomebodyElsesMessage(t *testing.T) {
	w := newInWorld(t, nil)
	id := w.out("amt-a", "<1@amt>", "", "one", erika)
	c := &confirmation.Confirmation{Type: demail.TypeNotification, NotificationType: demail.NotifyUnknownRecipient, Time: time.Now(), OriginalMessageID: "<1@amt>",
		Sender: addresses(t, "meldung@provider.de-mail.example")[0], Recipients: addresses(t, "niemand@buerger.de-mail.example")}
	if w.confirm("amt-a", c, "n1"); w.states(id) != "accepted" {
		t.Errorf("of another's: %s", w.states(id))
	}
	c.Recipients = addresses(t, "post@amt-a.de-mail.example", "hilfe@provider.de-mail.example") // the sender and the provider are no recipients
	if w.confirm("amt-a", c, "n2"); w.states(id) != "failed" {
		t.Error(w.states(id))
	}
	id = w.out("amt-a", "<2@amt>", "", "one", erika)
	c.OriginalMessageID, c.Recipients = "<2@amt>", addresses(t, "niemand@buerger.de-mail.example", erika)
	if w.confirm("amt-a", c, "n3"); w.states(id) != "failed" {
		t.Error(w.states(id))
	}
}

// Messages of others with the same Message-ID hide nothing, however many there are.
func TestOthersHideNoMessage(t *testing.T) {
	w := newInWorld(t, nil)
	id := w.out("amt-a", "<1@amt>", "AZ 1", "one", erika)
	for range maxFound + 1 {
		w.out("amt-b", "<1@amt>", "AZ 1", "one", erika)
	}
	letter := sealed(t, []string{"from: " + erika, "message-id: <1@amt>", demail.FieldPrivateID + ": AZ 1"}, "one")
	for range maxFound + 1 {
		w.mustHand(erika, letter, postA)
	}
	c := &confirmation.Confirmation{Type: demail.TypeReceipt, Time: time.Now(), OriginalMessageID: "<1@amt>", Recipients: addresses(t, erika)}
	if about := w.confirm("amt-a", c, "n1"); about != string(id) || w.states(id) != "received" {
		t.Errorf("about %s: %s", about, w.states(id))
	}
}

// A reference may end in a colon.
func TestReferenceWithColon(t *testing.T) {
	w := newInWorld(t, nil)
	id := w.out("amt-a", "", "Unser Zeichen:", "one", erika)
	c := &confirmation.Confirmation{Type: demail.TypeReceipt, Time: time.Now(), PrivateID: "Unser Zeichen:", Recipients: addresses(t, erika)}
	if w.confirm("amt-a", c, "n1"); w.states(id) != "received" {
		t.Error(w.states(id))
	}
}

// State and message exist together: when the message is not stored, neither is
// what it proves.
func TestProofIsBornWithItsMessage(t *testing.T) {
	w := newInWorld(t, nil)
	id := w.out("amt-a", "<1@amt>", "", "one", erika)
	e := &queue.Envelope{Tenant: "amt-a", Direction: queue.In, Hop: hopTenant, Received: time.Now(), Attributes: map[string]string{}} // no recipients: refused
	m := &taken{h: demail.NewHeader(), news: news{is: true, said: &confirmation.Confirmation{Type: demail.TypeReceipt, OriginalMessageID: "<1@amt>", Recipients: addresses(t, erika)}}}
	b, err := w.queue.NewBody(100)
	if err != nil {
		t.Fatal(err)
	}
	e.ID = b.ID()
	if err := w.r.tellOthers(e, m); err != nil || len(e.Notes) != 1 {
		t.Fatalf("%d notes, %v", len(e.Notes), err)
	}
	if w.queue.Commit(context.Background(), e, b) == nil || w.states(id) != "accepted" {
		t.Error(w.states(id))
	}
}
