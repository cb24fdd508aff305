// Package relay carries mail between tenants' mail servers and the De-Mail
// provider. It decides who may send what, rewrites addresses on the way out,
// checks integrity on the way in, and delivers from the queue until every
// recipient has a verdict.
//
// # The way out (tenant to provider)
//
// The tenant is known by its client certificate. Reverse-path, From, Sender and
// x-de-mail-sender must each belong to one of its De-Mail addresses, in a domain
// that may send; they and Reply-To, To and Cc are rewritten by the tenant's
// mapping. Recipients must be De-Mail addresses: nothing leaves to the Internet.
// Fields that only the provider sets are removed, dispatch options are checked and
// never weakened (TR-01201-3.4 §3.1; TR-01201, security module, chapter 10), Bcc,
// Received and Return-Path are removed, Date, Message-ID and Subject are added if
// they are missing. The body passes byte for byte.
//
// # The way in (provider to tenant)
//
// The caller's listener has checked the provider's certificate. A recipient's
// domain must belong to a tenant and receive; the address must be mapped, or the
// domain has a catch-all; otherwise 550. The integrity field must hold
// (TR-01201-3.4 §3.1.21), or the message is refused. It is delivered as it came,
// byte for byte, below trace fields that stand on top; only fields that pretend to
// be ours are taken out.
//
// # Acceptance and delivery
//
// 250 is said after queue.Commit, and not before. Attempts are recorded before
// they start, results in one batch with the reports they cause. What is given up:
//
//   - An outgoing message: its sender gets a report (RFC 3464), by NOTIFY. The
//     report goes to the tenant's own server, never over De-Mail.
//   - An incoming message: it stays as a dead letter, and the tenant's postmaster
//     gets a report. The sender gets none: a De-Mail that the provider has handed
//     over counts as received, and a report over De-Mail would need an account to
//     speak for. The operator delivers it once the tenant's server works again.
//   - A report: the tenant's postmaster gets one about it. A report to the
//     postmaster stays as a dead letter. Nothing is dropped.
//
// After an attempt that was cut off a message is sent again: a duplicate is
// possible, a loss is not.
//
// # What it does not do
//
// It reaches neither keys nor network configuration nor updates: certificates and
// connectors are given to it. It never speaks in plain text and resolves no MX
// records.
package relay
