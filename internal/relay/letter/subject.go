package letter

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/encoding/charmap"
)

// maxSubject bounds a subject in which keywords are looked for.
const maxSubject = 4 << 10

// Why keywords cannot be looked for in a subject, or not be taken out. The
// message is refused then: passed on with the keyword in it, it would go out
// without the options that the keyword stands for.
var (
	errSubjectLong   = fmt.Errorf("is longer than %d characters", maxSubject)
	errSubjectCoding = errors.New("is in an encoding that is not known here; use UTF-8")
	errSubjectForm   = errors.New("would read differently without the keyword")
)

// strike looks for keywords in the text of a Subject field, folds included, and
// takes them out, also of encoded words (RFC 2047). It returns which ones are
// there, by their index, and the new text; without any the text is as it was.
//
// A keyword counts in any letter case, and where it is a word of its own: a
// letter or digit at its end has no letter or digit for a neighbour. Subjects in
// encoded words are written anew in UTF-8: what they say stays.
func strike(raw string, keywords []string) (text string, found []int, err error) {
	if len(keywords) == 0 || raw == "" {
		return raw, nil, nil
	}
	if len(raw) > maxSubject {
		return raw, nil, errSubjectLong
	}
	said, coded := decodeSubject(padded(strings.ReplaceAll(raw, "\r\n", "")))
	if coded != nil {
		said = bytesOf(said)
	}
	said = strings.ReplaceAll(said, "\t", " ") // old programs fold with it
	rest := said
	for i, k := range keywords {
		var hit bool
		if rest, hit = cutWord(rest, k); hit {
			found = append(found, i)
		}
	}
	switch {
	case len(found) == 0:
		return raw, nil, nil
	case coded != nil:
		return raw, nil, errSubjectCoding
	}
	if text = encodeSubject(rest); !sameSubject(text, rest) {
		return raw, nil, errSubjectForm
	}
	return text, found, nil
}

// decodeSubject gives what an unfolded subject says; with an unknown character
// set it gives an error and the subject as it was.
func decodeSubject(s string) (string, error) {
	if !strings.Contains(s, "=?") {
		return s, nil
	}
	text, err := (&mime.WordDecoder{CharsetReader: charset}).DecodeHeader(s)
	if err != nil {
		return s, errSubjectCoding
	}
	return text, nil
}

var base64Word = regexp.MustCompile(`(?i)(=\?[^? ]+\?b\?)([a-z0-9+/]+)=*\?=`)

// padded puts right the padding of encoded words in base64, which readers do
// without: a keyword that the recipient sees is not to be missed here.
func padded(s string) string {
	if !strings.Contains(s, "=?") {
		return s
	}
	return base64Word.ReplaceAllStringFunc(s, func(word string) string {
		m := base64Word.FindStringSubmatch(word)
		return m[1] + m[2] + "==="[:(4-len(m[2])%4)%4] + "?="
	})
}

// bytesOf takes encoded words apart without knowing the character set: enough to
// see whether a keyword of ASCII letters is in there.
func bytesOf(s string) string {
	asIs := func(_ string, r io.Reader) (io.Reader, error) { return r, nil }
	text, err := (&mime.WordDecoder{CharsetReader: asIs}).DecodeHeader(s)
	if err != nil {
		return s
	}
	return text
}

// charset reads the character sets that German mail programs write besides
// UTF-8, US-ASCII and ISO-8859-1. A language behind the name (RFC 2231 §5) is
// passed over.
func charset(name string, r io.Reader) (io.Reader, error) {
	name, _, _ = strings.Cut(strings.ToLower(name), "*")
	switch name {
	case "utf-8", "us-ascii":
		return r, nil
	case "iso-8859-1", "windows-1252", "cp1252":
		return charmap.Windows1252.NewDecoder().Reader(r), nil
	case "iso-8859-15", "latin-9":
		return charmap.ISO8859_15.NewDecoder().Reader(r), nil
	case "iso-8859-2", "latin-2":
		return charmap.ISO8859_2.NewDecoder().Reader(r), nil
	}
	return nil, errSubjectCoding
}

// encodeSubject writes text as a field's value.
func encodeSubject(text string) string { return mime.QEncoding.Encode("utf-8", text) }

// sameSubject reports whether a reader of value sees text: what looks like an
// encoded word in a text of ASCII would be read as one.
func sameSubject(value, text string) bool {
	read, err := decodeSubject(value)
	return err == nil && read == text
}

// cutWord takes every occurrence of a word out of a text, with the white space
// that is left over.
func cutWord(text, word string) (rest string, found bool) {
	runes := utf8.RuneCountInString(word)
	if runes == 0 {
		return text, false
	}
	for at := 0; at < len(text); {
		end := skipRunes(text, at, runes)
		if end > 0 && strings.EqualFold(text[at:end], word) && alone(text, at, end) {
			text = join(text[:at], text[end:])
			found, at = true, 0
			continue
		}
		_, n := utf8.DecodeRuneInString(text[at:])
		at += n
	}
	return text, found
}

// skipRunes is the index that many runes behind at, 0 if there are fewer.
func skipRunes(s string, at, runes int) int {
	for ; runes > 0; runes-- {
		if at == len(s) {
			return 0
		}
		_, n := utf8.DecodeRuneInString(s[at:])
		at += n
	}
	return at
}

// alone reports whether text[at:end] is a word of its own.
func alone(text string, at, end int) bool {
	first, _ := utf8.DecodeRuneInString(text[at:])
	last, _ := utf8.DecodeLastRuneInString(text[:end])
	before, _ := utf8.DecodeLastRuneInString(text[:at])
	behind, _ := utf8.DecodeRuneInString(text[end:])
	return !(at > 0 && wordly(first) && wordly(before)) && !(end < len(text) && wordly(last) && wordly(behind))
}

func wordly(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }

// join puts two parts together with one space between them.
func join(a, b string) string {
	const white = " \t"
	a, b = strings.TrimRight(a, white), strings.TrimLeft(b, white)
	if a == "" || b == "" {
		return a + b
	}
	return a + " " + b
}
