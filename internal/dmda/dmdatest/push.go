package dmdatest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"mime"
	"net"
	"time"

	"github.com/emersion/go-smtp"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/tlsprofile"
)

// pushTimeout bounds each answer of a gateway; RFC 5321 §4.5.3.2.6 gives ten
// minutes for the one after the final dot.
const pushTimeout = 10 * time.Minute

// DeMail is a message that the provider makes and pushes. Only From and one
// recipient are needed.
type DeMail struct {
	From      string
	To        []string // listed, and in the envelope unless BCC is set
	CC        []string
	BCC       string // a blind copy for this one recipient: the envelope is for it alone
	Subject   string // UTF-8
	Holder    string // x-de-mail-account-holder; empty: From
	Options   demail.Options
	PrivateID string
	ReplyTo   string
	Type      demail.MessageType // empty: normal
	Notify    demail.NotificationType

	NullPath bool // MAIL FROM:<> in place of From

	Fields [][2]string // more fields, for instance content-type; put in before sealing
	Body   []byte      // lines end in CRLF; nil: a short text

	// Integrity replaces the usual proof: SHA-256, signed by ECDSA if Options or
	// Type ask for it.
	Integrity *demail.IntegrityOptions
	// Spoil changes the finished message, for tests of who must notice.
	Spoil func(h *demail.Header, body []byte) []byte
}

// Composed is a finished De-Mail, ready for the wire.
type Composed struct {
	From       string
	Recipients []string
	MessageID  string // Message-ID
	ID         string // x-de-mail-message-id
	Raw        []byte // header and body
	BodySHA256 [sha256.Size]byte
}

// Compose makes a complete De-Mail by TR-01201-3.4 §3.1, sealed last of all.
func (p *Provider) Compose(d DeMail) (Composed, error) {
	c, err := p.compose(d)
	if err != nil {
		return Composed{}, fmt.Errorf("compose De-Mail: %w", err)
	}
	return c, nil
}

func (p *Provider) compose(d DeMail) (Composed, error) {
	if d.Type == "" {
		d.Type = demail.TypeNormal
	}
	if d.Body == nil {
		d.Body = []byte("Guten Tag,\r\n\r\ndies ist eine De-Mail des simulierten Anbieters.\r\n")
	}
	list, err := d.recipients()
	if err != nil {
		return Composed{}, err
	}
	h := demail.NewHeader()
	if err := p.fill(h, d, list); err != nil {
		return Composed{}, err
	}
	if err := demail.Seal(h, bytes.NewReader(d.Body), p.proof(d)); err != nil {
		return Composed{}, err
	}
	c := Composed{From: d.From, MessageID: h.Get("message-id"), ID: h.Get(demail.FieldMessageID)}
	if d.NullPath {
		c.From = ""
	}
	for _, a := range list.All() {
		if d.BCC == "" || a == list.BCC[0] {
			c.Recipients = append(c.Recipients, a.String())
		}
	}
	body := d.Body
	if d.Spoil != nil {
		body = d.Spoil(h, bytes.Clone(body))
	}
	c.BodySHA256 = sha256.Sum256(body)
	var raw bytes.Buffer
	if _, err := h.WriteTo(&raw); err != nil {
		return Composed{}, err
	}
	c.Raw = append(raw.Bytes(), body...)
	return c, nil
}

// fill writes every field but the proof.
func (p *Provider) fill(h *demail.Header, d DeMail, list demail.Recipients) error {
	if d.Holder == "" {
		d.Holder = d.From
	}
	now := time.Now().Format(time.RFC1123Z)
	fields := [][2]string{
		{"received", fmt.Sprintf("from post box by %s; %s", p.cfg.Host, now)},
		{"from", d.From},
		{"date", now},
		{"message-id", "<" + newID() + "@" + p.cfg.Host + ">"},
		{"subject", mime.QEncoding.Encode("utf-8", d.Type.SubjectPrefix()+d.Subject)},
		{demail.FieldSender, d.From},
	}
	for _, f := range [][2]string{
		{"reply-to", d.ReplyTo}, {demail.FieldPrivateID, d.PrivateID}, {demail.FieldNotificationType, string(d.Notify)},
	} {
		if f[1] != "" {
			fields = append(fields, f)
		}
	}
	fields = append(fields, p.providerFields(d.Type, d.Holder)...)
	if err := setFields(h, append(fields, d.Fields...)); err != nil {
		return err
	}
	if !h.Has("mime-version") && !h.Has("content-type") {
		plain := [][2]string{{"mime-version", "1.0"}, {"content-type", "text/plain; charset=utf-8"}, {"content-transfer-encoding", "8bit"}}
		if err := setFields(h, plain); err != nil {
			return err
		}
	}
	if d.Type == demail.TypeNormal {
		d.Options.Apply(h)
	}
	return p.address(h, list)
}

