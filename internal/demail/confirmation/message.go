package confirmation

import (
	"fmt"
	"net/mail"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/beevik/etree"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
)

// Namespace of the XML (TR-01201-3.4 §3.5.3), and its two root elements.
const (
	Namespace       = "urn:de-mail"
	RootAcknowledge = "Acknowledge-Message"
	RootNotify      = "Notification-Message"
)

// Bounds of what is taken over.
const (
	maxMessageID = 998
	maxMentioned = 64 // addresses that a notification's text may name
	minYear      = 1990
	maxYear      = 2200
)

// element is an XML element whose children occur once each.
type element map[string]*etree.Element

// children reads those in the namespace of De-Mail and passes over all others:
// a later version of the guideline may add some.
func children(el *etree.Element) (element, error) {
	out := element{}
	for _, c := range el.ChildElements() {
		if c.NamespaceURI() != Namespace {
			continue
		}
		if out[c.Tag] != nil {
			return nil, fmt.Errorf("%w: an element of %s occurs twice", ErrMalformed, el.Tag)
		}
		out[c.Tag] = c
	}
	return out, nil
}

// text gives a child's text and false if there is no such child or it holds more.
func (e element) text(name string) (string, bool) {
	el := e[name]
	if el == nil || len(el.ChildElements()) > 0 {
		return "", false
	}
	return strings.TrimSpace(el.Text()), true
}

// require wants all these texts.
func (e element) require(names ...string) ([]string, error) {
	var out []string
	for _, name := range names {
		v, ok := e.text(name)
		if !ok {
			return nil, fmt.Errorf("%w: XML without %s", ErrMalformed, name)
		}
		out = append(out, v)
	}
	return out, nil
}

// isRoot checks name and namespace.
func isRoot(root *etree.Element, name string) error {
	if root.Tag != name || root.NamespaceURI() != Namespace {
		return fmt.Errorf("%w: root element is not %s", ErrMalformed, name)
	}
	return nil
}

// acknowledge reads an Acknowledge-Message (TR-01201-3.4 §3.5.1).
func (c *Confirmation) acknowledge(root *etree.Element) error {
	if err := isRoot(root, RootAcknowledge); err != nil {
		return err
	}
	e, err := children(root)
	if err != nil {
		return err
	}
	v, err := e.require("Sender", "Subject", "Text", "Hash", "Time")
	if err != nil {
		return err
	}
	if err := c.checkSender(v[0]); err != nil {
		return err
	}
	if err := c.checkSubject(v[1]); err != nil {
		return err
	}
	if c.Hash, err = demail.ParseProof(hashValue(v[3])); err != nil {
		return fmt.Errorf("%w: Hash: %w", ErrMalformed, err)
	}
	if c.Time, err = dateTime("Time", v[4]); err != nil {
		return err
	}
	if err := c.deliveryTime(e); err != nil {
		return err
	}
	if e["Metadata"] == nil {
		return fmt.Errorf("%w: XML without Metadata", ErrMalformed)
	}
	m, err := metadata(e["Metadata"])
	if err != nil {
		return err
	}
	return c.original(m)
}

// checkSender: the XML names the same system address as the header, if it names
// an address at all.
func (c *Confirmation) checkSender(v string) error {
	if a, err := demail.ParseAddress(v); err == nil && a != c.Sender {
		return fmt.Errorf("%w: Sender is not the one in the header", ErrMalformed)
	}
	return nil
}

// checkSubject: the signed subject begins with the kind of confirmation
// (TR-01201-3.4 §3.5.1), and that must not be another than the header says.
func (c *Confirmation) checkSubject(v string) error {
	for _, t := range []demail.MessageType{demail.TypeDispatch, demail.TypeReceipt, demail.TypeRetrieve} {
		kind := strings.Trim(t.SubjectPrefix(), "* ")
		if strings.HasPrefix(strings.TrimLeft(v, "* "), kind) && t != c.Type {
			return fmt.Errorf("%w: Subject is of another type than the header says", ErrMalformed)
		}
	}
	return nil
}

func (c *Confirmation) deliveryTime(e element) error {
	if e["DeliveryTime"] == nil {
		return nil
	}
	if c.Type != demail.TypeRetrieve {
		return fmt.Errorf("%w: DeliveryTime in a %s", ErrMalformed, c.Type)
	}
	v, _ := e.text("DeliveryTime")
	var err error
	c.DeliveryTime, err = dateTime("DeliveryTime", v)
	return err
}

// hashValue takes the field's name off, if somebody put the whole field there.
func hashValue(v string) string {
	if n := len(demail.FieldIntegrity); len(v) > n && strings.EqualFold(v[:n], demail.FieldIntegrity) {
		return strings.TrimLeft(v[n:], " \t:")
	}
	return v
}

