package dsn

import (
	"bufio"
	"bytes"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"net/textproto"
	"strings"
	"testing"
	"time"
)

func sample() *Report {
	at := time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC)
	return &Report{
		ID: "01JREPORT", Hostname: "box.example", From: "postmaster@gemeinde-a.example", To: "amt@gemeinde-a.example", Language: "de",
		Date: at.Add(time.Hour), ENVID: "QQ+3D1", QueueID: "01JMESSAGE", Arrival: at,
		Recipients: []Recipient{
			{Address: "b@x.de-mail.example", Original: "rfc822;b@x.de-mail.example", Action: Failed, Status: "5.1.1",
				RemoteMTA: "mx.provider.de-mail.example", Diagnostic: "550 5.1.1 no such user", Remote: true, Last: at},
			{Address: "c@x.de-mail.example", Action: Delayed, Status: "4.4.1", Diagnostic: "connection refused", RetryUntil: at.Add(48 * time.Hour)},
		},
		Header: []byte("From: amt@gemeinde-a.example\r\nSubject: x\r\n"),
	}
}

// parts reads a report back with the standard library.
func parts(t *testing.T, r *Report) (*mail.Message, []*multipart.Part, [][]byte) {
	t.Helper()
	var b bytes.Buffer
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	checkLines(t, b.Bytes())
	m, err := mail.ReadMessage(&b)
	if err != nil {
		t.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/report" || params["report-type"] != "delivery-status" {
		t.Fatalf("content type %s %v, %v", kind, params, err)
	}
	reader := multipart.NewReader(m.Body, params["boundary"])
	var heads []*multipart.Part
	var bodies [][]byte
	for {
		p, err := reader.NextRawPart()
		if err == io.EOF {
			return m, heads, bodies
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		heads, bodies = append(heads, p), append(bodies, body)
	}
}

func checkLines(t *testing.T, b []byte) {
	t.Helper()
	for line := range bytes.SplitAfterSeq(b, []byte("\n")) {
		if len(line) == 0 {
			continue
		}
		if !bytes.HasSuffix(line, []byte("\r\n")) || bytes.Count(line, []byte("\r")) != 1 || len(line) > 1000 {
			t.Fatalf("bad line %q", line)
		}
	}
}

func TestReport(t *testing.T) {
	m, heads, bodies := parts(t, sample())
	if len(heads) != 3 {
		t.Fatalf("%d parts", len(heads))
	}
	for name, want := range map[string]string{"From": "De-Mail-Gateway <postmaster@gemeinde-a.example>", "To": "<amt@gemeinde-a.example>",
		"Auto-Submitted": "auto-replied", "Message-Id": "<01JREPORT.report@box.example>", "Subject": "De-Mail nicht zugestellt (01JMESSAGE)"} {
		if got := m.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	text := unquote(t, bodies[0])
	de, en := strings.Index(text, "nicht als De-Mail"), strings.Index(text, "could not be delivered")
	if de < 0 || en < de || !strings.Contains(text, "Prüfen Sie die De-Mail-Adresse") {
		t.Errorf("text:\n%s", text)
	}
	if kind := heads[1].Header.Get("Content-Type"); kind != "message/delivery-status" {
		t.Errorf("second part is %s", kind)
	}
	fields := bufio.NewReader(bytes.NewReader(append(bodies[1], "\r\n"...)))
	tp := textproto.NewReader(fields)
	for i, want := range []map[string]string{
		{"Reporting-Mta": "dns;box.example", "Original-Envelope-Id": "QQ+3D1", "Arrival-Date": "Fri, 20 Nov 2026 08:00:00 +0000"},
		{"Original-Recipient": "rfc822;b@x.de-mail.example", "Final-Recipient": "rfc822;b@x.de-mail.example", "Action": "failed", "Status": "5.1.1",
			"Remote-Mta": "dns;mx.provider.de-mail.example", "Diagnostic-Code": "smtp;550 5.1.1 no such user"},
		{"Final-Recipient": "rfc822;c@x.de-mail.example", "Action": "delayed", "Status": "4.4.1", "Diagnostic-Code": "x-pforte;connection refused"},
	} {
		got, err := tp.ReadMIMEHeader()
		if err != nil && err != io.EOF {
			t.Fatal(err)
		}
		for name, value := range want {
			if got.Get(name) != value {
				t.Errorf("group %d: %s: %q, want %q", i, name, got.Get(name), value)
			}
		}
	}
	if got := string(bodies[2]); got != string(sample().Header) {
		t.Errorf("returned header %q", got)
	}
}

func unquote(t *testing.T, body []byte) string {
	t.Helper()
	text, err := io.ReadAll(quotedprintable.NewReader(bytes.NewReader(body)))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestFullReturnAndEnglish(t *testing.T) {
	r := sample()
	r.Language, r.EightBit = "en", true
	r.Header = append(r.Header, "\r\n"...)
	r.Content = strings.NewReader("Gr\xfc\xdfe\r\n")
	m, heads, bodies := parts(t, r)
	if m.Header.Get("Subject") != "De-Mail not delivered (01JMESSAGE)" {
		t.Errorf("subject %q", m.Header.Get("Subject"))
	}
	if heads[2].Header.Get("Content-Type") != "message/rfc822" || heads[2].Header.Get("Content-Transfer-Encoding") != "8bit" {
		t.Errorf("third part %v", heads[2].Header)
	}
	if want := string(r.Header) + "Gr\xfc\xdfe\r\n"; string(bodies[2]) != want {
		t.Errorf("returned %q, want %q", bodies[2], want)
	}
	if i := bytes.Index(bodies[0], []byte("could not be")); i < 0 || i > bytes.Index(bodies[0], []byte("nicht als")) {
		t.Error("English does not come first")
	}
}

func TestDelayedSubjectIsEncoded(t *testing.T) {
	r := sample()
	r.Recipients = r.Recipients[1:]
	m, _, _ := parts(t, r)
	got, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	if err != nil || got != "De-Mail verzögert (01JMESSAGE)" {
		t.Errorf("subject %q, %v", got, err)
	}
}

func TestNothingBreaksOutOfItsLine(t *testing.T) {
	r := sample()
	r.Recipients[0].Diagnostic = "550 no\r\nAction: delivered\r\n\r\n--=_report_01JREPORT--\u00e4" + strings.Repeat("x", 5000)
	r.Recipients[0].Address = "a\r\nStatus: 2.0.0@x"
	r.ENVID = "x\r\nReporting-MTA: dns;evil"
	_, heads, bodies := parts(t, r)
	if len(heads) != 3 || bytes.Count(bodies[1], []byte("\r\nAction: ")) != 2 || bytes.Count(bodies[1], []byte("Reporting-MTA")) != 2 {
		t.Fatalf("%d parts; status part:\n%s", len(heads), bodies[1])
	}
	if bytes.Contains(bodies[1], []byte("\r\nReporting-MTA: dns;evil")) {
		t.Error("a value began a line of its own")
	}
}

func TestWanted(t *testing.T) {
	for _, test := range []struct {
		notify string
		action Action
		want   bool
	}{
		{"", Failed, true}, {"", Delayed, true}, {"", Delivered, false}, {"", Relayed, false},
		{"NEVER", Failed, false}, {"NEVER", Delayed, false},
		{"SUCCESS", Failed, false}, {"SUCCESS", Relayed, true}, {"SUCCESS,FAILURE", Failed, true},
		{"delay", Delayed, true}, {"FAILURE", Delayed, false},
	} {
		if got := Wanted(test.notify, test.action); got != test.want {
			t.Errorf("Wanted(%q, %s) = %v", test.notify, test.action, got)
		}
	}
}
