package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"path/filepath"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/dmda/dmdatest"
)

// serveOptions are the flags of serve.
type serveOptions struct {
	listen    string
	domains   []string
	accounts  []string
	mailboxes []string
	gateway   gatewayOptions
	algorithm string
}

func (w *world) serveCommand() *cobra.Command {
	var o serveOptions
	c := &cobra.Command{
		Use:   "serve",
		Short: "Take mail over TLS and tell what arrives",
		Long: `Take De-Mails from a gateway over SMTP with TLS and a client certificate, as a
De-Mail provider does, and tell what arrives. Recipients like temperror@ or
drop-after-data@ any De-Mail domain ask for a fault, recipients like
closed-account@, malware@ or retrieve@ for an answer. Confirmations and
notifications are pushed to --gateway; without it they are made and told only.`,
		Example: `  dmdasim serve
  dmdasim serve --gateway 127.0.0.1:11465 --name gate.example --ca gate-ca.pem
  dmdasim serve --account 'poststelle@amt.de-mail.example=Amt' --mailbox '*@firma.de-mail.example'`,
		Args: cobra.NoArgs,
		RunE: w.work(func(ctx context.Context, out io.Writer) error { return w.serve(ctx, o, out) }),
	}
	f := c.Flags()
	f.StringVar(&o.listen, "listen", "127.0.0.1:1465", "address and port")
	f.StringSliceVar(&o.domains, "de-mail", []string{"de-mail.example"}, "De-Mail domains")
	f.StringArrayVar(&o.accounts, "account", []string{
		"poststelle@gemeinde-a.de-mail.example=Gemeinde A", "poststelle@gemeinde-b.de-mail.example=Gemeinde B",
	}, "account on the gateway's token: ADDRESS=HOLDER; its whole domain may send")
	f.StringSliceVar(&o.mailboxes, "mailbox", []string{"*@de-mail.example"}, "known recipient, *@DOMAIN for all of a domain")
	o.gateway.flags(f, "where confirmations go: ")
	f.StringVar(&o.algorithm, "algorithm", "", algorithmHelp)
	return c
}

func (w *world) serve(ctx context.Context, o serveOptions, out io.Writer) error {
	pki, err := w.pki(out)
	if err != nil {
		return err
	}
	cfg := dmdatest.Config{
		Domain: w.domain, Domains: o.domains, Mailboxes: o.mailboxes, PKI: pki,
		Tokens: []dmdatest.Token{{Name: w.token}},
	}
	if err := o.gateway.apply(&cfg); err != nil {
		return err
	}
	if cfg.Algorithm, err = parseAlgorithm(o.algorithm); err != nil {
		return err
	}
	for _, a := range o.accounts {
		acc, err := parseAccount(a)
		if err != nil {
			return err
		}
		cfg.Tokens[0].Accounts = append(cfg.Tokens[0].Accounts, acc)
	}
	if len(o.accounts) == 0 {
		return errors.New("no account; name one with --account ADDRESS=HOLDER")
	}
	p, err := dmdatest.New(cfg)
	if err != nil {
		return err
	}
	if err := w.clientCertificate(pki, out); err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.listen)
	if err != nil {
		return fmt.Errorf("listen: %w; choose another port with --listen", err)
	}
	fmt.Fprintf(out, "provider %s listens on %s\n", w.domain, l.Addr())
	w.printSwaks(out, l.Addr().String(), cfg.Tokens[0].Accounts[0].Address, o)
	var told sync.WaitGroup
	story := &lines{to: out}
	told.Go(func() { tell(ctx, p, story) })
	told.Go(func() { tellAnswers(ctx, p, story) })
	err = p.Serve(ctx, l)
	told.Wait()
	return err
}

// parseAccount reads ADDRESS=HOLDER. The account is a public authority's.
func parseAccount(s string) (dmdatest.Account, error) {
	i := strings.LastIndexByte(s, '=') // the address may hold one too
	if i < 0 {
		return dmdatest.Account{}, fmt.Errorf("account %q: no holder; write ADDRESS=HOLDER", s)
	}
	a, err := demail.ParseAddress(s[:i])
	if err != nil {
		return dmdatest.Account{}, fmt.Errorf("account %q: %w; write ADDRESS=HOLDER", s, err)
	}
	return dmdatest.Account{Address: a.String(), Domain: a.Domain(), Holder: s[i+1:], Public: true}, nil
}

// clientCertificate makes a certificate for the token, to play the gateway with.
func (w *world) clientCertificate(pki *dmdatest.PKI, out io.Writer) error {
	if _, err := dmdatest.LoadCertificate(w.dir, w.tokenFile()); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	cert, err := pki.IssueClient(w.token)
	if err == nil {
		err = pki.SaveCertificate(w.dir, w.tokenFile(), cert)
	}
	if err == nil {
		fmt.Fprintf(out, "made a client certificate for token %s\n", w.token)
	}
	return err
}

func (w *world) printSwaks(out io.Writer, address, from string, o serveOptions) {
	host, port, _ := net.SplitHostPort(address)
	to := "max.mustermann@" + o.domains[0]
	fmt.Fprintf(out, "try: swaks --server %s --port %s --tlsc --tls-cert %s --tls-key %s --tls-verify --tls-ca-path %s --from %s --to %s\n",
		host, port, filepath.Join(w.dir, w.tokenFile()+".pem"), filepath.Join(w.dir, w.tokenFile()+"-key.pem"),
		filepath.Join(w.dir, dmdatest.FileCA+".pem"), from, to)
}

// tell prints a line for each delivery until ctx ends: who and how much, never what.
func tell(ctx context.Context, p *dmdatest.Provider, out io.Writer) {
	_, _ = p.Await(ctx, func(d dmdatest.Delivery) bool { // wants none: sees every one
		kind := "hashed"
		if d.Header.Has(demail.FieldSignatureCertificate) {
			kind = "signed"
		}
		fmt.Fprintf(out, "taken %s from %s to %s: %d bytes, sha256 %x, %s, %s\n",
			d.ID, d.From, d.Recipient, len(d.Body), d.BodySHA256, kind, optionsText(d.Header))
		return false
	})
}

// tellAnswers prints a line for each confirmation or notification.
func tellAnswers(ctx context.Context, p *dmdatest.Provider, out io.Writer) {
	_, _ = p.AwaitAnswer(ctx, func(a dmdatest.Answer) bool {
		kind, end := string(a.Type), "kept"
		if a.Notify != "" {
			kind += " " + string(a.Notify)
		}
		switch {
		case a.Pushed:
			end = "pushed"
		case a.Err != nil:
			end = "not pushed: " + a.Err.Error()
		}
		fmt.Fprintf(out, "answered %s to %s about %s: %s, %s\n", a.Original, a.To, a.About, kind, end)
		return false
	})
}

// lines lets several goroutines write whole lines.
type lines struct {
	mu sync.Mutex
	to io.Writer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Write(p)
}

// optionsText names the dispatch options that are set.
func optionsText(h *demail.Header) string {
	o, err := demail.OptionsFromHeader(h)
	if err != nil {
		return "options unreadable"
	}
	var names []string
	for _, n := range []struct {
		name string
		set  bool
	}{
		{"dispatch", o.ConfirmDispatch}, {"receipt", o.ConfirmReceipt}, {"retrieve", o.ConfirmRetrieve},
		{"private", o.Private}, {"authoritative", o.Authoritative},
	} {
		if n.set {
			names = append(names, n.name)
		}
	}
	if names == nil {
		return "no options"
	}
	return strings.Join(names, "+")
}
