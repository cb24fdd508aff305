package dmdatest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"mime"
	"strings"
	"time"

	"github.com/beevik/etree"
	dsig "github.com/russellhaering/goxmldsig"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
)

// xmlNamespace is that of confirmations and notifications (TR-01201-3.4 §3.5.3).
const xmlNamespace = "urn:de-mail"

// statement is what the XML and the PDF of a message both say.
type statement struct {
	root     string
	sender   string
	subject  string
	text     string
	time     time.Time
	delivery time.Time      // of a confirmation of retrieve
	original *demail.Header // nil: no metadata, no hash
}

// xml builds the element in the order of the schema (TR-01201-3.4 §3.5.3), unsigned.
func (s statement) xml() *etree.Element {
	root := etree.NewElement(s.root)
	root.CreateAttr("xmlns", xmlNamespace)
	if s.original == nil {
		add(root, "Subject", s.subject)
		add(root, "Text", s.text)
		add(root, "Time", s.time.Format(time.RFC3339))
		add(root, "Sender", s.sender)
		return root
	}
	add(root, "Sender", s.sender)
	s.metadata(root.CreateElement("Metadata"))
	add(root, "Subject", s.subject)
	add(root, "Text", s.text)
	add(root, "Hash", s.original.Get(demail.FieldIntegrity))
	add(root, "Time", s.time.Format(time.RFC3339))
	if !s.delivery.IsZero() {
		add(root, "DeliveryTime", s.delivery.Format(time.RFC3339))
	}
	return root
}

// metadata are the original's fields of table 1 (TR-01201-3.4 §3.5.1, table 24).
func (s statement) metadata(to *etree.Element) {
	for _, r := range demail.Rules() {
		for _, f := range s.original.Fields() {
			if !f.Is(r.Name) {
				continue
			}
			m := to.CreateElement("Metadate")
			add(m, "Name", f.Name())
			add(m, "Value", f.Value())
			add(m, "OriginalHeader", strings.TrimSuffix(string(f.Raw()), "\r\n"))
			break // the first from the top counts (§3.1.1)
		}
	}
}

// lines are the same for the PDF.
func (s statement) lines() []string {
	out := []string{s.subject, "", s.text, "", "Zeitpunkt: " + s.time.Format("02.01.2006 15:04:05 MST")}
	if !s.delivery.IsZero() {
		out = append(out, "Eingang im Postfach: "+s.delivery.Format("02.01.2006 15:04:05 MST"))
	}
	out = append(out, "Aussteller: "+s.sender)
	if s.original == nil {
		return out
	}
	out = append(out, "Prüfsumme: "+s.original.Get(demail.FieldIntegrity), "")
	for _, m := range metadataOf(s) {
		out = append(out, m[0]+": "+m[1])
	}
	return out
}

// metadataOf are names and values of the metadata.
func metadataOf(s statement) [][2]string {
	meta := etree.NewElement("Metadata")
	s.metadata(meta)
	var out [][2]string
	for _, m := range meta.ChildElements() {
		out = append(out, [2]string{m.SelectElement("Name").Text(), m.SelectElement("Value").Text()})
	}
	return out
}

func add(to *etree.Element, name, text string) { to.CreateElement(name).SetText(text) }

// FormatXML writes a document as a provider sends it; carriage returns of folded
// fields stay.
func FormatXML(root *etree.Element) ([]byte, error) {
	doc := etree.NewDocument()
	doc.CreateProcInst("xml", `version="1.0" encoding="UTF-8"`)
	doc.AddChild(root)
	doc.WriteSettings = etree.WriteSettings{CanonicalText: true, CanonicalAttrVal: true}
	return doc.WriteToBytes()
}

// SignXML adds an enveloped XML signature (XMLDSig 1.1) with exclusive
// canonicalisation and the certificate in KeyInfo. The hash is SHA-256, SHA-384 or
// SHA-512; an RSA key signs by PKCS #1 v1.5.
func SignXML(root *etree.Element, key tls.Certificate, hash crypto.Hash) (*etree.Element, error) {
	signer, ok := key.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, errors.New("sign XML: the key cannot sign")
	}
	if pub, ok := signer.Public().(*ecdsa.PublicKey); ok {
		signer = plainECDSA{signer, (pub.Curve.Params().N.BitLen() + 7) / 8}
	}
	ctx, err := dsig.NewSigningContext(signer, key.Certificate)
	if err != nil {
		return nil, fmt.Errorf("sign XML: %w", err)
	}
	ctx.Hash = hash
	ctx.Canonicalizer = dsig.MakeC14N10ExclusiveCanonicalizerWithPrefixList("")
	signed, err := ctx.SignEnveloped(root)
	if err != nil {
		return nil, fmt.Errorf("sign XML: %w", err)
	}
	return signed, nil
}

// plainECDSA signs as XMLDSig 1.1 §6.4.3 asks for, r and s one behind the other;
// goxmldsig would write the ASN.1 sequence that a Go key gives.
type plainECDSA struct {
	crypto.Signer
	size int // bytes of each number
}

// Sign gives two numbers of equal length.
func (p plainECDSA) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	der, err := p.Signer.Sign(rand, digest, opts)
	if err != nil {
		return nil, err
	}
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		return nil, err
	}
	out := make([]byte, 2*p.size)
	sig.R.FillBytes(out[:p.size])
	sig.S.FillBytes(out[p.size:])
	return out, nil
}

// decodedSubject is a subject in UTF-8.
func decodedSubject(h *demail.Header) string {
	v := h.Get("subject")
	if s, err := new(mime.WordDecoder).DecodeHeader(v); err == nil {
		return s
	}
	return v
}
