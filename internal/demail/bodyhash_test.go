package demail

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// TestBodyHash has the two values for an empty body that RFC 6376 §3.4.3 gives,
// and others made from the canonical text.
func TestBodyHash(t *testing.T) {
	if got := base64.StdEncoding.EncodeToString(bodySum(t, "")); got != "frcCV1k9oG9oKj3dpUqdJg1PxRT2RSN/XKdLCPjaYaY=" {
		t.Errorf("empty body: %s", got)
	}
	for in, canonical := range map[string]string{
		"":                                "\r\n",
		"\r\n":                            "\r\n",
		"\r\n\r\n\r\n":                    "\r\n",
		"a":                               "a\r\n",
		"a\r\n":                           "a\r\n",
		"a\r\n\r\n":                       "a\r\n",
		"a\r\n\r\nb\r\n\r\n":              "a\r\n\r\nb\r\n",
		"a\r":                             "a\r\r\n",
		"a\r\n\r":                         "a\r\n\r\r\n",
		"a\n":                             "a\n\r\n",
		"a\r\r\n":                         "a\r\r\n",
		"a\r\n \r\n":                      "a\r\n \r\n",
		"\r":                              "\r\r\n",
		"\n":                              "\n\r\n",
		" ":                               " \r\n",
		strings.Repeat(crlfs, 3000):       "\r\n",
		strings.Repeat(crlfs, 3000) + "x": strings.Repeat(crlfs, 3000) + "x\r\n",
	} {
		want := sha256.Sum256([]byte(canonical))
		if !bytes.Equal(bodySum(t, in), want[:]) {
			t.Errorf("%.20q is hashed wrongly", in)
		}
		digest := NewBodyDigest(sha256.New())
		for line := range strings.SplitAfterSeq(in, "\n") {
			_, _ = digest.Write([]byte(line))
		}
		if !bytes.Equal(digest.Sum(), want[:]) {
			t.Errorf("%.20q line by line is hashed wrongly", in)
		}
		got, err := hashBody(sha256.New, iotest.OneByteReader(strings.NewReader(in)))
		if err != nil || !bytes.Equal(got, want[:]) {
			t.Errorf("%.20q byte by byte is hashed wrongly: %v", in, err)
		}
	}
	if _, err := hashBody(sha256.New, iotest.ErrReader(io.ErrClosedPipe)); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("read error: %v", err)
	}
}

const crlfs = "\r\n"

func bodySum(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hashBody(sha256.New, strings.NewReader(s))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FuzzBodyHash compares with the canonical text made by the letter of RFC 6376
// §3.4.3, for any division into chunks.
func FuzzBodyHash(f *testing.F) {
	f.Add("a\r\n\r\n", uint64(1))
	f.Add("\r\r\n\r\n\n\r", uint64(2))
	f.Fuzz(func(t *testing.T, s string, seed uint64) {
		canonical := s
		for strings.HasSuffix(canonical, crlfs) {
			canonical = strings.TrimSuffix(canonical, crlfs)
		}
		want := sha256.Sum256([]byte(canonical + crlfs))
		b := &bodyHasher{h: sha256.New()}
		rnd := rand.New(rand.NewPCG(seed, 0))
		for s != "" {
			n := 1 + rnd.IntN(min(len(s), 5))
			if _, err := b.Write([]byte(s[:n])); err != nil {
				t.Fatal(err)
			}
			s = s[n:]
		}
		if !bytes.Equal(b.sum(), want[:]) {
			t.Fatalf("wrong hash for %q", canonical)
		}
	})
}

// benchBody is 10 MiB of base64-like lines, as a large attachment is.
func benchBody() []byte {
	line := strings.Repeat("Z", 76) + "\r\n"
	return []byte(strings.Repeat(line, 10<<20/len(line)))
}

// BenchmarkBodyHash shows what streaming and canonicalisation cost on top of the
// bare hash of the same bytes: the metric times-sha256 is the ratio of the two,
// measured in turns.
func BenchmarkBodyHash(b *testing.B) {
	body := benchBody()
	var bare, simple time.Duration
	b.SetBytes(2 * int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		start := time.Now()
		sha256.Sum256(body)
		bare += time.Since(start)
		start = time.Now()
		if _, err := hashBody(sha256.New, bytes.NewReader(body)); err != nil {
			b.Fatal(err)
		}
		simple += time.Since(start)
	}
	b.ReportMetric(float64(simple)/float64(bare), "times-sha256")
}

// BenchmarkVerify is a whole check of a 10 MiB message, and of a small one.
func BenchmarkVerify(b *testing.B) {
	for name, body := range map[string][]byte{"10MiB": benchBody(), "10KiB": benchBody()[:10<<10]} {
		b.Run(name, func(b *testing.B) {
			h := sample(b)
			if err := Seal(h, bytes.NewReader(body), IntegrityOptions{}); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := VerifyIntegrity(h, bytes.NewReader(body), VerifyOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkReadHeader is the header work of one message.
func BenchmarkReadHeader(b *testing.B) {
	b.SetBytes(int64(len(sampleHeader)))
	b.ReportAllocs()
	for b.Loop() {
		h := sample(b)
		StripProviderFields(h)
	}
}
