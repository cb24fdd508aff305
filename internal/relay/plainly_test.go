package relay

import (
	"testing"

	"github.com/emersion/go-smtp"
)

// Where two readers could take different senders out of one field, there is an
// answer and no mail: the provider might be the other reader.
func TestSenderInTwoReadings(t *testing.T) {
	w := newOutWorld(t, nil)
	s := w.session("server a")
	const chef = "chef@gemeinde-b.de-mail.example"
	for _, value := range []string{
		chef + " <" + outMail + ">",
		chef + " (" + outMail + ") <" + outMail + ">",
		"[<" + chef + ">] <" + outMail + ">",
		"[" + chef + "] <" + outMail + ">",
		chef + "> <" + outMail + ">",
		") " + chef + " <" + outMail + ">",
		"a\\ <" + outMail + ">",
		chef + ": " + outMail + ";",
		"Amt:;",
		outMail + ", " + chef + ":;",
	} {
		for _, field := range []string{"From", "Sender", "Resent-From", "Resent-Sender", "Reply-To"} {
			fields := []string{"From: " + outMail, field + ": " + value}
			if field == "From" {
				fields = fields[1:]
			}
			if text, err := s.hand(outMail, smtp.MailOptions{}, outLetter("x\r\n", fields...), outCitizen); err == nil {
				t.Errorf("%s: %s: %s", field, value, text)
			} else if e := refusal(t, err); e.Code != 554 && e.Code != 550 {
				t.Errorf("%s: %s: %v", field, value, err)
			}
		}
	}
	two := outLetter("x\r\n", "From: "+outMail, "Resent-From: "+outMail+", "+outMail, "Resent-From: Amt:;")
	if text, err := s.hand(outMail, smtp.MailOptions{}, two, outCitizen); err == nil {
		t.Errorf("a Resent-From without an address beside one with two: %s", text)
	}
	for _, value := range []string{
		outMail + " <" + outMail + ">", // what careless systems write says the same twice
		"\"[" + chef + "]\" <" + outMail + ">",
		"Dr. Erika Muster (" + chef + ") <" + outMail + ">",
		"=?utf-8?q?Amt_f=C3=BCr?= Bau <" + outMail + ">",
		"<@relay.example:" + outMail + ">",
		outMail + " (Amt)",
		"Amt: " + outMail + ";",
	} {
		if _, err := s.hand(outMail, smtp.MailOptions{}, outLetter("x\r\n", "From: "+value, "Reply-To: "+value), outCitizen); err != nil {
			t.Errorf("%s: %v", value, err)
		}
	}
}
