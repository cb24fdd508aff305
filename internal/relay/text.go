package relay

import (
	"errors"

	"gitlab.opencode.de/pforte/pforte/internal/queue"
	"gitlab.opencode.de/pforte/pforte/internal/smtpguard"
	"gitlab.opencode.de/pforte/pforte/internal/tenants"
)

// refuse makes an answer in the tenant's language. SMTP answers are ASCII, so the
// German texts write ae, oe, ue.
func refuse(t *tenants.Tenant, code int, enhanced, german, english string, args ...any) *smtpguard.Error {
	if t != nil && t.Language == "en" {
		return smtpguard.Errorf(code, enhanced, english, args...)
	}
	return smtpguard.Errorf(code, enhanced, german, args...)
}

// storeFault makes an answer of a fault of the queue.
func storeFault(err error) error {
	var e *smtpguard.Error
	switch {
	case errors.Is(err, queue.ErrTooLarge):
		e = smtpguard.Errorf(552, "5.3.4", "message is too large")
	case errors.Is(err, queue.ErrFull):
		e = smtpguard.Errorf(452, "4.3.1", "no space at the moment, please try again later")
	case errors.Is(err, queue.ErrSick), errors.Is(err, queue.ErrClosed):
		e = smtpguard.Errorf(421, "4.3.0", "the mail service is not ready, please try again later")
	default:
		e = smtpguard.Errorf(451, "4.3.0", "temporary failure, please try again later")
	}
	e.Cause = err
	return e
}
