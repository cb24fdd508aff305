package demail

import (
	"errors"
	"net/mail"
	"slices"
	"unicode/utf8"
)

// De-Mail's header fields (TR-01201-3.4 §3.1.1), in lower case as they should be
// written.
const (
	FieldConfirmDispatch      = "x-de-mail-confirmation-of-dispatch"
	FieldConfirmReceipt       = "x-de-mail-confirmation-of-receipt"
	FieldConfirmRetrieve      = "x-de-mail-confirmation-of-retrieve"
	FieldAuthoritative        = "x-de-mail-authoritative"
	FieldPrivate              = "x-de-mail-private"
	FieldSender               = "x-de-mail-sender"
	FieldChosenRecipient      = "x-de-mail-chosen-recipient"
	FieldActualRecipient      = "x-de-mail-actual-recipient"
	FieldPrivateID            = "x-de-mail-private-id"
	FieldAuthLevel            = "x-de-mail-auth-level"
	FieldAuthMechanism        = "x-de-mail-auth-mechanism"
	FieldMessageID            = "x-de-mail-message-id"
	FieldOriginatorProvider   = "x-de-mail-originator-provider"
	FieldMessageType          = "x-de-mail-message-type"
	FieldIntegrity            = "x-de-mail-integrity"
	FieldSignatureCertificate = "x-de-mail-signature-certificate"
	FieldVersion              = "x-de-mail-version"
	FieldAccountHolder        = "x-de-mail-account-holder"
	FieldNotificationType     = "x-de-mail-notification-type"
	FieldEnvelopeTo           = "envelope-to"

	fieldPrefix = "x-de-mail-"
)

// MaxPrivateID is the length of x-de-mail-private-id in characters (TR-01201-3.4 §3.1.17).
const MaxPrivateID = 1024

// Presence says whether a field must, may or must not occur.
type Presence uint8

// The entries of TR-01201-3.4 §3.1.1, table 1: empty, X and XX.
const (
	MustNot Presence = iota
	May
	Must
)

// Rule is one row of TR-01201-3.4 §3.1.1, table 1.
type Rule struct {
	Name     string
	Presence [classes]Presence // by Class
	Provider bool              // set by the provider only, removed from what a tenant hands in
	Always   bool              // must be well-formed even in a notification
	Clause   string            // where TR-01201-3.4 defines the value

	check func(value string) error // nil: any value
}

// Rules is table 1 as data, in its order; fields that every e-mail has are
// included. The slice belongs to the caller.
func Rules() []Rule {
	all := [classes]Presence{Must, Must, Must, Must}
	any4 := [classes]Presence{May, May, May, May}
	normal := [classes]Presence{ClassNormal: Must}
	auth := [classes]Presence{Must, May, May, May}
	ident := [classes]Presence{Must, May, MustNot, Must}
	private := [classes]Presence{May, May, May, MustNot}
	signed := [classes]Presence{May, Must, May, Must}
	notice := [classes]Presence{ClassNotification: Must}
	return []Rule{
		{FieldConfirmDispatch, normal, false, false, "§3.1.2", checkYesNo},
		{FieldConfirmReceipt, normal, false, false, "§3.1.3", checkYesNo},
		{FieldConfirmRetrieve, normal, false, false, "§3.1.4", checkYesNo},
		{FieldAuthoritative, normal, false, false, "§3.1.5", checkYesNo},
		{FieldPrivate, ident, false, false, "§3.1.6", checkYesNo},
		{FieldSender, all, false, true, "§3.1.7", checkAddress},
		{FieldChosenRecipient, all, false, true, "§3.1.8", checkRecipients},
		{"subject", all, false, true, "§3.1.1", nil},
		{FieldPrivateID, private, false, false, "§3.1.17", checkPrivateID},
		{"reply-to", any4, false, false, "§3.1.1", checkReplyTo},
		{FieldAuthLevel, auth, true, false, "§3.1.9", checkLevel},
		{FieldAuthMechanism, auth, true, false, "§3.1.10", checkText},
		{"date", all, false, false, "§3.1.1", checkDate},
		{FieldMessageID, all, true, false, "§3.1.18", checkText},
		{FieldOriginatorProvider, all, true, true, "§3.1.11", checkDomain},
		{FieldMessageType, all, true, true, "§3.1.12", checkMessageType},
		{FieldIntegrity, all, true, false, "§3.1.13", checkIntegrityField},
		{FieldSignatureCertificate, signed, true, false, "§3.1.14", checkCertificateField},
		{FieldActualRecipient, all, true, true, "§3.1.15", checkRecipients},
		{"resent-to", any4, false, false, "§3.2", nil},
		{"resent-from", any4, false, false, "§3.2", nil},
		{"resent-date", any4, false, false, "§3.2", nil},
		{"resent-message-id", any4, false, false, "§3.2", nil},
		{FieldEnvelopeTo, any4, true, false, "§3.1.22", nil},
		{FieldVersion, all, true, false, "§3.1.16", checkVersion},
		{FieldAccountHolder, normal, true, false, "§3.1.19", checkText},
		{FieldNotificationType, notice, true, true, "§3.1.20", checkNotificationType},
		{"from", all, false, false, "§3.1.1", checkText},
		{"message-id", all, false, false, "§3.1.1", checkText},
	}
}

