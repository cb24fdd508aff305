package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"github.com/emersion/go-smtp"
)

// submitTime bounds one hand-over of a message.
const submitTime = 3 * time.Minute

// Submission is one message that a tenant's system hands to the box.
type Submission struct {
	TLS      *tls.Config // nil: plain text, which the box must refuse
	Implicit bool        // port 465 instead of STARTTLS on 25
	From     string
	To       []string
	Message  []byte // header and body with CRLF line ends
}

// Send speaks SMTP on conn and closes it. It returns the text of the 250 that
// took responsibility for the message; a refusal is a *smtp.SMTPError.
func (s Submission) Send(ctx context.Context, conn net.Conn) (reply string, err error) {
	defer func() { _ = conn.Close() }()
	deadline := time.Now().Add(submitTime)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return "", fmt.Errorf("e2e: submit: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	client, err := s.open(conn)
	if err != nil {
		return "", err
	}
	client.CommandTimeout, client.SubmissionTimeout = submitTime, submitTime
	if err := client.Mail(s.From, nil); err != nil {
		return "", err
	}
	for _, to := range s.To {
		if err := client.Rcpt(to, nil); err != nil {
			return "", err
		}
	}
	w, err := client.Data()
	if err != nil {
		return "", err
	}
	if _, err := bytes.NewReader(s.Message).WriteTo(w); err != nil {
		return "", err
	}
	answer, err := w.CloseWithResponse()
	if err != nil {
		return "", err
	}
	_ = client.Quit() // the 250 was said; a failing QUIT changes nothing
	return answer.StatusText, nil
}

func (s Submission) open(conn net.Conn) (*smtp.Client, error) {
	switch {
	case s.TLS == nil:
		return smtp.NewClient(conn), nil
	case s.Implicit:
		t := tls.Client(conn, s.TLS)
		if err := t.Handshake(); err != nil {
			return nil, fmt.Errorf("e2e: submit: %w", err)
		}
		return smtp.NewClient(t), nil
	default:
		return smtp.NewClientStartTLS(conn, s.TLS)
	}
}
