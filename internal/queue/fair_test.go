package queue

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// fill brings in many messages, a thousand in one batch.
func fill(t testing.TB, q *Queue, n int, envelope func(i int) *Envelope, body []byte) {
	t.Helper()
	for i := 0; i < n; {
		x := q.newTxn()
		var bodies []*Body
		for range min(1000, n-i) {
			b := mustBody(t, q, body)
			if err := x.addMessage(envelope(i), b, time.Now()); err != nil {
				t.Fatal(err)
			}
			bodies = append(bodies, b)
			i++
		}
		if err := q.commitBodies(context.Background(), x, "", bodies...); err != nil {
			t.Fatal(err)
		}
	}
}

func lettersOf(tenant, hop string, class Class, recipients ...string) func(int) *Envelope {
	return func(int) *Envelope {
		e := testEnvelope(tenant, recipients...)
		e.Hop, e.Class, e.Prefix = hop, class, nil
		return e
	}
}

// handedOut takes all that is due.
func handedOut(t testing.TB, q *Queue, limit int) (order []*Envelope) {
	t.Helper()
	for {
		list := mustDue(t, q, limit)
		if len(list) == 0 {
			return order
		}
		order = append(order, list...)
	}
}

// maxAhead is how many letters without body one tenant may have handed out before
// another that waits gets its turn.
const maxAhead = quantum/messageCost + 1

