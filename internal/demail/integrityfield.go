package demail

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strconv"
	"strings"
)

// Bounds of the integrity field.
const (
	maxIntegrity = 32 << 10 // bytes of the whole field
	maxTags      = 32
	maxSignedNum = 128 // names in h=
	maxBlob      = 4 << 10
)

const (
	keyQuery = "x-header/" + FieldSignatureCertificate
	canon    = "simple/simple"
)

// IntegrityFields are the names that h= holds, in the order and spelling of
// TR-01201-3.4 §3.1.21. The slice belongs to the caller.
func IntegrityFields() []string {
	return []string{
		"From", "Date", "Message-ID", "Subject", "Reply-To",
		"X-de-mail-confirmation-of-dispatch",
		"X-de-mail-confirmation-of-receipt",
		"X-de-mail-confirmation-of-retrieve",
		"X-de-mail-authoritative",
		"X-de-mail-private",
		"X-de-mail-sender",
		"X-de-mail-chosen-recipient",
		"X-de-mail-auth-mechanism",
		"X-de-mail-auth-level",
		"X-de-mail-originator-provider",
		"X-de-mail-message-type",
		"X-de-mail-version",
		"X-de-mail-private-id",
		"X-de-mail-message-id",
		"X-de-mail-account-holder",
	}
}

// integrity is a parsed x-de-mail-integrity field.
type integrity struct {
	alg    Algorithm
	fields []string // h=
	bh, b  []byte
	raw    []byte // the field without its last CRLF
	bFrom  int    // where in raw the value of b= begins and ends,
	bTo    int    // with the white space around it
}

// tag is one tag=value with the place of its value in the field.
type tag struct {
	value    string // white space removed at both ends
	from, to int
}

// parseIntegrity reads the tag list of RFC 6376 §3.2 with the values that
// TR-01201-3.4 §3.1.21 allows. l=, d=, s=, t= and unknown tags are ignored.
func parseIntegrity(f Field) (*integrity, error) {
	if len(f.raw) > maxIntegrity {
		return nil, fmt.Errorf("over %d bytes", maxIntegrity)
	}
	raw := bytes.TrimSuffix(f.raw, crlf)
	tags, err := parseTags(raw, f.value)
	if err != nil {
		return nil, err
	}
	if v := tags["v"].value; v != "1" {
		return nil, errors.New("v= is not 1")
	}
	if c, ok := tags["c"]; ok && c.value != canon {
		return nil, errors.New("c= is not " + canon)
	}
	in := &integrity{raw: raw}
	if in.alg, err = ParseAlgorithm(tags["a"].value); err != nil {
		return nil, err
	}
	if q := tags["q"].value; in.alg.Scheme != Unsigned && q != keyQuery {
		return nil, errors.New("q= is not " + keyQuery)
	}
	if in.fields, err = parseNames(tags["h"].value); err != nil {
		return nil, err
	}
	if in.bh, err = decodeBlob(tags["bh"].value); err != nil || len(in.bh) != in.alg.Hash.Size() {
		return nil, errors.New("bh= is no hash of that algorithm")
	}
	b := tags["b"]
	if in.b, err = decodeBlob(b.value); err != nil || len(in.b) == 0 {
		return nil, errors.New("b= is missing or not base64")
	}
	in.bFrom, in.bTo = b.from, b.to
	return in, nil
}

// parseTags splits raw from index from on; a tag that occurs twice is an error
// (RFC 6376 §3.2).
func parseTags(raw []byte, from int) (map[string]tag, error) {
	tags := map[string]tag{}
	for from <= len(raw) {
		to := len(raw)
		if i := bytes.IndexByte(raw[from:], ';'); i >= 0 {
			to = from + i
		}
		part := string(raw[from:to])
		name, value, ok := strings.Cut(part, "=")
		switch key := strings.Trim(name, fws); {
		case !ok && key == "" && to == len(raw): // a semicolon may end the list
		case !ok || key == "":
			return nil, errors.New("not a list of tags")
		case len(tags) >= maxTags:
			return nil, fmt.Errorf("more than %d tags", maxTags)
		default:
			if _, twice := tags[key]; twice {
				return nil, errors.New("a tag occurs twice")
			}
			tags[key] = tag{strings.Trim(value, fws), from + len(name) + 1, to}
		}
		from = to + 1
	}
	return tags, nil
}