// proof is how the message is sealed: confirmations and ident confirmations, and
// messages of a confirmed sender, are signed (TR-01201-3.4 §3.1.13, §3.4.1).
func (p *Provider) proof(d DeMail) demail.IntegrityOptions {
	if d.Integrity != nil {
		return *d.Integrity
	}
	opt := demail.IntegrityOptions{Time: time.Now()}
	class, _ := d.Type.Class()
	if d.Options.Authoritative || class == demail.ClassConfirmation || class == demail.ClassIdent {
		p.sign(&opt)
	}
	return opt
}

// sign adds the provider's own key and certificate.
func (p *Provider) sign(opt *demail.IntegrityOptions) {
	cert := p.cfg.PKI.Signer()
	opt.Certificate = cert.Leaf
	opt.Signer, _ = cert.PrivateKey.(crypto.Signer)
}

func (d DeMail) recipients() (demail.Recipients, error) {
	var l demail.Recipients
	parse := func(to *[]demail.Address, from ...string) error {
		for _, s := range from {
			a, err := demail.ParseAddress(s)
			if err != nil {
				return err
			}
			*to = append(*to, a)
		}
		return nil
	}
	err := errors.Join(parse(&l.To, d.To...), parse(&l.CC, d.CC...))
	if d.BCC != "" {
		err = errors.Join(err, parse(&l.BCC, d.BCC))
	}
	return l, err
}

// Push makes a De-Mail and hands it to the gateway at address ("host:port") over
// implicit TLS. A nil error means that the gateway answered 250; a refusal comes
// as *Refusal.
func (p *Provider) Push(ctx context.Context, address string, d DeMail) (Composed, error) {
	c, err := p.Compose(d)
	if err != nil {
		return Composed{}, err
	}
	return c, p.PushComposed(ctx, address, c)
}

// Refusal is a gateway's 4xx or 5xx answer.
type Refusal struct {
	Step string // "EHLO", "MAIL", "RCPT", "DATA" or "dot"
	Code int
	Text string
}

// Error is step, code and text.
func (r *Refusal) Error() string { return fmt.Sprintf("%s: %d %s", r.Step, r.Code, r.Text) }

// PushComposed hands over a message that Compose made; sent twice, it is a
// duplicate.
func (p *Provider) PushComposed(ctx context.Context, address string, c Composed) error {
	conn, err := p.dialGateway(ctx, address)
	if err != nil {
		return fmt.Errorf("push to %s: %w", address, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := p.transact(smtp.NewClient(conn), c); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fmt.Errorf("push to %s: %w", address, err)
	}
	return nil
}

// dialGateway connects and proves who is on the other side.
func (p *Provider) dialGateway(ctx context.Context, address string) (net.Conn, error) {
	dial := p.cfg.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	raw, err := dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	config := tlsprofile.Client()
	config.Certificates = []tls.Certificate{p.cfg.PKI.Client()}
	config.RootCAs = p.cfg.GatewayRoots
	if config.RootCAs == nil {
		config.RootCAs = p.cfg.PKI.Pool()
	}
	if config.ServerName = p.cfg.GatewayName; config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(address)
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, err
	}
	return conn, nil
}

// transact is one SMTP transaction.
func (p *Provider) transact(client *smtp.Client, c Composed) error {
	client.CommandTimeout, client.SubmissionTimeout = pushTimeout, pushTimeout
	if err := client.Hello(p.cfg.Host); err != nil {
		return refusal("EHLO", err)
	}
	opts := &smtp.MailOptions{Size: int64(len(c.Raw))}
	if ok, _ := client.Extension("8BITMIME"); ok {
		opts.Body = smtp.Body8BitMIME
	}
	if err := client.Mail(c.From, opts); err != nil {
		return refusal("MAIL", err)
	}
	for _, to := range c.Recipients {
		if err := client.Rcpt(to, nil); err != nil {
			return refusal("RCPT", err)
		}
	}
	w, err := client.Data()
	if err != nil {
		return refusal("DATA", err)
	}
	if _, err := w.Write(c.Raw); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return refusal("dot", err)
	}
	_ = client.Quit() // the message is the gateway's now, whatever becomes of QUIT
	return nil
}

// refusal turns an SMTP answer into a *Refusal and leaves other errors alone.
func refusal(step string, err error) error {
	var answer *smtp.SMTPError
	if errors.As(err, &answer) {
		return &Refusal{step, answer.Code, answer.Message}
	}
	return fmt.Errorf("%s: %w", step, err)
}
