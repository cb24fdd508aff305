package smtpguard

import (
	"slices"
	"strconv"
	"strings"
)

// paramsOf are the parameters that each command knows: SIZE (RFC 1870), BODY
// (6152), SMTPUTF8 (6531), RET, ENVID, NOTIFY and ORCPT (3461), AUTH (4954).
func (s *Server) paramsOf(verb string) []string {
	switch {
	case verb == "MAIL" && s.o.NoDSN:
		return []string{"SIZE", "BODY", "SMTPUTF8", "AUTH"}
	case verb == "MAIL":
		return []string{"SIZE", "BODY", "SMTPUTF8", "RET", "ENVID", "AUTH"}
	case s.o.NoDSN:
		return nil
	}
	return []string{"NOTIFY", "ORCPT"}
}

// params checks the parameters of MAIL or RCPT: their syntax (RFC 5321 §4.1.2),
// that they are known, that none comes twice - two readers may take different
// ones - and those that the guard answers for. go-smtp reads the rest.
func (c *conn) params(verb, s string) *Error {
	known, seen := c.s.paramsOf(verb), []string(nil)
	for param := range strings.FieldsSeq(s) {
		key, value, assigned := strings.Cut(param, "=")
		key = strings.ToUpper(key)
		switch {
		case key == "" || strings.Contains(value, "=") || assigned && value == "":
			return Errorf(501, "5.5.4", "a parameter must be KEYWORD or KEYWORD=value")
		case !slices.Contains(known, key):
			return Errorf(555, "5.5.4", "%s has a parameter that is not known here", verb)
		case slices.Contains(seen, key):
			return Errorf(501, "5.5.4", "parameter %s stands there twice", key)
		}
		seen = append(seen, key)
		if fault := paramFault(key, value, assigned, c.maxSize()); fault != nil {
			return fault
		}
	}
	return nil
}

func paramFault(key, value string, assigned bool, size int64) *Error {
	switch key {
	case "SIZE":
		n, err := strconv.ParseUint(value, 10, 63)
		switch {
		case strings.Trim(value, "0123456789") != "" || value == "":
			return Errorf(501, "5.5.4", "SIZE must be a number")
		case err != nil || int64(n) > size:
			return Errorf(552, "5.3.4", "message is larger than %d bytes", size)
		}
	case "BODY":
		if !strings.EqualFold(value, "7BIT") && !strings.EqualFold(value, "8BITMIME") {
			return Errorf(504, "5.5.4", "BODY must be 7BIT or 8BITMIME")
		}
	case "SMTPUTF8":
		if assigned {
			return Errorf(501, "5.5.4", "SMTPUTF8 takes no value")
		}
	}
	return nil
}
