package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"time"
)

// Draft is a message as a tenant's mail server would hand it over.
type Draft struct {
	From, To, Subject string
	MessageID         string // without brackets; chosen if empty
	Fields            []string
	Body              []byte // CRLF lines; a short text if nil
}

// Bytes are header and body. The message id is set when it was empty.
func (d *Draft) Bytes() []byte {
	if d.MessageID == "" {
		d.MessageID = RandomName() + "@world.example"
	}
	if d.Body == nil {
		d.Body = []byte("Sehr geehrte Damen und Herren,\r\n\r\nanbei der Bescheid.\r\n.\r\n..zwei Punkte am Zeilenanfang\r\n")
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "Received: from pc17.intern.example (pc17 [192.0.2.17]) by mail.intern.example; %s\r\n", time.Now().Format(time.RFC1123Z))
	fmt.Fprintf(&b, "From: %s\r\nTo: %s\r\nSubject: %s\r\nDate: %s\r\nMessage-ID: <%s>\r\n",
		d.From, d.To, d.Subject, time.Now().Format(time.RFC1123Z), d.MessageID)
	for _, f := range d.Fields {
		b.WriteString(f + "\r\n")
	}
	b.WriteString("MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n")
	b.Write(d.Body)
	return b.Bytes()
}

// BodyHash is the SHA-256 of the body in hex, after Bytes.
func (d *Draft) BodyHash() string { return hashHex(d.Body) }

func hashHex(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// RandomName is a fresh name of 16 hex digits.
func RandomName() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return hex.EncodeToString(b[:])
}

// RandomBody is about n bytes of base64 lines.
func RandomBody(n int) []byte {
	raw := make([]byte, n*3/4)
	_, _ = rand.Read(raw)
	text := base64.StdEncoding.EncodeToString(raw)
	var b bytes.Buffer
	for len(text) > 76 {
		b.WriteString(text[:76] + "\r\n")
		text = text[76:]
	}
	b.WriteString(text + "\r\n")
	return b.Bytes()
}
