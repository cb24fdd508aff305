package dsn

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/mail"
	"strings"
	"time"
	"unicode"
)

// Bounds of what Parse reads.
const (
	maxStatus     = 1 << 20
	maxRecipients = 1000
	maxFields     = 64 // of one group
	maxField      = 4096
	maxAddress    = 512 // twice what SMTP allows (RFC 5321 §4.5.3.1.3)
)

// Status is what a message/delivery-status part says (RFC 3464 §2). Dates that
// cannot be read are left out.
type Status struct {
	Hostname   string // Reporting-MTA, without its type
	ENVID      string
	Arrival    time.Time
	Recipients []Recipient
}

var errStatus = errors.New("not a delivery status (RFC 3464)")

// Parse reads a message/delivery-status part, at most a megabyte of it and a
// thousand recipients. It wants what every report must have: Reporting-MTA, and for
// each of at least one recipient Final-Recipient, Action and Status.
func Parse(r io.Reader) (*Status, error) {
	br := bufio.NewReaderSize(io.LimitReader(r, maxStatus+1), maxField)
	s := &Status{}
	read := 0
	for first := true; ; first = false {
		fields, n, err := group(br)
		if read += n; read > maxStatus {
			return nil, fmt.Errorf("%w: it is larger than %d bytes", errStatus, maxStatus)
		}
		if err != nil && err != io.EOF {
			return nil, err
		}
		switch {
		case first:
			if fault := s.message(fields); fault != nil {
				return nil, fault
			}
		case len(fields) > 0:
			if fault := s.recipient(fields); fault != nil {
				return nil, fault
			}
		}
		if err == io.EOF {
			break
		}
	}
	if len(s.Recipients) == 0 {
		return nil, fmt.Errorf("%w: it names no recipient", errStatus)
	}
	return s, nil
}

// group reads fields up to an empty line or the end (io.EOF): unfolded, by their
// name in lower case. Of a field that stands there twice the first counts.
func group(br *bufio.Reader) (fields map[string]string, n int, err error) {
	fields = map[string]string{}
	name, lines := "", 0
	for {
		raw, err := br.ReadSlice('\n')
		n += len(raw)
		if err != nil && err != io.EOF {
			return nil, n, fmt.Errorf("%w: a line is longer than %d bytes", errStatus, maxField)
		}
		line := strings.TrimRight(string(raw), "\r\n")
		switch {
		case line == "":
			if len(fields) > 0 || err == io.EOF {
				return fields, n, err
			}
		case line[0] == ' ' || line[0] == '\t':
			if name == "" || len(fields[name])+len(line) > maxField {
				return nil, n, fmt.Errorf("%w: a continued line continues nothing, or too much", errStatus)
			}
			fields[name] += " " + strings.TrimSpace(line)
		default:
			key, value, found := strings.Cut(line, ":")
			if name = strings.ToLower(strings.TrimSpace(key)); !found || !atom(name) {
				return nil, n, fmt.Errorf("%w: a line is no field", errStatus)
			}
			if lines++; lines > maxFields {
				return nil, n, fmt.Errorf("%w: it has more than %d fields in a group", errStatus, maxFields)
			}
			if _, twice := fields[name]; twice {
				name = "twice-" + name // and is not asked for
			}
			fields[name] = strings.TrimSpace(value)
		}
		if err == io.EOF {
			return fields, n, err
		}
	}
}

func (s *Status) message(fields map[string]string) error {
	_, host, found := strings.Cut(fields["reporting-mta"], ";")
	if s.Hostname = strings.TrimSpace(host); !found || s.Hostname == "" {
		return fmt.Errorf("%w: it has no Reporting-MTA", errStatus)
	}
	s.ENVID, s.Arrival = fields["original-envelope-id"], date(fields["arrival-date"])
	return nil
}

func (s *Status) recipient(fields map[string]string) error {
	if len(s.Recipients) == maxRecipients {
		return fmt.Errorf("%w: it names more than %d recipients", errStatus, maxRecipients)
	}
	r := Recipient{Action: Action(strings.ToLower(fields["action"])), Status: status(fields["status"]),
		Last: date(fields["last-attempt-date"]), RetryUntil: date(fields["will-retry-until"])}
	kind, address, err := splitAddress(fields["final-recipient"])
	if err != nil || kind != mailType && kind != utf8Type {
		return fmt.Errorf("%w: a recipient has no Final-Recipient", errStatus)
	}
	r.Address = address
	switch r.Action {
	case Failed, Delayed, Delivered, Relayed, Expanded:
	default:
		return fmt.Errorf("%w: a recipient has no Action", errStatus)
	}
	if r.Status == "" {
		return fmt.Errorf("%w: a recipient has no Status", errStatus)
	}
	if text := fields["original-recipient"]; text != "" {
		if kind, address, err = splitAddress(text); err != nil {
			return err
		}
		r.Original = kind + ";" + address
	}
	_, r.RemoteMTA, _ = strings.Cut(fields["remote-mta"], ";")
	r.RemoteMTA = strings.TrimSpace(r.RemoteMTA)
	kind, text, _ := strings.Cut(fields["diagnostic-code"], ";")
	r.Remote, r.Diagnostic = strings.EqualFold(strings.TrimSpace(kind), "smtp"), strings.TrimSpace(text)
	s.Recipients = append(s.Recipients, r)
	return nil
}

// splitAddress reads "type;address".
func splitAddress(s string) (kind, address string, err error) {
	kind, address, found := strings.Cut(s, ";")
	kind, address = strings.ToLower(strings.TrimSpace(kind)), strings.TrimSpace(address)
	if !found || !atom(kind) || address == "" {
		return "", "", errOriginal
	}
	if kind == utf8Type {
		address, err = unescape(address)
	}
	if err == nil && (len(address) > maxAddress || strings.ContainsFunc(address, unicode.IsControl)) {
		err = errOriginal
	}
	return kind, address, err
}

// status is the enhanced code that a Status field begins with, or "".
func status(field string) string {
	code, _, _ := strings.Cut(field, " ")
	parts := strings.Split(code, ".")
	if len(parts) != 3 || len(parts[0]) != 1 {
		return ""
	}
	for _, p := range parts {
		if len(p) == 0 || len(p) > 3 || strings.Trim(p, "0123456789") != "" {
			return ""
		}
	}
	return code
}

func date(s string) time.Time {
	t, err := mail.ParseDate(s)
	if err != nil {
		return time.Time{}
	}
	return t
}