// ProviderFields are the names of the fields that only the provider sets
// (TR-01201-3.4 §3.1). The slice belongs to the caller.
func ProviderFields() []string {
	var names []string
	for _, r := range Rules() {
		if r.Provider {
			names = append(names, r.Name)
		}
	}
	return names
}

// StripProviderFields removes what only a provider may say from a message that a
// tenant hands in: ProviderFields, and every other x-de-mail field that this
// version does not know, because a later one could give it a meaning. What the
// sender chooses (options, sender, recipients, private-id) stays. It reports the
// names that went, each once, in lower case.
func StripProviderFields(h *Header) []string {
	keep, seen := senderFields(), map[string]bool{}
	var gone []string
	h.fields = slices.DeleteFunc(h.fields, func(f Field) bool {
		if !f.HasPrefix(fieldPrefix) && !f.Is(FieldEnvelopeTo) || slices.ContainsFunc(keep, f.Is) {
			return false
		}
		if name := lowerASCII(f.Name()); !seen[name] {
			seen[name] = true
			gone = append(gone, name)
		}
		return true
	})
	return gone
}

// senderFields are the De-Mail fields that a sender sets himself.
func senderFields() []string {
	return []string{
		FieldConfirmDispatch, FieldConfirmReceipt, FieldConfirmRetrieve, FieldAuthoritative,
		FieldPrivate, FieldSender, FieldChosenRecipient, FieldPrivateID,
	}
}

// Fault is one breach of the rules of TR-01201-3.4 §3.1 in a header. Tolerated
// faults do not stop a notification from being delivered (TR-01201 part 3).
type Fault struct {
	Field     string
	Clause    string
	Reason    string
	Tolerated bool
}

// Error gives field, clause and reason, without the field's content.
func (f Fault) Error() string {
	return f.Field + ": " + f.Reason + " (TR-01201-3.4 " + f.Clause + ")"
}

// Faults are all breaches in one header.
type Faults []Fault

// Err joins the faults that are not tolerated; nil if there is none.
func (fs Faults) Err() error {
	var errs []error
	for _, f := range fs {
		if !f.Tolerated {
			errs = append(errs, f)
		}
	}
	return errors.Join(errs...)
}

// Validate checks presence and form of every field of Rules, for the message's
// own type, and reports all faults. Options that are absent count as "no" and are
// no fault when they are read, as §3.1.2 to §3.1.6 say. An unknown type is judged
// as a normal message, with the type itself as a fault.
func Validate(h *Header) (MessageType, Faults) {
	t := MessageType(h.Get(FieldMessageType))
	class, _ := t.Class()
	var faults Faults
	for _, r := range Rules() {
		if reason := r.judge(h, class); reason != "" {
			tolerated := class == ClassNotification && !r.Always
			faults = append(faults, Fault{r.Name, r.Clause, reason, tolerated})
		}
	}
	return t, faults
}

// judge gives the fault of one field in a message of this class, or "".
func (r Rule) judge(h *Header, class Class) string {
	has := h.Has(r.Name)
	switch p := r.Presence[class]; {
	case !has && p == Must && !isOption(r.Name):
		return "missing"
	case has && p == MustNot:
		return "must not occur in this type of message"
	case !has || r.check == nil:
		return ""
	}
	if err := r.check(h.Get(r.Name)); err != nil {
		return err.Error()
	}
	return ""
}

func isOption(name string) bool {
	return slices.Contains(senderFields()[:5], name)
}

func checkYesNo(v string) error {
	if v != "yes" && v != "no" {
		return errors.New(`must be "yes" or "no"`)
	}
	return nil
}

func checkAddress(v string) error {
	_, err := ParseAddress(v)
	return err
}

func checkDomain(v string) error {
	_, err := ParseDomain(v)
	return err
}

func checkRecipients(v string) error {
	_, err := ParseRecipients(v)
	return err
}

func checkText(v string) error {
	if v == "" {
		return errors.New("empty")
	}
	return nil
}

func checkPrivateID(v string) error {
	if utf8.RuneCountInString(v) > MaxPrivateID {
		return errors.New("longer than 1024 characters")
	}
	return nil
}

// checkReplyTo wants one De-Mail address: confirmations go there.
func checkReplyTo(v string) error {
	a, err := mail.ParseAddress(v)
	if err != nil {
		return errors.New("not one address")
	}
	return checkAddress(a.Address)
}

func checkLevel(v string) error {
	if l := Level(v); l != LevelNormal && l != LevelHigh {
		return errors.New(`must be "normal" or "high"`)
	}
	return nil
}

func checkDate(v string) error {
	if _, err := mail.ParseDate(v); err != nil {
		return errors.New("not a date")
	}
	return nil
}

func checkMessageType(v string) error {
	if _, ok := MessageType(v).Class(); !ok {
		return errors.New("unknown message type")
	}
	return nil
}

func checkNotificationType(v string) error {
	if !NotificationType(v).Valid() {
		return errors.New("unknown notification type")
	}
	return nil
}

func checkVersion(v string) error {
	if !KnownVersion(v) {
		return errors.New("unknown version")
	}
	return nil
}
