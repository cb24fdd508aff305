package demail

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func signedSample(t testing.TB, s signer) *Header {
	t.Helper()
	h := sample(t)
	set(FieldAuthoritative, "yes")(h)
	if err := Seal(h, strings.NewReader(sampleBody), IntegrityOptions{Signer: s.key, Certificate: s.cert}); err != nil {
		t.Fatal(err)
	}
	return reread(t, h)
}

// edit changes the raw integrity field by text replacement.
func edit(old, new string) func(*Header) {
	return func(h *Header) {
		i := h.first(FieldIntegrity)
		raw := strings.Replace(string(h.fields[i].raw), old, new, 1)
		if raw == string(h.fields[i].raw) {
			panic("nothing to edit: " + old)
		}
		h.fields[i].raw = []byte(raw)
	}
}

func TestVerifyFailures(t *testing.T) {
	s := ecSigner(t)
	for name, c := range map[string]struct {
		change func(h *Header)
		want   error
	}{
		"untouched":            {func(*Header) {}, nil},
		"foreign field":        {set("x-mailer", "y"), nil},
		"actual-recipient":     {set(FieldActualRecipient, "to=x@y.example"), nil},
		"trace on top":         {func(h *Header) { _ = h.Prepend("Received", "by gate") }, nil},
		"doubled below":        {func(h *Header) { _ = h.Append("subject", "other") }, nil},
		"doubled above":        {func(h *Header) { _ = h.Prepend("subject", "other") }, ErrSignature},
		"second integrity":     {func(h *Header) { _ = h.Append(FieldIntegrity, "nonsense") }, nil},
		"integrity above":      {func(h *Header) { _ = h.Prepend(FieldIntegrity, "nonsense") }, ErrIntegrityField},
		"subject":              {set("subject", "Bescheid zum  Antrag"), ErrSignature},
		"option":               {set(FieldPrivate, "yes"), ErrSignature},
		"field gone":           {func(h *Header) { h.Remove(FieldAccountHolder) }, ErrSignature},
		"field added":          {set("reply-to", "x@y.example"), ErrSignature},
		"private-id added":     {set(FieldPrivateID, "1"), ErrIntegrityField},
		"field gone entirely":  {func(h *Header) { h.Remove(FieldIntegrity) }, ErrNoIntegrity},
		"certificate gone":     {func(h *Header) { h.Remove(FieldSignatureCertificate) }, ErrCertificate},
		"certificate rubbish":  {set(FieldSignatureCertificate, "!"), ErrCertificate},
		"certificate no X.509": {set(FieldSignatureCertificate, "AAAA"), ErrCertificate},
		"l= added":             {edit("; c=", "; l=3; c="), ErrSignature},
		"other hash":           {edit("a=sha256", "a=sha384"), ErrIntegrityField},
		"weak hash":            {edit("a=sha256", "a=sha1"), ErrIntegrityField},
		"old algorithm":        {edit("ec-dsa", "ed25519"), ErrIntegrityField},
		"other scheme":         {edit("ec-dsa", "rsa"), ErrSignature},
		"made unsigned":        {edit("/ec-dsa", ""), ErrHeaderHash},
		"relaxed":              {edit("c=simple/simple", "c=relaxed/simple"), ErrIntegrityField},
		"key from the DNS":     {edit("q=x-header/x-de-mail-signature-certificate", "q=dns/txt"), ErrIntegrityField},
		"version":              {edit("v=1", "v=2"), ErrIntegrityField},
		"tag twice":            {edit("v=1;", "v=1; v=1;"), ErrIntegrityField},
		"not a tag":            {edit("v=1;", "v=1; ;"), ErrIntegrityField},
		"From left out":        {edit("From:", "X-From:"), ErrIntegrityField},
		"Subject left out":     {edit("Subject:", "X-Subject:"), ErrIntegrityField},
		"name twice":           {edit("Subject:", "Subject:From:"), ErrIntegrityField},
		"empty name":           {edit("Subject:", "Subject::"), ErrIntegrityField},
		"body hash":            {edit("bh=", "bh=AAAA"), ErrIntegrityField},
		"no b":                 {edit("\r\n b=", "\r\n z="), ErrIntegrityField},
		"space inside b":       {edit("\r\n b=", "\r\n b= \r\n  "), nil},
		"space before b":       {edit("\r\n b=", "\r\n  b="), ErrSignature},
		"too long":             {edit("v=1;", "v=1; z="+strings.Repeat("x", maxIntegrity)+";"), ErrIntegrityField},
		"too many tags":        {edit("v=1;", "v=1; "+manyTags()), ErrIntegrityField},
	} {
		h := signedSample(t, s)
		c.change(h)
		res, err := VerifyIntegrity(h, strings.NewReader(sampleBody), s.verifyOptions())
		if !errors.Is(err, c.want) || (err == nil) != res.Signed {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// manyTags is as many tags as a field may have.
func manyTags() string {
	var b strings.Builder
	for i := range maxTags {
		fmt.Fprintf(&b, "z%d=;", i)
	}
	return b.String()
}

func TestVerifyBody(t *testing.T) {
	h := sealed(t)
	for body, want := range map[string]error{
		sampleBody:                                   nil,
		sampleBody + "\r\n\r\n":                      nil,
		strings.TrimRight(sampleBody, "\r\n"):        nil,
		sampleBody + ".":                             ErrBodyHash,
		strings.ReplaceAll(sampleBody, "\r\n", "\n"): ErrBodyHash,
		"": ErrBodyHash,
	} {
		if _, err := VerifyIntegrity(h, strings.NewReader(body), VerifyOptions{}); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", body, err, want)
		}
	}
	if _, err := VerifyIntegrity(h, iotest.ErrReader(io.ErrClosedPipe), VerifyOptions{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("read error: %v", err)
	}
	if _, err := VerifyIntegrity(h, nil, VerifyOptions{}); !errors.Is(err, ErrBodyHash) {
		t.Errorf("nil body: %v", err)
	}
}

// TestBodyLengthIsIgnored: l= must not shorten what is hashed (TR-01201-3.4 §3.1.21).
func TestBodyLengthIsIgnored(t *testing.T) {
	for body, want := range map[string]error{sampleBody: nil, sampleBody[:3]: ErrBodyHash, sampleBody + "x": ErrBodyHash} {
		h := sample(t)
		if err := Seal(h, strings.NewReader(sampleBody), IntegrityOptions{}); err != nil {
			t.Fatal(err)
		}
		edit("; c=", "; l=3; c=")(h)
		in, err := findIntegrity(h)
		if err != nil {
			t.Fatal(err)
		}
		field := string(in.raw[:in.bFrom]) + base64.StdEncoding.EncodeToString(in.headerHash(h)) + "\r\n"
		h.fields[h.first(FieldIntegrity)].raw = []byte(field)
		if _, err := VerifyIntegrity(h, strings.NewReader(body), VerifyOptions{}); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", body, err, want)
		}
	}
}

func TestVerifyUnsigned(t *testing.T) {
	h := sealed(t)
	res, err := VerifyIntegrity(h, strings.NewReader(sampleBody), VerifyOptions{})
	if err != nil || res.Signed || res.Certificate != nil || !bytes.Equal(res.BodyHash, bodySum(t, sampleBody)) {
		t.Errorf("%+v, %v", res, err)
	}
	set("date", "Mon, 2 Nov 2026 09:00:01 +0100")(h)
	if _, err := VerifyIntegrity(h, strings.NewReader(sampleBody), VerifyOptions{}); !errors.Is(err, ErrHeaderHash) {
		t.Errorf("changed: %v", err)
	}
	h = sample(t)
	set(FieldAuthoritative, "yes")(h)
	if err := Seal(h, nil, IntegrityOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyIntegrity(h, nil, VerifyOptions{}); !errors.Is(err, ErrUnsigned) {
		t.Errorf("confirmed sender without a signature: %v", err)
	}
}

// TestVerifyReadsBodyToItsEnd: the body goes through a TeeReader into the queue,
// so it must arrive there whatever the verdict is.
func TestVerifyReadsBodyToItsEnd(t *testing.T) {
	for name, h := range map[string]*Header{"good": sealed(t), "no field": sample(t)} {
		var stored bytes.Buffer
		_, _ = VerifyIntegrity(h, io.TeeReader(strings.NewReader(sampleBody), &stored), VerifyOptions{})
		if stored.String() != sampleBody {
			t.Errorf("%s: stored %q", name, stored.String())
		}
	}
}

func TestVerifyCertificate(t *testing.T) {
	s, stranger := ecSigner(t), ecSigner(t)
	revoked := errors.New("revoked")
	for name, c := range map[string]struct {
		change func(o *VerifyOptions)
		want   error
	}{
		"valid":           {func(*VerifyOptions) {}, nil},
		"stranger's root": {func(o *VerifyOptions) { o.Roots = stranger.roots }, ErrCertificate},
		"no roots":        {func(o *VerifyOptions) { o.Roots = nil }, ErrCertificate},
		"too early":       {func(o *VerifyOptions) { o.Time = o.Time.Add(-2 * time.Hour) }, ErrCertificate},
		"expired":         {func(o *VerifyOptions) { o.Time = o.Time.Add(2 * time.Hour) }, ErrCertificate},
		"no revocation":   {func(o *VerifyOptions) { o.Revocation = nil }, ErrCertificate},
		"revoked": {func(o *VerifyOptions) {
			o.Revocation = func(c, issuer *x509.Certificate) error {
				if c.SerialNumber.Int64() != 2 || issuer.SerialNumber.Int64() != 1 {
					t.Error("asked for the wrong certificate")
				}
				return revoked
			}
		}, revoked},
	} {
		o := s.verifyOptions()
		c.change(&o)
		res, err := VerifyIntegrity(signedSample(t, s), strings.NewReader(sampleBody), o)
		if !errors.Is(err, c.want) || c.want != nil && !errors.Is(err, ErrCertificate) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if err == nil && len(res.Chain) != 2 {
			t.Errorf("%s: chain of %d", name, len(res.Chain))
		}
	}
	// A stranger signs and puts his own certificate in: good signature, no trust.
	if _, err := VerifyIntegrity(signedSample(t, stranger), strings.NewReader(sampleBody), s.verifyOptions()); !errors.Is(err, ErrCertificate) {
		t.Errorf("stranger: %v", err)
	}
	// His signature under the right certificate.
	h := signedSample(t, stranger)
	set(FieldSignatureCertificate, FormatCertificate(s.cert))(h)
	if _, err := VerifyIntegrity(h, strings.NewReader(sampleBody), s.verifyOptions()); !errors.Is(err, ErrSignature) {
		t.Errorf("stranger's signature: %v", err)
	}
}

func TestWeakKeys(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{small, p224} {
		s := newSigner(t, key)
		if _, err := VerifyIntegrity(signedSample(t, s), strings.NewReader(sampleBody), s.verifyOptions()); !errors.Is(err, ErrSignature) {
			t.Errorf("%T: %v", key, err)
		}
	}
}

func TestComputeRefuses(t *testing.T) {
	s, other := ecSigner(t), rsaSigner(t)
	for name, o := range map[string]IntegrityOptions{
		"weak hash":         {Hash: crypto.SHA1},
		"no certificate":    {Signer: s.key},
		"wrong certificate": {Signer: s.key, Certificate: other.cert},
		"wrong for RSA":     {Signer: other.key, Certificate: s.cert},
	} {
		h := sample(t)
		before := text(t, h)
		if err := Seal(h, nil, o); err == nil || text(t, h) != before {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Seal(sample(t), iotest.ErrReader(io.ErrClosedPipe), IntegrityOptions{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("read error: %v", err)
	}
}

func TestSealAgain(t *testing.T) {
	h := signedSample(t, ecSigner(t))
	set(FieldAuthoritative, "no")(h)
	if err := Seal(h, nil, IntegrityOptions{}); err != nil {
		t.Fatal(err)
	}
	if h.Has(FieldSignatureCertificate) || len(h.Values(FieldIntegrity)) != 1 {
		t.Error("the old proof is left over")
	}
	if _, err := VerifyIntegrity(h, nil, VerifyOptions{}); err != nil {
		t.Error(err)
	}
}

func TestSealedLinesAreShort(t *testing.T) {
	h := signedSample(t, rsaSigner(t))
	for _, l := range strings.Split(text(t, h), "\r\n") {
		if len(l) > foldAt {
			t.Errorf("line of %d: %.60s", len(l), l)
		}
	}
}

// FuzzIntegrityField: whatever stands in the field, the verdict is an error of a
// known kind, or both hashes really match.
func FuzzIntegrityField(f *testing.F) {
	h := sealed(f)
	f.Add(string(h.fields[h.first(FieldIntegrity)].raw[len(FieldIntegrity)+1:]))
	s := ecSigner(f)
	h = signedSample(f, s)
	f.Add(string(h.fields[h.first(FieldIntegrity)].raw[len(FieldIntegrity)+1:]))
	f.Add(" v=1; a=sha256; h=From; bh=; b=;")
	f.Add("b=;b =;=;\r\n ;")
	f.Fuzz(func(t *testing.T, value string) {
		h, _, err := readHeader("From: a@b.example\r\nx-de-mail-integrity:" + value + "\r\n\r\n")
		if err != nil || len(h.fields) != 2 {
			return
		}
		_ = checkIntegrityField(h.Get(FieldIntegrity))
		res, err := VerifyIntegrity(h, nil, s.verifyOptions())
		if err == nil {
			if res.Signed {
				t.Fatalf("%q was believed to be signed", value)
			}
			return
		}
		for _, known := range []error{ErrIntegrityField, ErrBodyHash, ErrHeaderHash, ErrSignature, ErrCertificate} {
			if errors.Is(err, known) {
				return
			}
		}
		t.Fatalf("%q: %v", value, err)
	})
}
