package relay

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/emersion/go-smtp"
)

// BenchmarkOutgoing is what accepting a letter of 10 KiB costs without network and
// disk: identity, header, digest, queue in memory.
func BenchmarkOutgoing(b *testing.B) {
	w := newOutWorld(b, nil)
	s := w.session("server a")
	message := benchLetter(10 << 10)
	b.SetBytes(int64(len(message)))
	b.ReportAllocs()
	for i := range b.N {
		if i%2000 == 1999 { // the queue lies in memory
			b.StopTimer()
			if err := errors.Join(w.queue.Close(), w.start(vfs.NewMem())); err != nil {
				b.Fatal(err)
			}
			s = w.session("server a")
			b.StartTimer()
		}
		if err := s.Mail(outMail, &smtp.MailOptions{Size: int64(len(message))}); err != nil {
			b.Fatal(err)
		}
		if err := s.Rcpt(outCitizen, &smtp.RcptOptions{}); err != nil {
			b.Fatal(err)
		}
		if _, err := s.Data(&lines{s: message}); err != nil {
			b.Fatal(err)
		}
		s.Reset()
	}
}

// benchLetter is as an ordinary mail server hands it in.
func benchLetter(size int) string {
	head := outLetter("", "Received: from pc17.intern (pc17.intern [10.1.2.3]) by mail.gemeinde-a.example (Postfix)\r\n\twith ESMTPS id 4ABCDEF123; Fri, 20 Nov 2026 08:00:00 +0000 (UTC)",
		"From: =?utf-8?Q?Gr=C3=BCner?= <"+outMail+">", "To: \"Muster, Erika\" <"+outCitizen+">", "Cc: wohngeld@gemeinde-a.example",
		"Subject: =?utf-8?Q?Bescheid_=C3=BCber_Geb=C3=BChren?=", "Date: Fri, 20 Nov 2026 08:00:00 +0000", "Message-ID: <20261120080000.4711@gemeinde-a.example>",
		"MIME-Version: 1.0", "Content-Type: multipart/mixed; boundary=\"=_b1\"", "Content-Language: de", "X-Mailer: Fachverfahren 3.2",
		"User-Agent: Mozilla Thunderbird", "x-de-mail-confirmation-of-dispatch: yes", "x-de-mail-private-id: AZ 4711/2026")
	return head + strings.Repeat(strings.Repeat("x", 76)+"\r\n", (size-len(head))/78)
}

// lines gives one line at each Read, as the guard may do.
type lines struct {
	s  string
	at int
}

func (l *lines) Read(p []byte) (int, error) {
	if l.at == len(l.s) {
		return 0, io.EOF
	}
	rest := l.s[l.at:]
	n := copy(p, rest[:strings.IndexByte(rest, '\n')+1])
	l.at += n
	return n, nil
}
