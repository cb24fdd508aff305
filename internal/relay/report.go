package relay

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/dsn"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
	"gitlab.opencode.de/pforte/pforte/internal/tenants"
)

// Bounds of what a report returns of the original.
const (
	maxReturnedHeader = 64 << 10
	maxReturnedWhole  = 1 << 20
	maxReport         = maxReturnedHeader + maxReturnedWhole + queue.MaxRecipients*2048
)

// consequences adds to a verdict what follows from failures: reports, and what is
// kept as a dead letter. See the package comment for who gets what.
func (r *Relay) consequences(e *queue.Envelope, v *verdict) error {
	if e.Direction == queue.Out {
		return r.reportToSender(e, v)
	}
	if !final(e) || !anyFailed(e) {
		return nil
	}
	t := r.tenantOf(e)
	v.outcome.Dead = "not delivered to the tenant's server: " + lastReply(e)
	if t == nil || len(t.Inbound.Servers) == 0 || e.Recipients[0].Address == t.Postmaster && e.ReportOf != "" {
		return nil
	}
	note := keptNote(e)
	if e.ReportOf != "" {
		// The report's own report replaces it: its content is in there.
		v.outcome.Dead = ""
		note = dsn.Note{German: "Eine Meldung über eine Nachricht konnte nicht zugestellt werden. Sie ist hier beigefügt.",
			English: "A report about a message could not be delivered. It is attached here."}
	}
	return r.birth(e, v, t, t.Postmaster, dsn.Failed, allFailed(e), note)
}

// keptNote says where a De-Mail is that could not be delivered, and how it gets on.
func keptNote(e *queue.Envelope) dsn.Note {
	return dsn.Note{
		German: fmt.Sprintf("Eine eingegangene De-Mail konnte nicht an Ihren Mailserver zugestellt werden. Sie ist nicht verloren: Sie liegt am Gateway. "+
			"Der Betreiber sieht sie mit \u201epforte queue show %s\u201c; ist die Ursache behoben, stellt er sie mit \u201epforte queue release %s\u201c erneut zu.", e.ID, e.ID),
		English: fmt.Sprintf("A De-Mail that came in could not be delivered to your mail server. It is not lost: it is kept at the gateway. "+
			"The operator sees it with \"pforte queue show %s\"; once the cause is removed, \"pforte queue release %s\" delivers it again.", e.ID, e.ID),
	}
}

// reportToSender makes the reports of RFC 3461 about an outgoing message.
func (r *Relay) reportToSender(e *queue.Envelope, v *verdict) error {
	t := r.tenantOf(e)
	if t == nil || len(t.Inbound.Servers) == 0 {
		if final(e) && slices.ContainsFunc(allFailed(e), func(i int) bool { return dsn.Wanted(e.Recipients[i].Notify, dsn.Failed) }) {
			v.outcome.Dead = "not delivered, and the tenant has no server to send the report to: " + lastReply(e)
		}
		return nil
	}
	for _, kind := range []struct {
		action dsn.Action
		list   []int
	}{{dsn.Failed, v.failed}, {dsn.Relayed, v.relayed}, {dsn.Delayed, v.delayed}} {
		list := slices.DeleteFunc(slices.Clone(kind.list), func(i int) bool { return !dsn.Wanted(e.Recipients[i].Notify, kind.action) })
		if len(list) == 0 {
			continue
		}
		to := e.Attributes[attrReturn]
		if to == "" {
			to = t.Postmaster
		}
		if err := r.birth(e, v, t, to, kind.action, list, dsn.Note{}); err != nil {
			return err
		}
	}
	return nil
}

