// Package demail is the De-Mail message format: addresses, the header with its
// De-Mail fields, dispatch options, recipients, message types and the integrity
// field. It follows BSI TR-01201 part 3.4 ("Postfach- und Versanddienst,
// Interoperabilitätsspezifikation") version 1.8, cited as TR-01201-3.4 §…, and
// RFC 5322 and RFC 6376 where the guideline builds on them.
//
// # What it promises
//
//   - A Header gives back every field that nobody touched byte for byte, with
//     its odd folding and its letter case; the order of fields stays.
//   - If a field occurs twice, the first from the top counts (§3.1.1).
//   - Nothing that is written can inject a line: values with a bare CR, a bare LF
//     or another control character are refused.
//   - Every parser is bounded by a constant of this package and reads bytes from
//     strangers; none of them panics.
//   - The body of a message is read as a stream, once, and never rewritten.
//   - A faulty or incomplete proof of integrity is an error, never a weaker success.
//
// # What it does not do
//
// It opens no file and no connection, looks up no key in the DNS (§3.1.21
// forbids it) and holds no state. It does not parse MIME bodies or confirmations'
// XML. Whether an address belongs to a tenant is not its business.
//
// # Whom it trusts
//
// Nobody. The caller gives the roots, the time and the revocation check under
// which a signature certificate counts.
//
// # Choices where the guideline leaves room
//
//   - ECDSA signatures are ASN.1 DER sequences, as RFC 5754 (which the guideline
//     cites) takes them over from CMS. RSASSA-PSS is written with a salt as long
//     as the hash; any salt length is read.
//   - d= and s= are written, because RFC 6376 §3.5 wants them, and never read:
//     the key comes from x-de-mail-signature-certificate alone.
//   - h= must name From and each field of §3.1.21 that the message carries, in any
//     order, each once. Otherwise somebody could protect less than the guideline asks.
package demail

// MessageType is the value of x-de-mail-message-type (TR-01201-3.4 §3.1.12).
type MessageType string

// The message types of TR-01201-3.4 §3.1.12, table 12.
const (
	TypeNormal              MessageType = "normal"
	TypeDispatch            MessageType = "confirmation of dispatch"
	TypeReceipt             MessageType = "confirmation of receipt"
	TypeRetrieve            MessageType = "confirmation of retrieve"
	TypeMalwareAcknowledge  MessageType = "malware-acknowledge"
	TypeMalwareNotification MessageType = "malware-notification"
	TypeNotification        MessageType = "notification"
	TypeIdentification      MessageType = "identification"
)

// Class groups message types as the columns of TR-01201-3.4 §3.1.1, table 1 do.
type Class uint8

// The classes N, B, M and I of TR-01201-3.4 §3.1.1.
const (
	ClassNormal       Class = iota // N
	ClassConfirmation              // B
	ClassNotification              // M
	ClassIdent                     // I
	classes                        // how many there are
)

// Class reports the column of table 1 that t belongs to, and false if the
// guideline knows no such type.
func (t MessageType) Class() (Class, bool) {
	switch t {
	case TypeNormal:
		return ClassNormal, true
	case TypeDispatch, TypeReceipt, TypeRetrieve, TypeMalwareAcknowledge:
		return ClassConfirmation, true
	case TypeMalwareNotification, TypeNotification:
		return ClassNotification, true
	case TypeIdentification:
		return ClassIdent, true
	}
	return 0, false
}

// SubjectPrefix is what stands, in UTF-8, before the original's subject in a
// confirmation (TR-01201-3.4 §3.5.1); it is empty for every other type.
func (t MessageType) SubjectPrefix() string {
	switch t {
	case TypeDispatch:
		return "*Versandbestätigung* "
	case TypeReceipt:
		return "*Eingangsbestätigung* "
	case TypeRetrieve:
		return "*Abholbestätigung* "
	}
	return ""
}

// SystemSender is the system address, in the guideline's own spelling, from
// which a provider sends messages of type t; it is empty for normal messages.
func (t MessageType) SystemSender(providerDomain string) string {
	local := ""
	switch t {
	case TypeDispatch:
		local = "Versandbestaetigung"
	case TypeReceipt:
		local = "Eingangsbestaetigung"
	case TypeRetrieve:
		local = "Abholbestaetigung"
	case TypeMalwareAcknowledge, TypeMalwareNotification:
		local = "Schadsoftware-Warnung"
	case TypeNotification:
		local = "Meldung"
	case TypeIdentification:
		local = "Ident-Bestaetigung"
	default:
		return ""
	}
	return local + "@" + providerDomain
}

// NotificationType is the value of x-de-mail-notification-type (TR-01201-3.4 §3.1.20).
type NotificationType string

// The notification types of TR-01201-3.4 §3.1.20, table 22.
const (
	NotifyUnknownRecipient NotificationType = "unknown-recipient"
	NotifyClosedAccount    NotificationType = "closed-account"
	NotifyInvalidFormat    NotificationType = "invalid-format"
	NotifyOther            NotificationType = "other"
)

// Valid reports whether n is one of the four types.
func (n NotificationType) Valid() bool {
	switch n {
	case NotifyUnknownRecipient, NotifyClosedAccount, NotifyInvalidFormat, NotifyOther:
		return true
	}
	return false
}

// Level is how strongly the sender's login was authenticated: the value of
// x-de-mail-auth-level (TR-01201-3.4 §3.1.9).
type Level string

// The two levels.
const (
	LevelNormal Level = "normal"
	LevelHigh   Level = "high"
)

// Daily limits of an account at level normal (TR-01201 part 3); level high has none.
const (
	NormalDailyMessages   = 100
	NormalDailyRecipients = 300
)

// MinMessageSize is the gross size in bytes that every De-Mail system must let
// pass (TR-01201 part 3): 45 MiB for 20 MiB of the user's own content.
const MinMessageSize = 45 << 20

// Version is the version of the guideline that this package writes into
// x-de-mail-version.
const Version = "1.8"

// KnownVersion reports whether v is a value of x-de-mail-version that the
// guideline names (TR-01201-3.4 §4).
func KnownVersion(v string) bool {
	switch v {
	case "1.0", "1.1", "1.2", "1.7", "1.8":
		return true
	}
	return false
}
