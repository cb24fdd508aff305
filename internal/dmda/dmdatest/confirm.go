package dmdatest

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"errors"
	"fmt"
	"mime/multipart"
	"net/mail"
	"net/textproto"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
)

// Root elements of the XML.
const (
	rootAcknowledge = "Acknowledge-Message"
	rootNotify      = "Notification-Message"
	rootIdent       = "Ident-Message" // our own: the guideline's part on identification is another
)

// Confirmation makes a confirmation (dispatch, receipt, retrieve or
// malware-acknowledge) of the message with this header, for one addressee
// (TR-01201-3.4 §3.5.1). It can be changed before it is pushed.
func (p *Provider) Confirmation(t demail.MessageType, original *demail.Header, to demail.Address, delivered time.Time) (DeMail, error) {
	text := map[demail.MessageType]string{
		demail.TypeDispatch:           "Hiermit wird bestätigt, dass die Nachricht mit den folgenden Angaben an den Empfänger versandt wurde.",
		demail.TypeReceipt:            "Hiermit wird bestätigt, dass die Nachricht mit den folgenden Angaben im Postfach des Empfängers abgelegt wurde.",
		demail.TypeRetrieve:           "Hiermit wird bestätigt, dass sich der Empfänger der Nachricht mit den folgenden Angaben an seinem De-Mail-Konto sicher angemeldet hat.",
		demail.TypeMalwareAcknowledge: "Hiermit wird bestätigt, dass in der Nachricht mit den folgenden Angaben Schadsoftware gefunden wurde. Sie wurde nicht zugestellt.",
	}[t]
	if text == "" {
		return DeMail{}, fmt.Errorf("make confirmation: %q is none", t)
	}
	s := statement{root: rootAcknowledge, text: text, original: original}
	if t == demail.TypeRetrieve {
		s.delivery = delivered
	}
	d, err := p.answer(t, decodedSubject(original), to, s)
	if err != nil {
		return DeMail{}, err
	}
	d.PrivateID = original.Get(demail.FieldPrivateID)
	if v := original.Get(demail.FieldPrivate); v != "" {
		d.Fields = append(d.Fields, [2]string{demail.FieldPrivate, v})
	}
	return d, nil
}

// Notification makes a notification about one recipient of a message
// (TR-01201-3.4 §3.5.2). Its XML is not signed: the schema has no place for that.
func (p *Provider) Notification(t demail.MessageType, n demail.NotificationType, original *demail.Header, about, to demail.Address) (DeMail, error) {
	if class, _ := t.Class(); class != demail.ClassNotification {
		return DeMail{}, fmt.Errorf("make notification: %q is none", t)
	}
	text := map[demail.NotificationType]string{
		demail.NotifyUnknownRecipient: "Den Empfänger " + about.String() + " gibt es nicht.",
		demail.NotifyClosedAccount:    "Das De-Mail-Konto des Empfängers " + about.String() + " ist geschlossen.",
		demail.NotifyInvalidFormat:    "Die Nachricht an " + about.String() + " hat ein ungültiges Format.",
		demail.NotifyOther:            "Die Nachricht an " + about.String() + " konnte nicht zugestellt werden.",
	}[n]
	if t == demail.TypeMalwareNotification {
		text = "Die Nachricht an " + about.String() + " enthält Schadsoftware und wurde nicht zugestellt."
	}
	d, err := p.answer(t, "Meldung: "+decodedSubject(original), to, statement{root: rootNotify, text: text})
	if err != nil {
		return DeMail{}, err
	}
	d.Notify, d.PrivateID = n, original.Get(demail.FieldPrivateID)
	d.Fields = append(d.Fields, [2]string{"in-reply-to", original.Get("message-id")})
	return d, nil
}

// Identification makes an ident confirmation. What its XML looks like is
// described in a part of the guideline that this project does not carry; here it
// has a root element of our own, and the signature that §3.4.1 asks for.
func (p *Provider) Identification(to demail.Address) (DeMail, error) {
	d, err := p.answer(demail.TypeIdentification, "Ident-Bestätigung", to,
		statement{root: rootIdent, text: "Die Identität des Kontoinhabers wird bestätigt."})
	if err != nil {
		return DeMail{}, err
	}
	d.Fields = append(d.Fields, [2]string{demail.FieldPrivate, "no"})
	return d, nil
}

// answer makes a message of the system with XML and PDF. Confirmations and ident
// confirmations carry an XML signature, and all are sealed by Config.Algorithm.
func (p *Provider) answer(t demail.MessageType, subject string, to demail.Address, s statement) (DeMail, error) {
	s.sender, s.subject, s.time = t.SystemSender(p.cfg.Domain), t.SubjectPrefix()+subject, time.Now()
	body, contentType, err := p.proofBody(t, s)
	if err != nil {
		return DeMail{}, fmt.Errorf("make %s: %w", t, err)
	}
	d := DeMail{
		From: s.sender, To: []string{to.String()}, Subject: subject, Type: t, Body: body,
		Fields: [][2]string{{"mime-version", "1.0"}, {"content-type", contentType}},
	}
	if p.cfg.Algorithm.Hash != 0 {
		opt, err := p.cfg.PKI.Integrity(p.cfg.Algorithm)
		if err != nil {
			return DeMail{}, err
		}
		d.Integrity = &opt
	}
	return d, nil
}

// proofBody is the multipart of XML and PDF with the same content (TR-01201-3.4
// §3.4.1).
func (p *Provider) proofBody(t demail.MessageType, s statement) (body []byte, contentType string, err error) {
	root := s.xml()
	if class, _ := t.Class(); class != demail.ClassNotification {
		key, err := p.cfg.PKI.signerFor(p.cfg.Algorithm.Scheme)
		if err != nil {
			return nil, "", err
		}
		if root, err = SignXML(root, key, max(p.cfg.Algorithm.Hash, crypto.SHA256)); err != nil {
			return nil, "", err
		}
	}
	xml, err := FormatXML(root)
	if err != nil {
		return nil, "", err
	}
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	err = errors.Join(
		attach(w, "application/xml; charset=utf-8", "bestaetigung.xml", xml),
		attach(w, "application/pdf", "bestaetigung.pdf", pdf(s.lines())),
		w.Close())
	return b.Bytes(), `multipart/mixed; boundary="` + w.Boundary() + `"`, err
}

// attach adds a part in base64.
func attach(w *multipart.Writer, contentType, name string, data []byte) error {
	const width = 76
	part, err := w.CreatePart(textproto.MIMEHeader{
		"Content-Type":              {contentType},
		"Content-Disposition":       {`attachment; filename="` + name + `"`},
		"Content-Transfer-Encoding": {"base64"},
	})
	if err != nil {
		return err
	}
	text := base64.StdEncoding.EncodeToString(data)
	for len(text) > width {
		if _, err := fmt.Fprintf(part, "%s\r\n", text[:width]); err != nil {
			return err
		}
		text = text[width:]
	}
	_, err = fmt.Fprint(part, text)
	return err
}

// answerTo is where confirmations of a message go: to its Reply-To, else to its
// sender (TR-01201-3.4 §3.5.1; demail.md §7).
func answerTo(h *demail.Header) (demail.Address, error) {
	if a, err := mail.ParseAddress(h.Get("reply-to")); err == nil {
		if to, err := demail.ParseAddress(a.Address); err == nil {
			return to, nil
		}
	}
	return demail.ParseAddress(h.Get(demail.FieldSender))
}
