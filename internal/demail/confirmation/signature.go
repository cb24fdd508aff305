package confirmation

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/beevik/etree"
	dsig "github.com/russellhaering/goxmldsig"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
)

// Bounds of the signature.
const (
	maxCertificates = 8        // in KeyInfo
	maxCertificate  = 64 << 10 // characters of base64 each
	maxSignature    = 8 << 10  // characters of base64
	minRSA          = 2048     // bits
	minCurve        = 256      // bits
)

// allowedMethod names the signatures that count: nothing with SHA-1. goxmldsig knows
// no others of those that TR-01201-3.4 §3.1.21 names (no PSS).
func allowedMethod(id string) bool {
	switch id {
	case dsig.RSASHA256SignatureMethod, dsig.RSASHA384SignatureMethod, dsig.RSASHA512SignatureMethod,
		dsig.ECDSASHA256SignatureMethod, dsig.ECDSASHA384SignatureMethod, dsig.ECDSASHA512SignatureMethod:
		return true
	}
	return false
}

func allowedDigest(id string) bool {
	switch id {
	case "http://www.w3.org/2001/04/xmlenc#sha256", "http://www.w3.org/2001/04/xmldsig-more#sha384", "http://www.w3.org/2001/04/xmlenc#sha512":
		return true
	}
	return false
}

// allowedCanon names the canonical forms that leave comments out.
func allowedCanon(id string) bool {
	switch dsig.AlgorithmID(id) {
	case dsig.CanonicalXML10ExclusiveAlgorithmId, dsig.CanonicalXML10RecAlgorithmId, dsig.CanonicalXML11AlgorithmId:
		return true
	}
	return false
}

// proven is a tree whose every byte the signature covers.
type proven struct {
	root  *etree.Element
	cert  *x509.Certificate
	chain []*x509.Certificate
}

// hasSignature reports whether there is anything that could be taken for one.
func hasSignature(root *etree.Element) bool {
	return len(descendants(root, dsig.SignatureTag)) > 0
}

// verifySignature checks the one enveloped signature of root and gives what it
// covers, read anew from the bytes that were hashed. Errors wrap ErrSignature.
func verifySignature(root *etree.Element, verify demail.VerifyOptions) (*proven, error) {
	p, err := verifyEnveloped(root, verify)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return p, nil
}

func verifyEnveloped(root *etree.Element, verify demail.VerifyOptions) (*proven, error) {
	sig, idAttr, err := checkShape(root)
	if err != nil {
		return nil, err
	}
	leaf, others, err := certificates(sig.key)
	if err != nil {
		return nil, err
	}
	if err := sig.settle(leaf); err != nil {
		return nil, err
	}
	ctx := dsig.NewDefaultValidationContext(&dsig.MemoryX509CertificateStore{Roots: []*x509.Certificate{leaf}})
	ctx.IdAttribute = idAttr
	at := verify.Time
	if at.IsZero() {
		at = time.Now()
	}
	ctx.Clock = dsig.NewFakeClockAt(at)
	signed, err := ctx.Validate(root)
	if err != nil || signed == nil {
		return nil, errors.New("does not verify") // its texts hold content
	}
	chain, err := trusted(leaf, others, verify)
	if err != nil {
		return nil, err
	}
	return &proven{root: signed, cert: leaf, chain: chain}, nil
}

// trusted finds the chain to the caller's roots; what else stands in KeyInfo may
// help on the way.
func trusted(leaf *x509.Certificate, others []*x509.Certificate, verify demail.VerifyOptions) ([]*x509.Certificate, error) {
	if verify.Intermediates == nil {
		verify.Intermediates = x509.NewCertPool()
	} else {
		verify.Intermediates = verify.Intermediates.Clone()
	}
	for _, c := range others {
		verify.Intermediates.AddCert(c)
	}
	return verify.Chain(leaf)
}

// signature is the parts of ds:Signature.
type signature struct {
	method string
	value  *etree.Element
	key    *etree.Element
}

