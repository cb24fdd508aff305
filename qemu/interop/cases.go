package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"gitlab.opencode.de/pforte/pforte/qemu/peers"
)

// name is unique in the whole world.
func name() string { return strings.ToLower(rand.Text()) }

// arrival is how long a letter may take, reportLimit a report.
const (
	arrival = 60 * time.Second
	settle  = 1500 * time.Millisecond // for what must not come
)

// notOffered is a cell that says what is missing, and by whom.
type notOffered struct{ who, what string }

func (n notOffered) Error() string { return n.who + " has no " + n.what }

// trial is one column of the matrix.
type trial struct {
	name string
	run  func(context.Context, *way) error
}

func trials() []trial {
	return []trial{{"plain", plain}, {"8bit", eightBit}, {"utf8", utf8}, {"chunking", chunking}, {"dsn", dsn}, {"pipelining", pipelining}, {"large", large},
		{"smuggling", smuggling}, {"desync", desync}, {"bdat-smug", chunkSmuggling}}
}

// odd is a body that is legal and looks like the protocol around it.
func odd(marker string) []byte {
	return []byte("marker " + marker + "\r\n.\r\n..\r\n.QUIT\r\n. \r\n\r\n.\r\nMAIL FROM:<x@y.example>\r\nDATA\r\nRSET\r\nQUIT\r\n250 ok\r\nFrom here on\r\n>From there\r\n" +
		strings.Repeat("x", 998) + "\r\ntrailing \t \r\n\t\r\n...\r\n\r\n\r\n")
}

// has finds the message with a marker in its body.
func has(marker string) func(*message) bool {
	return func(m *message) bool { return bytes.HasPrefix(m.body(), []byte("marker "+marker)) }
}

// once wants one message with this body at the end.
func (w *way) once(ctx context.Context, marker string, body []byte) (*message, error) {
	m, err := w.end.await(ctx, arrival, has(marker))
	if err != nil {
		return nil, err
	}
	if len(m.rcpt) != 1 || !strings.Contains(strings.ToLower(m.rcpt[0]), "<"+w.to+">") {
		return m, fmt.Errorf("came for %q, want %s", m.rcpt, w.to)
	}
	if sha256.Sum256(m.body()) != sha256.Sum256(body) {
		return m, fmt.Errorf("the body differs: %s", difference(body, m.body()))
	}
	if _, n := w.end.where(has(marker)); n != 1 {
		return m, fmt.Errorf("came %d times", n)
	}
	return m, nil
}

// difference shows the first place where two bodies differ.
func difference(want, got []byte) string {
	i := 0
	for i < len(want) && i < len(got) && want[i] == got[i] {
		i++
	}
	piece := func(b []byte) []byte { return b[min(i, len(b)):min(i+30, len(b))] }
	return fmt.Sprintf("%d bytes became %d, at %d %q became %q", len(want), len(got), i, piece(want), piece(got))
}

// through sends one letter on a connection of its own. id is the last word of the
// answer, which with Pforte is the queue's name for it.
func (w *way) through(ctx context.Context, l *letter, write func(io.Writer, []byte) error) (id string, err error) {
	c, err := w.in()
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.data(l, write); err != nil {
		return "", err
	}
	words := strings.Fields(c.last)
	return words[len(words)-1], nil
}

// simple sends a body and wants it back.
func (w *way) simple(ctx context.Context, body func(marker string) []byte, params string, write func(io.Writer, []byte) error, fields ...[2]string) (*message, error) {
	marker := name()
	b := body(marker)
	l, err := w.letter(b, fields...)
	if err != nil {
		return nil, err
	}
	l.mailParam = params
	if _, err := w.through(ctx, l, write); err != nil {
		return nil, err
	}
	return w.once(ctx, marker, b)
}

func plain(ctx context.Context, w *way) error {
	_, err := w.simple(ctx, odd, "", whole)
	return err
}

func eightBit(ctx context.Context, w *way) error {
	if !w.peerExt["8BITMIME"] {
		return notOffered{"peer", "8BITMIME"}
	}
	_, err := w.simple(ctx, func(m string) []byte { return append(odd(m), "Gr\u00fc\u00dfe, latin1 \xfc\xdf, \xfe\xff\r\n"...) }, " BODY=8BITMIME", whole,
		[2]string{"MIME-Version", "1.0"}, [2]string{"Content-Type", "text/plain; charset=utf-8"}, [2]string{"Content-Transfer-Encoding", "8bit"})
	return err
}

