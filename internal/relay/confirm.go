package relay

import (
	"cmp"
	"crypto"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/demail/confirmation"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
	"gitlab.opencode.de/pforte/pforte/internal/relay/proof"
)

// news is what a confirmation or notification says of another message.
type news struct {
	is    bool
	said  *confirmation.Confirmation // nil if it says nothing that counts
	fault error                      // why not
}

// result is its part of the trace field.
func (n *news) result() string {
	switch {
	case !n.is:
		return ""
	case n.fault != nil:
		return fmt.Sprintf("; x-de-mail-confirmation=fail reason=%q", plainText(n.reason()))
	}
	return "; x-de-mail-confirmation=pass"
}

func (n *news) reason() string { return strings.TrimPrefix(n.fault.Error(), "parse confirmation: ") }

var (
	errNoProof  = errors.New("the message's own integrity is not proved")
	errUnsigned = errors.New("confirmation is not signed")
)

// readNews reads what a message says of another one, from what was just stored. It
// counts only if the message's integrity is proved and, for a confirmation, signed
// (TR-01201-3.4 §3.5.1): otherwise the message goes its way and changes no state.
func (r *Relay) readNews(m *taken, body *queue.Body) error {
	n := &m.news
	if n.is = confirmation.Is(m.h); !n.is {
		return nil
	}
	class, _ := demail.MessageType(m.kind).Class()
	switch {
	case m.fault != nil:
		n.fault = errNoProof
		return nil
	case class == demail.ClassConfirmation && !m.proof.Signed:
		n.fault = errUnsigned
		return nil
	}
	stored, err := body.Reader()
	if err != nil {
		return storeFault(err)
	}
	defer stored.Close()
	if _, err := io.CopyN(io.Discard, stored, int64(m.top)); err != nil {
		return storeFault(err)
	}
	opt, asked := r.trust()
	content := &splitErrors{r: stored}
	r.reading <- struct{}{} // what is read is on the disk already: nobody can hold this up
	said, err := func() (*confirmation.Confirmation, error) {
		defer func() { <-r.reading }()
		return confirmation.Parse(m.h, content, opt)
	}()
	switch {
	case content.err != nil:
		return storeFault(content.err)
	case err != nil && asked.unknown != nil:
		return notNow(asked.unknown)
	case err != nil:
		n.fault = err
	default:
		n.said = said
	}
	return nil
}

// tellOthers puts into the envelope what the message means for the traces of
// others, all within its tenant: they become durable with it. What it was matched
// to stands in its own attributes.
func (r *Relay) tellOthers(e *queue.Envelope, m *taken) error {
	if err := r.duplicate(e, m); err != nil {
		return err
	}
	switch n := &m.news; {
	case n.fault != nil:
		e.Attributes[attrUnproved] = clip(n.reason(), queue.MaxText)
	case n.said != nil:
		return r.match(e, n.said, m)
	}
	return nil
}

// duplicate notes that a De-Mail came before. Twice is allowed (RFC 5321
// §4.5.4.1): it is delivered again.
func (r *Relay) duplicate(e *queue.Envelope, m *taken) error {
	id := m.h.Get(demail.FieldMessageID)
	if id == "" {
		return nil
	}
	key := deMailIDKey(id)
	e.Keys = append(e.Keys, key, ownKey(e.Tenant, queue.In, key))
	before, err := r.find(e.Tenant, queue.In, key, queue.Event{})
	if err != nil || len(before) == 0 {
		return err
	}
	e.Attributes[attrDuplicate] = string(before[0].e.ID)
	e.Notes = append(e.Notes, queue.Note{ID: before[0].e.ID, Event: queue.Event{Kind: queue.Noted, Time: e.Received, Recipient: -1, Other: e.ID,
		Reply: queue.Reply{Text: "the same De-Mail came again"}}})
	return nil
}

// deMailIDKey is the lookup key of x-de-mail-message-id.
func deMailIDKey(id string) string { return "de-mail-id:" + squeeze(id) }

