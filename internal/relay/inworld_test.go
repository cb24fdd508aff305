package relay

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/emersion/go-smtp"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/dmda"
	"gitlab.opencode.de/pforte/pforte/internal/dmda/dmdatest"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
	"gitlab.opencode.de/pforte/pforte/internal/relay/letter"
	"gitlab.opencode.de/pforte/pforte/internal/smtpguard"
	"gitlab.opencode.de/pforte/pforte/internal/tenants"
)

const inHost = "box.hosting.example"

// inWorld is the way in without a network: a queue in memory, tenants, and a
// provider's authority.
type inWorld struct {
	t        testing.TB
	doc      *config.Document
	queue    *queue.Queue
	pki      *dmdatest.PKI
	provider *dmdatest.Provider
	revoked  *dmda.Revocation
	r        *Relay
}

func newInWorld(t testing.TB, change func(*config.Document)) *inWorld {
	t.Helper()
	w := &inWorld{t: t}
	var err error
	if w.pki, err = dmdatest.NewPKI(dmdatest.PKIOptions{Hosts: []string{"mx.provider.de-mail.example"}}); err != nil {
		t.Fatal(err)
	}
	w.provider, err = dmdatest.New(dmdatest.Config{Domain: "provider.de-mail.example", Host: "mx.provider.de-mail.example", Domains: []string{"de-mail.example"}, PKI: w.pki})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(w.pki.CRLHandler())
	t.Cleanup(web.Close)
	pem := string(w.pki.CAPEM())
	w.doc = &config.Document{Version: 1, Serial: 1, Box: "pforte-1", Provider: config.Provider{Name: "provider.de-mail.example", Host: "mx", Port: 1465, CA: pem,
		Domains: []string{"de-mail.example"}, CRL: []string{web.URL}}}
	for _, id := range []string{"amt-a", "amt-b", "amt-c"} {
		w.doc.Tenants = append(w.doc.Tenants, config.Tenant{ID: id, Name: id, Account: "post@" + id + ".de-mail.example", Postmaster: "postmaster@" + id + ".example", Language: "de",
			MaxSize: 64 << 20, Domains: []config.Domain{{Name: id + ".de-mail.example"}},
			Mappings: []config.Mapping{{Mail: "post@" + id + ".example", DeMail: "post@" + id + ".de-mail.example"}},
			Inbound:  config.Inbound{CA: pem, Servers: []config.Server{{Host: "127.0.0.1", Port: 25, TLS: config.TLSStart}}}})
	}
	if change != nil {
		change(w.doc)
	}
	w.open(vfs.NewMem())
	return w
}

// open starts a relay on a file system.
func (w *inWorld) open(fs vfs.FS) {
	w.t.Helper()
	snap, err := tenants.New(w.doc)
	if err != nil {
		w.t.Fatal(err)
	}
	if w.queue, err = queue.Open(fs, "/queue", queue.Options{Ballast: -1, DiskSlow: -1}); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = w.queue.Close() })
	log := slog.New(slog.DiscardHandler)
	w.revoked = dmda.NewRevocation(snap.Provider.CRL, snap.Provider.Authorities, "", log)
	if err := w.revoked.Refresh(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	w.r = New(Options{Queue: w.queue, Tenants: tenants.NewLive(snap), Hostname: func() string { return inHost }, Log: log,
		Connection: func() Connection {
			return Connection{Signers: Signers{Roots: snap.Provider.Roots, Revoked: w.revoked.Check}}
		}})
}

// openOnDisk starts it anew with a queue in a folder, which takes no memory.
func (w *inWorld) openOnDisk(t *testing.T) {
	t.Helper()
	q, err := queue.Open(vfs.Default, t.TempDir(), queue.Options{Ballast: -1, DiskSlow: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Close() })
	w.queue, w.r.o.Queue = q, q
}

