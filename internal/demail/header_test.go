package demail

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func readHeader(s string) (*Header, string, error) {
	r := bufio.NewReaderSize(strings.NewReader(s), 16)
	h, err := ReadHeader(r, 0)
	rest, _ := io.ReadAll(r)
	return h, string(rest), err
}

func text(t testing.TB, h *Header) string {
	t.Helper()
	var b bytes.Buffer
	n, err := h.WriteTo(&b)
	if err != nil || int(n) != b.Len() || h.Size() != b.Len() {
		t.Fatalf("wrote %d of %d, size %d: %v", n, b.Len(), h.Size(), err)
	}
	return b.String()
}

func TestReadHeaderKeepsBytes(t *testing.T) {
	const odd = "rEceived:x\r\n \t \r\n\ty\r\nSubject : a\r\nX-Empty:\r\nX-8bit: \xff\xe4\r\nSUBJECT:b\r\n\r\n"
	h, rest, err := readHeader(odd + "body\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	if got := text(t, h); got != odd || rest != "body\r\n\r\n" {
		t.Errorf("got %q and %q", got, rest)
	}
	if got := h.Get("received"); got != "x \t \ty" {
		t.Errorf("Received unfolded is %q", got)
	}
	if h.Get("SUBJECT") != "a" || len(h.Values("subject")) != 2 || h.Has("nothing") || h.Get("nothing") != "" {
		t.Error("the first field from the top does not count")
	}
}

