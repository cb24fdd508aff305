package relay

import (
	"encoding/base64"
	"strings"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
)

// Attributes by which people and confirmations find a message; both ways have them.
const (
	attrMessageID = "message-id" // with its angle brackets
	attrPrivateID = "private-id" // x-de-mail-private-id: the sender's own reference
)

// Lookup keys, for queue.Find. What a confirmation carries of the original (its
// Message-ID, its x-de-mail-private-id, the bh= of its integrity field) leads to
// the trace of what was sent (TR-01201-3.4 §3.5); addresses are for people.
func messageIDKey(id string) string        { return "message-id:" + squeeze(id) }
func privateIDKey(id string) string        { return "private-id:" + squeeze(id) }
func addressKey(address string) string     { return "address:" + strings.ToLower(address) }
func bodyKey(sha256 []byte) string         { return "body:" + base64.StdEncoding.EncodeToString(sha256) }
func integrityKey(signature string) string { return "integrity:" + dropSpace(signature) }

// squeeze makes one space of each run of white space, as header fields may be
// folded anew on their way, and bounds the value.
func squeeze(v string) string { return clip(strings.Join(strings.Fields(v), " "), maxKeyValue) }

// dropSpace takes all white space out.
func dropSpace(v string) string { return clip(strings.Join(strings.Fields(v), ""), maxKeyValue) }

// maxKeyValue keeps a key with its name, and a tenant's before it (own), below
// queue.MaxText.
const maxKeyValue = queue.MaxText - 32 - 80

// own adds to the keys of a message those that only its tenant's messages of the
// same direction have. By them proofs find what they are about: whoever knows a
// Message-ID writes messages with it that would hide the one that is meant. Those
// of addresses are for people only, and not doubled.
func own(tenant string, way queue.Direction, keys []string) []string {
	for _, key := range keys[:len(keys):len(keys)] {
		if !strings.HasPrefix(key, "address:") {
			keys = append(keys, ownKey(tenant, way, key))
		}
	}
	return keys
}

func ownKey(tenant string, way queue.Direction, key string) string {
	return string(way) + ":" + tenant + ":" + key
}

// identify adds to attributes and keys what names the message.
func identify(h *demail.Header, attributes map[string]string) (keys []string) {
	for _, f := range []struct {
		field, attribute string
		key              func(string) string
	}{{"message-id", attrMessageID, messageIDKey}, {demail.FieldPrivateID, attrPrivateID, privateIDKey}} {
		if v := h.Get(f.field); v != "" {
			attributes[f.attribute] = clip(v, queue.MaxText)
			keys = append(keys, f.key(v))
		}
	}
	return keys
}