// One tenant's flood must not keep another's single letter waiting, nor cost it more
// work, however many there are and whether they are asked for singly or together.
func TestFloodDoesNotDelayOthers(t *testing.T) {
	var reads [2]int64
	for i, flood := range []int{1_000, 100_000} {
		if testing.Short() && flood > 1_000 {
			continue
		}
		for _, limit := range []int{1, 7} {
			q := openTest(t, vfs.NewMem())
			fill(t, q, flood, lettersOf("flood", "provider", Normal, "x@y"), nil)
			mustDue(t, q, 3*maxAhead) // it has the turn
			single := commitTo(t, q, "single", "provider", Bulk, time.Time{})
			before := q.store.reads.Load()
			ahead := 0
			for found := false; !found; {
				for _, e := range mustDue(t, q, limit) {
					if found = e.ID == single; found {
						break
					}
					ahead++
				}
				if ahead > maxAhead {
					t.Fatalf("flood of %d, %d at a time: %d letters were handed out before the other's", flood, limit, ahead)
				}
			}
			reads[i] += q.store.reads.Load() - before
			if err := q.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !testing.Short() && reads[1] > 2*reads[0] {
		t.Errorf("%d reads for a letter behind 1,000 others, %d behind 100,000", reads[0], reads[1])
	}
}

// With uneven sizes each tenant, and within a tenant each next hop, gets the same
// share of bytes while all of them have mail.
func TestSharesAreOfBytes(t *testing.T) {
	for _, limit := range []int{1, 50} {
		q := openTest(t, vfs.NewMem())
		fill(t, q, 2000, lettersOf("small", "provider", Normal, "x@y"), testBody(2<<10, 1))
		fill(t, q, 300, lettersOf("middle", "provider", Normal, "x@y"), testBody(30<<10, 1))
		fill(t, q, 25, lettersOf("large", "provider", Normal, "x@y"), testBody(500<<10, 1))
		fill(t, q, 300, lettersOf("two", "provider", Normal, "x@y"), testBody(20<<10, 1))
		fill(t, q, 1000, lettersOf("two", "own-server", Normal, "x@y"), testBody(3<<10, 1))
		served := map[string]int64{}
		for total := int64(0); total < 24<<20; {
			for _, e := range mustDue(t, q, limit) {
				cost := messageCost + e.Size
				total += cost
				served[e.Tenant] += cost
				if e.Tenant == "two" {
					served["two/"+e.Hop] += cost
				}
			}
		}
		const want, wide = 6 << 20, quantum + 600<<10
		for _, tenant := range []string{"small", "middle", "large", "two"} {
			if d := served[tenant] - want; d > wide || d < -wide {
				t.Errorf("%d at a time: %s was served %d KiB of 24 MiB, want %d", limit, tenant, served[tenant]>>10, want>>10)
			}
		}
		if d := served["two/provider"] - served["two/own-server"]; d > 2*quantum || d < -2*quantum {
			t.Errorf("%d at a time: next hops of one tenant differ by %d KiB", limit, d>>10)
		}
	}
}

// A tenant that sends one huge message after the other, each when the last one is
// gone, gets no more than its share while others have mail.
func TestDebtOutlivesTheMessage(t *testing.T) {
	q := openTest(t, vfs.NewMem())
	fill(t, q, 4000, lettersOf("small", "provider", Normal, "x@y"), nil)
	huge := int64(0)
	small := int64(0)
	commit := func() { mustCommit(t, q, lettersOf("huge", "provider", Normal, "x@y")(0), testBody(1<<20, 1)) }
	commit()
	for range 3000 {
		for _, e := range mustDue(t, q, 1) {
			if e.Tenant == "small" {
				small += messageCost
				continue
			}
			huge += messageCost + e.Size
			commit()
		}
	}
	if huge > small+2<<20 || huge < small-2<<20 {
		t.Errorf("served %d KiB of huge ones, %d KiB of small ones", huge>>10, small>>10)
	}
}

// A tenant's urgent letter overtakes its own mass dispatch, also one to another next
// hop; but no other tenant's.
func TestUrgentOvertakesItsOwn(t *testing.T) {
	q := openTest(t, vfs.NewMem())
	fill(t, q, 500, lettersOf("a", "provider", Bulk, "x@y"), nil)
	fill(t, q, 500, lettersOf("a", "own-server", Normal, "x@y"), nil)
	fill(t, q, 500, lettersOf("b", "provider", Normal, "x@y"), nil)
	mustDue(t, q, 100)
	urgent := commitTo(t, q, "a", "provider", Urgent, time.Time{})
	others := 0
	for _, e := range mustDue(t, q, 3*maxAhead) {
		if e.ID == urgent {
			break
		}
		others++
	}
	if others > maxAhead {
		t.Errorf("%d letters were handed out before the urgent one", others)
	}
	rest := map[string]int{}
	for _, e := range mustDue(t, q, 400) {
		rest[fmt.Sprintf("%s %d", e.Tenant, e.Class)]++
	}
	if rest["a 2"] != 0 || rest["b 1"] < 200-maxAhead || rest["b 1"] > 200+maxAhead {
		t.Errorf("then %v: want b's share and no bulk of a before its normal letters", rest)
	}
}

// What a lane was charged for is given back when the message is.
func TestReleaseIsNotCharged(t *testing.T) {
	q := openTest(t, vfs.NewMem())
	big := mustCommit(t, q, lettersOf("a", "p", Normal, "x@y")(0), testBody(1<<20, 1))
	fill(t, q, 200, lettersOf("b", "p", Normal, "x@y"), nil)
	for range 20 {
		for _, e := range mustDue(t, q, 1) {
			if e.ID == big {
				q.Release(big)
			}
		}
	}
	ahead := 0
	for _, e := range mustDue(t, q, 100) {
		if e.ID == big {
			break
		}
		ahead++
	}
	if ahead > maxAhead {
		t.Errorf("a message that was given back waits behind %d others", ahead)
	}
}

// Memory does not keep lanes that have no mail.
func TestEmptyLanesAreForgotten(t *testing.T) {
	q := openTest(t, vfs.NewMem())
	fill(t, q, 5000, func(i int) *Envelope {
		return lettersOf(fmt.Sprint("tenant-", i), "p", Normal, "x@y")(0)
	}, nil)
	waits := commitTo(t, q, "later", "p", Normal, time.Now().Add(time.Hour))
	x := q.newTxn()
	for _, e := range handedOut(t, q, 1000) {
		m, key, err := q.seize(e.ID, true)
		if err == nil {
			err = x.finishMessage(m, key, Outcome{Results: []Result{{Recipient: 0, State: Delivered}}}, time.Now())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := x.commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	mustDue(t, q, 1)
	if len(q.lanes) != 1 || len(q.tenants.members) != 1 {
		t.Errorf("%d lanes and %d tenants in memory, want 1", len(q.lanes), len(q.tenants.members))
	}
	if e, err := q.Due(time.Now().Add(2*time.Hour), 1); err != nil || len(e) != 1 || e[0].ID != waits {
		t.Errorf("later: %v, %v", e, err)
	}
}
