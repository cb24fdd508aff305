package mapping

import (
	"hash/maphash"
	"iter"
)

// side is one of an entry's two addresses.
type side uint8

const (
	byMail side = iota
	byDeMail
)

// address is one of the addresses of record i.
func (t *Table) address(i int, s side) string {
	r := &t.records[i]
	middle := r.at + uint32(r.mail)
	if s == byMail {
		return t.text[r.at:middle]
	}
	return t.text[middle : middle+uint32(r.deMail)]
}

// index finds records by one of their addresses: open addressing with linear
// probing, at most half full. Records of one address follow each other in the
// order in which they were put in. The zero index is empty.
//
// A slot holds the number of a record plus one, 0 if it is free, and above it
// some bits of the address's hash, so that a stranger's record is hardly ever
// looked at: each look costs two cache misses.
type index struct {
	side  side
	seed  maphash.Seed
	slots []uint32
}

// numberBits of a slot are a record's number plus one; the others are the tag.
const numberBits = 21

// MaxEntries must fit: this constant is negative, and the build fails, if not.
const _ uint = 1<<numberBits - 1 - MaxEntries

// newIndex has room for n records.
func newIndex(s side, n int) index {
	size := 2
	for size < 2*n {
		size *= 2
	}
	return index{side: s, seed: maphash.MakeSeed(), slots: make([]uint32, size)}
}

func (x *index) hash(address string) uint64 { return maphash.String(x.seed, address) }

// tag is the upper bits of a hash in their place; the lower ones choose the slot.
func tag(hash uint64) uint32 { return uint32(hash>>32) &^ (1<<numberBits - 1) }

// record is the number of the record in a slot that is taken.
func (x *index) record(slot uint64) int { return int(x.slots[slot]&(1<<numberBits-1)) - 1 }

// put enters record i.
func (x *index) put(slot uint64, i int, hash uint64) { x.slots[slot] = tag(hash) | uint32(i+1) }

// find gives the slot of the first record of an address at slot from or behind it, or
// the free slot where it would go.
func (x *index) find(t *Table, address string, hash, from uint64) (slot uint64, ok bool) {
	for slot = from; ; slot++ {
		slot &= uint64(len(x.slots) - 1)
		v := x.slots[slot]
		if v == 0 {
			return slot, false
		}
		if v&^(1<<numberBits-1) == tag(hash) && t.address(x.record(slot), x.side) == address {
			return slot, true
		}
	}
}

// exact gives the record that an e-mail address is known by.
func (t *Table) exact(mail string) (int, bool) {
	x := &t.mails
	if len(x.slots) == 0 {
		return 0, false
	}
	hash := x.hash(mail)
	slot, ok := x.find(t, mail, hash, hash)
	return x.record(slot), ok
}

// named gives the records that the index holds for a De-Mail address.
func (t *Table) named(deMail string) iter.Seq[int] {
	return func(yield func(int) bool) {
		x := &t.deMails
		if len(x.slots) == 0 {
			return
		}
		hash := x.hash(deMail)
		for slot := hash; ; slot++ {
			var ok bool
			if slot, ok = x.find(t, deMail, hash, slot); !ok || !yield(x.record(slot)) {
				return
			}
		}
	}
}
