package relay

import (
	"fmt"
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/demail/confirmation"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
)

// crowd stores a message to n recipients, with that many proofs for each in its trace.
func (w *inWorld) crowd(id string, n, proofs int) (queue.ID, []string) {
	w.t.Helper()
	var to []string
	for i := range n {
		to = append(to, fmt.Sprintf("r%d@buerger.de-mail.example", i))
	}
	m := w.out("amt-a", id, "", "one", to...)
	for range proofs {
		var list []queue.Event
		for i := range n {
			list = append(list, queue.Event{Kind: queue.Dispatched, Time: time.Now(), Recipient: i})
		}
		if err := w.queue.Annotate(m, list...); err != nil {
			w.t.Fatal(err)
		}
	}
	return m, to
}

// What the receipts of one message to many cost, each on its own, when half of what
// may come and all of what usually comes is there already; and what one
// confirmation for all of them costs. Attempts that the message took count for nothing.
func BenchmarkReceipts(b *testing.B) {
	for _, proofs := range []int{1, 3} {
		b.Run(fmt.Sprintf("each/%d-proofs", proofs), func(b *testing.B) {
			w := newInWorld(b, nil)
			_, to := w.crowd("<1@amt>", 1000, proofs)
			for i := 0; b.Loop(); i++ {
				a, _ := demail.ParseAddress(to[i%len(to)])
				w.confirm("amt-a", &confirmation.Confirmation{Type: demail.TypeReceipt, Time: time.Now(), OriginalMessageID: "<1@amt>", Recipients: []demail.Address{a}}, fmt.Sprint("n", i))
			}
		})
		b.Run(fmt.Sprintf("all/%d-proofs", proofs), func(b *testing.B) {
			w := newInWorld(b, nil)
			_, to := w.crowd("<1@amt>", 1000, proofs)
			var all []demail.Address
			for _, s := range to {
				a, _ := demail.ParseAddress(s)
				all = append(all, a)
			}
			for i := 0; b.Loop(); i++ {
				w.confirm("amt-a", &confirmation.Confirmation{Type: demail.TypeDispatch, Time: time.Now(), OriginalMessageID: "<1@amt>", Recipients: all}, fmt.Sprint("n", i%3))
			}
		})
	}
}
