package confirmation

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/textproto"
	"strings"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
)

// Bounds of the body.
const (
	MaxBody        = 16 << 20 // bytes; a confirmation is one page of XML and one of PDF
	maxParts       = 16       // of all multiparts together
	maxMultiparts  = 3        // within each other
	maxContentType = 4 << 10
)

// finder looks for the one XML part.
type finder struct {
	parts int
	xml   []byte
}

// findXML gives the XML part of a multipart body (TR-01201-3.4 §3.4.1).
func findXML(h *demail.Header, body io.Reader) ([]byte, error) {
	kind, params, err := mediaType(h.Get("content-type"))
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(kind, "multipart/") {
		return nil, fmt.Errorf("%w: the body is not multipart", ErrMalformed)
	}
	if body == nil {
		body = strings.NewReader("")
	}
	limited := &limitedReader{r: body, left: MaxBody}
	f := &finder{}
	err = f.walk(limited, params["boundary"], 1)
	switch {
	case limited.err != nil: // mime/multipart may have put words around it
		return nil, limited.err
	case err != nil:
		return nil, err
	case f.xml == nil:
		return nil, fmt.Errorf("%w: the body holds no XML", ErrMalformed)
	}
	return f.xml, nil
}

// walk goes through the parts of one multipart.
func (f *finder) walk(r io.Reader, boundary string, depth int) error {
	if boundary == "" {
		return fmt.Errorf("%w: multipart without boundary", ErrMalformed)
	}
	if depth > maxMultiparts {
		return fmt.Errorf("%w: more than %d multiparts within each other", ErrMalformed, maxMultiparts)
	}
	parts := multipart.NewReader(r, boundary)
	for {
		p, err := parts.NextPart() // undoes quoted-printable
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: broken multipart", ErrMalformed)
		}
		if f.parts++; f.parts > maxParts {
			return fmt.Errorf("%w: more than %d parts", ErrMalformed, maxParts)
		}
		if err := f.part(p, depth); err != nil {
			return err
		}
	}
}

// part takes the XML, looks into a multipart and passes over everything else.
func (f *finder) part(p *multipart.Part, depth int) error {
	kind, params, err := mediaType(p.Header.Get("Content-Type"))
	switch {
	case err != nil:
		return nil // what it is cannot be known, so it is not the XML
	case strings.HasPrefix(kind, "multipart/"):
		return f.walk(p, params["boundary"], depth+1)
	case !isXML(kind, p.FileName()):
		return nil
	case f.xml != nil:
		return fmt.Errorf("%w: more than one XML part", ErrMalformed)
	}
	r, err := decoded(p, p.Header)
	if err != nil {
		return err
	}
	data, err := io.ReadAll(io.LimitReader(r, maxXML+1))
	switch {
	case err != nil:
		return fmt.Errorf("%w: the XML part cannot be decoded", ErrMalformed)
	case len(data) > maxXML:
		return fmt.Errorf("%w: XML over %d bytes", ErrMalformed, maxXML)
	}
	f.xml = data
	return nil
}

func mediaType(v string) (kind string, params map[string]string, err error) {
	if len(v) > maxContentType {
		return "", nil, fmt.Errorf("%w: content-type over %d bytes", ErrMalformed, maxContentType)
	}
	kind, params, err = mime.ParseMediaType(v)
	if err != nil {
		return "", nil, fmt.Errorf("%w: bad content-type", ErrMalformed)
	}
	return kind, params, nil
}

// isXML knows XML by its type (RFC 7303), or by its name if the type says nothing.
func isXML(kind, name string) bool {
	switch {
	case kind == "application/xml", kind == "text/xml", strings.HasSuffix(kind, "+xml"):
		return true
	case kind == "application/octet-stream":
		return strings.HasSuffix(strings.ToLower(name), ".xml")
	}
	return false
}

// decoded undoes the content-transfer-encoding; quoted-printable is undone already.
func decoded(r io.Reader, h textproto.MIMEHeader) (io.Reader, error) {
	switch strings.ToLower(strings.TrimSpace(h.Get("Content-Transfer-Encoding"))) {
	case "", "7bit", "8bit", "binary":
		return r, nil
	case "base64":
		return base64.NewDecoder(base64.StdEncoding, r), nil
	}
	return nil, fmt.Errorf("%w: unknown content-transfer-encoding", ErrMalformed)
}

// limitedReader gives at most left bytes and remembers why it failed, so that a
// fault of the source is told from a fault of the message.
type limitedReader struct {
	r    io.Reader
	left int64
	err  error
}

func (l *limitedReader) Read(p []byte) (int, error) {
	if l.left <= 0 {
		l.err = fmt.Errorf("%w: body over %d bytes", ErrMalformed, MaxBody)
		return 0, l.err
	}
	n, err := l.r.Read(p[:min(int64(len(p)), l.left)])
	l.left -= int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		l.err = err
	}
	return n, err
}