// TraceKeys are the lookup keys, for queue.Find, that somebody may mean who asks for
// a message by an address, a Message-ID or the sender's own reference.
func TraceKeys(query string) []string {
	query = strings.TrimSpace(query)
	if query == "" || len(query) > queue.MaxText {
		return nil
	}
	keys := []string{addressKey(strings.Trim(query, "<>")), messageIDKey(query), deMailIDKey(query), privateIDKey(query)}
	if !strings.HasPrefix(query, "<") {
		keys = append(keys, messageIDKey("<"+query+">"))
	}
	return slices.DeleteFunc(keys, func(key string) bool { return len(key) > queue.MaxText })
}

// sent is a message with what is known of it already of one kind.
type sent struct {
	e     *queue.Envelope
	body  string // hash of what was handed over; "" if that is not known
	known map[place]tally
}

// place is where proofs belong: to a recipient, or as a remark to all (-1).
type place struct {
	kind      queue.EventKind
	recipient int
}

// tally is how many proofs there are, and whether the one in question is among them.
type tally struct {
	n    int
	same bool
}

// maxFound bounds how many messages one key leads to: many may share a subject's
// reference, a body or even a careless Message-ID.
const maxFound = 32

// find reads the tenant's messages of one direction that a key leads to, newest
// first, with what is known that is like an event. Traces that have expired or are
// damaged are passed over. Of each it reads the proofs only, of which there are at
// most maxProofs for each kind and recipient, and keeps no more than their number.
func (r *Relay) find(tenant string, way queue.Direction, key string, like queue.Event) ([]sent, error) {
	ids, err := r.o.Queue.Find(ownKey(tenant, way, key), maxFound)
	if err != nil {
		return nil, storeFault(err)
	}
	var out []sent
	for _, id := range ids {
		s := sent{known: map[place]tally{}}
		s.e, err = r.o.Queue.Notes(id, func(e queue.Event) {
			if hash := e.Data[dataBody]; e.Kind == queue.Noted && hash != "" {
				s.body = hash
			}
			s.count(e, like)
		})
		switch {
		case errors.Is(err, queue.ErrUnknown), errors.Is(err, queue.ErrCorrupt), err == nil && s.e == nil:
			continue
		case err != nil:
			return nil, storeFault(err)
		}
		if s.e.Tenant == tenant && s.e.Direction == way {
			out = append(out, s)
		}
	}
	return out, nil
}

// count enters a proof of the same type as like.
func (s *sent) count(e, like queue.Event) {
	if e.Data[proof.DataType] != like.Data[proof.DataType] || e.Kind != like.Kind && e.Kind != queue.Noted {
		return
	}
	at := place{e.Kind, e.Recipient}
	t := s.known[at]
	t.n++
	t.same = t.same || e.Data[proof.DataProof] == like.Data[proof.DataProof]
	s.known[at] = t
}

// match finds what a proof is about and adds the events for its recipients.
func (r *Relay) match(e *queue.Envelope, c *confirmation.Confirmation, m *taken) error {
	kind, ok := kindFor(c)
	if !ok {
		return nil // an ident confirmation tells of no message
	}
	base := queue.Event{Kind: kind, Time: e.Received, Other: e.ID, Data: data(c, m)}
	if kind == queue.Refused {
		base.Reply.Text = string(cmp.Or(demail.MessageType(c.NotificationType), c.Type))
	}
	originals, err := r.originals(e.Tenant, c, base)
	if err != nil {
		return err
	}
	notes := choose(originals, c, base)
	if len(originals) == 0 {
		if notes, err = r.received(e.Tenant, c, base); err != nil {
			return err
		}
	}
	e.Notes = append(e.Notes, notes.list...)
	e.Attributes[attrConfirms] = "none"
	if len(notes.about) > 0 {
		e.Attributes[attrConfirms] = clip(strings.Join(notes.about, " "), queue.MaxText)
	}
	return nil
}

// kindFor is the event that a proof becomes; false if it is about no message.
func kindFor(c *confirmation.Confirmation) (queue.EventKind, bool) {
	switch c.Type {
	case demail.TypeDispatch:
		return queue.Dispatched, true
	case demail.TypeReceipt:
		return queue.Received, true
	case demail.TypeRetrieve:
		return queue.Retrieved, true
	case demail.TypeMalwareAcknowledge, demail.TypeMalwareNotification:
		return queue.Refused, true // what has malware in it is not delivered
	case demail.TypeNotification:
		switch c.NotificationType {
		case demail.NotifyUnknownRecipient, demail.NotifyClosedAccount, demail.NotifyInvalidFormat:
			return queue.Refused, true
		}
		return queue.Noted, true
	}
	return "", false
}

