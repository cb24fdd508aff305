package confirmation

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
)

// Parse reads a message whose header is h, verifies the XML signature and compares
// it with the header. A normal message is ErrNotConfirmation, and its body is not
// touched. Otherwise body is read as far as need be, never beyond MaxBody; nil is an
// empty body. The XML of an ident confirmation, which another part of the guideline
// describes, is verified and not read.
func Parse(h *demail.Header, body io.Reader, verify demail.VerifyOptions) (*Confirmation, error) {
	c, err := fromHeader(h)
	if err != nil {
		return nil, fmt.Errorf("parse confirmation: %w", err)
	}
	told := *c // what stays if the body is not to be had
	switch err := c.read(h, body, verify); {
	case err == nil:
		return c, nil
	case told.tolerates(err):
		told.Fault = err
		return &told, nil
	default:
		return nil, fmt.Errorf("parse confirmation: %w", err)
	}
}

// read takes what the body says.
func (c *Confirmation) read(h *demail.Header, body io.Reader, verify demail.VerifyOptions) error {
	data, err := findXML(h, body)
	if err != nil {
		return err
	}
	root, err := document(data)
	if err != nil {
		return err
	}
	class, _ := c.Type.Class()
	if class != demail.ClassNotification || hasSignature(root) {
		p, err := verifySignature(root, verify)
		if err != nil {
			return err
		}
		root = p.root // from here on nothing else is looked at
		c.Signed, c.Certificate, c.Chain = true, p.cert, p.chain
	}
	switch class {
	case demail.ClassConfirmation:
		return c.acknowledge(root)
	case demail.ClassNotification:
		return c.notify(root)
	}
	return nil
}

// Is reports whether Parse is worth calling: the header says that the message is
// a confirmation, a notification or an ident confirmation.
func Is(h *demail.Header) bool {
	class, known := demail.MessageType(h.Get(demail.FieldMessageType)).Class()
	return known && class != demail.ClassNormal
}

// tolerates reports whether a fault in the body may be passed over: in a
// notification, but never a bad signature (TR-01201 part 3).
func (c *Confirmation) tolerates(err error) bool {
	class, _ := c.Type.Class()
	return class == demail.ClassNotification && errors.Is(err, ErrMalformed)
}

// fromHeader takes what the header says, if all is well-formed that must be.
func fromHeader(h *demail.Header) (*Confirmation, error) {
	if !Is(h) {
		return nil, ErrNotConfirmation
	}
	t, faults := demail.Validate(h)
	if err := faults.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	c := &Confirmation{Type: t, Provider: h.Get(demail.FieldOriginatorProvider), PrivateID: h.Get(demail.FieldPrivateID)}
	if n := demail.NotificationType(h.Get(demail.FieldNotificationType)); n.Valid() {
		c.NotificationType = n
	}
	var err error
	if c.Sender, err = demail.ParseAddress(h.Get(demail.FieldSender)); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrMalformed, demail.FieldSender, err)
	}
	if want := t.SystemSender(c.Sender.Domain()); !strings.EqualFold(want, c.Sender.String()) {
		return nil, fmt.Errorf("%w: %s is not the system address of this type", ErrMalformed, demail.FieldSender)
	}
	if t == demail.TypeNotification || t == demail.TypeMalwareNotification {
		c.OriginalMessageID = inReplyTo(h)
	}
	return c, nil
}
