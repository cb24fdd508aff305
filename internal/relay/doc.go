// Package relay carries mail between tenants' mail servers and the De-Mail
// provider. It decides who may send what, rewrites addresses on the way out,
// checks integrity on the way in, and delivers from the queue until every
// recipient has a verdict.
//
// # The way out (tenant to provider)
//
// A tenant's system is known by its client certificate, or by its network and SMTP
// AUTH (PLAIN, LOGIN); before that MAIL gets 530. Who it is, is asked anew when the
// configuration has changed. Reverse-path, From, Sender, Resent-From, Resent-Sender
// and x-de-mail-sender must each belong to one of the tenant's De-Mail addresses, in
// a domain that may send, and to the system: an application (Fachverfahren) has
// addresses of its own. They and Reply-To, To and Cc are rewritten by the tenant's
// mapping, and nothing in these fields but the address changes. Recipients must be
// De-Mail addresses: nothing leaves to the Internet.
//
// Dispatch options come from header fields, else from the tenant's default, else
// from keywords in the subject (package letter); they are checked and never
// weakened (TR-01201-3.4 §3.1; TR-01201, security module, chapter 10). What was
// asked for, and why, stands in the trace and in the answer. Fields that only the
// provider sets are removed, and so are Bcc, Return-Path and, unless the tenant
// keeps them, Received; Date, Message-ID and Subject are added if they are missing.
// The body passes byte for byte.
//
// Of its own mail a tenant says what is urgent (see precedence). How much its
// systems may hand in is bounded by its rates, its size limit, and the room that
// the queue reserves for each open transaction.
//
// # The way in (provider to tenant)
//
// The caller's listener has checked the provider's certificate. Any sender will do,
// also a provider's system address or none. A recipient's domain must belong to a
// tenant and receive; the address must be mapped (to one or several e-mail
// addresses), or the domain has a catch-all; otherwise 550. A message is delivered
// as it came, byte for byte, below trace fields that stand on top: Received,
// Authentication-Results (RFC 8601) and X-Pforte-Recipient. Only fields that pretend
// to be ours are taken out.
//
// The integrity field must hold, by every algorithm of TR-01201-3.4 §3.1.21, with the
// signer's certificate and its revocation. If it does not, the tenant's policy
// decides: refuse (554), quarantine (250, and on hold until the operator releases or
// bounces it; the postmaster is told first) or mark (delivered, with the failure in
// the trace field). In one message for several tenants those who refuse get it on
// hold if others take it; see judge. What cannot be checked now is put off (451).
//
// A confirmation or notification (TR-01201-3.4 §3.5) is delivered like every De-Mail.
// If its own integrity and its signature are proved, it is matched to what the same
// tenant has sent, and its events become durable in the same batch as itself; how far
// a message has come is then read from its trace (package proof). The same De-Mail
// twice is delivered twice, and noted.
//
// A session holds less than 256 KiB whatever a message's size and number of tenants,
// but for the header, which it has in memory as it is (maxHeader): the body is
// hashed while it is stored, and other tenants' copies are read back from disk.
//
// # Acceptance and delivery
//
// 250 is said after queue.Commit, and not before. Attempts are recorded before
// they start, many in one synced batch; results in one batch with the reports they
// cause, while the connection carries the next message already. With its result an
// outgoing message gets the hash of the body that was handed over, by which
// confirmations find it, too.
//
// A destination is the provider, for all tenants, or one tenant's servers. Tenants
// share it by bytes, in turn; within a tenant what is urgent goes first; and a
// tenant that has nothing under way there gets a place even when another's mail
// holds all of them. How many attempts run at once grows with success and shrinks
// with 4xx and lost connections (pace). A destination that cannot be reached five
// times in a row is down: its mail waits in the queue and costs no attempts, one
// message at a time tries it, and Conditions says since when and why. Other
// destinations do not notice.
//
// The sender of an outgoing message hears of a delay once for each age that the
// configuration names (1 h and 3 h), whether attempts are made or not. At its full
// age (48 h) a message is given up; so is, at once, what the operator bounces. What
// is given up:
//
//   - An outgoing message: its sender gets a report (RFC 3464), by NOTIFY. The
//     report goes to the tenant's own server, never over De-Mail.
//   - An incoming message: it stays as a dead letter, and the tenant's postmaster
//     gets a report. The sender gets none: a De-Mail that the provider has handed
//     over counts as received, and a report over De-Mail would need an account to
//     speak for. For the same reason the provider is not offered DSN: what its
//     users are to be told of delivery stays the provider's duty (RFC 3461 §5.2.2).
//     The operator delivers the dead letter once the tenant's server works again.
//   - A report: the tenant's postmaster gets one about it. A report to the
//     postmaster stays as a dead letter. Nothing is dropped.
//
// Reports honour NOTIFY, RET, ENVID and ORCPT (RFC 3461): success is reported when
// the next hop does not report itself, and only failures return the whole message.
// A change of the configuration touches accepted mail in nothing but its route.
//
// After an attempt that was cut off a message is sent again: a duplicate is
// possible, a loss is not. When the relay stops, attempts have 8 seconds to end;
// what is cut then is due at the next start.
//
// # What it does not do
//
// It reaches neither keys nor network configuration nor updates: certificates and
// connectors are given to it. It never speaks in plain text and resolves no MX
// records.
package relay