// data is what a proof says, for the trace. See package proof.
func data(c *confirmation.Confirmation, m *taken) map[string]string {
	d := map[string]string{proof.DataType: string(c.Type)}
	if id := m.h.Get(demail.FieldMessageID); id != "" {
		d[proof.DataProof] = clip(id, queue.MaxText)
	}
	for name, at := range map[string]time.Time{proof.DataTime: c.Time, proof.DataDelivered: c.DeliveryTime} {
		if !at.IsZero() {
			d[name] = at.Format(time.RFC3339Nano)
		}
	}
	return d
}

// originals finds what the tenant has sent and c may be about, newest first. The
// sender's Message-ID leads there, else his private-id, else the body's hash; what
// contradicts is left out. A private-id or a body alone may be shared by many
// messages: with them it must be the only one.
func (r *Relay) originals(tenant string, c *confirmation.Confirmation, like queue.Event) ([]sent, error) {
	for _, way := range []struct {
		key    string
		unique bool
	}{{messageIDKey(c.OriginalMessageID), false}, {privateIDKey(c.PrivateID), true}, {hashKey(c.Hash), true}} {
		if _, value, _ := strings.Cut(way.key, ":"); value == "" {
			continue
		}
		list, err := r.find(tenant, queue.Out, way.key, like)
		if err != nil {
			return nil, err
		}
		list = slices.DeleteFunc(list, func(s sent) bool { return !r.sentBy(s.e, c) || !agrees(s, c, way.unique) })
		if len(list) == 1 || len(list) > 1 && !way.unique {
			return list, nil
		}
	}
	return nil, nil
}

// hashKey is the lookup key of the body that an integrity field proves; what was
// sent is found by SHA-256 only.
func hashKey(p demail.Proof) string {
	if p.Algorithm.Hash != crypto.SHA256 {
		return "body:"
	}
	return bodyKey(p.BodyHash)
}

// sentBy reports whether c is about a message of e's sender, as far as c tells whose
// it was: somebody else may have sent one with the same Message-ID and content. The
// provider may have put another address of the same tenant there.
func (r *Relay) sentBy(e *queue.Envelope, c *confirmation.Confirmation) bool {
	from := c.OriginalSender
	if from.IsZero() || strings.EqualFold(from.String(), e.From) || from.String() == e.Attributes[attrSender] {
		return true
	}
	t, _, known := r.o.Tenants.Snapshot().Domain(from.Domain())
	return known && t.ID == e.Tenant
}

// agrees reports whether nothing that c says of the original contradicts what was
// sent. Another Message-ID is excused, for the provider may have replaced it, if
// reference and body are the same: a body alone may be that of any form letter. With
// exact, c must name one of the recipients, too.
func agrees(s sent, c *confirmation.Confirmation, exact bool) bool {
	id := compare(s.e.Attributes[attrMessageID], messageIDKey(c.OriginalMessageID))
	reference := compare(s.e.Attributes[attrPrivateID], privateIDKey(c.PrivateID))
	body := compare(s.body, hashKey(c.Hash))
	if reference < 0 || body < 0 || id < 0 && reference+body < 2 {
		return false
	}
	return !exact || slices.ContainsFunc(s.e.Recipients, func(rc queue.Recipient) bool {
		return slices.ContainsFunc(c.Recipients, func(a demail.Address) bool { return strings.EqualFold(a.String(), rc.Address) })
	})
}

// compare tells what is the same (1) from what differs (-1); 0 if one side does not
// know.
func compare(kept, key string) int {
	_, value, _ := strings.Cut(key, ":")
	switch {
	case kept == "" || value == "":
		return 0
	case squeeze(kept) == value:
		return 1
	}
	return -1
}

