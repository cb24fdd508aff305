// Package smtpguard is an SMTP server that cannot be talked into anything: the
// engine is github.com/emersion/go-smtp, and this package stands between it and
// the network.
//
// The guard owns the connection. It makes TLS itself, reads every line itself,
// decides what a line is, and hands go-smtp only whole, checked command lines,
// one at a time, each after the answer to the one before. Messages go from the
// guard to the Session without go-smtp, by DATA and by BDAT alike; go-smtp is
// told RSET afterwards. Of go-smtp's answers only the code is used: what a peer
// reads are the Session's words and the guard's. go-smtp parses the parameters of
// MAIL and RCPT, counts recipients and runs SASL exchanges.
//
// What the guard promises:
//
//   - Nothing but EHLO, HELO, STARTTLS, NOOP and QUIT is carried out in plain text
//     (RFC 3207 §4: 530). No TLS, or a failed handshake, ends the connection.
//     Bytes sent ahead of the handshake end it too.
//   - A line ends in CRLF. A bare CR, bare LF or NUL in a command ends the
//     connection; in a message it costs 554 5.6.0 after the final dot or chunk, and
//     only CRLF.CRLF is a final dot (RFC 5321 §4.1.1.4, §2.3.8). Nothing is
//     "repaired".
//   - A chunk (RFC 3030, without BINARYMIME) is exactly as long as it says, and
//     what it holds is checked as after DATA, across the borders of chunks; the
//     message must end in CRLF. A chunk that is not wanted is read and thrown away;
//     a BDAT whose size cannot be read ends the connection.
//   - Bytes of messages are never read as commands: after any error in the middle
//     of one the connection is closed.
//   - Who announces DSN must report (RFC 3461 §5.2.2): with Options.NoDSN it is not
//     announced, and RET, ENVID, NOTIFY and ORCPT get 555.
//   - Addresses are plain: `<local@domain>` in ASCII, dot-atom local part of at most
//     64, domain of letters, digits and hyphens of at most 255 octets. Quoted local
//     parts, source routes and address literals are refused with 553 5.1.3, others
//     than ASCII with 553 5.6.7. SMTPUTF8 (RFC 6531) is for headers; whether one
//     holds bytes that its sender did not declare is the Session's to judge.
//   - Commands come in order: no MAIL in a transaction, no RCPT, DATA or BDAT outside
//     of one, nothing but BDAT, NOOP and what gives a message up between its chunks,
//     no pipelining past EHLO, DATA (also a refused one) or AUTH (RFC 2920 §3.1).
//   - Answers to a pipelined group of MAIL, RCPT, RSET and BDAT go out in one write,
//     before the guard waits for more; all others at once (RFC 2920 §3.2).
//   - Every answer but those to EHLO, HELO, a challenge and 354 has an enhanced code
//     of its own class (RFC 2034), and is one line of ASCII.
//   - Every error becomes one typed answer (Error); an error the caller did not
//     type is 451 4.3.0 without its text. A panic is a 421, never the end of the
//     process.
//   - AUTH (RFC 4954) is offered if the Session is an Authenticator, whether the
//     peer showed a certificate or not; MAIL without it is the Session's to refuse.
//   - Time, bytes, lines, errors, idle commands, authentication failures and
//     connections are bounded by Limits; what a tenant may have of them is for the
//     Backend to count, at Admit and Session.Close.
//
// The guard keeps a small buffer per connection, and a large one while a message
// comes; what a Session does with the body is its own business, and it gets it
// as a stream. With TLS and go-smtp an idle connection takes less than 40 KiB,
// one with a message of any size less than 100 KiB.
//
// It trusts the caller to choose tls.Config by internal/tlsprofile. It does not
// know tenants, queues or De-Mail.
package smtpguard
