package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"gitlab.opencode.de/pforte/pforte/internal/dmda/dmdatest"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/qemu/lan"
)

const citizen = "erika.mustermann@buerger.de-mail.example"

// Mail flows both ways, over IPv4 and IPv6, with headers as demail.md says and
// bodies untouched; everything that must be refused is refused with its code;
// nothing listens that should not; a press of the power button ends it.
func TestMail(t *testing.T) {
	s := setting(t)
	m := s.clone(t)
	box := s.boot(t, m)
	t.Run("out", func(t *testing.T) { mailOut(t, box) })
	t.Run("out over IPv6 and implicit TLS", func(t *testing.T) { mailOut6(t, box) })
	t.Run("in", func(t *testing.T) { mailIn(t, box) })
	t.Run("proofs", func(t *testing.T) { proofs(t, box) })
	t.Run("refused", func(t *testing.T) { refusals(t, box) })
	t.Run("nothing else listens", func(t *testing.T) { listeners(t, box) })
	if status, err := box.Status(within(t, mailTime)); err != nil || status.Memory == nil {
		t.Errorf("status: no memory: %v", err)
	} else {
		t.Logf("RAM in use: %d MiB of %d", (status.Memory.Total-status.Memory.Available)>>20, status.Memory.Total>>20)
	}
	t.Logf("guest seconds from kernel start to the first 250: %s", FirstAccepted(m.Serial()))
	if err := m.PowerOff(within(t, offTime)); err != nil {
		t.Errorf("power button: %v", err)
	}
}