func utf8(ctx context.Context, w *way) error {
	field := [2]string{"Comments", "Gr\u00fc\u00dfe aus K\u00f6ln"}
	if w.peerExt["SMTPUTF8"] {
		m, err := w.simple(ctx, odd, " BODY=8BITMIME SMTPUTF8", whole, field)
		if err == nil && !bytes.Contains(m.raw, []byte("\r\n"+field[0]+": "+field[1]+"\r\n")) {
			return errors.New("the UTF-8 field did not arrive as it was")
		}
		return err
	}
	if !w.direct {
		return notOffered{"peer", "SMTPUTF8"}
	}
	// Pforte must report what it cannot hand over, and hand over nothing.
	marker := name()
	l, err := w.letter(odd(marker), field)
	if err != nil {
		return err
	}
	l.mailParam = " BODY=8BITMIME SMTPUTF8"
	id, err := w.through(ctx, l, whole)
	if err != nil {
		return err
	}
	if _, err := w.end.await(ctx, arrival, report(id, "failed")); err != nil {
		return fmt.Errorf("peer has no SMTPUTF8, and no report of failure: %w", err)
	}
	if _, n := w.end.where(has(marker)); n > 0 {
		return errors.New("handed over without SMTPUTF8")
	}
	return notOffered{"peer", "SMTPUTF8"}
}

// report finds a report (RFC 3464) of Pforte's about a message, by what names it:
// its ENVID, or the queue's own name for it.
func report(name, action string) func(*message) bool {
	return func(m *message) bool {
		return strings.HasPrefix(strings.ToUpper(m.mail), "FROM:<>") && bytes.Contains(m.raw, []byte(name)) &&
			bytes.Contains(bytes.ToLower(m.raw), []byte("action: "+action))
	}
}

func dsn(ctx context.Context, w *way) error {
	if w.name == "receiving" {
		return dutyKept(ctx, w)
	}
	if !w.direct && !w.peerExt["DSN"] {
		return notOffered{"peer", "DSN"}
	}
	marker := name()
	b := odd(marker)
	l, err := w.letter(b)
	if err != nil {
		return err
	}
	l.mailParam, l.rcptArg = " RET=HDRS ENVID="+marker, " NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;original@there.example"
	if _, err := w.through(ctx, l, whole); err != nil {
		return err
	}
	m, err := w.once(ctx, marker, b)
	if err != nil {
		return err
	}
	if !w.peerExt["DSN"] { // RFC 3461 §5.2.2: the last server that knows DSN says so
		_, err := w.end.await(ctx, arrival, report(marker, "relayed"))
		if err != nil {
			return fmt.Errorf("no report that it was relayed: %w", err)
		}
		return nil
	}
	all := strings.ToUpper(m.mail + " " + strings.Join(m.rcpt, " "))
	for _, want := range []string{"RET=HDRS", "ENVID=" + strings.ToUpper(marker), "SUCCESS", "FAILURE", "ORCPT=RFC822;ORIGINAL@THERE.EXAMPLE"} {
		if !strings.Contains(all, want) {
			return fmt.Errorf("%s did not arrive: %s", want, all)
		}
	}
	return nil
}

// dutyKept: Pforte cannot send the provider reports, so it must neither offer DSN
// there nor take its parameters, and makes up none for the peer.
func dutyKept(ctx context.Context, w *way) error {
	c, err := w.in()
	if err != nil {
		return err
	}
	defer c.Close()
	if c.ext["DSN"] {
		return errors.New("DSN is offered to the provider, to whom Pforte cannot report")
	}
	from, to := "MAIL FROM:<"+peers.Citizen+">", "RCPT TO:<"+peers.TenantDeMail(0)+">"
	if err := c.commands(from+" RET=HDRS ENVID=x\r\n"+from+"\r\n"+to+" NOTIFY=SUCCESS\r\n"+to+" ORCPT=rfc822;a@b.example\r\n", 555, 250, 555, 555); err != nil {
		return err
	}
	m, err := w.simple(ctx, odd, "", whole)
	if err != nil {
		return err
	}
	for _, made := range []string{"RET=", "ENVID=", "NOTIFY="} {
		if strings.Contains(strings.ToUpper(m.mail+" "+strings.Join(m.rcpt, " ")), made) {
			return fmt.Errorf("%s was made up: %s %s", made, m.mail, m.rcpt)
		}
	}
	return notOffered{"Pforte", "DSN for the provider, who keeps the duty to report"}
}

func pipelining(ctx context.Context, w *way) error {
	c, err := w.in()
	if err != nil {
		return err
	}
	defer c.Close()
	if !w.direct && !c.ext["PIPELINING"] {
		return notOffered{"peer", "PIPELINING"}
	}
	first, second := name(), name()
	a, err := w.letter(odd(first))
	if err != nil {
		return err
	}
	b, err := w.letter(odd(second))
	if err != nil {
		return err
	}
	if err := c.pipelined(a, b); err != nil {
		return err
	}
	for _, marker := range []string{first, second} {
		if _, err := w.once(ctx, marker, odd(marker)); err != nil {
			return err
		}
	}
	return nil
}

// largeSize is about what a user of De-Mail may send (demail.md §3).
const largeSize = 20 << 20

func large(ctx context.Context, w *way) error {
	_, err := w.simple(ctx, largeBody, "", whole)
	return err
}

func largeBody(marker string) []byte {
	raw := make([]byte, largeSize*3/4)
	_, _ = rand.Read(raw)
	var b bytes.Buffer
	b.WriteString("marker " + marker + "\r\n")
	for line := range slices.Chunk([]byte(base64.StdEncoding.EncodeToString(raw)), 76) {
		b.Write(line)
		b.WriteString("\r\n")
	}
	return b.Bytes()
}
