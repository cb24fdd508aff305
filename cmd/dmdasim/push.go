package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/dmda/dmdatest"
)

// pushOptions are the flags of push.
type pushOptions struct {
	gateway, name, ca string
	body              string
	from, subject     string
	to                []string
	holder            string
	options           demail.Options
}

func (w *world) pushCommand() *cobra.Command {
	var o pushOptions
	c := &cobra.Command{
		Use:     "push",
		Short:   "Send a De-Mail to a gateway",
		Example: "  dmdasim push --gateway 127.0.0.1:11465 --name gate.example --ca gate-ca.pem --to poststelle@gemeinde-a.de-mail.example",
		Args:    cobra.NoArgs,
		RunE:    w.work(func(ctx context.Context, out io.Writer) error { return w.push(ctx, o, out) }),
	}
	f := c.Flags()
	f.StringVar(&o.gateway, "gateway", "", "HOST:PORT of the gateway")
	f.StringVar(&o.name, "name", "", "name in the gateway's certificate (default: the host)")
	f.StringVar(&o.ca, "ca", "", "authority of the gateway's certificate, PEM (default: the provider's own)")
	f.StringVar(&o.from, "from", "max.mustermann@de-mail.example", "sender")
	f.StringVar(&o.holder, "holder", "Max Mustermann", "name of the sender's account holder")
	f.StringSliceVar(&o.to, "to", nil, "recipient, may be given several times")
	f.StringVar(&o.subject, "subject", "Testnachricht", "subject")
	f.StringVar(&o.body, "body", "", "file with the body; line ends become CRLF (default: a short text)")
	f.BoolVar(&o.options.ConfirmReceipt, "receipt", false, "ask for a confirmation of receipt")
	f.BoolVar(&o.options.Private, "private", false, "for the recipient's own eyes: level high")
	f.BoolVar(&o.options.Authoritative, "authoritative", false, "sender confirmed: the message is signed")
	_ = c.MarkFlagRequired("gateway")
	_ = c.MarkFlagRequired("to")
	return c
}

func (w *world) push(ctx context.Context, o pushOptions, out io.Writer) error {
	pki, err := w.pki(out)
	if err != nil {
		return err
	}
	cfg := dmdatest.Config{Domain: w.domain, PKI: pki, GatewayName: o.name}
	if o.ca != "" {
		if cfg.GatewayRoots, err = readPool(o.ca); err != nil {
			return err
		}
	}
	m := dmdatest.DeMail{From: o.from, To: o.to, Subject: o.subject, Holder: o.holder, Options: o.options}
	if o.body != "" {
		if m.Body, err = readBody(o.body); err != nil {
			return err
		}
	}
	p, err := dmdatest.New(cfg)
	if err != nil {
		return err
	}
	c, err := p.Push(ctx, o.gateway, m)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "pushed %s from %s to %d recipients: %d bytes, body sha256 %x\n", c.ID, c.From, len(c.Recipients), len(c.Raw), c.BodySHA256)
	return nil
}

func readPool(file string) (*x509.CertPool, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("read authority: no certificate in %s; it must be PEM", file)
	}
	return pool, nil
}

// readBody reads a text file and gives every line a CRLF.
func readBody(file string) ([]byte, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read body: %w", err)
	}
	b = bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n"))
	return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n")), nil
}
