package console

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// lastLatin ends what the console's font is sure to have (Latin Extended-A).
const lastLatin = 0x17f

// clean makes a text harmless: what is no printable Latin character becomes "?",
// line breaks and tabs become spaces.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r == '…':
			return r
		case r == utf8.RuneError || r > lastLatin || !unicode.IsPrint(r) && r != ' ':
			return '?'
		}
		return r
	}, s)
}

// wrap breaks a line at spaces so that no part is longer than width; further
// parts begin with indent. A word that is longer than a line is cut.
func wrap(s string, width int, indent string) []string {
	var lines []string
	rest := []rune(s)
	for len(rest) > width {
		cut := width
		for i := width; i > len([]rune(indent))+1; i-- {
			if rest[i] == ' ' {
				cut = i
				break
			}
		}
		lines = append(lines, strings.TrimRight(string(rest[:cut]), " "))
		rest = []rune(indent + strings.TrimLeft(string(rest[cut:]), " "))
	}
	return append(lines, strings.TrimRight(string(rest), " "))
}

// pad fills a line to the width, so that its background spans the screen.
func pad(s string) string {
	return s + strings.Repeat(" ", max(0, Width-utf8.RuneCountInString(s)))
}
