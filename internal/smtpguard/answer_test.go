package smtpguard

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"
)

// engineWords are the texts that go-smtp's source writes into answers.
func engineWords(t *testing.T) (words []string) {
	t.Helper()
	p, err := build.Import("github.com/emersion/go-smtp", ".", build.FindOnly)
	if err != nil {
		t.Skipf("go-smtp's source is not at hand: %v", err)
	}
	for _, name := range []string{"conn.go", "server.go", "backend.go", "data.go"} {
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if ok && lit.Kind == token.STRING {
				text, _ := strconv.Unquote(lit.Value)
				text, _, _ = strings.Cut(text, "%")
				if text = strings.TrimSpace(text); strings.Contains(text, " ") && !strings.HasPrefix(text, "LIMITS") {
					words = append(words, text)
				}
			}
			return true
		})
	}
	if len(words) < 30 {
		t.Fatalf("only %d texts found in go-smtp", len(words))
	}
	return words
}

// dialogue leads a peer through every kind of answer and returns all of them.
func dialogue(t *testing.T) (all []string) {
	r := &record{
		mechanisms: []string{"PLAIN"},
		rcpt: func(to string) error {
			switch strings.SplitN(to, "@", 2)[0] {
			case "untyped":
				return errors.New("Internal fault at /var/lib")
			case "engine":
				return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.NoEnhancedCode, Message: "no\r\n250 2.0.0 yes"}
			case "large":
				return smtp.ErrDataTooLarge
			case "odd":
				return &Error{Code: 250, Enhanced: [3]int{2, 0, 0}, Text: "an error that says yes"}
			}
			return nil
		},
	}
	_, addr := serve(t, r, Limits{Recipients: 2, SoftErrors: 100, HardErrors: 100, AuthErrors: 100}, Implicit)
	c := dial(t, addr)
	all = append(all, c.expect(""))
	for _, line := range []string{
		"", "x", "EXPN x", "HELP", "TURN", "SEND", "ETRN", "LHLO x", "MAIL FROM:<a@x.example>", "EHLO", "HELO", "EHLO a b", "EHLO \x01", "HELO client.example", "EHLO client.example",
		"AUTH", "AUTH X", "AUTH PLAIN ???", "AUTH PLAIN " + plainOf("no", "no"), "AUTH PLAIN " + plainOf("down", "no"), "AUTH PLAIN", "*", "AUTH PLAIN " + plainOf(goodUser, goodSecret), "AUTH PLAIN",
		"NOOP", "RSET", "VRFY a", "QUITE", "STARTTLS", "DATA", "DATA x", "RCPT TO:<a@x.example>", "BDAT 0",
		"MAIL", "MAIL TO:<a@x.example>", "MAIL FROM:<>x", "MAIL FROM:<a@x.example> SIZE=x", "MAIL FROM:<a@x.example> SIZE=99999999999999999999999", "MAIL FROM:<a@x.example> BODY=x",
		"MAIL FROM:<a@x.example> RET=x", "MAIL FROM:<a@x.example> ENVID=+0", "MAIL FROM:<a@x.example> AUTH=x", "MAIL FROM:<a@x.example> REQUIRETLS", "MAIL FROM:<a@x.example> SMTPUTF8=1",
		"MAIL FROM:<a@x.example> FOO=1 =", "MAIL FROM:<a@x.example>", "MAIL FROM:<a@x.example>", "DATA", "BDAT 0",
		"RCPT TO:<untyped@x.example>", "RCPT TO:<engine@x.example>", "RCPT TO:<odd@x.example>", "RCPT TO:<large@x.example>", "RCPT TO:<b@x.example> NOTIFY=NEVER,DELAY", "RCPT TO:<b@x.example> ORCPT=x", "RCPT TO:<b@x.example> FOO",
		"RCPT TO:<b@x.example>", "RCPT TO:<c@x.example>", "RCPT TO:<d@x.example>", "BDAT 0", "FOO", "BDAT 0 LAST", "RSET", "QUIT",
	} {
		c.put(line + "\r\n")
		all = append(all, c.expect(""))
	}
	return all
}

func TestAnswersAreSober(t *testing.T) {
	words, all := engineWords(t), dialogue(t)
	for _, answer := range all {
		for _, w := range words {
			if strings.Contains(answer, w) {
				t.Errorf("go-smtp speaks (%q): %q", w, answer)
			}
		}
		if strings.ContainsAny(answer, "!") || strings.Contains(answer, "/var/lib") || strings.Count(answer, "\n") > 1 && !strings.HasPrefix(answer, "250-box.example\r\n") {
			t.Errorf("answer %q", answer)
		}
	}
}

func TestAnswersHaveEnhancedCodes(t *testing.T) {
	for i, answer := range dialogue(t) {
		line := strings.TrimSuffix(answer, "\r\n")
		switch {
		case i == 0 && line == "220 box.example ESMTP", line == "250 box.example", strings.HasPrefix(line, "250-box.example\r\n"), line == "334 ":
		default:
			var code, class, subject, detail int
			if _, err := fmt.Sscanf(line, "%d %d.%d.%d ", &code, &class, &subject, &detail); err != nil || class != code/100 {
				t.Errorf("answer %q has no enhanced code of its class (%v)", line, err)
			}
		}
	}
}

func TestSMTPUTF8(t *testing.T) {
	var o *smtp.MailOptions
	r := &record{}
	_, addr := serve(t, utf8Backend{r, &o}, Limits{}, Implicit)
	c := greetedPeer(t, addr)
	const message = "Subject: Grüße\r\nFrom: Jörg <j@x.example>\r\n\r\nß\r\n"
	for _, way := range []string{"DATA", "BDAT"} {
		c.say("MAIL FROM:<a@x.example> BODY=8BITMIME SMTPUTF8", "250 2.1.0")
		c.say("RCPT TO:<b@x.example>", "250 2.1.5")
		if !o.UTF8 || o.Body != smtp.Body8BitMIME {
			t.Errorf("the session was told %+v", o)
		}
		if way == "DATA" {
			c.say("DATA", "354")
			c.put(message + ".\r\n")
		} else {
			c.bdat(message, true)
		}
		c.expect("250 2.0.0 taken")
	}
	c.say("MAIL FROM:<a@x.example>", "250")
	if o.UTF8 {
		t.Error("SMTPUTF8 outlived its transaction")
	}
	for _, line := range []string{"RCPT TO:<jörg@x.example>", "RCPT TO:<b@dömäin.example>"} {
		if got := c.say(line, "553 5.6.7"); !strings.Contains(got, "xn--") {
			t.Errorf("%s: %q names no remedy", line, got)
		}
	}
	c.say("RSET", "250")
	c.say("MAIL FROM:<jörg@x.example> SMTPUTF8", "553 5.6.7")
	c.say("MAIL FROM:<a@x.example> SMTPUTF8=1", "501 5.5.4")
	if messages, _, _, _ := r.got(); len(messages) != 2 || messages[0] != message || messages[1] != message {
		t.Errorf("messages %q", messages)
	}
}

// utf8Backend notes the options of MAIL.
type utf8Backend struct {
	*record
	last **smtp.MailOptions
}

func (b utf8Backend) Admit(context.Context, *Peer) (Session, error) { return b, nil }

func (b utf8Backend) Mail(from string, o *smtp.MailOptions) error {
	*b.last = o
	return b.record.Mail(from, o)
}