// dateTime reads xs:dateTime, in UTC; without a zone it is UTC already. Zones as
// "+24:00" and years far away cannot be written as JSON by whoever shows the time.
func dateTime(name, v string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999"} {
		if t, err := time.Parse(layout, v); err == nil && minYear <= t.Year() && t.Year() <= maxYear {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%w: %s is no date and time", ErrMalformed, name)
}

// metadata reads the original's header: names in lower case, the first of each
// counts (TR-01201-3.4 §3.1.1).
func metadata(el *etree.Element) (map[string]string, error) {
	out := map[string]string{}
	for _, m := range el.ChildElements() {
		if m.Tag != "Metadate" || m.NamespaceURI() != Namespace {
			continue
		}
		e, err := children(m)
		if err != nil {
			return nil, err
		}
		v, err := e.require("Name", "Value")
		if err != nil {
			return nil, err
		}
		name := strings.ToLower(v[0])
		if _, twice := out[name]; !twice {
			out[name] = v[1]
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: Metadata is empty", ErrMalformed)
	}
	return out, nil
}

// original takes over what the metadata tell of the message.
func (c *Confirmation) original(m map[string]string) error {
	c.OriginalMessageID, c.OriginalDeMailMessageID = m["message-id"], m[demail.FieldMessageID]
	if max(len(c.OriginalMessageID), len(c.OriginalDeMailMessageID)) > maxMessageID {
		return fmt.Errorf("%w: message-id over %d bytes", ErrMalformed, maxMessageID)
	}
	private := m[demail.FieldPrivateID]
	switch {
	case utf8.RuneCountInString(private) > demail.MaxPrivateID:
		return fmt.Errorf("%w: %s over %d characters", ErrMalformed, demail.FieldPrivateID, demail.MaxPrivateID)
	case c.PrivateID != "" && private != "" && c.PrivateID != private:
		return fmt.Errorf("%w: %s is not the one in the header", ErrMalformed, demail.FieldPrivateID)
	}
	if private != "" {
		c.PrivateID = private
	}
	var err error
	if v := m[demail.FieldSender]; v != "" {
		if c.OriginalSender, err = demail.ParseAddress(v); err != nil {
			return fmt.Errorf("%w: original's sender: %w", ErrMalformed, err)
		}
	}
	c.Recipients, err = recipients(m)
	return err
}

// recipients follows the doc comment of Confirmation.Recipients.
func recipients(m map[string]string) ([]demail.Address, error) {
	if v := m[demail.FieldEnvelopeTo]; v != "" {
		return list("to=" + strings.ReplaceAll(v, ",", ";"))
	}
	for _, name := range []string{demail.FieldActualRecipient, demail.FieldChosenRecipient} {
		if v := m[name]; v != "" {
			return list(v)
		}
	}
	return nil, fmt.Errorf("%w: Metadata without a recipient", ErrMalformed)
}

func list(v string) ([]demail.Address, error) {
	r, err := demail.ParseRecipients(v)
	if err != nil {
		return nil, fmt.Errorf("%w: original's recipients: %w", ErrMalformed, err)
	}
	return r.All(), nil
}

// notify reads a Notification-Message (TR-01201-3.4 §3.5.2).
func (c *Confirmation) notify(root *etree.Element) error {
	if err := isRoot(root, RootNotify); err != nil {
		return err
	}
	e, err := children(root)
	if err != nil {
		return err
	}
	v, err := e.require("Subject", "Text", "Time", "Sender")
	if err != nil {
		return err
	}
	if c.Time, err = dateTime("Time", v[2]); err != nil {
		return err
	}
	c.Recipients = mentioned(v[0] + "\n" + v[1])
	return nil
}

// mentioned finds the De-Mail addresses that a text names.
func mentioned(text string) []demail.Address {
	var out []demail.Address
	for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return strings.ContainsRune(" \t\r\n<>()[]{},;:\"'„“”", r) }) {
		if !strings.Contains(word, "@") {
			continue
		}
		a, err := demail.ParseAddress(strings.TrimRight(word, ".!?"))
		if err != nil || slices.Contains(out, a) {
			continue
		}
		if out = append(out, a); len(out) == maxMentioned {
			break
		}
	}
	return out
}

// inReplyTo is the Message-ID that a notification answers, if it says one.
func inReplyTo(h *demail.Header) string {
	v := h.Get("in-reply-to")
	if len(v) > maxMessageID || strings.ContainsAny(v, " \t") {
		return ""
	}
	if a, err := mail.ParseAddress(v); err != nil || a == nil || !strings.HasPrefix(v, "<") {
		return ""
	}
	return v
}