func TestReadHeaderWithoutBody(t *testing.T) {
	for _, s := range []string{"", "A: b\r\n", "A: b\r\n c\r\n", "\r\n"} {
		h, rest, err := readHeader(s)
		if err != nil || text(t, h) != s || rest != "" {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestReadHeaderRefuses(t *testing.T) {
	long := strings.Repeat("x", MaxHeader)
	for name, c := range map[string]struct {
		in   string
		want error
	}{
		"bare LF":              {"A: b\nC: d\r\n\r\n", ErrHeaderMalformed},
		"LF ends header":       {"A: b\r\n\n", ErrHeaderMalformed},
		"bare CR":              {"A: b\rC: d\r\n\r\n", ErrHeaderMalformed},
		"two CR":               {"A: b\r\r\n\r\n", ErrHeaderMalformed},
		"NUL":                  {"A: \x00\r\n\r\n", ErrHeaderMalformed},
		"no colon":             {"A b\r\n\r\n", ErrHeaderMalformed},
		"mbox line":            {"From a@b Mon\r\n\r\n", ErrHeaderMalformed},
		"no name":              {": b\r\n\r\n", ErrHeaderMalformed},
		"space in name":        {"A b: c\r\n\r\n", ErrHeaderMalformed},
		"only space":           {" : c\r\n\r\n", ErrHeaderMalformed},
		"8-bit name":           {"\xe4: c\r\n\r\n", ErrHeaderMalformed},
		"continuation first":   {" a\r\n\r\n", ErrHeaderMalformed},
		"torn line":            {"A: b\r\nC: d", ErrHeaderMalformed},
		"torn at CR":           {"A: b\r", ErrHeaderMalformed},
		"too long":             {"A: " + long + "\r\n\r\n", ErrHeaderTooLarge},
		"too long in sum":      {strings.Repeat("A: "+long[:1000]+"\r\n", 1100), ErrHeaderTooLarge},
		"too long, no end":     {long + long, ErrHeaderTooLarge},
		"too many fields":      {strings.Repeat("A:\r\n", MaxFields+1) + "\r\n", ErrHeaderTooLarge},
		"many continuations":   {"A:\r\n" + strings.Repeat(" b\r\n", MaxHeader/4), ErrHeaderTooLarge},
		"reader's own failure": {"A: b\r\n", io.ErrClosedPipe},
	} {
		var r io.Reader = strings.NewReader(c.in)
		if c.want == io.ErrClosedPipe {
			r = io.MultiReader(r, failingReader{})
		}
		if _, err := ReadHeader(bufio.NewReader(r), 0); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestReadHeaderLimit(t *testing.T) {
	const s = "A: b\r\n\r\n"
	if _, err := ReadHeader(bufio.NewReader(strings.NewReader(s)), len(s)); err != nil {
		t.Errorf("exactly the limit: %v", err)
	}
	if _, err := ReadHeader(bufio.NewReader(strings.NewReader(s)), len(s)-1); !errors.Is(err, ErrHeaderTooLarge) {
		t.Errorf("one byte over the limit: %v", err)
	}
}

func TestRewrite(t *testing.T) {
	h, _, err := readHeader("A:1\r\nb : 2\r\nA :3\r\nC:\r\n 4\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	copied := h.Clone()
	if err := h.Replace("a", "new"); err != nil {
		t.Fatal(err)
	}
	if err := h.Prepend("Received", "from here"); err != nil {
		t.Fatal(err)
	}
	if err := h.Append("z", ""); err != nil {
		t.Fatal(err)
	}
	if n := h.Remove("B", "nothing"); n != 1 {
		t.Errorf("removed %d", n)
	}
	if err := h.Replace("y", "1"); err != nil {
		t.Fatal(err)
	}
	const want = "Received: from here\r\na: new\r\nC:\r\n 4\r\nz: \r\ny: 1\r\n\r\n"
	if got := text(t, h); got != want {
		t.Errorf("got %q", got)
	}
	if got := text(t, copied); got != "A:1\r\nb : 2\r\nA :3\r\nC:\r\n 4\r\n\r\n" {
		t.Errorf("the copy changed: %q", got)
	}
}

func TestNoInjection(t *testing.T) {
	for _, v := range []string{
		"a\r\nX: b", "a\nb", "a\rb", "a\x00", "a\r\n", "a\r\n ", "a\r\n \t\r\n b", "\x1b[0m", "a\x7f",
		strings.Repeat("x", 1000), "a\r\n " + strings.Repeat("x", 998), "a\r\n\r\n b",
	} {
		h := NewHeader()
		for _, err := range []error{h.Prepend("a", v), h.Append("a", v), h.Replace("a", v)} {
			if !errors.Is(err, ErrFieldValue) {
				t.Errorf("%.20q: %v", v, err)
			}
		}
		if len(h.Fields()) != 0 {
			t.Errorf("%.20q was written", v)
		}
	}
	for _, name := range []string{"", "a b", "a:", "a\r\nb", "ä"} {
		if err := NewHeader().Append(name, "v"); !errors.Is(err, ErrFieldValue) {
			t.Errorf("name %q: %v", name, err)
		}
	}
}

func TestFold(t *testing.T) {
	words := strings.TrimSpace(strings.Repeat("abcdefghi ", 30))
	for _, v := range []string{
		words, "short", "", strings.Repeat("x", 900), strings.Repeat("x", 900) + " tail", "\ttab " + words,
		words + strings.Repeat(" ", 200), strings.Repeat(" ", 200) + words, "a" + strings.Repeat(" ", 200) + "b",
		"Grüße " + words, "has\r\n a fold of its own",
	} {
		h := NewHeader()
		if err := h.Append("subject", v); err != nil {
			t.Errorf("%.30q: %v", v, err)
			continue
		}
		for i, l := range strings.Split(strings.TrimSuffix(text(t, h), "\r\n\r\n"), "\r\n") {
			if i > 0 && strings.Trim(l, " \t") == "" || len(l) > maxLine {
				t.Errorf("%.30q: bad line %q", v, l)
			}
		}
		want := strings.Trim(strings.ReplaceAll(v, "\r\n", ""), " \t")
		if got := reread(t, h).Get("subject"); got != want {
			t.Errorf("%.30q became %q", v, got)
		}
	}
	h := NewHeader()
	if err := h.Append("subject", words); err != nil {
		t.Fatal(err)
	}
	for _, l := range strings.Split(text(t, h), "\r\n") {
		if len(l) > foldAt {
			t.Errorf("line of %d", len(l))
		}
	}
}

func FuzzReadHeader(f *testing.F) {
	for _, s := range []string{
		sampleHeader + sampleBody, "", "\r\n", "A: b\r\n", "A : b\r\n\tc\r\n\r\nx", "A:b\n\n", "A:b\r\r\n", ": \r\n", " a\r\n",
	} {
		f.Add(s, "x-new", "a value")
	}
	f.Add("A: b\r\n\r\n", "a", "folded\r\n here")
	f.Fuzz(func(t *testing.T, s, name, value string) {
		h, rest, err := readHeader(s)
		if err != nil {
			if !errors.Is(err, ErrHeaderMalformed) && !errors.Is(err, ErrHeaderTooLarge) {
				t.Fatal(err)
			}
			return
		}
		before := text(t, h)
		if before+rest != s {
			t.Fatalf("%q became %q and %q", s, before, rest)
		}
		if err := h.Prepend(name, value); err != nil {
			if text(t, h) != before {
				t.Fatal("a refused field was written")
			}
			return
		}
		after := text(t, h)
		if !strings.HasSuffix(after, before) {
			t.Fatalf("old fields changed: %q", after)
		}
		again, tail, err := readHeader(after)
		if err != nil || tail != "" && !h.noEnd || len(again.fields) != len(h.fields) {
			t.Fatalf("%q cannot be read again: %v", after, err)
		}
		want := strings.Trim(strings.ReplaceAll(value, "\r\n", ""), " \t")
		if got := again.Get(name); got != want {
			t.Fatalf("value %q became %q", want, got)
		}
	})
}

// Set changes nothing but the text.
func TestSet(t *testing.T) {
	for _, test := range []struct{ in, text, want string }{
		{"From: a\r\n", "b", "From: b\r\n"},
		{"FROM :\r\n\t a \t\r\n", "b", "FROM:\r\n\t b \t\r\n"},
		{"from:a\r\n", "b c,\r\n d", "from:b c,\r\n d\r\n"},
		{"from: a\r\n", strings.Repeat("x y ", 50), "from: " + strings.Repeat("x y ", 50) + "\r\n"},
		{"from: a\r\n", "b\r\nBcc: c", ""},
		{"from: a\r\n", "b\nc", ""},
		{"from: a\r\n", strings.Repeat("x", 998), ""},
	} {
		h, _, err := readHeader(test.in + "To: z\r\n\r\n")
		if err != nil {
			t.Fatal(err)
		}
		before := text(t, h)
		err = h.Set(0, test.text)
		switch got := text(t, h); {
		case test.want == "" && (!errors.Is(err, ErrFieldValue) || got != before):
			t.Errorf("%q to %.40q: %v, %q", test.in, test.text, err, got)
		case test.want != "" && (err != nil || got != test.want+"To: z\r\n\r\n"):
			t.Errorf("%q to %.40q: %v, %q", test.in, test.text, err, got)
		case test.want != "" && h.Get("from") != strings.TrimSpace(strings.ReplaceAll(test.text, "\r\n", "")):
			t.Errorf("%q to %.40q reads %q", test.in, test.text, h.Get("from"))
		}
	}
}
