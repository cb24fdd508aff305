package console

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"gitlab.opencode.de/pforte/pforte/internal/manage"
)

// style is how a line looks (ECMA-48, 8.3.117 SGR).
type style string

const (
	plain       style = ""
	bold        style = "\x1b[1m"
	alarm       style = "\x1b[1;37;41m" // white on red
	care        style = "\x1b[1;33m"    // yellow
	reset             = "\x1b[0m"
	clearScreen       = "\x1b[2J\x1b[H" // whole screen, then the upper left corner
)

type line struct {
	style style
	text  string
}

// page collects lines.
type page struct{ lines []line }

func (p *page) add(st style, text string) {
	for _, l := range wrap(clean(text), Width, "") {
		p.lines = append(p.lines, line{st, l})
	}
}

// entry adds a line with a label; what does not fit goes on below the text.
func (p *page) entry(st style, label, text string) {
	const column = 26
	label = clean(label)
	label += strings.Repeat(" ", max(1, column-utf8.RuneCountInString(label)))
	for _, l := range wrap(label+clean(text), Width, strings.Repeat(" ", column)) {
		p.lines = append(p.lines, line{st, l})
	}
}

// both adds a text in two languages, German first, indented.
func (p *page) both(st style, mark, german, english string) {
	indent := strings.Repeat(" ", utf8.RuneCountInString(mark))
	for i, text := range []string{german, english} {
		if text == "" {
			continue
		}
		head := mark
		if i > 0 {
			head = indent
		}
		for _, l := range wrap(head+clean(text), Width, indent) {
			p.lines = append(p.lines, line{st, l})
		}
	}
}

// gap adds an empty line, unless there is one.
func (p *page) gap() {
	if n := len(p.lines); n > 0 && p.lines[n-1].text != "" {
		p.lines = append(p.lines, line{})
	}
}

// String is the page for the terminal, cut to Height.
func (p *page) String() string {
	lines := p.lines
	for len(lines) > 0 && lines[len(lines)-1].text == "" {
		lines = lines[:len(lines)-1]
	}
	if len(lines) > Height {
		more := len(lines) - Height + 1
		lines = append(lines[:Height-1:Height-1], line{care, fmt.Sprintf("... %d weitere Zeilen: pforte status / %d more lines: pforte status", more, more)})
	}
	var b strings.Builder
	b.WriteString(clearScreen)
	for i, l := range lines {
		if i > 0 {
			b.WriteString("\r\n") // never behind the last line: the screen would scroll
		}
		if l.style == plain {
			b.WriteString(l.text)
			continue
		}
		b.WriteString(string(l.style) + l.text + reset)
	}
	return b.String()
}

// Render gives the page as it goes to the terminal. silent says that apid did
// not answer and s is the last that is known.
func Render(s manage.Status, silent bool) string {
	p := &page{}
	p.head(s, silent)
	if silent {
		p.both(care, "! ", "Die Verwaltung (apid) antwortet nicht; dies ist der letzte bekannte Stand. Bleibt das länger als drei Minuten so, die Box neu starten.",
			"The management (apid) does not answer; this is the last known state. If this lasts longer than three minutes, restart the box.")
	}
	p.gap()
	p.locked(s.Locked)
	p.facts(s)
	p.seed(s.Seed)
	p.health(s, silent)
	return p.String()
}

func (p *page) head(s manage.Status, silent bool) {
	title := "PFORTE"
	switch {
	case s.Box != "":
		title += "  " + s.Box
	case !silent:
		title += "  (ohne Konfiguration / not configured)"
	}
	if s.Version != "" {
		title += "  ·  Version " + s.Version
	}
	p.add(bold, title)
	if s.Variant != "" && s.Variant != "release" {
		p.add(alarm, pad("ENTWICKLUNGSVERSION, nicht für den Betrieb  ·  DEVELOPMENT BUILD, not for use"))
	}
}

func (p *page) locked(l *manage.Locked) {
	if l == nil {
		return
	}
	p.add(alarm, pad("GESPERRT: keine Nachricht wird befördert  ·  LOCKED: no mail flows"))
	p.both(bold, "  ", l.German, l.English)
	p.entry(plain, "  Kennung / code", l.Code)
	p.gap()
}

func (p *page) facts(s manage.Status) {
	for i, a := range s.Addresses {
		label := "Verwaltung / management"
		if i > 0 {
			label = ""
		}
		p.entry(plain, label, "https://"+a)
	}
	for _, k := range s.Keys {
		if k.Purpose == managementPurpose && k.Fingerprint != "" {
			p.add(plain, "Schlüssel der Verwaltung / management key")
			p.add(plain, "  "+k.Fingerprint)
		}
	}
	if s.Serial > 0 {
		p.entry(plain, "Konfiguration / config", fmt.Sprintf("Nr. %d", s.Serial))
	}
	p.slots(s)
	if s.Mail != nil {
		p.entry(plain, "Nachrichten / mail", fmt.Sprintf("%d warten / waiting, %d unzustellbar / dead", s.Mail.Messages, s.Mail.Dead))
	}
	p.gap()
}

// managementPurpose is the key that operators compare (package hsm).
const managementPurpose = "management-server"

func (p *page) slots(s manage.Status) {
	if s.Update == nil {
		return
	}
	var parts []string
	for _, name := range []string{"a", "b", "fallback"} {
		version := s.Update.Slots[name]
		if version == "" {
			version = "-"
		}
		part := strings.ToUpper(name[:1]) + name[1:] + " " + version
		if name == s.Boot.Slot {
			part += " (läuft / running)"
		}
		parts = append(parts, part)
	}
	p.entry(plain, "Slots", strings.Join(parts, " · "))
	switch u := s.Update; {
	case s.Boot.Trial:
		p.entry(care, "Update", "Probelauf / on trial: "+u.Trial)
	case u.Progress.Phase == manage.PhaseDownloading:
		p.entry(care, "Update", fmt.Sprintf("wird geladen / downloading: %s, %s", u.Progress.Release, percent(u.Progress)))
	case u.Last != nil && !u.Last.Blessed:
		p.entry(care, "Update", fmt.Sprintf("gescheitert / failed: %s (%s)", u.Last.Release, u.Last.Why))
	}
}

func percent(p manage.Progress) string {
	if p.Of <= 0 {
		return "?"
	}
	return fmt.Sprintf("%d %%", p.Bytes*100/p.Of)
}

func (p *page) seed(s *manage.Seed) {
	if s == nil {
		return
	}
	p.both(care, "! ", "Die gefundene Konfiguration wurde abgelehnt: "+s.Reason, "The configuration found was refused: "+s.Reason)
	for _, f := range s.Faults {
		p.entry(plain, fmt.Sprintf("  Zeile / line %d", f.Line), f.Text)
	}
	p.gap()
}

func (p *page) health(s manage.Status, silent bool) {
	bad := 0
	for _, c := range s.Health {
		st := care
		switch c.Severity {
		case "fault":
			st = alarm
		case "warning":
		default:
			continue
		}
		bad++
		p.both(st, "! ", c.German, c.English)
	}
	for _, f := range s.Silent {
		bad++
		p.add(care, fmt.Sprintf("! %s antwortet nicht / does not answer", f.Service))
	}
	if bad == 0 && !silent && s.Locked == nil {
		p.add(plain, "Keine Störung bekannt / no fault known")
	}
}
