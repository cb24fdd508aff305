package daemon

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/dmda/dmdatest"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
	"gitlab.opencode.de/pforte/pforte/internal/relay/proof"
)

// TestProofsComeBack is the whole way: what a tenant asks for, the provider
// confirms with XML, PDF and signature over the provider's port; the tenant gets it
// unchanged, and the trace of what he sent tells it.
func TestProofsComeBack(t *testing.T) {
	const asked = "x-de-mail-confirmation-of-dispatch: yes\r\nx-de-mail-confirmation-of-receipt: yes\r\n"
	for name, c := range map[string]struct {
		to     string
		fields string
		want   []queue.EventKind
	}{
		"dispatch and receipt": {citizen, asked, []queue.EventKind{queue.Dispatched, queue.Received}},
		"fetched":              {"retrieve@buerger.de-mail.example", asked + "x-de-mail-confirmation-of-retrieve: yes\r\nx-de-mail-private: yes\r\n", []queue.EventKind{queue.Dispatched, queue.Received, queue.Retrieved}},
		"malware":              {"malware@buerger.de-mail.example", asked, []queue.EventKind{queue.Refused}},
		"malware notification": {"malware-notification@buerger.de-mail.example", asked, []queue.EventKind{queue.Refused}},
		"unknown recipient":    {"unknown-recipient@buerger.de-mail.example", asked, []queue.EventKind{queue.Dispatched, queue.Refused}},
		"closed account":       {"closed-account@buerger.de-mail.example", "", []queue.EventKind{queue.Refused}},
		"faulty notification":  {"faulty-notification@buerger.de-mail.example", "", []queue.EventKind{queue.Refused}},
		"something else":       {"other@buerger.de-mail.example", "", []queue.EventKind{queue.Noted}},
		"identification":       {"identification@buerger.de-mail.example", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := w.start()
			w.provider.SetGateway(r.push)
			answer := w.greeted(w.clientA).send("<"+mailA+">", append([]byte(c.fields), letterA("1")...), "250 2.0.0 accepted as ", "<"+c.to+">")
			id, _, _ := strings.Cut(strings.TrimSpace(strings.TrimPrefix(answer, "250 2.0.0 accepted as ")), ";")
			messages := max(len(c.want), 1) // an ident confirmation is about no message
			for n := range messages {
				raw := w.serverA.await(t, n+1).raw
				if !slices.ContainsFunc(w.provider.Answers(), func(a dmdatest.Answer) bool { return bytes.HasSuffix(raw, bodyOf(a.Composed.Raw)) }) {
					t.Errorf("message %d is none that the provider sent", n)
				}
			}
			if got := proofs(t, r.d.queue, queue.ID(id)); !slices.Equal(got, c.want) {
				t.Errorf("trace: %q, want %q", got, c.want)
			}
		})
	}
}

// bodyOf is what stands below the header.
func bodyOf(raw []byte) []byte {
	_, body, _ := bytes.Cut(raw, []byte("\r\n\r\n"))
	return body
}

// proofs are the events that came from confirmations.
func proofs(t *testing.T, q *queue.Queue, id queue.ID) []queue.EventKind {
	t.Helper()
	_, events, err := q.Trace(id)
	if err != nil {
		t.Fatal(err)
	}
	var out []queue.EventKind
	for _, e := range events {
		if e.Data[proof.DataType] == "" {
			continue
		}
		switch e.Kind {
		case queue.Dispatched, queue.Received, queue.Retrieved, queue.Refused, queue.Noted:
			out = append(out, e.Kind)
		}
	}
	return out
}

// TestProofsByEveryAlgorithm: whatever the provider seals with.
func TestProofsByEveryAlgorithm(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	for i, alg := range dmdatest.Algorithms() {
		opt, err := w.pki.Integrity(alg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.provider.Push(t.Context(), r.push, dmdatest.DeMail{From: citizen, To: []string{officeA}, Integrity: &opt}); err != nil {
			t.Errorf("%s: %v", alg, err)
			continue
		}
		raw := w.serverA.await(t, i+1).raw
		if !bytes.Contains(raw, []byte(demail.FieldIntegrity+": v=1; a="+alg.String()+";")) {
			t.Errorf("%s: another message came", alg)
		}
	}
}
