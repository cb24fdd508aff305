// Package confirmation reads what a De-Mail provider sends back: confirmations,
// notifications and ident confirmations (TR-01201-3.4 §3.5, §3.4.1).
//
// # What it promises
//
//   - Only Parse's own bounds limit memory, whatever the sender wrote.
//   - What a Confirmation says of the original message comes from signed XML
//     alone, if Signed is set.
//   - Neither a Confirmation nor an error holds content: no subject, no text.
//
// # Whom it trusts
//
// Nobody. The caller gives the roots, the time and the revocation check, the same
// as for demail.VerifyIntegrity, and calls that too: this package does not check
// the message's own x-de-mail-integrity.
package confirmation

import (
	"crypto/x509"
	"errors"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
)

// Why Parse gives no Confirmation. Each of its errors but those of reading the body
// wraps exactly one of them.
var (
	// ErrNotConfirmation: the message is a normal one, or of no known type.
	ErrNotConfirmation = errors.New("not a confirmation or notification")
	// ErrMalformed: it says that it is one and does not have the form, or goes
	// beyond a bound of this package, or its parts contradict each other.
	ErrMalformed = errors.New("malformed confirmation")
	// ErrSignature: the XML signature is missing where it must be, does not verify,
	// uses what is not allowed, or its certificate is not trusted.
	ErrSignature = errors.New("signature of the confirmation does not hold")
)

// Confirmation is what a provider says about a message that was sent.
type Confirmation struct {
	Type             demail.MessageType      // never TypeNormal
	NotificationType demail.NotificationType // of a notification

	// Sender is the system address that the message comes from, Provider the server
	// that made it (x-de-mail-originator-provider).
	Sender   demail.Address
	Provider string

	// Time is when the confirmation was made. DeliveryTime, in a confirmation of
	// retrieve only, is when the message came into the mailbox; zero if absent.
	Time         time.Time
	DeliveryTime time.Time

	// Of the message that this is about, as far as it is told. A notification tells
	// PrivateID and, by In-Reply-To, perhaps OriginalMessageID.
	OriginalMessageID       string // Message-ID, with its angle brackets
	OriginalDeMailMessageID string // x-de-mail-message-id
	PrivateID               string // x-de-mail-private-id
	OriginalSender          demail.Address

	// Recipients are those of the original that this is about: its envelope-to if
	// it carries one, else x-de-mail-actual-recipient, else
	// x-de-mail-chosen-recipient. For a notification, whose XML has no place for
	// them, they are the addresses that its text names: count those only to which
	// the original went.
	Recipients []demail.Address

	// Hash is the original's x-de-mail-integrity. It is zero in a notification.
	Hash demail.Proof

	// Signed says that the XML signature was verified; Certificate and Chain (leaf
	// first) are whose it is. Confirmations are always signed, notifications need
	// not be (TR-01201-3.4 §3.5.2).
	Signed      bool
	Certificate *x509.Certificate
	Chain       []*x509.Certificate

	// Fault is why the body of a notification could not be read. Such a
	// notification is delivered all the same if its header is in order
	// (demail.Fault.Tolerated), and what the header says stands here.
	Fault error
}
