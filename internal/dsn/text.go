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
			Delayed:   "Ihre Nachricht konnte an folgende Empfänger noch nicht übergeben werden. Es wird weiter versucht; senden Sie sie nicht noch einmal.",
			Delivered: "Ihre Nachricht wurde an folgende Empfänger übergeben.",
			Relayed:   "Ihre Nachricht wurde für folgende Empfänger weitergegeben. Weitere Meldungen sind von dort nicht zu erwarten.",
		},
		hint: "De-Mail-Diensteanbieter müssen eine De-Mail untereinander binnen 4 Stunden weitergeben; diese ist noch nicht so weit. Ist sie eilig oder " +
			"fristgebunden, wählen Sie einen anderen Weg. Ihre Administratoren können am Gateway nachsehen, welche Gegenstelle nicht antwortet " +
			"(pforte queue show), und nach Behebung sofort einen neuen Versuch veranlassen (pforte queue retry).",
		reason: "Grund", remedy: "Was Sie tun können", until: "Letzter Versuch spätestens",
		queue:  "Kennzeichen der Nachricht am Gateway: %s, angenommen %s.",
		format: "02.01.2006 15:04 MST",
	}
}

func english() language {
	return language{
		intro: map[Action]string{
			Failed:    "Your message could not be delivered as a De-Mail to the recipients below. No further attempt will be made.",
			Delayed:   "Your message could not be handed over for the recipients below yet. Attempts go on; do not send it again.",
			Delivered: "Your message was handed over for the recipients below.",
			Relayed:   "Your message was relayed for the recipients below. No further reports are to be expected from there.",
		},
		hint: "De-Mail providers must pass a De-Mail on among themselves within 4 hours; this one has not got that far. If it is urgent or bound " +
			"by a time limit, choose another way. Your administrators can see at the gateway which other side does not answer " +
			"(pforte queue show) and have it tried at once when that is mended (pforte queue retry).",
		reason: "Reason", remedy: "What you can do", until: "Last attempt no later than",
		queue:  "The message's id at the gateway: %s, accepted %s.",
		format: "2006-01-02 15:04 MST",
	}
}

type language struct {
	intro          map[Action]string
	hint           string // below the recipients whose mail is delayed
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
	if started && a == Delayed {
		fmt.Fprintf(b, "%s\r\n\r\n", l.hint)
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
