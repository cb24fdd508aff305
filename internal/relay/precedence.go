package relay

import (
	"strings"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
)

// precedence is the class in which a message waits among its tenant's own: that of
// the system that hands it in, unless the message says otherwise. The first of
// these fields that says anything counts:
//
//	Priority     urgent, normal, non-urgent (RFC 2156 §5.3.6)
//	Precedence   bulk, list, junk
//	Importance   high, normal, low (RFC 2156 §5.3.4)
//	X-Priority   1 and 2, 3, 4 and 5
//
// The transport's own field comes first; then what marks mass mail, for a mass
// dispatch that calls itself important is still one. "normal" leaves the system's
// class as it is: mail programs write it without being asked. A tenant orders its
// own mail only: between tenants the queue shares by turns, whatever the class.
func precedence(h *demail.Header, base queue.Class) queue.Class {
	for _, f := range []struct {
		name  string
		class func(word string) (queue.Class, bool)
	}{
		{"priority", word("urgent", "non-urgent")},
		{"precedence", word("", "bulk list junk")},
		{"importance", word("high", "low")},
		{"x-priority", word("1 2", "4 5")},
	} {
		said, _, _ := strings.Cut(strings.TrimSpace(h.Get(f.name)), " ") // "1 (Highest)"
		if class, ok := f.class(strings.ToLower(said)); ok {
			return class
		}
	}
	return base
}

// word makes a reader of a field out of the words that mean urgent and bulk.
func word(urgent, bulk string) func(string) (queue.Class, bool) {
	return func(said string) (queue.Class, bool) {
		switch {
		case said == "":
		case contains(urgent, said):
			return queue.Urgent, true
		case contains(bulk, said):
			return queue.Bulk, true
		}
		return 0, false
	}
}

func contains(words, one string) bool {
	for w := range strings.FieldsSeq(words) {
		if w == one {
			return true
		}
	}
	return false
}

// classOf is the queue's class for that of a system.
func classOf(name string) queue.Class {
	switch name {
	case "urgent":
		return queue.Urgent
	case "bulk":
		return queue.Bulk
	}
	return queue.Normal
}
