package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/dmda/dmdatest"
)

// pushOptions are the flags of push.
type pushOptions struct {
	gateway       gatewayOptions
	body          string
	from, subject string
	replyTo       string
	privateID     string
	to            []string
	holder        string
	options       demail.Options
	algorithm     string
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
	o.gateway.flags(f, "")
	f.StringVar(&o.from, "from", "max.mustermann@de-mail.example", "sender")
	f.StringVar(&o.holder, "holder", "Max Mustermann", "name of the sender's account holder")
	f.StringSliceVar(&o.to, "to", nil, "recipient, may be given several times")
	f.StringVar(&o.subject, "subject", "Testnachricht", "subject")
	f.StringVar(&o.body, "body", "", "file with the body; line ends become CRLF (default: a short text)")
	f.StringVar(&o.replyTo, "reply-to", "", "De-Mail address for answers")
	f.StringVar(&o.privateID, "private-id", "", "the sender's own reference")
	f.StringVar(&o.algorithm, "algorithm", "", algorithmHelp)
	f.BoolVar(&o.options.ConfirmDispatch, "dispatch", false, "ask for a confirmation of dispatch")
	f.BoolVar(&o.options.ConfirmReceipt, "receipt", false, "ask for a confirmation of receipt")
	f.BoolVar(&o.options.ConfirmRetrieve, "retrieve", false, "ask for a confirmation of retrieve")
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
	cfg := dmdatest.Config{Domain: w.domain, PKI: pki}
	if err := o.gateway.apply(&cfg); err != nil {
		return err
	}
	m := dmdatest.DeMail{From: o.from, To: o.to, Subject: o.subject, Holder: o.holder, Options: o.options, ReplyTo: o.replyTo, PrivateID: o.privateID}
	if o.algorithm != "" {
		alg, err := parseAlgorithm(o.algorithm)
		if err != nil {
			return err
		}
		opt, err := pki.Integrity(alg)
		if err != nil {
			return err
		}
		m.Integrity = &opt
	}
	if o.body != "" {
		if m.Body, err = readBody(o.body); err != nil {
			return err
		}
	}
	p, err := dmdatest.New(cfg)
	if err != nil {
		return err
	}
	c, err := p.Push(ctx, o.gateway.address, m)
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

// gatewayOptions are the flags that name a gateway.
type gatewayOptions struct{ address, name, ca string }

func (o *gatewayOptions) flags(f *pflag.FlagSet, what string) {
	f.StringVar(&o.address, "gateway", "", what+"HOST:PORT of the gateway")
	f.StringVar(&o.name, "name", "", "name in the gateway's certificate (default: the host)")
	f.StringVar(&o.ca, "ca", "", "authority of the gateway's certificate, PEM (default: the provider's own)")
}

func (o gatewayOptions) apply(cfg *dmdatest.Config) (err error) {
	cfg.Gateway, cfg.GatewayName = o.address, o.name
	if o.ca != "" {
		cfg.GatewayRoots, err = readPool(o.ca)
	}
	return err
}

const algorithmHelp = "what to seal with: sha256, sha384 or sha512, alone or with /rsa, /ec-dsa or /rsassa-pss (default: as usual)"

// parseAlgorithm reads the flag; empty is the zero value.
func parseAlgorithm(s string) (demail.Algorithm, error) {
	if s == "" {
		return demail.Algorithm{}, nil
	}
	a, err := demail.ParseAlgorithm(s)
	if err != nil {
		return a, fmt.Errorf("algorithm %q: %w; write it like sha256/rsa", s, err)
	}
	return a, nil
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
