package dmdatest

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"io"
	"mime"
	"mime/multipart"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/demail/confirmation"
)

// trust believes the provider's authority; nothing is revoked.
func trust(p *PKI) demail.VerifyOptions {
	return demail.VerifyOptions{Roots: p.Pool(), Revocation: func(_, _ *x509.Certificate) error { return nil }}
}

func newPKI(t testing.TB) *PKI {
	t.Helper()
	pki, err := NewPKI(PKIOptions{Hosts: []string{"mail." + domain}})
	if err != nil {
		t.Fatal(err)
	}
	return pki
}

// silent is a provider that serves nobody.
func silent(t testing.TB, pki *PKI, alg demail.Algorithm) *Provider {
	t.Helper()
	p, err := New(Config{Domain: domain, Host: "mail." + domain, Domains: []string{"de-mail.example"}, PKI: pki, Algorithm: alg})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// originalHeader is a delivered message that asks for everything, folded fields
// and signs that XML must escape in it.
func originalHeader(t testing.TB, p *Provider) *demail.Header {
	t.Helper()
	c, err := p.Compose(DeMail{
		From: postA, To: []string{other, postB}, CC: []string{"x@firma.de-mail.example"}, Subject: "Grüße & <Küsse> ]]> (Nr. 7) " + strings.Repeat("lang ", 30),
		Holder: `Gemeinde "A" & Söhne`, PrivateID: "az 1/2 <3>", Options: demail.Options{ConfirmDispatch: true, ConfirmReceipt: true, ConfirmRetrieve: true, Private: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	h, _, err := split(c.Raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Prepend(demail.FieldEnvelopeTo, other); err != nil {
		t.Fatal(err)
	}
	return h
}

// everyMessage makes one of each type that the provider can make.
func everyMessage(t testing.TB, p *Provider) map[string]DeMail {
	t.Helper()
	h, to, out := originalHeader(t, p), demail.Address{}, map[string]DeMail{}
	must := func(name string, d DeMail, err error) {
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out[name] = d
	}
	to, _ = demail.ParseAddress(postA)
	about, _ := demail.ParseAddress(other)
	for _, k := range []demail.MessageType{demail.TypeDispatch, demail.TypeReceipt, demail.TypeRetrieve, demail.TypeMalwareAcknowledge} {
		d, err := p.Confirmation(k, h, to, time.Now())
		must(string(k), d, err)
	}
	for _, n := range []demail.NotificationType{demail.NotifyUnknownRecipient, demail.NotifyClosedAccount, demail.NotifyInvalidFormat, demail.NotifyOther} {
		d, err := p.Notification(demail.TypeNotification, n, h, about, to)
		must(string(n), d, err)
	}
	d, err := p.Notification(demail.TypeMalwareNotification, demail.NotifyOther, h, about, to)
	must(string(demail.TypeMalwareNotification), d, err)
	d, err = p.Identification(to)
	must(string(demail.TypeIdentification), d, err)
	out["normal"] = DeMail{From: other, To: []string{postA}, Subject: "Normal"}
	return out
}

// TestConformance: whatever the simulator makes, by whatever algorithm, is a right
// De-Mail, and what it confirms can be read.
func TestConformance(t *testing.T) {
	pki := newPKI(t)
	for _, alg := range Algorithms() {
		p := silent(t, pki, alg)
		for name, d := range everyMessage(t, p) {
			class, _ := d.Type.Class()
			if alg.Scheme == demail.Unsigned && (class == demail.ClassConfirmation || class == demail.ClassIdent) {
				d.Integrity = nil // these are always signed
			}
			if d.Type == "" {
				opt, err := pki.Integrity(alg)
				if err != nil {
					t.Fatal(err)
				}
				d.Integrity = &opt
			}
			c, err := p.Compose(d)
			if err != nil {
				t.Fatalf("%s %s: %v", alg, name, err)
			}
			checkMessage(t, alg.String()+" "+name, c, pki)
		}
	}
}

func checkMessage(t *testing.T, name string, c Composed, pki *PKI) {
	t.Helper()
	h, body, err := split(c.Raw)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if _, faults := demail.Validate(h); len(faults) > 0 {
		t.Errorf("%s: %v", name, faults)
	}
	if _, err := demail.VerifyIntegrity(h, bytes.NewReader(body), trust(pki)); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	if !confirmation.Is(h) {
		return
	}
	got, err := confirmation.Parse(h, bytes.NewReader(body), trust(pki))
	if err != nil || got.Fault != nil {
		t.Errorf("%s: %v, %v", name, err, got)
		return
	}
	class, _ := got.Type.Class()
	if got.Signed != (class != demail.ClassNotification) {
		t.Errorf("%s: signed: %v", name, got.Signed)
	}
	if class == demail.ClassConfirmation && (got.PrivateID != "az 1/2 <3>" || got.Recipients[0].String() != other || got.OriginalSender.String() != postA || got.Hash.IsZero()) {
		t.Errorf("%s: %+v", name, got)
	}
	if class == demail.ClassNotification && (len(got.Recipients) != 1 || got.Recipients[0].String() != other || got.OriginalMessageID == "") {
		t.Errorf("%s: %+v", name, got)
	}
}

// attachments are the decoded parts by media type.
func attachments(t *testing.T, raw []byte) map[string][]byte {
	t.Helper()
	h, err := demail.ReadHeader(bufio.NewReader(bytes.NewReader(raw)), 0)
	if err != nil {
		t.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(h.Get("content-type"))
	if err != nil || kind != "multipart/mixed" {
		t.Fatalf("%s: %v", kind, err)
	}
	out := map[string][]byte{}
	r := multipart.NewReader(bytes.NewReader(raw[h.Size():]), params["boundary"])
	for {
		p, err := r.NextPart()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(base64.NewDecoder(base64.StdEncoding, p))
		if err != nil {
			t.Fatal(err)
		}
		kind, _, _ := mime.ParseMediaType(p.Header.Get("Content-Type"))
		out[kind] = data
	}
}

// tool finds a program of another house that checks what ours made.
func tool(t *testing.T, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("SHORT") == "1" {
		t.Skipf("SHORT=1 and %s is not installed", name)
	}
	t.Fatalf("%s is not installed: apt-get install %s, or skip with SHORT=1", name, pkg)
	return ""
}

// TestXMLSignatureElsewhere has xmlsec verify the signatures: RSA and ECDSA with
// each hash.
func TestXMLSignatureElsewhere(t *testing.T) {
	xmlsec := tool(t, "xmlsec1", "xmlsec1")
	pki, dir := newPKI(t), t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, pki.CAPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, alg := range Algorithms() {
		if alg.Scheme != demail.RSA && alg.Scheme != demail.ECDSA {
			continue
		}
		p := silent(t, pki, alg)
		for name, d := range everyMessage(t, p) {
			class, _ := d.Type.Class()
			if d.Type == "" || class == demail.ClassNotification {
				continue
			}
			c, err := p.Compose(d)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, "message.xml")
			xml := attachments(t, c.Raw)["application/xml"]
			if err := os.WriteFile(file, xml, 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(xmlsec, "--verify", "--trusted-pem", ca, file).CombinedOutput(); err != nil {
				t.Errorf("%s %s: %v\n%s", alg, name, err, out)
			}
			spoiled := bytes.Replace(xml, []byte("<Text>"), []byte("<Text>x"), 1)
			if err := os.WriteFile(file, spoiled, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := exec.Command(xmlsec, "--verify", "--trusted-pem", ca, file).Run(); err == nil || bytes.Equal(spoiled, xml) {
				t.Errorf("%s %s: a changed document verifies", alg, name)
			}
		}
	}
}

// TestPDF has poppler read the other half.
func TestPDF(t *testing.T) {
	w := silent(t, newPKI(t), demail.Algorithm{})
	to, _ := demail.ParseAddress(postA)
	d, err := w.Confirmation(demail.TypeReceipt, originalHeader(t, w), to, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := w.Compose(d)
	if err != nil {
		t.Fatal(err)
	}
	data := attachments(t, c.Raw)["application/pdf"]
	if !bytes.HasPrefix(data, []byte("%PDF-1.4\n")) {
		t.Fatal("no PDF")
	}
	pdftotext := tool(t, "pdftotext", "poppler-utils")
	cmd := exec.Command(pdftotext, "-layout", "-enc", "UTF-8", "-", "-")
	cmd.Stdin = bytes.NewReader(data)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	text, err := cmd.Output()
	if err != nil || complaints.Len() > 0 {
		t.Fatalf("%v: %s", err, complaints.String())
	}
	for _, want := range []string{"*Eingangsbestätigung* Grüße & <Küsse>", "x-de-mail-private-id: az 1/2 <3>", "Aussteller: Eingangsbestaetigung@" + domain} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
}

func TestPDFIsBounded(t *testing.T) {
	lines := make([]string, 3*pdfRows*pdfPages)
	lines[0] = strings.Repeat("(\\ü€", pdfColumns)
	if n := bytes.Count(pdf(lines), []byte("/Type /Page ")); n != pdfPages {
		t.Errorf("%d pages", n)
	}
	if n := bytes.Count(pdf(nil), []byte("/Type /Page ")); n != 1 {
		t.Errorf("%d pages of nothing", n)
	}
}

func TestAlgorithmsAreAll(t *testing.T) {
	names := map[string]bool{}
	for _, a := range Algorithms() {
		names[a.String()] = true
		if back, err := demail.ParseAlgorithm(a.String()); err != nil || back != a {
			t.Errorf("%s: %v", a, err)
		}
	}
	if len(names) != 12 || !names["sha512/rsassa-pss"] || !names["sha384"] || crypto.SHA256.Size() != 32 {
		t.Errorf("%d: %v", len(names), names)
	}
}
