package confirmation

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/beevik/etree"
)

// Bounds of the XML.
const (
	maxXML      = 1 << 20 // bytes; some 20 KiB are usual, and thousands of recipients fit
	maxElements = 900     // goxmldsig gives up over 1000 steps
	maxDepth    = 12
	maxAttrs    = 16 // of one element, with namespace declarations
)

// document reads XML into a tree after scan has found nothing in it that two
// readers could understand in two ways. Comments are dropped at once, as
// canonicalisation without comments (the only one that counts here) does: no text
// can be cut in two by one.
func document(data []byte) (*etree.Element, error) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if err := scan(data); err != nil {
		return nil, fmt.Errorf("%w: XML: %w", ErrMalformed, err)
	}
	doc := etree.NewDocument()
	doc.ReadSettings.MaxDepth = maxDepth + 1
	if err := doc.ReadFromBytes(data); err != nil || doc.Root() == nil {
		return nil, fmt.Errorf("%w: XML: cannot be read", ErrMalformed)
	}
	root := doc.Root().Copy() // a tree of its own, without what stands around it
	dropComments(root)
	return root, nil
}

// scan checks the bytes: UTF-8; one root element; no document type and so no
// entities, no processing instructions, nothing beyond the bounds.
func scan(data []byte) error {
	if !utf8.Valid(data) {
		return errors.New("not UTF-8")
	}
	s := &scanner{}
	dec := xml.NewDecoder(bytes.NewReader(data)) // without CharsetReader: no other encoding is taken
	for first := true; ; first = false {
		t, err := dec.RawToken()
		if err == io.EOF {
			break
		}
		if err != nil {
			return errors.New("not well-formed")
		}
		if err := s.token(t, first); err != nil {
			return err
		}
	}
	if len(s.open) > 0 || s.elements == 0 {
		return errors.New("not well-formed")
	}
	return nil
}

// scanner is where scan is.
type scanner struct {
	open     []xml.Name
	elements int
}

func (s *scanner) token(t xml.Token, first bool) error {
	switch t := t.(type) {
	case xml.StartElement:
		return s.start(t)
	case xml.EndElement:
		if len(s.open) == 0 || s.open[len(s.open)-1] != t.Name {
			return errors.New("not well-formed")
		}
		s.open = s.open[:len(s.open)-1]
	case xml.CharData:
		if len(s.open) == 0 && len(bytes.TrimSpace(t)) > 0 {
			return errors.New("text outside the root element")
		}
	case xml.ProcInst:
		if !first || t.Target != "xml" {
			return errors.New("holds a processing instruction")
		}
	case xml.Directive:
		return errors.New("holds a document type")
	}
	return nil
}

func (s *scanner) start(t xml.StartElement) error {
	if len(s.open) == 0 && s.elements > 0 {
		return errors.New("more than one root element")
	}
	if s.elements++; s.elements > maxElements {
		return fmt.Errorf("more than %d elements", maxElements)
	}
	if s.open = append(s.open, t.Name); len(s.open) > maxDepth {
		return fmt.Errorf("more than %d elements within each other", maxDepth)
	}
	if len(t.Attr) > maxAttrs {
		return fmt.Errorf("more than %d attributes", maxAttrs)
	}
	for i, a := range t.Attr {
		for _, b := range t.Attr[:i] {
			if a.Name == b.Name {
				return errors.New("an attribute occurs twice")
			}
		}
	}
	return nil
}

func dropComments(el *etree.Element) {
	for i := len(el.Child) - 1; i >= 0; i-- {
		switch c := el.Child[i].(type) {
		case *etree.Comment:
			el.RemoveChildAt(i)
		case *etree.Element:
			dropComments(c)
		}
	}
}