// birth composes a report and adds it to the verdict. How much of the message is
// returned with a failure is decided by RET, with anything else it is the header
// (RFC 3461 §4.3); a report is returned whole.
func (r *Relay) birth(e *queue.Envelope, v *verdict, t *tenants.Tenant, to string, action dsn.Action, list []int, note dsn.Note) error {
	body, err := r.o.Queue.NewBody(maxReport)
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	report := &dsn.Report{ID: string(body.ID()), Hostname: r.o.Hostname(), From: t.Postmaster, To: to, Language: t.Language, Date: now(),
		ENVID: e.ENVID, QueueID: string(e.ID), Arrival: e.Received, Note: note}
	for _, i := range list {
		one := reported(&e.Recipients[i], action)
		if action == dsn.Delayed {
			one.RetryUntil = e.Received.Add(r.giveUp())
			if one.Diagnostic == "" { // not tried yet
				one.Status, one.Diagnostic = "4.4.1", r.dispatcher.reason(e.Tenant, e.Hop)
			}
		}
		report.Recipients = append(report.Recipients, one)
	}
	if err := r.compose(report, e, body); err != nil {
		body.Abort()
		return fmt.Errorf("report: %w", err)
	}
	v.outcome.Births = append(v.outcome.Births, queue.Birth{Body: body, Envelope: &queue.Envelope{
		Tenant: e.Tenant, Direction: queue.In, Hop: hopTenant, Class: queue.Urgent, Recipients: []queue.Recipient{{Address: to}},
		EightBit: report.EightBit, Received: report.Date, ReportOf: e.ID}})
	return nil
}

// reported is one recipient's part of a report.
func reported(rc *queue.Recipient, action dsn.Action) dsn.Recipient {
	out := dsn.Recipient{Address: rc.Address, Original: rc.Original, Action: action, Status: status(rc.Last.Enhanced, action),
		Diagnostic: rc.Last.Text}
	if rc.Attempts > 0 {
		out.Last = time.Now()
	}
	if server, text, ok := strings.Cut(rc.Last.Text, ": "); ok && rc.Last.Code != 0 {
		out.RemoteMTA, out.Remote = server, true
		out.Diagnostic = strings.TrimSpace(fmt.Sprintf("%d %s %s", rc.Last.Code, rc.Last.Enhanced, text))
	}
	return out
}

// status makes the enhanced code fit the action: a failure that began as a
// temporary one is permanent now (RFC 3464 §2.3.4).
func status(enhanced string, action dsn.Action) string {
	class := map[dsn.Action]string{dsn.Failed: "5", dsn.Delayed: "4", dsn.Relayed: "2", dsn.Delivered: "2"}[action]
	_, rest, ok := strings.Cut(enhanced, ".")
	if !ok {
		rest = "0.0"
	}
	return class + "." + rest
}

// compose writes the report with what it returns of the message.
func (r *Relay) compose(report *dsn.Report, e *queue.Envelope, to io.Writer) error {
	original, err := r.o.Queue.Body(e.ID)
	if err != nil {
		return err
	}
	defer original.Close()
	br := bufio.NewReader(original)
	h, err := demail.ReadHeader(br, queue.MaxPrefix+maxHeader+headroom)
	if err != nil {
		return err
	}
	var head bytes.Buffer
	if _, err := h.WriteTo(&head); err != nil {
		return err
	}
	whole := (e.RET == "FULL" && report.Recipients[0].Action == dsn.Failed || e.ReportOf != "") && original.Size() <= maxReturnedWhole
	report.Header = head.Bytes()
	report.EightBit = slices.ContainsFunc(report.Header, func(b byte) bool { return b >= 0x80 })
	if whole {
		report.Content, report.EightBit = br, e.EightBit || report.EightBit
	} else {
		report.Header = shorten(report.Header)
	}
	return report.Write(to)
}

// shorten cuts a header behind a line.
func shorten(h []byte) []byte {
	if len(h) <= maxReturnedHeader {
		return h
	}
	return h[:bytes.LastIndexByte(h[:maxReturnedHeader], '\n')+1]
}

func final(e *queue.Envelope) bool {
	return !slices.ContainsFunc(e.Recipients, func(rc queue.Recipient) bool { return !rc.State.Final() })
}

func anyFailed(e *queue.Envelope) bool { return len(allFailed(e)) > 0 }

func allFailed(e *queue.Envelope) []int {
	var list []int
	for i := range e.Recipients {
		if e.Recipients[i].State == queue.Failed {
			list = append(list, i)
		}
	}
	return list
}

func lastReply(e *queue.Envelope) string {
	for i := range e.Recipients {
		if e.Recipients[i].State == queue.Failed {
			return e.Recipients[i].Last.Text
		}
	}
	return ""
}
