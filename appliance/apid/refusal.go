package apid

import (
	"context"
	"errors"
	"net/http"

	"gitlab.opencode.de/pforte/pforte/appliance/update/control"
	"gitlab.opencode.de/pforte/pforte/hsm/keyclient"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
)

// refuse makes an error of the API: the fault, then the remedy.
func refuse(code, fault, remedy string) error {
	text := fault
	if remedy != "" {
		text += "; " + remedy
	}
	return &manage.Error{Code: code, Text: text, Remedy: remedy}
}

// codeFailed is localapi's code of a fault that no sentinel names.
const codeFailed = "failed"

// statusOf is the HTTP status of a code: 4xx is what the box decided against, 5xx
// what it could not do.
func statusOf(code string) int {
	switch code {
	case manage.CodeDenied:
		return http.StatusForbidden
	case manage.CodeUnknownMethod, manage.CodeUnknownMessage:
		return http.StatusNotFound
	case manage.CodeBadRequest, manage.CodeNothingChosen:
		return http.StatusBadRequest
	case manage.CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case manage.CodeLocked:
		return http.StatusLocked
	case manage.CodeTooMany:
		return http.StatusTooManyRequests
	case manage.CodeUnavailable, manage.CodeAudit, manage.CodeQueueSick:
		return http.StatusServiceUnavailable
	case manage.CodeTimeout:
		return http.StatusGatewayTimeout
	case manage.CodeInternal, codeFailed:
		return http.StatusInternalServerError
	}
	for _, codes := range [][]localapi.Code{control.Codes(), keyclient.Codes()} {
		for _, c := range codes {
			if c.Name == code && c.Status != 0 {
				return c.Status
			}
		}
	}
	return http.StatusUnprocessableEntity
}

// refusalOf turns what a handler returned into what the caller is told.
func refusalOf(err error) *manage.Error {
	var own *manage.Error
	var behind *localapi.Error
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &behind):
		return &manage.Error{Code: behind.Code, Text: behind.Text, Remedy: behind.Remedy}
	case errors.Is(err, localapi.ErrUnavailable):
		return &manage.Error{Code: manage.CodeUnavailable, Text: "the service behind this method does not answer; try again in a minute, or look at the status",
			Remedy: "try again in a minute, or look at the status"}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return &manage.Error{Code: manage.CodeTimeout, Text: "the call took too long; it is not known whether it was carried out: look at the status",
			Remedy: "look at the status"}
	}
	return &manage.Error{Code: manage.CodeInternal, Text: "internal fault; the box's log says more", Remedy: "look at the box's log"}
}

// outcomeOf is how a call ended, for the record: refused is what the box decided
// against, failed is what it could not do.
func outcomeOf(e *manage.Error) string {
	switch {
	case e == nil:
		return outcomeDone
	case statusOf(e.Code) >= http.StatusInternalServerError:
		return outcomeFailed
	}
	return outcomeRefused
}
