// Command interop sends mail through Pforte and real mail servers and prints what
// came out as a matrix (`make interop`).
//
// # The ways
//
//	receiving    provider → Pforte → peer → end     the peer is a tenant's server
//	submitting   client → peer → Pforte → end       the peer is a tenant's server
//	next hop     tenant → Pforte → peer → end       the peer stands for the provider
//
// Client and end are this program, and keep every byte. Peers are Debian's
// Postfix, Exim, OpenSMTPD and sendmail in jails (qemu/peers), each relaying what it takes,
// and swaks and aiosmtpd from the host, where their role makes sense. Every hop to and from Pforte is TLS.
//
// # The columns
//
// plain: an ASCII letter full of dots, ends and commands. 8bit: BODY=8BITMIME.
// utf8: SMTPUTF8 with a raw header field. chunking: BDAT in nine forms (one chunk,
// many of 3 bytes, an empty last one, 20 MiB, several letters in one write, ...); a
// peer that can (Exim) must hand on to Pforte in chunks, too. dsn: RET, ENVID, NOTIFY
// and ORCPT arrive, or Pforte reports "relayed"; the provider is not offered DSN and
// its parameters are refused, for Pforte could not report. pipelining: two letters in
// overlapping groups. large: 20 MiB. smuggling: eleven false end marks before a
// second message. desync: the end mark in single bytes behind a pause, and bytes sent ahead of their time.
// bdat-smug: a second message inside of chunks, behind CRLF.CRLF (which is content
// there and must arrive) and behind the false end marks, whole and cut in two at
// every place; sizes that nobody can read; DATA between chunks.
//
// A cell passes if what Pforte took came out once, with the body's SHA-256
// unchanged, and nothing else came out. It names what was not offered, and by
// whom. "peer splits" says that the peer itself, before Pforte, took the
// false end mark for a true one.
//
// It needs root (see qemu/peers). A peer that cannot be had is an error; with
// SHORT=1 it is skipped by name. ONLY=exim runs one peer. Files lie below build/ and are deleted.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		os.Exit(1)
	}
}