// targets are the recipients of e that c speaks of. A message to one recipient
// leaves no doubt, also if it was forwarded and c names where to; but a
// notification does not tell whose message it is about, so it must not speak of
// others only.
func targets(e *queue.Envelope, c *confirmation.Confirmation) []int {
	class, _ := c.Type.Class()
	if len(e.Recipients) == 1 && (class != demail.ClassNotification || !othersOnly(e, c)) {
		return []int{0}
	}
	named := make(map[string]bool, len(c.Recipients))
	for _, a := range c.Recipients {
		named[a.String()] = true
	}
	var list []int
	for i := range e.Recipients {
		if named[strings.ToLower(e.Recipients[i].Address)] {
			list = append(list, i)
		}
	}
	return list
}

// othersOnly reports whether c names addresses, and none is a recipient, the sender
// or the provider.
func othersOnly(e *queue.Envelope, c *confirmation.Confirmation) bool {
	others := false
	for _, a := range c.Recipients {
		switch s := a.String(); {
		case slices.ContainsFunc(e.Recipients, func(rc queue.Recipient) bool { return strings.EqualFold(rc.Address, s) }):
			return false
		case strings.EqualFold(s, e.From), s == e.Attributes[attrSender], a.Domain() == c.Sender.Domain():
		default:
			others = true
		}
	}
	return others
}

// noted is a list of notes and the messages that a proof is about.
type noted struct {
	list  []queue.Note
	about []string
}

// choose makes the events for each recipient. A proof that is there already adds
// nothing. Else it belongs to the newest message that went to the recipient and has
// no such proof yet: what was handed in twice has as many confirmations.
func choose(originals []sent, c *confirmation.Confirmation, base queue.Event) (n noted) {
	const (
		known = iota // it is there already
		blank        // there is none
		more         // there are others
		passes
	)
	served, strange := map[string]bool{}, true
	aims := make([][]int, len(originals))
	for i, o := range originals {
		aims[i] = targets(o.e, c)
	}
	for pass := range passes {
		for at, o := range originals {
			for _, i := range aims[at] {
				strange = false
				address := o.e.Recipients[i].Address
				has := o.known[place{base.Kind, i}]
				switch {
				case served[address]:
				case has.same:
					served[address] = true
					n.mention(o.e.ID)
				case pass == blank && has.n == 0, pass == more && has.n < maxProofs:
					served[address] = true
					base.Recipient = i
					n.add(o.e.ID, base)
				case pass == more:
					n.mention(o.e.ID)
				}
			}
		}
	}
	if strange && len(originals) > 0 {
		n.remark(originals[0], base, strangers(c))
	}
	return n
}

// maxProofs bounds how many different proofs of one kind a recipient gets.
const maxProofs = 4

func (n *noted) add(id queue.ID, e queue.Event) {
	if len(n.list) < queue.MaxNotes/2 {
		n.list = append(n.list, queue.Note{ID: id, Event: e})
	}
	n.mention(id)
}

func (n *noted) mention(id queue.ID) {
	if !slices.Contains(n.about, string(id)) {
		n.about = append(n.about, string(id))
	}
}

// remark notes a proof that changes no recipient's state.
func (n *noted) remark(o sent, base queue.Event, about string) {
	base.Kind, base.Recipient = queue.Noted, -1
	if about != "" {
		base.Data = maps.Clone(base.Data)
		base.Data[proof.DataRecipient] = about
	}
	if has := o.known[place{queue.Noted, -1}]; has.same || has.n >= maxProofs {
		n.mention(o.e.ID)
		return
	}
	n.add(o.e.ID, base)
}

// strangers are the recipients of whom a proof speaks and to whom nothing went.
func strangers(c *confirmation.Confirmation) string {
	all := make([]string, len(c.Recipients))
	for i, a := range c.Recipients {
		all[i] = a.String()
	}
	return clip(strings.Join(all, " "), queue.MaxText)
}

// received notes a proof in the trace of a message that the tenant has got:
// confirmations of receipt and retrieve go to the original's recipient too.
func (r *Relay) received(tenant string, c *confirmation.Confirmation, base queue.Event) (n noted, err error) {
	if c.Hash.IsZero() {
		return n, nil
	}
	list, err := r.find(tenant, queue.In, integrityKey(c.Hash.ValueKey()), base)
	if err == nil && len(list) > 0 {
		n.remark(list[0], base, "")
	}
	return n, err
}
