package apid

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"golang.org/x/time/rate"

	"gitlab.opencode.de/pforte/pforte/internal/audit"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
)

// Outcomes in the record. An act has two entries: one before it is done, and one
// for how it ended; so a power cut in between shows.
const (
	outcomeAsked   = "asked"
	outcomeDone    = "done"
	outcomeRefused = "refused"
	outcomeFailed  = "failed"
)

// actionConnect is the action of a refused handshake.
const actionConnect = "connect"

// maxDetail bounds one detail in the record, in bytes.
const maxDetail = 400

// recorder keeps the record of calls. A record that cannot be written stops all
// acts and no reading, so that people can still see what is wrong.
type recorder struct {
	log     *slog.Logger
	audit   *audit.Log // nil: it could not be opened
	sick    atomic.Bool
	setAway bool // an older record was broken and lies beside the new one

	floods *rate.Limiter
	mu     sync.Mutex
	untold int // floods left out since the last one in the record
}

// openRecorder continues the record in dir. A record whose chain is broken is
// kept under dir.broken for the owner to look at, once, and a new one begun:
// else a damaged file would end all management of the box.
func openRecorder(dir string, log *slog.Logger) *recorder {
	r := &recorder{log: log, floods: rate.NewLimiter(floodRate, floodBurst)}
	away := dir + ".broken"
	a, err := audit.Open(dir)
	if errors.Is(err, audit.ErrChain) {
		log.Error("audit record is broken; it is kept and a new one begun", "kept", away, "error", err)
		if _, there := os.Stat(away); there == nil {
			err = fmt.Errorf("%s is there already: %w", away, err)
		} else if err = os.Rename(dir, away); err == nil {
			a, err = audit.Open(dir)
		}
	}
	if err != nil {
		log.Error("audit record cannot be written; no act will be done", "error", err)
		r.sick.Store(true)
		return r
	}
	_, there := os.Stat(away)
	r.audit, r.setAway = a, there == nil
	return r
}

// write appends one entry.
func (r *recorder) write(e audit.Event) error {
	if r.audit == nil {
		return errors.New("the audit record cannot be opened")
	}
	for k, v := range e.Detail {
		e.Detail[k] = cut(v, maxDetail)
	}
	err := r.audit.Append(e)
	if err != nil {
		r.log.Error("audit entry is not written", "action", e.Action, "error", err)
	}
	r.sick.Store(err != nil)
	return err
}

// ended records how a call ended. That it cannot be written is in the log and in
// the health by then; what is done is done.
func (r *recorder) ended(e audit.Event) {
	if e.Detail["code"] == manage.CodeTooMany {
		r.flood(e)
		return
	}
	_ = r.write(e)
}

// refused records a handshake that was refused.
func (r *recorder) refused(c caller, address string, why error) {
	detail := map[string]string{"from": address, "why": why.Error()}
	if c.fingerprint != "" {
		detail["certificate"] = c.fingerprint
	}
	r.flood(audit.Event{Action: actionConnect, Actor: c.String(), Outcome: outcomeRefused, Detail: detail})
}

// flood records what costs its sender nothing, handshakes without a role and
// calls beyond the rate: a few entries per minute, each counting those left out
// before it, so that nobody can wash the record away.
func (r *recorder) flood(e audit.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.floods.Allow() {
		r.untold++
		return
	}
	if r.untold > 0 {
		e.Detail["others"] = fmt.Sprint(r.untold)
	}
	if r.write(e) == nil {
		r.untold = 0
	}
}

// head is the newest entry.
func (r *recorder) head() (manage.AuditHead, error) {
	if r.audit == nil {
		return manage.AuditHead{}, refuse(manage.CodeAudit, "the audit record cannot be opened", "look at the box's log and tell the owner")
	}
	number, sum := r.audit.Head()
	return manage.AuditHead{Number: number, SHA256: sum}, nil
}

// conditions are the record's part of the box's health.
func (r *recorder) conditions() []manage.Condition {
	var all []manage.Condition
	if r.sick.Load() {
		all = append(all, manage.Condition{Code: "audit.sick", Severity: "fault",
			English: "The audit record cannot be written; no change is accepted.",
			German:  "Das Protokoll der Verwaltung kann nicht geschrieben werden; keine Änderung wird angenommen.",
			Remedy:  "restart the box; if that does not help, check the disk"})
	}
	if r.setAway {
		all = append(all, manage.Condition{Code: "audit.broken", Severity: "warning",
			English: "An older audit record was altered or damaged; it is kept for the owner.",
			German:  "Ein älteres Protokoll der Verwaltung wurde verändert oder beschädigt; es ist für den Eigentümer aufbewahrt.",
			Remedy:  "tell the owner"})
	}
	return all
}

func (r *recorder) close() error {
	if r.audit == nil {
		return nil
	}
	return r.audit.Close()
}

// cut bounds a text to n bytes at a character's border.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
