package daemon

import (
	"crypto"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/dmda/dmdatest"
)

// foreign is another provider, whose De-Mails come to us through ours.
type foreign struct {
	pki *dmdatest.PKI
	web *httptest.Server
}

func newForeign(t *testing.T) *foreign {
	t.Helper()
	pki, err := dmdatest.NewPKI(dmdatest.PKIOptions{Name: "other provider", Hosts: []string{mxName}})
	if err != nil {
		t.Fatal(err)
	}
	f := &foreign{pki, httptest.NewServer(pki.CRLHandler())}
	t.Cleanup(f.web.Close)
	return f
}

func (f *foreign) authority() config.SignatureAuthority {
	return config.SignatureAuthority{Name: "other provider", CA: string(f.pki.CAPEM()), CRL: []string{f.web.URL}}
}

// push has our provider hand over a De-Mail that the other one has signed; the
// gateway's answer.
func (f *foreign) push(t *testing.T, w *world, scheme demail.Scheme) int {
	t.Helper()
	opt, err := f.pki.Integrity(demail.Algorithm{Hash: crypto.SHA384, Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.provider.Push(t.Context(), w.running.push, dmdatest.DeMail{From: citizen, To: []string{officeA}, Subject: "x", Integrity: &opt})
	var refused *dmdatest.Refusal
	if errors.As(err, &refused) {
		return refused.Code
	}
	if err != nil {
		t.Fatal(err)
	}
	return 250
}

// startWithLists starts the daemon and has it ask for every list; what it does not
// get is the test's affair.
func (w *world) startWithLists() {
	w.t.Helper()
	r := w.start()
	for _, s := range r.d.now().signers {
		_ = s.revocation.Refresh(w.t.Context())
	}
}

// TestSignatureAuthorities: other providers' authorities sign, as long as their own
// lists say so, and never open the door to the port.
func TestSignatureAuthorities(t *testing.T) {
	f := newForeign(t)
	for name, c := range map[string]struct {
		change func(w *world)
		want   int
	}{
		"not configured": {func(*world) {}, 554},
		"configured":     {func(w *world) { w.doc.Provider.SignatureAuthorities = []config.SignatureAuthority{f.authority()} }, 250},
		"other authority": {func(w *world) {
			w.doc.Provider.SignatureAuthorities = []config.SignatureAuthority{newForeign(t).authority()}
		}, 554},
		"list of the wrong authority": {func(w *world) {
			a := f.authority()
			a.CRL = w.doc.Provider.CRL // current and rightly signed, but says nothing of this one's certificates
			w.doc.Provider.SignatureAuthorities = []config.SignatureAuthority{a}
		}, 451},
	} {
		w := newWorld(t)
		c.change(w)
		w.startWithLists()
		if got := f.push(t, w, demail.RSASSAPSS); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
		w.running.end(t)
	}
}

// TestSignatureAuthorityRevokes: a revoked signer is refused by policy, one of
// which nothing can be learned is put off; our own provider's mail goes on.
func TestSignatureAuthorityRevokes(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(f *foreign)
		want  int
	}{
		"revoked":    {func(f *foreign) { f.pki.Revoke(f.pki.Signer().Leaf) }, 554},
		"list away":  {func(f *foreign) { f.pki.SetCRL(dmdatest.CRLDown) }, 451},
		"list old":   {func(f *foreign) { f.pki.SetCRL(dmdatest.CRLExpired) }, 451},
		"list false": {func(f *foreign) { f.pki.SetCRL(dmdatest.CRLForeign) }, 451},
	} {
		f := newForeign(t)
		c.spoil(f)
		w := newWorld(t)
		w.doc.Provider.SignatureAuthorities = []config.SignatureAuthority{f.authority()}
		w.startWithLists()
		if got := f.push(t, w, demail.ECDSA); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
		if _, err := w.provider.Push(t.Context(), w.running.push, dmdatest.DeMail{From: citizen, To: []string{officeA}, Options: demail.Options{Authoritative: true}}); err != nil {
			t.Errorf("%s: our own provider's: %v", name, err)
		}
		w.running.end(t)
	}
}

// TestSignersDoNotOpenThePort: an authority of signatures is none of TLS, even with
// the provider's own name in the certificate.
func TestSignersDoNotOpenThePort(t *testing.T) {
	f := newForeign(t)
	w := newWorld(t)
	w.doc.Provider.SignatureAuthorities = []config.SignatureAuthority{f.authority()}
	w.start()
	stranger, err := dmdatest.New(dmdatest.Config{Domain: "provider.de-mail.example", Host: mxName, Domains: []string{"de-mail.example"}, PKI: f.pki,
		GatewayRoots: w.boxCA.pool(), GatewayName: boxName})
	if err != nil {
		t.Fatal(err)
	}
	var refused *dmdatest.Refusal
	if _, err := stranger.Push(t.Context(), w.running.push, dmdatest.DeMail{From: citizen, To: []string{officeA}}); err == nil || errors.As(err, &refused) || !strings.Contains(err.Error(), "push to") {
		t.Errorf("%v", err)
	}
	if w.serverA.count() != 0 {
		t.Error("a message came through")
	}
}

// TestSignersInHealth: a list that is missing or not current is told, by name.
func TestSignersInHealth(t *testing.T) {
	for code, spoil := range map[string]func(*foreign, *config.SignatureAuthority){
		"relay.crl.signers":      func(f *foreign, _ *config.SignatureAuthority) { f.pki.SetCRL(dmdatest.CRLDown) },
		"relay.crl.signers.none": func(_ *foreign, a *config.SignatureAuthority) { a.CRL = nil },
		"":                       func(*foreign, *config.SignatureAuthority) {},
	} {
		f := newForeign(t)
		a := f.authority()
		spoil(f, &a)
		w := newWorld(t)
		w.doc.Provider.SignatureAuthorities = []config.SignatureAuthority{a}
		w.startWithLists()
		var got string
		for _, c := range w.running.d.revocationConditions() {
			if got += c.Code; !strings.Contains(c.English, "other provider") || !strings.Contains(c.German, "other provider") {
				t.Errorf("%s does not name whose list it is", c.Code)
			}
		}
		if got != code {
			t.Errorf("condition %q, want %q", got, code)
		}
		w.running.end(t)
	}
}