func mailOut(t *testing.T, box *Box) {
	a := partyA()
	sent, err := box.World.MailOut(within(t, mailTime), Draft{
		From: a.Address("poststelle"), To: citizen, Subject: "Ihr Bescheid",
		Fields: []string{
			"X-De-Mail-Confirmation-Of-Dispatch: yes",
			"X-De-Mail-Auth-Level: normal", // the provider's field: must not survive
			"X-De-Mail-Account-Holder: Somebody Else",
			"Bcc: secret@gemeinde-a.example",
		},
		Body: RandomBody(300 << 10),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := sent.SameBody(); err != nil {
		t.Error(err)
	}
	h := sent.Delivered.Header
	for name, want := range map[string]string{
		"From":                               a.DeMailAddress("poststelle"),
		"x-de-mail-sender":                   a.DeMailAddress("poststelle"),
		"x-de-mail-confirmation-of-dispatch": "yes",
		"x-de-mail-confirmation-of-receipt":  "no",
		"x-de-mail-auth-level":               "high",
		"x-de-mail-account-holder":           a.Name,
		"x-de-mail-chosen-recipient":         "to=" + citizen,
		"x-de-mail-message-type":             "normal",
		"x-de-mail-originator-provider":      "mx." + providerName,
		"Bcc":                                "",
	} {
		if got := h.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	all := HeaderText(h)
	for _, secret := range []string{"pc17.intern", "192.0.2.17", "secret@"} {
		if strings.Contains(all, secret) {
			t.Errorf("the header leaks %q:\n%s", secret, all)
		}
	}
}

// proofs: what the provider confirms comes back signed, reaches the tenant, and is
// what the owner reads of the letter; nobody else may.
func proofs(t *testing.T, box *Box) {
	a, w := partyA(), box.World
	w.Provider.SetGateway(boxPush())
	defer w.Provider.SetGateway("")
	ctx := within(t, mailTime)
	id := RandomName() + "@gemeinde-a.example"
	_, err := w.MailOut(ctx, Draft{From: a.Address("poststelle"), To: citizen, Subject: "Zustellung", MessageID: id,
		Fields: []string{"X-De-Mail-Confirmation-Of-Dispatch: yes", "X-De-Mail-Confirmation-Of-Receipt: yes"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"confirmation of dispatch", "confirmation of receipt"} {
		if _, err := w.ServerA.Wait(ctx, kind, func(l Letter) bool {
			return strings.Contains(l.Header, "x-de-mail-message-type: "+kind) && strings.Contains(l.Header, "x-de-mail-confirmation=pass")
		}); err != nil {
			t.Fatal(err)
		}
	}
	out, err := box.Pforte(ctx, "owner", "mail", "trace", "<"+id+">")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"to " + citizen + ": received", "handed over", "dispatched"} {
		if !strings.Contains(out, want) {
			t.Errorf("the trace does not say %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "Zustellung") {
		t.Errorf("the trace shows the subject:\n%s", out)
	}
	if _, err := box.Pforte(ctx, "monitor", "mail", "trace", citizen); err == nil {
		t.Error("the monitor may read traces")
	}
}

func mailOut6(t *testing.T, box *Box) {
	w, a := box.World, partyA()
	ctx := within(t, mailTime)
	conn, err := w.TenantNet.Dial(ctx, netip.MustParseAddr("fd10:10::11"), netip.AddrPortFrom(boxTenant6(), layout.PortSubmission))
	if err != nil {
		t.Fatal(err)
	}
	d := Draft{From: a.Address("bauamt"), To: citizen, Subject: "IPv6"}
	if _, err := (Submission{TLS: w.tlsClient("a"), Implicit: true, From: d.From, To: []string{d.To}, Message: d.Bytes()}).Send(ctx, conn); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Provider.Await(ctx, func(x dmdatest.Delivery) bool { return strings.Contains(x.Header.Get("Message-ID"), d.MessageID) }); err != nil {
		t.Error(err)
	}
}

func mailIn(t *testing.T, box *Box) {
	b := partyB()
	composed, letter, err := box.MailIn(within(t, mailTime), dmdatest.DeMail{
		From: citizen, To: []string{b.DeMailAddress("bauamt")}, Subject: "Antrag", Body: RandomBody(2 << 20),
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := letter.BodyHash(), fmt.Sprintf("%x", composed.BodySHA256); got != want {
		t.Errorf("body SHA-256 %s, want %s", got, want)
	}
	if len(letter.To) != 1 || letter.To[0] != b.Address("bauamt") {
		t.Errorf("delivered to %v, want the mapped address", letter.To)
	}
	if got := letter.Header + "\r\n\r\n"; !strings.HasSuffix(got, headerOf(composed.Raw)+"\r\n\r\n") {
		t.Error("below the trace fields the header is not byte-identical")
	}
	if got := letter.Field("Authentication-Results"); !strings.Contains(got, "pass") {
		t.Errorf("Authentication-Results: %q", got)
	}
}

func refusals(t *testing.T, box *Box) {
	w, a, b := box.World, partyA(), partyB()
	own := a.Address("poststelle")
	draft := func(from string) []byte { return (&Draft{From: from, To: citizen, Subject: "x"}).Bytes() }
	tests := []struct {
		name, cert, from, to string
		message              []byte
		code                 int
		enhanced             smtp.EnhancedCode
	}{
		{"another tenant's sender", "b", own, citizen, draft(own), 550, smtp.EnhancedCode{5, 7, 1}},
		{"unmapped sender", "a", a.Address("niemand"), citizen, draft(a.Address("niemand")), 550, smtp.EnhancedCode{5, 7, 1}},
		{"header sender of another tenant", "a", own, citizen, draft(b.Address("poststelle")), 550, smtp.EnhancedCode{5, 7, 1}},
		{"recipient that is no De-Mail", "a", own, "max@example.org", draft(own), 550, smtp.EnhancedCode{5, 7, 1}},
		{"plain text", "", own, citizen, draft(own), 530, smtp.EnhancedCode{5, 7, 0}},
		{"operator's certificate", "hosting", own, citizen, draft(own), 550, smtp.EnhancedCode{5, 7, 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			reply, err := w.Submit(within(t, mailTime), tt.cert, tt.from, []string{tt.to}, tt.message)
			var refused *smtp.SMTPError
			if !errors.As(err, &refused) {
				t.Fatalf("reply %q, error %v; want %d %v", reply, err, tt.code, tt.enhanced)
			}
			if refused.Code != tt.code || refused.EnhancedCode != tt.enhanced {
				t.Errorf("refused with %v, want %d %v", refused, tt.code, tt.enhanced)
			}
		})
	}
	t.Run("provider: unknown recipient", func(t *testing.T) {
		_, err := box.Push(within(t, mailTime), dmdatest.DeMail{From: citizen, To: []string{b.DeMailAddress("niemand")}})
		var refused *dmdatest.Refusal
		if !errors.As(err, &refused) || refused.Code != 550 {
			t.Errorf("push: %v, want 550", err)
		}
	})
	t.Run("provider: body changed after sealing", func(t *testing.T) {
		c, err := w.Provider.Compose(dmdatest.DeMail{From: citizen, To: []string{b.DeMailAddress("bauamt")}})
		if err != nil {
			t.Fatal(err)
		}
		c.Raw = append(c.Raw, "one line more\r\n"...)
		err = w.Provider.PushComposed(within(t, mailTime), netip.AddrPortFrom(boxProvider(), layout.PortProvider).String(), c)
		var refused *dmdatest.Refusal
		if !errors.As(err, &refused) || refused.Code != 554 {
			t.Errorf("push: %v, want 554", err)
		}
	})
	t.Run("provider's port without its certificate", func(t *testing.T) {
		ctx := within(t, mailTime)
		conn, err := w.ProviderNet.Dial(ctx, providerHost(), netip.AddrPortFrom(boxProvider(), layout.PortProvider))
		if err != nil {
			t.Fatal(err)
		}
		_, err = Submission{TLS: w.tlsClient("a"), Implicit: true, From: citizen, To: []string{b.DeMailAddress("bauamt")}, Message: draft(citizen)}.Send(ctx, conn)
		var header tls.RecordHeaderError
		if err == nil || errors.As(err, &header) {
			t.Errorf("a tenant's certificate at the provider's port: %v, want a refusal", err)
		}
	})
}

// listeners knocks at every port that somebody might have left open.
func listeners(t *testing.T, box *Box) {
	w := box.World
	for _, n := range []struct {
		name    string
		network *lan.Network
		from    netip.Addr
		to      netip.Addr
		open    []uint16
	}{
		{"tenant", w.TenantNet, partyA().Host, boxTenant(), []uint16{25, 465}},
		{"provider", w.ProviderNet, providerHost(), boxProvider(), []uint16{1465}},
		{"management", w.ManagementNet, adminHost(), boxManagement(), []uint16{8443}},
	} {
		got := map[uint16]bool{}
		var mu sync.Mutex
		var wg sync.WaitGroup
		gate := make(chan struct{}, 128)
		for port := range knock() {
			gate <- struct{}{}
			wg.Go(func() {
				defer func() { <-gate }()
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				c, err := n.network.Dial(ctx, n.from, netip.AddrPortFrom(n.to, port))
				if err != nil {
					return
				}
				_ = c.Close()
				mu.Lock()
				got[port] = true
				mu.Unlock()
			})
		}
		wg.Wait()
		for _, p := range n.open {
			if !got[p] {
				t.Errorf("%s network: port %d does not listen", n.name, p)
			}
			delete(got, p)
		}
		for p := range got {
			t.Errorf("%s network: port %d listens and should not", n.name, p)
		}
	}
}

// knock yields the ports that are tried: the well-known ones and those that
// parts of such a box are known to open.
func knock() func(yield func(uint16) bool) {
	return func(yield func(uint16) bool) {
		for p := uint16(1); p <= 1024; p++ {
			if !yield(p) {
				return
			}
		}
		for _, p := range []uint16{1465, 2222, 2379, 2380, 2525, 3000, 4000, 5355, 6060, 8000, 8080, 8443, 9090, 9100, 9999, 10000, 19531, 19532} {
			if !yield(p) {
				return
			}
		}
	}
}
