// Package answer makes the relay's refusals to tenants: SMTP answers in the tenant's
// language that say what to do. It decides nothing.
package answer

import (
	"gitlab.opencode.de/pforte/pforte/internal/smtpguard"
	"gitlab.opencode.de/pforte/pforte/internal/tenants"
)

// Refuse makes an answer in the language of t (German without one) out of one of two
// formats for args. SMTP answers are ASCII, so the German texts write ae, oe, ue.
func Refuse(t *tenants.Tenant, code int, enhanced, german, english string, args ...any) *smtpguard.Error {
	if t != nil && t.Language == "en" {
		return smtpguard.Errorf(code, enhanced, english, args...)
	}
	return smtpguard.Errorf(code, enhanced, german, args...)
}
