package dmdatest

import (
	"bytes"
	"fmt"
	"strings"
)

// Layout of a page in points: A4, one typeface.
const (
	pdfColumns = 88 // characters in a line
	pdfRows    = 64 // lines on a page
	pdfPages   = 40 // at most; what goes beyond is cut off
)

// pdf writes lines of text as a PDF 1.4 (ISO 32000-1) in Courier, which every
// reader has. It is a hundred lines of our own and no library because those that are
// kept want a font file, and nothing but the simulator ever writes a PDF.
func pdf(lines []string) []byte {
	pages := paginate(lines)
	var w pdfWriter
	w.b.WriteString("%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
	w.object(1, "<< /Type /Catalog /Pages 2 0 R >>")
	var kids []string
	for i := range pages {
		kids = append(kids, fmt.Sprintf("%d 0 R", 4+2*i))
	}
	w.object(2, fmt.Sprintf("<< /Type /Pages /Kids [%s] /Count %d >>", strings.Join(kids, " "), len(pages)))
	w.object(3, "<< /Type /Font /Subtype /Type1 /BaseFont /Courier /Encoding /WinAnsiEncoding >>")
	for i, page := range pages {
		w.object(4+2*i, fmt.Sprintf("<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R /Resources << /Font << /F1 3 0 R >> >> >>", 5+2*i))
		text := "BT /F1 9.5 Tf 12 TL 50 800 Td\n"
		for _, l := range page {
			text += "(" + pdfText(l) + ") '\n"
		}
		text += "ET"
		w.object(5+2*i, fmt.Sprintf("<< /Length %d >>\nstream\n%s\nendstream", len(text), text))
	}
	return w.end()
}

// paginate breaks lines and makes pages; there is always one.
func paginate(lines []string) [][]string {
	var rows []string
	for _, l := range lines {
		r := []rune(l)
		for len(r) > pdfColumns {
			rows, r = append(rows, string(r[:pdfColumns])), r[pdfColumns:]
		}
		rows = append(rows, string(r))
	}
	var pages [][]string
	for len(rows) > pdfRows && len(pages) < pdfPages-1 {
		pages, rows = append(pages, rows[:pdfRows]), rows[pdfRows:]
	}
	return append(pages, rows[:min(len(rows), pdfRows)])
}

// pdfText is a literal string in Latin-1; what that lacks becomes a question mark.
func pdfText(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '(' || r == ')' || r == '\\':
			b.WriteByte('\\')
			b.WriteByte(byte(r))
		case r >= ' ' && r < 0x7f || r >= 0xa0 && r <= 0xff:
			b.WriteByte(byte(r))
		default:
			b.WriteByte('?')
		}
	}
	return b.String()
}

// pdfWriter notes where each object begins.
type pdfWriter struct {
	b       bytes.Buffer
	offsets []int
}

// object writes the next object; n counts from 1 without a gap.
func (w *pdfWriter) object(n int, content string) {
	w.offsets = append(w.offsets, w.b.Len())
	fmt.Fprintf(&w.b, "%d 0 obj\n%s\nendobj\n", n, content)
}

func (w *pdfWriter) end() []byte {
	start := w.b.Len()
	fmt.Fprintf(&w.b, "xref\n0 %d\n0000000000 65535 f \n", len(w.offsets)+1)
	for _, o := range w.offsets {
		fmt.Fprintf(&w.b, "%010d 00000 n \n", o)
	}
	fmt.Fprintf(&w.b, "trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n", len(w.offsets)+1, start)
	return w.b.Bytes()
}
