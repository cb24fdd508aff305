package relay

import (
	"errors"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
	"gitlab.opencode.de/pforte/pforte/internal/relay/answer"
	"gitlab.opencode.de/pforte/pforte/internal/smtpguard"
	"gitlab.opencode.de/pforte/pforte/internal/tenants"
)

// storeRefusal makes an answer to a tenant of a fault of the queue.
func storeRefusal(t *tenants.Tenant, err error) error {
	var e *smtpguard.Error
	switch {
	case errors.Is(err, queue.ErrTooLarge):
		e = answer.Refuse(t, 552, "5.3.4", "Nachricht ist groesser als %d MiB; teilen Sie sie auf", "message is larger than %d MiB; split it", t.MaxSize>>20)
	case errors.Is(err, queue.ErrFull):
		e = answer.Refuse(t, 452, "4.3.1", "zur Zeit kein Platz, bitte spaeter erneut versuchen", "no space at the moment, please try again later")
	case errors.Is(err, queue.ErrSick), errors.Is(err, queue.ErrClosed):
		e = answer.Refuse(t, 421, "4.3.0", "der Dienst ist nicht bereit, bitte spaeter erneut versuchen", "the mail service is not ready, please try again later")
	default:
		e = answer.Refuse(t, 451, "4.3.0", "voruebergehende Stoerung, bitte spaeter erneut versuchen", "temporary failure, please try again later")
	}
	e.Cause = err
	return e
}

// storeFault is storeRefusal for a peer that is no tenant.
func storeFault(err error) error {
	return storeRefusal(&tenants.Tenant{Language: "en", MaxSize: smtpguard.DefaultMessageBytes}, err)
}

// headerFault makes an answer of what ReadHeader found in an incoming message; the
// guard's own faults pass.
func headerFault(err error) error {
	switch {
	case errors.Is(err, demail.ErrHeaderTooLarge):
		return smtpguard.Errorf(552, "5.3.4", "message header is larger than %d bytes or has too many fields", maxHeader)
	case errors.Is(err, demail.ErrHeaderMalformed):
		return smtpguard.Errorf(554, "5.6.0", "message header is malformed: %s", err)
	}
	return err
}

// contentFault makes an answer of a fault while an incoming message was copied: of
// the sender's side (the guard's) or of the store.
func contentFault(err error) error {
	var guard *smtpguard.Error
	if errors.As(err, &guard) {
		return err
	}
	return storeFault(err)
}

func clip(s string, n int) string { return s[:min(len(s), n)] }
