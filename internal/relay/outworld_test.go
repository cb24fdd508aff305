package relay

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/emersion/go-smtp"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
	"gitlab.opencode.de/pforte/pforte/internal/smtpguard"
	"gitlab.opencode.de/pforte/pforte/internal/tenants"
)

const (
	outHost    = "box.hosting.example"
	outOffice  = "poststelle@gemeinde-a.de-mail.example"
	outMail    = "poststelle@gemeinde-a.example"
	outCitizen = "erika@buerger.de-mail.example"
)

// outWorld is the way out without a network: a queue in memory, and tenants whose
// systems have pinned certificates.
type outWorld struct {
	t       testing.TB
	doc     *config.Document
	live    *tenants.Live
	queue   *queue.Queue
	r       *Relay
	certs   map[string]*x509.Certificate // by the system's name
	address string
}

// newOutWorld has tenant A (German) with a mail server and an application, and
// tenant B (English) with a mail server.
func newOutWorld(t testing.TB, change func(*config.Document)) *outWorld {
	t.Helper()
	w := &outWorld{t: t, certs: map[string]*x509.Certificate{}, address: "192.0.2.7:4711"}
	pinned := func(name string) config.Client {
		cert := outCertificate(t, name)
		w.certs[name] = cert
		sum := sha256.Sum256(cert.Raw)
		return config.Client{Name: name, Fingerprint: hex.EncodeToString(sum[:])}
	}
	app := pinned("app a")
	app.Application, app.Senders, app.Class = true, []string{"wohngeld@gemeinde-a.example", "*@bau.gemeinde-a.de-mail.example"}, config.ClassBulk
	tenant := func(id, language string, clients ...config.Client) config.Tenant {
		return config.Tenant{ID: id, Name: id, Account: "poststelle@" + id + ".de-mail.example", Postmaster: "postmaster@" + id + ".example", Language: language, MaxSize: 64 << 20,
			Clients: clients,
			Domains: []config.Domain{{Name: id + ".de-mail.example"}, {Name: "bau." + id + ".de-mail.example"}, {Name: "in." + id + ".de-mail.example", Direction: config.DirectionReceive}},
			Mappings: []config.Mapping{{Mail: "poststelle@" + id + ".example", DeMail: "poststelle@" + id + ".de-mail.example"},
				{Mail: "wohngeld@" + id + ".example", DeMail: "wohngeld@" + id + ".de-mail.example"},
				{Mail: "meier@" + id + ".example", DeMail: "poststelle@" + id + ".de-mail.example", Direction: config.DirectionSend},
				{Mail: "amt@bau." + id + ".example", DeMail: "amt@bau." + id + ".de-mail.example"},
				{Mail: "in@" + id + ".example", DeMail: "in@in." + id + ".de-mail.example"}}}
	}
	w.doc = &config.Document{Version: 1, Serial: 1, Box: "pforte-1",
		Provider: config.Provider{Name: "provider.de-mail.example", Host: "mx", Port: 1465, Domains: []string{"de-mail.example"},
			CA: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: outCertificate(t, "provider").Raw}))},
		Tenants: []config.Tenant{tenant("gemeinde-a", "de", pinned("server a"), app), tenant("gemeinde-b", "en", pinned("server b"))}}
	if change != nil {
		change(w.doc)
	}
	w.live = tenants.NewLive(w.snapshot())
	w.open(vfs.NewMem())
	return w
}

func (w *outWorld) snapshot() *tenants.Snapshot {
	w.t.Helper()
	snap, err := tenants.New(w.doc)
	if err != nil {
		w.t.Fatal(err)
	}
	return snap
}

// open starts a relay on a file system.
func (w *outWorld) open(fs vfs.FS) {
	w.t.Helper()
	if err := w.start(fs); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = w.queue.Close() })
}

func (w *outWorld) start(fs vfs.FS) (err error) {
	w.queue, err = queue.Open(fs, "/queue", queue.Options{Ballast: -1, DiskSlow: -1})
	w.r = New(Options{Queue: w.queue, Tenants: w.live, Hostname: func() string { return outHost }, Log: slog.New(slog.DiscardHandler)})
	return err
}

func outCertificate(t testing.TB, name string) *x509.Certificate {
	return selfSigned(t, name, time.Now().Add(1000*time.Hour))
}

// admit is a connection of a system; "" shows no certificate.
func (w *outWorld) admit(system string) (*outSession, error) {
	peer := &smtpguard.Peer{Remote: netip.MustParseAddrPort(w.address), Helo: "mail.example"}
	if cert := w.certs[system]; cert != nil {
		peer.TLS = tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
	}
	s, err := w.r.Outgoing().Admit(context.Background(), peer)
	if err != nil {
		return nil, err
	}
	return s.(*outSession), nil
}

func (w *outWorld) session(system string) *outSession {
	w.t.Helper()
	s, err := w.admit(system)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(s.Close)
	return s
}

// hand goes through one transaction.
func (s *outSession) hand(from string, o smtp.MailOptions, message string, to ...string) (string, error) {
	if err := s.Mail(from, &o); err != nil {
		return "", err
	}
	for _, a := range to {
		if err := s.Rcpt(a, &smtp.RcptOptions{}); err != nil {
			return "", err
		}
	}
	defer s.Reset()
	return s.Data(strings.NewReader(message))
}

// stored is what the queue has of a message.
type stored struct {
	envelope *queue.Envelope
	header   string // with its empty line
	body     string
}

// mustHand is hand that is answered 250, with what came of it.
func (w *outWorld) mustHand(s *outSession, from, message string, to ...string) stored {
	w.t.Helper()
	text, err := s.hand(from, smtp.MailOptions{}, message, to...)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.stored(text)
}

func (w *outWorld) stored(answer string) stored {
	w.t.Helper()
	rest, ok := strings.CutPrefix(answer, "accepted as ")
	id, _, _ := strings.Cut(rest, ";")
	if !ok {
		w.t.Fatalf("answer %q", answer)
	}
	e, _, err := w.queue.Trace(queue.ID(id))
	if err != nil {
		w.t.Fatal(err)
	}
	r, err := w.queue.Body(queue.ID(id))
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Close()
	raw, err := io.ReadAll(r)
	if err != nil {
		w.t.Fatal(err)
	}
	head, body, _ := bytes.Cut(raw, []byte("\r\n\r\n"))
	return stored{e, string(head) + "\r\n\r\n", string(body)}
}

// refusal is the answer behind an error.
func refusal(t testing.TB, err error) *smtpguard.Error {
	t.Helper()
	var e *smtpguard.Error
	if !errors.As(err, &e) {
		t.Fatalf("%v is no answer", err)
	}
	return e
}

// outLetter makes a message with CRLF.
func outLetter(body string, fields ...string) string {
	return strings.Join(append(fields, "", body), "\r\n")
}