// parseNames reads h=; each name once, From among them (RFC 6376 §5.4).
func parseNames(s string) ([]string, error) {
	var names []string
	for part := range strings.SplitSeq(s, ":") {
		name := lowerASCII(strings.Trim(part, fws))
		if !validName([]byte(name)) {
			return nil, errors.New("h= holds something that is no field name")
		}
		if slices.Contains(names, name) {
			return nil, errors.New("h= names a field twice")
		}
		if names = append(names, name); len(names) > maxSignedNum {
			return nil, fmt.Errorf("h= names more than %d fields", maxSignedNum)
		}
	}
	if !slices.Contains(names, "from") {
		return nil, errors.New("h= leaves From out")
	}
	return names, nil
}

// covers reports the first field of §3.1.21 that h carries and h= leaves out.
func (in *integrity) covers(h *Header) error {
	for _, name := range IntegrityFields() {
		if h.Has(name) && !slices.Contains(in.fields, lowerASCII(name)) {
			return errors.New("h= leaves " + lowerASCII(name) + " out")
		}
	}
	return nil
}

// headerHash hashes the fields that h= names, each the first from the top, and
// the integrity field itself with an empty b= and without its last CRLF (RFC 6376
// §3.7 with the order of TR-01201-3.4 §3.1.21).
func (in *integrity) headerHash(h *Header) []byte {
	sum := in.alg.Hash.New()
	in.writeSigned(sum, h)
	return sum.Sum(nil)
}

// writeSigned writes the exact bytes that are hashed or signed.
func (in *integrity) writeSigned(w hash.Hash, h *Header) {
	for _, name := range in.fields {
		if i := h.first(name); i >= 0 {
			w.Write(h.fields[i].raw)
		}
	}
	w.Write(in.raw[:in.bFrom])
	w.Write(in.raw[in.bTo:])
}

// decodeBlob reads base64 with white space anywhere in it.
func decodeBlob(s string) ([]byte, error) {
	if len(s) > maxBlob {
		return nil, errors.New("too long")
	}
	return base64.StdEncoding.DecodeString(dropSpace(s))
}

// dropSpace removes folding white space.
func dropSpace(s string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(fws, r) {
			return -1
		}
		return r
	}, s)
}

// formatIntegrity writes the value up to and with "b=".
func formatIntegrity(alg Algorithm, opt IntegrityOptions, h *Header, bodyHash []byte) string {
	var b strings.Builder
	b.WriteString("v=1; a=" + alg.String() + "; c=" + canon + ";")
	if opt.Domain != "" {
		b.WriteString("\r\n d=" + opt.Domain + "; s=" + opt.Selector + ";")
	}
	if alg.Scheme != Unsigned {
		b.WriteString("\r\n q=" + keyQuery + ";")
	}
	if !opt.Time.IsZero() {
		b.WriteString("\r\n t=" + strconv.FormatInt(opt.Time.Unix(), 10) + ";")
	}
	names := IntegrityFields()
	if !h.Has(FieldPrivateID) {
		names = slices.DeleteFunc(names, func(n string) bool { return strings.EqualFold(n, FieldPrivateID) })
	}
	b.WriteString("\r\n h=" + strings.Join(names, ":\r\n  ") + ";")
	b.WriteString("\r\n bh=" + foldBlob(base64.StdEncoding.EncodeToString(bodyHash), len(" bh=")) + ";")
	b.WriteString("\r\n b=")
	return b.String()
}
