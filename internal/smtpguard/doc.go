// Package smtpguard is an SMTP server that cannot be talked into anything: the
// engine is github.com/emersion/go-smtp, and this package stands between it and
// the network.
//
// The guard owns the connection. It makes TLS itself, reads every line itself,
// decides what a line is, and hands go-smtp only whole, checked command lines,
// one at a time, each after the answer to the one before. It reads message
// bodies itself too, so go-smtp's body reader sees nothing but an end mark; and
// it reads go-smtp's answers, to follow the transaction and to announce only
// what is true. go-smtp parses parameters, keeps the session, and formats
// answers.
//
// What the guard promises:
//
//   - Nothing but EHLO, HELO, STARTTLS, NOOP and QUIT is carried out in plain text
//     (RFC 3207 §4: 530). No TLS, or a failed handshake, ends the connection.
//     Bytes sent ahead of the handshake end it too.
//   - A line ends in CRLF. A bare CR, bare LF or NUL in a command ends the
//     connection; in a message it costs 554 5.6.0 after the final dot, and only
//     CRLF.CRLF is a final dot (RFC 5321 §4.1.1.4, §2.3.8). Nothing is "repaired".
//   - Body bytes are never read as commands: after any error in the middle of a
//     message the connection is closed.
//   - Addresses are plain: `<local@domain>` in ASCII, dot-atom local part of at most
//     64, domain of letters, digits and hyphens of at most 255 octets. Quoted local
//     parts, source routes and address literals are refused with 553.
//   - Commands come in order: no MAIL in a transaction, no RCPT or DATA outside
//     of one, no pipelining past EHLO, DATA or AUTH (RFC 2920 §3.1). No BDAT.
//   - Every error becomes one typed answer (Error); an error the caller did not
//     type is 451 4.3.0 without its text. A panic is a 421, never the end of the
//     process.
//   - Time, bytes, lines, errors, idle commands, authentication failures and
//     connections are bounded by Limits.
//
// The guard keeps two read buffers and one reply line per connection; what a
// Session does with the body is its own business, and it gets it as a stream.
//
// It trusts the caller to choose tls.Config by internal/tlsprofile. It does not
// know tenants, queues or De-Mail.
package smtpguard
