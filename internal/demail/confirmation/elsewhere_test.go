package confirmation

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/beevik/etree"
	dsig "github.com/russellhaering/goxmldsig"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/dmda/dmdatest"
)

// template is a signature that xmlsec is to fill.
func template(canon, method, digest, transforms, uri string) string {
	const end = `"/>`
	return `<Signature xmlns="http://www.w3.org/2000/09/xmldsig#"><SignedInfo><CanonicalizationMethod Algorithm="` + canon + end +
		`<SignatureMethod Algorithm="` + method + end + "\n" + `<Reference URI="` + uri + `"><Transforms>` +
		`<Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"/>` + transforms +
		`</Transforms><DigestMethod Algorithm="` + digest + end + `<DigestValue></DigestValue></Reference></SignedInfo>` +
		"\n <SignatureValue/>\n <KeyInfo><X509Data/></KeyInfo></Signature>"
}

// signElsewhere has xmlsec sign a tree.
func signElsewhere(t *testing.T, pki *dmdatest.PKI, alg demail.Algorithm, root *etree.Element, signature string) []byte {
	t.Helper()
	xmlsec, err := exec.LookPath("xmlsec1")
	if err != nil {
		if os.Getenv("SHORT") == "1" {
			t.Skip("SHORT=1 and xmlsec1 is not installed")
		}
		t.Fatal("xmlsec1 is not installed: apt-get install xmlsec1, or skip with SHORT=1")
	}
	opt, err := pki.Integrity(alg)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(opt.Signer)
	if err != nil {
		t.Fatal(err)
	}
	xml, err := dmdatest.FormatXML(root)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	in := write("in.xml", bytes.Replace(xml, []byte("</Acknowledge-Message>"), []byte(signature+"</Acknowledge-Message>"), 1))
	keyFile := write("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	certFile := write("cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: opt.Certificate.Raw}))
	cmd := exec.Command(xmlsec, "--sign", "--id-attr:ID", RootAcknowledge, "--privkey-pem", keyFile+","+certFile, in)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("xmlsec1: %v\n%s", err, complaints.String())
	}
	return out
}

// TestSignedElsewhere reads what another implementation has signed, in every form
// that is allowed.
func TestSignedElsewhere(t *testing.T) {
	k := newKit(t)
	transform := func(alg string) string { return `<Transform Algorithm="` + alg + `"/>` }
	digests := []string{"http://www.w3.org/2001/04/xmlenc#sha256", "http://www.w3.org/2001/04/xmldsig-more#sha384", "http://www.w3.org/2001/04/xmlenc#sha512"}
	canons := []string{string(dsig.CanonicalXML10ExclusiveAlgorithmId), string(dsig.CanonicalXML10RecAlgorithmId), string(dsig.CanonicalXML11AlgorithmId)}
	type way struct {
		name, signature string
		scheme          demail.Scheme
	}
	ways := []way{{"without canonicalisation", template(canons[0], dsig.RSASHA256SignatureMethod, digests[0], "", ""), demail.RSA},
		{"by identifier", template(canons[0], dsig.ECDSASHA256SignatureMethod, digests[0], transform(canons[0]), "#a1"), demail.ECDSA},
		{"with a prefix list", template(canons[0], dsig.ECDSASHA256SignatureMethod, digests[0],
			`<Transform Algorithm="`+canons[0]+`"><InclusiveNamespaces xmlns="`+canons[0]+`" PrefixList="xs"/></Transform>`, ""), demail.ECDSA}}
	for i, method := range []string{dsig.RSASHA256SignatureMethod, dsig.RSASHA384SignatureMethod, dsig.RSASHA512SignatureMethod,
		dsig.ECDSASHA256SignatureMethod, dsig.ECDSASHA384SignatureMethod, dsig.ECDSASHA512SignatureMethod} {
		scheme := demail.RSA
		if i >= 3 {
			scheme = demail.ECDSA
		}
		canon := canons[i%3]
		ways = append(ways, way{method + " " + canon, template(canon, method, digests[i%3], transform(canons[(i+1)%3]), ""), scheme})
	}
	for _, w := range ways {
		h, root := k.unsigned(t, demail.TypeReceipt)
		root.CreateAttr("xmlns:xs", "http://www.w3.org/2001/XMLSchema") // used nowhere
		if strings.Contains(w.signature, "#a1") {
			root.CreateAttr("ID", "a1")
		}
		xml := signElsewhere(t, k.pki, demail.Algorithm{Hash: crypto.SHA256, Scheme: w.scheme}, root, w.signature)
		sh, body := wrap(h, xml)
		if c, err := Parse(sh, bytes.NewReader(body), k.trust); err != nil || !c.Signed || c.PrivateID != "az-1" {
			t.Errorf("%s: %v", w.name, err)
		}
		sh, body = wrap(h, bytes.Replace(xml, []byte(">az-1<"), []byte(">az-2<"), 1))
		if _, err := Parse(sh, bytes.NewReader(body), k.trust); err == nil {
			t.Errorf("%s: a changed document verifies", w.name)
		}
	}
}
