package dsn

import (
	"fmt"
	"strings"
	"time"
)

// The paragraphs, by language and action. They say what happened, then what the
// reader can do.
func german() language {
	return language{
		intro: map[Action]string{
			Failed:    "Ihre Nachricht konnte an folgende Empfänger nicht als De-Mail zugestellt werden. Es wird nicht weiter versucht.",
			Delayed:   "Ihre Nachricht konnte an folgende Empfänger noch nicht zugestellt werden. Es wird weiter versucht; Sie müssen nichts tun.",
			Delivered: "Ihre Nachricht wurde an folgende Empfänger übergeben.",
			Relayed:   "Ihre Nachricht wurde für folgende Empfänger weitergegeben. Weitere Meldungen sind von dort nicht zu erwarten.",
		},
		reason: "Grund", remedy: "Was Sie tun können", until: "Letzter Versuch spätestens",
		queue:  "Kennzeichen der Nachricht am Gateway: %s, angenommen %s.",
		format: "02.01.2006 15:04 MST",
	}
}

func english() language {
	return language{
		intro: map[Action]string{
			Failed:    "Your message could not be delivered as a De-Mail to the recipients below. No further attempt will be made.",
			Delayed:   "Your message could not be delivered to the recipients below yet. Attempts go on; there is nothing you need to do.",
			Delivered: "Your message was handed over for the recipients below.",
			Relayed:   "Your message was relayed for the recipients below. No further reports are to be expected from there.",
		},
		reason: "Reason", remedy: "What you can do", until: "Last attempt no later than",
		queue:  "The message's id at the gateway: %s, accepted %s.",
		format: "2006-01-02 15:04 MST",
	}
}

type language struct {
	intro          map[Action]string
	reason, remedy string
	until          string
	queue          string
	format         string
}

func (r *Report) german() string  { return r.write(german(), r.Note.German, remedyGerman) }
func (r *Report) english() string { return r.write(english(), r.Note.English, remedyEnglish) }

func (r *Report) write(l language, note string, remedy func(status string) string) string {
	var b strings.Builder
	if note != "" {
		fmt.Fprintf(&b, "%s\r\n\r\n", note)
	}
	for _, a := range []Action{Failed, Delayed, Relayed, Delivered} {
		r.section(&b, l, a, remedy)
	}
	if r.QueueID != "" {
		fmt.Fprintf(&b, l.queue+"\r\n", r.QueueID, stamp(r.Arrival, l.format))
	}
	return b.String()
}

func (r *Report) section(b *strings.Builder, l language, a Action, remedy func(string) string) {
	started := false
	for _, rcpt := range r.Recipients {
		if rcpt.Action != a {
			continue
		}
		if !started {
			fmt.Fprintf(b, "%s\r\n\r\n", l.intro[a])
			started = true
		}
		fmt.Fprintf(b, "  <%s>\r\n", clean(rcpt.Address))
		if rcpt.Diagnostic != "" {
			fmt.Fprintf(b, "    %s: %s\r\n", l.reason, clean(rcpt.Diagnostic))
		}
		if !rcpt.RetryUntil.IsZero() {
			fmt.Fprintf(b, "    %s: %s\r\n", l.until, stamp(rcpt.RetryUntil, l.format))
		}
		if text := remedy(rcpt.Status); a == Failed && text != "" {
			fmt.Fprintf(b, "    %s: %s\r\n", l.remedy, text)
		}
		b.WriteString("\r\n")
	}
}

func stamp(t time.Time, format string) string { return t.Format(format) }

// remedyGerman and remedyEnglish know the classes of RFC 3463 §3.
func remedyGerman(status string) string {
	switch subject(status) {
	case "1":
		return "Prüfen Sie die De-Mail-Adresse des Empfängers."
	case "2":
		return "Das Postfach des Empfängers nimmt nichts an. Erreichen Sie den Empfänger auf anderem Weg."
	case "3", "4":
		return "Die Gegenstelle war nicht erreichbar. Senden Sie die Nachricht später noch einmal."
	case "6":
		return "Der Inhalt wird dort nicht angenommen. Senden Sie die Nachricht in anderer Form."
	case "7":
		return "Der Versand ist nicht erlaubt. Wenden Sie sich an Ihre Administratoren."
	}
	return ""
}

func remedyEnglish(status string) string {
	switch subject(status) {
	case "1":
		return "check the recipient's De-Mail address."
	case "2":
		return "the recipient's mailbox takes nothing; reach the recipient in another way."
	case "3", "4":
		return "the other side could not be reached; send the message again later."
	case "6":
		return "the content is not taken there; send the message in another form."
	case "7":
		return "sending is not allowed; ask your administrators."
	}
	return ""
}

func subject(status string) string {
	parts := strings.Split(status, ".")
	if len(parts) != 3 {
		return ""
	}
	return parts[1]
}