// checkShape wants exactly one signature, right below the root, with exactly one
// reference, to the root, and nothing that goxmldsig would pass over or understand
// more freely than another reader. It gives the name of the root's identifier.
func checkShape(root *etree.Element) (*signature, string, error) {
	found := descendants(root, dsig.SignatureTag)
	switch {
	case len(found) == 0:
		return nil, "", errors.New("missing")
	case len(found) > 1 || found[0].Parent() != root:
		return nil, "", errors.New("there must be one, right below the root element")
	}
	parts, err := exactly(found[0], dsig.SignedInfoTag, dsig.SignatureValueTag, dsig.KeyInfoTag)
	if err != nil {
		return nil, "", err
	}
	info, err := exactly(parts[0], dsig.CanonicalizationMethodTag, dsig.SignatureMethodTag, dsig.ReferenceTag)
	if err != nil {
		return nil, "", err
	}
	s := &signature{method: algorithm(info[1]), value: parts[1], key: parts[2]}
	switch {
	case !allowedCanon(algorithm(info[0])) || len(info[0].ChildElements()) > 0:
		return nil, "", errors.New("canonicalisation is not allowed")
	case !allowedMethod(s.method) || len(info[1].ChildElements()) > 0:
		return nil, "", errors.New("algorithm is not allowed")
	}
	idAttr, err := checkReference(root, info[2])
	return s, idAttr, err
}

// checkReference wants the whole document: URI="" or the root's own identifier,
// which nothing else bears.
func checkReference(root, ref *etree.Element) (string, error) {
	parts, err := exactly(ref, dsig.TransformsTag, dsig.DigestMethodTag, dsig.DigestValueTag)
	if err != nil {
		return "", err
	}
	if !allowedDigest(algorithm(parts[1])) {
		return "", errors.New("hash is not allowed")
	}
	if err := checkTransforms(parts[0]); err != nil {
		return "", err
	}
	uri := ref.SelectAttr(dsig.URIAttr)
	if uri == nil {
		return "", errors.New("reference without URI")
	}
	if uri.Value == "" {
		return dsig.DefaultIdAttr, nil
	}
	id, ok := strings.CutPrefix(uri.Value, "#")
	if ok && id != "" {
		for _, name := range []string{"ID", "Id", "id"} {
			if root.SelectAttrValue(name, "") == id && bearers(root, id) == 1 {
				return name, nil
			}
		}
	}
	return "", errors.New("reference is not to the root element")
}

// checkTransforms wants the signature taken out and then, at most, one
// canonicalisation; without one it is inclusive (XMLDSig §4.4.3.2), which is what
// goxmldsig does on a tree without comments.
func checkTransforms(el *etree.Element) error {
	for i, t := range el.ChildElements() {
		alg := algorithm(t)
		switch {
		case t.Tag != dsig.TransformTag || !isDS(t):
		case i == 0 && alg == string(dsig.EnvelopedSignatureAltorithmId) && len(t.ChildElements()) == 0:
			continue
		case i == 1 && allowedCanon(alg):
			continue
		}
		return errors.New("transform is not allowed")
	}
	if len(el.ChildElements()) == 0 {
		return errors.New("signature is not an enveloped one")
	}
	return nil
}

// settle checks that the key may sign and fits the method, and brings the two
// parts that no signature covers into the form that goxmldsig reads: the leaf's
// certificate alone, and for ECDSA an ASN.1 sequence in the place of the two
// numbers that XMLDSig 1.1 §6.4.3 asks for.
func (s *signature) settle(leaf *x509.Certificate) error {
	text := compact(s.value.Text())
	if len(text) > maxSignature || len(s.value.ChildElements()) > 0 {
		return errors.New("value is too long or no text")
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return errors.New("value is not base64")
	}
	isECDSA := strings.Contains(s.method, "#ecdsa-")
	switch key := leaf.PublicKey.(type) {
	case *rsa.PublicKey:
		if isECDSA || key.N.BitLen() < minRSA {
			return fmt.Errorf("key does not fit the algorithm or is an RSA key under %d bits", minRSA)
		}
	case *ecdsa.PublicKey:
		if !isECDSA || key.Curve.Params().BitSize < minCurve {
			return fmt.Errorf("key does not fit the algorithm or is on a curve under %d bits", minCurve)
		}
		if raw, err = sequence(raw, (key.Curve.Params().N.BitLen()+7)/8); err != nil {
			return err
		}
	default:
		return errors.New("key of an unknown kind")
	}
	s.value.SetText(base64.StdEncoding.EncodeToString(raw))
	s.setKey(leaf)
	return nil
}

