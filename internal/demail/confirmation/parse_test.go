package confirmation

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/beevik/etree"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/dmda/dmdatest"
)

const (
	domain    = "provider.de-mail.example"
	sender    = "poststelle@gemeinde-a.de-mail.example"
	recipient = "max.mustermann@de-mail.example"
)

// kit is a simulated provider and a message that it delivered.
type kit struct {
	pki      *dmdatest.PKI
	provider *dmdatest.Provider
	original *demail.Header
	trust    demail.VerifyOptions
}

func newKit(t testing.TB) *kit {
	t.Helper()
	pki, err := dmdatest.NewPKI(dmdatest.PKIOptions{Hosts: []string{domain}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := dmdatest.New(dmdatest.Config{Domain: domain, Domains: []string{"de-mail.example"}, PKI: pki})
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.Compose(dmdatest.DeMail{From: sender, To: []string{recipient, "x@de-mail.example"}, Subject: "Bescheid", PrivateID: "az-1",
		Options: demail.Options{ConfirmDispatch: true}})
	if err != nil {
		t.Fatal(err)
	}
	h, _ := open(t, c.Raw)
	return &kit{pki, p, h, demail.VerifyOptions{Roots: pki.Pool(), Revocation: func(_, _ *x509.Certificate) error { return nil }}}
}

func open(t testing.TB, raw []byte) (*demail.Header, []byte) {
	t.Helper()
	h, err := demail.ReadHeader(bufio.NewReader(bytes.NewReader(raw)), 0)
	if err != nil {
		t.Fatal(err)
	}
	return h, raw[h.Size():]
}

func address(t testing.TB, s string) demail.Address {
	t.Helper()
	a, err := demail.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// confirm makes a confirmation as the provider does.
func (k *kit) confirm(t testing.TB, kind demail.MessageType) (*demail.Header, []byte) {
	t.Helper()
	d, err := k.provider.Confirmation(kind, k.original, address(t, sender), time.Unix(1e9, 0))
	if err != nil {
		t.Fatal(err)
	}
	return k.compose(t, d)
}

func (k *kit) compose(t testing.TB, d dmdatest.DeMail) (*demail.Header, []byte) {
	t.Helper()
	c, err := k.provider.Compose(d)
	if err != nil {
		t.Fatal(err)
	}
	return open(t, c.Raw)
}

// xmlOf is the XML of a body that the simulator made.
func xmlOf(t testing.TB, h *demail.Header, body []byte) []byte {
	t.Helper()
	data, err := findXML(h, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// wrap puts XML into a body and gives h its content-type.
func wrap(h *demail.Header, xml []byte) (*demail.Header, []byte) {
	h = h.Clone()
	_ = h.Replace("content-type", `multipart/mixed; boundary="b"`)
	text := base64.StdEncoding.EncodeToString(xml)
	return h, []byte("--b\r\nContent-Type: application/xml\r\nContent-Transfer-Encoding: base64\r\n\r\n" + text + "\r\n--b--\r\n")
}

// unsigned is the XML tree of a confirmation, its signature taken out.
func (k *kit) unsigned(t testing.TB, kind demail.MessageType) (*demail.Header, *etree.Element) {
	t.Helper()
	h, body := k.confirm(t, kind)
	root, err := document(xmlOf(t, h, body))
	if err != nil {
		t.Fatal(err)
	}
	root.RemoveChild(descendants(root, "Signature")[0])
	return h, root
}

// sign makes a message of a changed tree, rightly signed.
func (k *kit) sign(t testing.TB, h *demail.Header, root *etree.Element, key tls.Certificate, hash crypto.Hash) (*demail.Header, []byte) {
	t.Helper()
	signed, err := dmdatest.SignXML(root, key, hash)
	if err != nil {
		t.Fatal(err)
	}
	xml, err := dmdatest.FormatXML(signed)
	if err != nil {
		t.Fatal(err)
	}
	return wrap(h, xml)
}

func TestNormalMessage(t *testing.T) {
	h := demail.NewHeader()
	for _, kind := range []string{"", "normal", "confirmation of nothing"} {
		if err := h.Replace(demail.FieldMessageType, kind); err != nil {
			t.Fatal(err)
		}
		body := iotest.ErrReader(errors.New("touched"))
		if _, err := Parse(h, body, demail.VerifyOptions{}); !errors.Is(err, ErrNotConfirmation) || Is(h) {
			t.Errorf("%q: %v", kind, err)
		}
	}
}

func TestRetrieve(t *testing.T) {
	k := newKit(t)
	h, body := k.confirm(t, demail.TypeRetrieve)
	c, err := Parse(h, bytes.NewReader(body), k.trust)
	if err != nil {
		t.Fatal(err)
	}
	proof, err := demail.ParseProof(k.original.Get(demail.FieldIntegrity))
	if err != nil {
		t.Fatal(err)
	}
	if c.Type != demail.TypeRetrieve || c.Sender != address(t, "abholbestaetigung@"+domain) || c.Provider != domain ||
		!c.DeliveryTime.Equal(time.Unix(1e9, 0)) || time.Since(c.Time) > time.Hour || c.PrivateID != "az-1" ||
		c.OriginalMessageID != k.original.Get("message-id") || c.OriginalDeMailMessageID != k.original.Get(demail.FieldMessageID) ||
		c.OriginalSender != address(t, sender) || fmt.Sprint(c.Recipients) != "["+recipient+" x@de-mail.example]" ||
		c.Hash.ValueKey() != proof.ValueKey() || c.Hash.BodyKey() != proof.BodyKey() || c.Hash.Algorithm != proof.Algorithm ||
		!c.Signed || len(c.Chain) != 2 || !c.Certificate.Equal(k.pki.Signer().Leaf) || c.Fault != nil {
		t.Errorf("%+v", c)
	}
}

// TestEnvelopeToIsTheRecipient: what one mailbox got is told of that mailbox.
func TestEnvelopeToIsTheRecipient(t *testing.T) {
	k := newKit(t)
	if err := k.original.Prepend(demail.FieldEnvelopeTo, "x@de-mail.example"); err != nil {
		t.Fatal(err)
	}
	h, body := k.confirm(t, demail.TypeReceipt)
	if c, err := Parse(h, bytes.NewReader(body), k.trust); err != nil || fmt.Sprint(c.Recipients) != "[x@de-mail.example]" {
		t.Errorf("%v, %v", c, err)
	}
}

// TestTrust: who is believed.
func TestTrust(t *testing.T) {
	k := newKit(t)
	h, body := k.confirm(t, demail.TypeDispatch)
	other, err := dmdatest.NewPKI(dmdatest.PKIOptions{Hosts: []string{"x.example"}})
	if err != nil {
		t.Fatal(err)
	}
	gone := errors.New("revoked")
	for name, c := range map[string]struct {
		change func(*demail.VerifyOptions)
		ok     bool
	}{
		"as it should be":  {func(*demail.VerifyOptions) {}, true},
		"no roots":         {func(o *demail.VerifyOptions) { o.Roots = nil }, false},
		"others' root":     {func(o *demail.VerifyOptions) { o.Roots = other.Pool() }, false},
		"no revocation":    {func(o *demail.VerifyOptions) { o.Revocation = nil }, false},
		"revoked":          {func(o *demail.VerifyOptions) { o.Revocation = func(_, _ *x509.Certificate) error { return gone } }, false},
		"in ten years":     {func(o *demail.VerifyOptions) { o.Time = time.Now().AddDate(10, 0, 0) }, false},
		"before it began":  {func(o *demail.VerifyOptions) { o.Time = time.Now().AddDate(-1, 0, 0) }, false},
		"an hour from now": {func(o *demail.VerifyOptions) { o.Time = time.Now().Add(time.Hour) }, true},
	} {
		o := k.trust
		c.change(&o)
		if _, err := Parse(h, bytes.NewReader(body), o); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestKeys: whose key and which algorithm.
func TestKeys(t *testing.T) {
	k := newKit(t)
	h, root := k.unsigned(t, demail.TypeReceipt)
	issue := func(bits int) tls.Certificate {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := k.pki.IssueSigner(key)
		if err != nil {
			t.Fatal(err)
		}
		return tls.Certificate{Certificate: [][]byte{k.pki.CACertificate().Raw, cert.Raw}, PrivateKey: key}
	}
	weak, strong := issue(1024), issue(2048)
	for name, c := range map[string]struct {
		key  tls.Certificate
		hash crypto.Hash
		ok   bool
	}{
		"ECDSA SHA-256": {k.pki.Signer(), crypto.SHA256, true},
		"ECDSA SHA-384": {k.pki.Signer(), crypto.SHA384, true},
		"ECDSA SHA-512": {k.pki.Signer(), crypto.SHA512, true},
		"ECDSA SHA-1":   {k.pki.Signer(), crypto.SHA1, false},
		"RSA SHA-256":   {strong, crypto.SHA256, true}, // and the authority comes first in KeyInfo
		"RSA SHA-512":   {strong, crypto.SHA512, true},
		"RSA SHA-1":     {strong, crypto.SHA1, false},
		"RSA too short": {weak, crypto.SHA256, false},
		"TLS client":    {k.pki.Client(), crypto.SHA256, true}, // the guideline asks for no extended key usage
	} {
		h, body := k.sign(t, h, root, c.key, c.hash)
		if _, err := Parse(h, bytes.NewReader(body), k.trust); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestForgeries changes what a provider has signed. Each row names the reason, so
// that it fails if another guard was quicker.
func TestForgeries(t *testing.T) {
	k := newKit(t)
	h, body := k.confirm(t, demail.TypeReceipt)
	xml := string(xmlOf(t, h, body))
	sig := xml[strings.Index(xml, "<ds:Signature "):strings.Index(xml, "</Acknowledge-Message>")]
	value := sig[strings.Index(sig, "<ds:SignatureValue>"):strings.Index(sig, "<ds:KeyInfo>")]
	info := sig[strings.Index(sig, "<ds:SignedInfo>"):strings.Index(sig, "<ds:SignatureValue>")]
	reference := info[strings.Index(info, "<ds:Reference "):strings.Index(info, "</ds:SignedInfo>")]
	const c14n, enveloped = `Algorithm="http://www.w3.org/2001/10/xml-exc-c14n#"`, `<ds:Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"/>`
	type edit struct{ old, new, reason string }
	for name, e := range map[string]edit{
		"nothing":                 {"", "", ""},
		"white space outside":     {"<Acknowledge-Message", "\n \n<Acknowledge-Message", ""},
		"comment in a value":      {">az-1<", ">az<!-- evil -->-1<", ""},
		"a value":                 {">az-1<", ">az-2<", "does not verify"},
		"comment, then more":      {">az-1<", ">az-1<!-- -->2<", "does not verify"},
		"element added":           {"<Subject>", "<Subject></Subject><Subject>", "does not verify"},
		"other namespace":         {"urn:de-mail", "urn:de-mail:x", "does not verify"},
		"no signature":            {sig, "", "missing"},
		"two signatures":          {sig, sig + sig, "there must be one"},
		"signature elsewhere":     {sig, "<x>" + sig + "</x>", "right below the root"},
		"signature in its own":    {"</ds:KeyInfo>", "</ds:KeyInfo><ds:Object>" + sig + "</ds:Object>", "there must be one"},
		"object in it":            {"</ds:KeyInfo>", "</ds:KeyInfo><ds:Object>x</ds:Object>", "must hold"},
		"two infos":               {info, info + info, "must hold"},
		"info of others":          {info, strings.ReplaceAll(info, "ds:SignedInfo", "SignedInfo"), "must hold"},
		"two values":              {value, value + value, "must hold"},
		"two references":          {reference, reference + reference, "must hold"},
		"with comments":           {c14n, strings.Replace(c14n, "#", "#WithComments", 1), "canonicalisation is not allowed"},
		"transform with comments": {enveloped + "<ds:Transform " + c14n, enveloped + "<ds:Transform " + strings.Replace(c14n, "#", "#WithComments", 1), "transform is not allowed"},
		"not enveloped":           {enveloped, "", "transform is not allowed"},
		"no transforms":           {reference[strings.Index(reference, enveloped):strings.Index(reference, "</ds:Transforms>")], "", "not an enveloped one"},
		"XPath":                   {enveloped, enveloped + `<ds:Transform Algorithm="http://www.w3.org/TR/1999/REC-xpath-19991116"/>`, "transform is not allowed"},
		"HMAC":                    {"xmldsig-more#ecdsa-sha256", "xmldsig-more#hmac-sha256", "algorithm is not allowed"},
		"other method":            {"xmldsig-more#ecdsa-sha256", "xmldsig-more#rsa-sha256", "key does not fit"},
		"digest SHA-1":            {"http://www.w3.org/2001/04/xmlenc#sha256", "http://www.w3.org/2000/09/xmldsig#sha1", "hash is not allowed"},
		"reference to nothing":    {`URI=""`, `URI="#"`, "reference is not to the root"},
		"reference elsewhere":     {`URI=""`, `URI="http://x.example/"`, "reference is not to the root"},
		"reference without URI":   {`URI=""`, ``, "reference without URI"},
		"no key":                  {"<ds:X509Data>", "<ds:X509Data/><ds:X509Data>", "nothing else"},
		"no certificate":          {"<ds:X509Certificate>", "<ds:X509SKI>", ""},
		"certificate rubbish":     {"<ds:X509Certificate>", "<ds:X509Certificate>!", "not base64"},
		"certificate no X.509":    {"<ds:X509Certificate>", "<ds:X509Certificate>AAAA</ds:X509Certificate><ds:X509Certificate>", "cannot be read"},
		"value rubbish":           {"<ds:SignatureValue>", "<ds:SignatureValue>!", "not base64"},
		"value too short":         {"<ds:SignatureValue>", "<ds:SignatureValue>AAAA</ds:SignatureValue><!--", ""},
		"value of zeros":          {value, "<ds:SignatureValue>" + strings.Repeat("A", 86) + "==</ds:SignatureValue>", "does not verify"},
		"document type":           {"<Acknowledge-Message", "<!DOCTYPE x><Acknowledge-Message", "document type"},
		"entity":                  {"<Acknowledge-Message", `<!DOCTYPE x [<!ENTITY e "a">]><Acknowledge-Message`, "document type"},
		"undeclared entity":       {">az-1<", ">&e;<", "not well-formed"},
		"processing instruction":  {"<Subject>", "<?php x?><Subject>", "processing instruction"},
		"second declaration":      {"<Subject>", `<?xml version="1.0"?><Subject>`, "processing instruction"},
		"text behind":             {"</Acknowledge-Message>", "</Acknowledge-Message>x", "outside the root"},
		"root behind":             {"</Acknowledge-Message>", "</Acknowledge-Message><a/>", "more than one root"},
		"attribute twice":         {`URI=""`, `URI="" URI="#x"`, "occurs twice"},
		"many attributes":         {`URI=""`, `URI="" ` + manyAttributes(), "attributes"},
		"deep":                    {"<Subject>", strings.Repeat("<a>", maxDepth) + strings.Repeat("</a>", maxDepth) + "<Subject>", "within each other"},
		"wide":                    {"<Subject>", strings.Repeat("<a/>", maxElements) + "<Subject>", "elements"},
		"crossed":                 {"<Subject>", "<a><b></a></b><Subject>", "not well-formed"},
		"open":                    {"</Acknowledge-Message>", "", "not well-formed"},
		"Latin-1":                 {`encoding="UTF-8"`, `encoding="ISO-8859-1"`, "not well-formed"},
		"not UTF-8":               {">az-1<", ">\xff<", "not UTF-8"},
	} {
		changed := strings.ReplaceAll(xml, e.old, e.new)
		if e.old == "" {
			changed = xml
		} else if !strings.Contains(xml, e.old) {
			t.Fatalf("%s: nothing to change", name)
		}
		h, body := wrap(h, []byte(changed))
		c, err := Parse(h, bytes.NewReader(body), k.trust)
		good := name == "nothing" || name == "white space outside" || name == "comment in a value"
		switch {
		case good && (err != nil || c.PrivateID != "az-1"):
			t.Errorf("%s: %v", name, err)
		case !good && (err == nil || !errors.Is(err, ErrSignature) && !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), e.reason)):
			t.Errorf("%s: %v", name, err)
		}
	}
}

func manyAttributes() string {
	var b strings.Builder
	for i := range maxAttrs {
		fmt.Fprintf(&b, `a%d="" `, i)
	}
	return b.String()
}

// TestASN1ValueIsRefused: goxmldsig takes the ASN.1 sequence that XMLDSig does
// not know.
func TestASN1ValueIsRefused(t *testing.T) {
	k := newKit(t)
	h, body := k.confirm(t, demail.TypeReceipt)
	root, err := document(xmlOf(t, h, body))
	if err != nil {
		t.Fatal(err)
	}
	value := descendants(root, "SignatureValue")[0]
	raw, err := base64.StdEncoding.DecodeString(value.Text())
	if err != nil {
		t.Fatal(err)
	}
	der, err := sequence(raw, 32)
	if err != nil {
		t.Fatal(err)
	}
	value.SetText(base64.StdEncoding.EncodeToString(der))
	xml, err := dmdatest.FormatXML(root)
	if err != nil {
		t.Fatal(err)
	}
	h, body = wrap(h, xml)
	if _, err := Parse(h, bytes.NewReader(body), k.trust); !errors.Is(err, ErrSignature) || !strings.Contains(err.Error(), "length") {
		t.Error(err)
	}
}

// TestIdentifiers: a reference by identifier counts if only the root bears it.
func TestIdentifiers(t *testing.T) {
	k := newKit(t)
	for name, c := range map[string]struct {
		change func(root *etree.Element)
		ok     bool
	}{
		"of the root":    {func(root *etree.Element) { root.CreateAttr("ID", "a") }, true},
		"of a child too": {func(root *etree.Element) { root.CreateAttr("ID", "a"); root.ChildElements()[0].CreateAttr("ID", "a") }, false},
		"in other letters": {func(root *etree.Element) {
			root.CreateAttr("ID", "a")
			root.ChildElements()[1].CreateAttr("xml:id", "a")
		}, false},
		"of a child only": {func(root *etree.Element) { root.ChildElements()[0].CreateAttr("ID", "a") }, true}, // URI=""
	} {
		h, root := k.unsigned(t, demail.TypeReceipt)
		c.change(root)
		h, body := k.sign(t, h, root, k.pki.Signer(), crypto.SHA256)
		if _, err := Parse(h, bytes.NewReader(body), k.trust); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestContent signs trees that a provider should not make.
func TestContent(t *testing.T) {
	k := newKit(t)
	set := func(name, v string) func(*etree.Element) {
		return func(root *etree.Element) { descendants(root, name)[0].SetText(v) }
	}
	drop := func(name string) func(*etree.Element) {
		return func(root *etree.Element) { root.RemoveChild(descendants(root, name)[0]) }
	}
	meta := func(name, v string) func(*etree.Element) {
		return func(root *etree.Element) {
			for _, m := range descendants(root, "Metadate") {
				if strings.EqualFold(m.SelectElement("Name").Text(), name) {
					m.SelectElement("Value").SetText(v)
				}
			}
		}
	}
	for name, c := range map[string]struct {
		change func(root *etree.Element)
		reason string // "": is good
	}{
		"nothing":              {func(*etree.Element) {}, ""},
		"unknown element":      {func(r *etree.Element) { r.CreateElement("New").SetText("x") }, ""},
		"foreign element":      {func(r *etree.Element) { e := r.CreateElement("Time"); e.CreateAttr("xmlns", "urn:x") }, ""},
		"field's name in Hash": {func(r *etree.Element) { e := descendants(r, "Hash")[0]; e.SetText("X-de-mail-integrity: " + e.Text()) }, ""},
		"time without zone":    {set("Time", "2026-01-02T03:04:05.5"), ""},
		"name of the provider": {set("Sender", "Anbieter AG"), ""},
		"twice":                {func(r *etree.Element) { r.CreateElement("Hash") }, "occurs twice"},
		"no sender":            {drop("Sender"), "without Sender"},
		"no hash":              {drop("Hash"), "without Hash"},
		"no time":              {drop("Time"), "without Time"},
		"no metadata":          {drop("Metadata"), "without Metadata"},
		"empty metadata":       {func(r *etree.Element) { descendants(r, "Metadata")[0].Child = nil }, "Metadata is empty"},
		"element in a text":    {func(r *etree.Element) { descendants(r, "Time")[0].CreateElement("a") }, "without Time"},
		"other root":           {func(r *etree.Element) { r.Tag = RootNotify }, "root element"},
		"other namespace":      {func(r *etree.Element) { r.CreateAttr("xmlns", "urn:x") }, "root element"},
		"other sender":         {set("Sender", "meldung@"+domain), "Sender is not"},
		"other type":           {set("Subject", "*Abholbestätigung* Bescheid"), "another type"},
		"other type, no stars": {set("Subject", "Versandbestätigung: Bescheid"), "another type"},
		"delivery time":        {func(r *etree.Element) { r.CreateElement("DeliveryTime").SetText("2026-01-02T03:04:05Z") }, "DeliveryTime in"},
		"bad time":             {set("Time", "gestern"), "Time is no date"},
		"bad hash":             {set("Hash", "v=1; a=md5"), "Hash"},
		"bad recipient":        {func(r *etree.Element) { meta(demail.FieldActualRecipient, "x")(r) }, "recipients"},
		"no recipient": {func(r *etree.Element) {
			meta(demail.FieldActualRecipient, "")(r)
			meta(demail.FieldChosenRecipient, "")(r)
		}, "without a recipient"},
		"bad sender":            {meta(demail.FieldSender, "x"), "original's sender"},
		"other private-id":      {meta(demail.FieldPrivateID, "az-2"), "not the one in the header"},
		"long private-id":       {meta(demail.FieldPrivateID, strings.Repeat("ü", demail.MaxPrivateID+1)), "characters"},
		"long message-id":       {meta("message-id", strings.Repeat("x", maxMessageID+1)), "message-id over"},
		"private-id not quoted": {meta(demail.FieldPrivateID, ""), ""},
	} {
		h, root := k.unsigned(t, demail.TypeReceipt)
		c.change(root)
		h, body := k.sign(t, h, root, k.pki.Signer(), crypto.SHA256)
		got, err := Parse(h, bytes.NewReader(body), k.trust)
		switch {
		case c.reason == "" && (err != nil || got.PrivateID != "az-1"):
			t.Errorf("%s: %v", name, err)
		case c.reason != "" && (!errors.Is(err, ErrMalformed) || errors.Is(err, ErrSignature) || !strings.Contains(err.Error(), c.reason)):
			t.Errorf("%s: %v", name, err)
		case err != nil && strings.Contains(err.Error(), "Bescheid"):
			t.Errorf("%s: the error tells the subject: %v", name, err)
		}
	}
}

// TestHeader: what the header says must be in order before the body counts.
func TestHeader(t *testing.T) {
	k := newKit(t)
	h, body := k.confirm(t, demail.TypeReceipt)
	for name, v := range map[string]string{
		demail.FieldSender: "meldung@" + domain, demail.FieldActualRecipient: "x", demail.FieldVersion: "9",
		demail.FieldMessageType: "confirmation of dispatch", "date": "gestern",
	} {
		h := h.Clone()
		if err := h.Replace(name, v); err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(h, bytes.NewReader(body), k.trust); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNotification: one that cannot be read is told from the header, one whose
// signature is bad is not (TR-01201 part 3).
func TestNotification(t *testing.T) {
	k := newKit(t)
	d, err := k.provider.Notification(demail.TypeNotification, demail.NotifyClosedAccount, k.original, address(t, recipient), address(t, sender))
	if err != nil {
		t.Fatal(err)
	}
	h, body := k.compose(t, d)
	xml := xmlOf(t, h, body)
	c, err := Parse(h, bytes.NewReader(body), k.trust)
	if err != nil || c.Fault != nil || c.NotificationType != demail.NotifyClosedAccount || fmt.Sprint(c.Recipients) != "["+recipient+"]" ||
		c.PrivateID != "az-1" || c.OriginalMessageID != k.original.Get("message-id") || c.Signed || c.Time.IsZero() {
		t.Errorf("%+v, %v", c, err)
	}
	tolerated := h.Clone()
	for name, v := range map[string]string{"date": "gestern", demail.FieldVersion: "0.9"} {
		if err := tolerated.Replace(name, v); err != nil {
			t.Fatal(err)
		}
	}
	if c, err := Parse(tolerated, bytes.NewReader(body), k.trust); err != nil || c.Fault != nil {
		t.Errorf("faulty header: %v, %v", c, err)
	}
	if err := tolerated.Replace(demail.FieldNotificationType, "strange"); err != nil {
		t.Fatal(err)
	}
	if c, err := Parse(tolerated, bytes.NewReader(body), k.trust); !errors.Is(err, ErrMalformed) {
		t.Errorf("of a strange kind: %v, %v", c, err)
	}
	for name, body := range map[string]string{"no multipart": "x", "empty": "", "torn": string(body[:len(body)/2])} {
		if c, err := Parse(h, strings.NewReader(body), k.trust); err != nil || !errors.Is(c.Fault, ErrMalformed) || c.PrivateID != "az-1" || c.Recipients != nil {
			t.Errorf("%s: %v, %v", name, c, err)
		}
	}
	forged := bytes.Replace(xml, []byte("</Sender>"), []byte(`</Sender><ds:Signature xmlns:ds="http://www.w3.org/2000/09/xmldsig#"/>`), 1)
	fh, fb := wrap(h, forged)
	if _, err := Parse(fh, bytes.NewReader(fb), k.trust); !errors.Is(err, ErrSignature) {
		t.Errorf("bad signature: %v", err)
	}
	root, err := document(xml)
	if err != nil {
		t.Fatal(err)
	}
	sh, sb := k.sign(t, h, root, k.pki.Signer(), crypto.SHA256)
	if c, err := Parse(sh, bytes.NewReader(sb), k.trust); err != nil || !c.Signed {
		t.Errorf("signed: %v, %v", c, err)
	}
}

func TestReadErrorIsKept(t *testing.T) {
	k := newKit(t)
	h, body := k.confirm(t, demail.TypeReceipt)
	r := io.MultiReader(bytes.NewReader(body[:200]), iotest.ErrReader(io.ErrClosedPipe))
	if _, err := Parse(h, r, k.trust); !errors.Is(err, io.ErrClosedPipe) || errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
}

// TestBodies are the shapes in which the XML may and may not come.
func TestBodies(t *testing.T) {
	k := newKit(t)
	h, body := k.confirm(t, demail.TypeReceipt)
	xml := xmlOf(t, h, body)
	b64 := base64.StdEncoding.EncodeToString(xml)
	part := func(header, content string) string { return "--b\r\n" + header + "\r\n\r\n" + content + "\r\n" }
	good := part("Content-Type: text/xml; charset=utf-8\r\nContent-Transfer-Encoding: base64", b64)
	const mixed = `multipart/mixed; boundary="b"`
	for name, c := range map[string]struct{ kind, body, reason string }{
		"base64":         {mixed, good + "--b--\r\n", ""},
		"PDF first":      {mixed, part("Content-Type: application/pdf", "%PDF") + good + "--b--", ""},
		"8bit":           {mixed, part("Content-Type: application/xml\r\nContent-Transfer-Encoding: 8bit", string(xml)) + "--b--", ""},
		"by its name":    {mixed, part("Content-Type: application/octet-stream\r\nContent-Disposition: attachment; filename=\"B.XML\"\r\nContent-Transfer-Encoding: base64", b64) + "--b--", ""},
		"by its suffix":  {mixed, part("Content-Type: application/de-mail+xml\r\nContent-Transfer-Encoding: base64", b64) + "--b--", ""},
		"inside another": {`multipart/signed; boundary="o"`, "--o\r\nContent-Type: " + mixed + "\r\n\r\n" + good + "--b--\r\n--o--", ""},
		"bad type aside": {mixed, part("Content-Type: ;;", "x") + good + "--b--", ""},
		"two":            {mixed, good + good + "--b--", "more than one XML part"},
		"none":           {mixed, part("Content-Type: text/plain", "x") + "--b--", "holds no XML"},
		"plain":          {"text/plain", string(xml), "not multipart"},
		"no type":        {"", string(xml), "bad content-type"},
		"no boundary":    {"multipart/mixed", good, "without boundary"},
		"long type":      {mixed + "; x=" + strings.Repeat("y ", maxContentType), good, "content-type"},
		"many parts":     {mixed, strings.Repeat(part("Content-Type: text/plain", "x"), maxParts+1), "parts"},
		"deep": {mixed, "--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\nContent-Type: multipart/mixed; boundary=d\r\n\r\n" +
			"--d\r\nContent-Type: multipart/mixed; boundary=e\r\n\r\n--e\r\n\r\nx\r\n--e--\r\n--d--\r\n--c--\r\n--b--", "within each other"},
		"coding":     {mixed, part("Content-Type: text/xml\r\nContent-Transfer-Encoding: uuencode", "x") + "--b--", "transfer-encoding"},
		"not base64": {mixed, part("Content-Type: text/xml\r\nContent-Transfer-Encoding: base64", "!!!!") + "--b--", "cannot be decoded"},
		"large XML":  {mixed, part("Content-Type: text/xml", strings.Repeat("x", maxXML+1)) + "--b--", "XML over"},
		"large body": {mixed, part("Content-Type: text/plain", strings.Repeat("x", MaxBody)) + good, "body over"},
		"empty":      {mixed, "", "multipart"},
	} {
		h := h.Clone()
		h.Remove("content-type")
		if c.kind != "" {
			if err := h.Replace("content-type", c.kind); err != nil {
				t.Fatal(err)
			}
		}
		_, err := Parse(h, strings.NewReader(c.body), k.trust)
		if c.reason == "" && err != nil || c.reason != "" && (!errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), c.reason)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Parse(h, nil, k.trust); !errors.Is(err, ErrMalformed) {
		t.Errorf("nil body: %v", err)
	}
	// What the standard library writes, quoted-printable among it, is read too.
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	p, err := w.CreatePart(map[string][]string{"Content-Type": {"application/xml"}, "Content-Transfer-Encoding": {"quoted-printable"}})
	if err != nil {
		t.Fatal(err)
	}
	qp := quotedprintable.NewWriter(p)
	_, _ = qp.Write(xml)
	_ = qp.Close()
	_ = w.Close()
	q := h.Clone()
	_ = q.Replace("content-type", mime.FormatMediaType("multipart/mixed", map[string]string{"boundary": w.Boundary()}))
	if _, err := Parse(q, &b, k.trust); err != nil {
		t.Errorf("quoted-printable: %v", err)
	}
}

func TestMentioned(t *testing.T) {
	text := "Den Empfänger <A@de-mail.example> gibt es nicht; „b@de-mail.example“, b@de-mail.example. foo@ x@y"
	if got := fmt.Sprint(mentioned(text)); got != "[a@de-mail.example b@de-mail.example]" {
		t.Error(got)
	}
	var many strings.Builder
	for i := range 2 * maxMentioned {
		fmt.Fprintf(&many, "a%d@de-mail.example ", i)
	}
	if n := len(mentioned(many.String())); n != maxMentioned {
		t.Error(n)
	}
}

func TestInReplyTo(t *testing.T) {
	for in, want := range map[string]string{
		"<1@x.example>": "<1@x.example>", "": "", "1@x.example": "", "<1@x.example> <2@x.example>": "", "<x>": "",
		"<" + strings.Repeat("x", maxMessageID) + "@y>": "",
	} {
		h := demail.NewHeader()
		if in != "" {
			if err := h.Append("in-reply-to", in); err != nil && len(in) < maxMessageID {
				t.Fatal(err)
			}
		}
		if got := inReplyTo(h); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}