// session is a connection of the provider.
func (w *inWorld) session() *inSession {
	w.t.Helper()
	s, err := w.r.Incoming().Admit(context.Background(), &smtpguard.Peer{Remote: netip.MustParseAddrPort("192.0.2.1:4711"), Helo: "mx.provider.de-mail.example"})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(s.Close)
	return s.(*inSession)
}

// hand goes through one transaction.
func (w *inWorld) hand(from string, message io.Reader, to ...string) (string, error) {
	w.t.Helper()
	s := w.session()
	if err := s.Mail(from, &smtp.MailOptions{}); err != nil {
		return "", err
	}
	for _, a := range to {
		if err := s.Rcpt(a, &smtp.RcptOptions{}); err != nil {
			return "", err
		}
	}
	return s.Data(message)
}

// mustHand is hand that is answered 250, with the queue's numbers.
func (w *inWorld) mustHand(from string, message []byte, to ...string) []queue.ID {
	w.t.Helper()
	text, err := w.hand(from, bytes.NewReader(message), to...)
	if err != nil {
		w.t.Fatal(err)
	}
	var ids []queue.ID
	for id := range strings.FieldsSeq(strings.TrimPrefix(text, "accepted as")) {
		ids = append(ids, queue.ID(id))
	}
	return ids
}

// compose makes a De-Mail.
func (w *inWorld) compose(d dmdatest.DeMail) []byte {
	w.t.Helper()
	if d.From == "" {
		d.From = "erika@buerger.de-mail.example"
	}
	if d.To == nil {
		d.To = []string{"post@amt-a.de-mail.example"}
	}
	c, err := w.provider.Compose(d)
	if err != nil {
		w.t.Fatal(err)
	}
	return c.Raw
}

// stored reads a message as it will be delivered, taken apart into trace and what
// stands below.
func (w *inWorld) stored(id queue.ID) (trace, below string) {
	w.t.Helper()
	r, err := w.queue.Body(id)
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Close()
	all, err := io.ReadAll(r)
	if err != nil {
		w.t.Fatal(err)
	}
	e, err := w.queue.Show(id)
	if err != nil {
		w.t.Fatal(err)
	}
	at := len(all) - int(e.Size)
	return string(all[:at]), string(all[at:])
}

// results is the Authentication-Results field of a stored message, unfolded.
func (w *inWorld) results(id queue.ID) string {
	w.t.Helper()
	trace, _ := w.stored(id)
	for line := range strings.SplitSeq(strings.ReplaceAll(trace, "\r\n ", " "), "\r\n") {
		if value, ok := strings.CutPrefix(line, letter.FieldResults+": "); ok {
			return value
		}
	}
	w.t.Fatalf("no %s in:\n%s", letter.FieldResults, trace)
	return ""
}

// waiting is how many messages the queue has.
func (w *inWorld) waiting() int64 {
	w.t.Helper()
	s, err := w.queue.Stats()
	if err != nil {
		w.t.Fatal(err)
	}
	return s.Total.Messages
}

// answerOf is code and enhanced code of a refusal.
func answerOf(err error) string {
	e, ok := err.(*smtpguard.Error)
	if !ok {
		return fmt.Sprintf("%v", err)
	}
	return fmt.Sprintf("%d %d.%d.%d", e.Code, e.Enhanced[0], e.Enhanced[1], e.Enhanced[2])
}

// signer makes a certificate below an authority, with its key.
func signer(t testing.TB, name string, parent *x509.Certificate, by *ecdsa.PrivateKey, change func(*x509.Certificate)) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{Subject: pkix.Name{CommonName: name}, SerialNumber: big.NewInt(time.Now().UnixNano()), KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	if parent == nil {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
		parent, by = c, key
	}
	if change != nil {
		change(c)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return c, key
}

// sealed makes a message of raw header fields, sealed by hashing.
func sealed(t testing.TB, fields []string, body string) []byte {
	t.Helper()
	h := demail.NewHeader()
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		if err := h.Append(name, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := demail.Seal(h, strings.NewReader(body), demail.IntegrityOptions{}); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	_, _ = h.WriteTo(&b)
	b.WriteString(body)
	return b.Bytes()
}