// setKey leaves one certificate in KeyInfo.
func (s *signature) setKey(leaf *x509.Certificate) {
	s.key.Child = nil
	data := s.key.CreateElement(dsig.X509DataTag)
	cert := data.CreateElement(dsig.X509CertificateTag)
	data.Space, cert.Space = s.key.Space, s.key.Space
	cert.SetText(base64.StdEncoding.EncodeToString(leaf.Raw))
}

// certificates reads KeyInfo: the signer's and the others. The signer's is the
// first that is no authority's; their order is not defined (XMLDSig §4.5.4).
func certificates(key *etree.Element) (leaf *x509.Certificate, others []*x509.Certificate, err error) {
	data := key.ChildElements()
	if len(data) != 1 || data[0].Tag != dsig.X509DataTag || !isDS(data[0]) {
		return nil, nil, errors.New("KeyInfo must hold X509Data and nothing else")
	}
	var all []*x509.Certificate
	for _, el := range data[0].ChildElements() {
		if el.Tag != dsig.X509CertificateTag || !isDS(el) {
			continue
		}
		c, err := certificate(el.Text())
		if err != nil {
			return nil, nil, err
		}
		if all = append(all, c); len(all) > maxCertificates {
			return nil, nil, fmt.Errorf("more than %d certificates", maxCertificates)
		}
	}
	if len(all) == 0 {
		return nil, nil, errors.New("without a certificate")
	}
	i := max(0, slices.IndexFunc(all, func(c *x509.Certificate) bool { return !c.IsCA }))
	return all[i], slices.Delete(slices.Clone(all), i, i+1), nil
}

func certificate(text string) (*x509.Certificate, error) {
	if len(text) > maxCertificate {
		return nil, errors.New("certificate is too long")
	}
	der, err := base64.StdEncoding.DecodeString(compact(text))
	if err != nil {
		return nil, errors.New("certificate is not base64")
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, errors.New("certificate cannot be read")
	}
	return c, nil
}

// exactly gives the children of el, which must be these, each once, in this
// order, in the namespace of XMLDSig.
func exactly(el *etree.Element, tags ...string) ([]*etree.Element, error) {
	children := el.ChildElements()
	ok := isDS(el) && len(children) == len(tags)
	for i := 0; ok && i < len(tags); i++ {
		ok = children[i].Tag == tags[i] && isDS(children[i])
	}
	if !ok {
		return nil, fmt.Errorf("%s must hold %s, each once, and nothing else", el.Tag, strings.Join(tags, ", "))
	}
	return children, nil
}

func algorithm(el *etree.Element) string { return el.SelectAttrValue(dsig.AlgorithmAttr, "") }

func isDS(el *etree.Element) bool { return el.NamespaceURI() == dsig.Namespace }

// descendants finds elements by name, in whatever namespace.
func descendants(el *etree.Element, tag string) []*etree.Element {
	var out []*etree.Element
	for _, c := range el.ChildElements() {
		if c.Tag == tag {
			out = append(out, c)
		}
		out = append(out, descendants(c, tag)...)
	}
	return out
}

// bearers counts elements that have id in any attribute that could be an identifier.
func bearers(el *etree.Element, id string) int {
	n := 0
	for _, a := range el.Attr {
		if strings.EqualFold(a.Key, "id") && a.Value == id {
			n++
		}
	}
	for _, c := range el.ChildElements() {
		n += bearers(c, id)
	}
	return n
}

func compact(s string) string { return strings.Join(strings.Fields(s), "") }

// sequence turns r and s, each of size bytes, into an ASN.1 sequence.
func sequence(raw []byte, size int) ([]byte, error) {
	if len(raw) != 2*size {
		return nil, errors.New("ECDSA value has the wrong length")
	}
	body := append(integer(raw[:size]), integer(raw[size:])...)
	if len(body) < 0x80 {
		return append([]byte{0x30, byte(len(body))}, body...), nil
	}
	return append([]byte{0x30, 0x81, byte(len(body))}, body...), nil // under 256 bytes up to P-521
}

// integer is a positive ASN.1 integer.
func integer(b []byte) []byte {
	b = bytes.TrimLeft(b, "\x00")
	if len(b) == 0 || b[0] >= 0x80 {
		b = append([]byte{0}, b...)
	}
	return append([]byte{2, byte(len(b))}, b...)
}
