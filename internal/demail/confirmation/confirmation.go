// Package confirmation reads what a De-Mail provider sends back: confirmations of
// dispatch, receipt and retrieve, malware-acknowledge, notifications and ident
// confirmations (TR-01201-3.4 §3.1.12, §3.4.1, §3.5).
//
// Their body is a multipart of XML and a PDF that says the same. The XML is an
// Acknowledge-Message or a Notification-Message in the namespace urn:de-mail
// (§3.5.3). The first carries an enveloped XML signature (XMLDSig) and quotes the
// original's header; the second has neither, and tells the original only by the
// header's private-id, by In-Reply-To, and by the addresses in its text. The PDF is
// not read. The XML of ident confirmations, which another part of the guideline
// describes, must carry a right signature (§3.4.1) and is not read either.
//
// # What it promises
//
//   - What a Confirmation says of the original comes from signed XML alone, if Signed
//     is set; but PrivateID may be the header's, if the XML does not quote it.
//   - XML and header must agree on kind, sender and private-id: nobody makes a
//     confirmation of receipt from the XML of a confirmation of dispatch.
//   - Every size and count is bounded by a constant of this package. A usual
//     confirmation costs 0.4 MB of short-lived memory, the largest XML some 20 MB.
//   - Neither a Confirmation nor an error holds content: no subject, no text, nothing
//     of an error of the libraries below.
//   - Faults of a notification's body are tolerated, if its header is in order
//     (TR-01201 part 3); a bad signature never is.
//
// # The signature
//
// github.com/russellhaering/goxmldsig verifies it. That library takes more than is
// good here, so its freedom is cut off before it is asked:
//
//   - It takes the first signature that it finds anywhere. Here there must be exactly
//     one, right below the root (signature wrapping).
//   - It takes the first reference that fits, and never looks at the others. Here
//     there must be exactly one, to the whole document or to the root's own
//     identifier, which nothing else may bear. A signature by XAdES, which signs its
//     own properties by a second reference, is therefore refused.
//   - It takes any order and number of transforms, and forms that keep comments.
//     Here it is the enveloped signature and then at most one canonicalisation
//     without comments. Comments are dropped from the tree before anything is read,
//     so that none can cut a text in two.
//   - It takes SHA-1. Here it is SHA-256, SHA-384 or SHA-512 with RSA from 2048 bits
//     or ECDSA from 256 bits; it does not know RSASSA-PSS, so that is refused too.
//   - For ECDSA it takes the ASN.1 sequence of CMS and not the two numbers of XMLDSig
//     1.1 §6.4.3. Here they are turned into one, and a sequence is refused.
//   - It trusts a list of signers' certificates. Here the certificate of KeyInfo must
//     chain to the caller's roots, be for signatures, valid at that time and not
//     revoked, by the same rules as for x-de-mail-integrity.
//   - It reads what encoding/xml reads. Here document types (so entities),
//     processing instructions, other encodings than UTF-8 and doubled attributes are
//     refused first.
//
// From then on only the tree counts that was read anew from the verified bytes.
//
// # Whom it trusts
//
// Nobody. The caller gives the roots, the time and the revocation check, the same
// as for demail.VerifyIntegrity, and calls that too: this package does not check
// the message's own x-de-mail-integrity, which covers the header's fields.
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
