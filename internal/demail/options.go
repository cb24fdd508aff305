package demail

import (
	"errors"
	"fmt"
)

// ErrOption is wrapped by every fault in dispatch options.
var ErrOption = errors.New("dispatch option")

// Options are the dispatch options of a normal message (TR-01201-3.4 §3.1.2 to
// §3.1.6). The zero value asks for none.
type Options struct {
	ConfirmDispatch bool // confirmation of dispatch
	ConfirmReceipt  bool // confirmation of receipt
	ConfirmRetrieve bool // confirmation of retrieve: public authorities, with Private only
	Private         bool // the recipient needs level high
	Authoritative   bool // sender confirmed: the provider signs
}

// OptionError is one option that cannot be met, and what to do about it. It
// wraps ErrOption.
type OptionError struct {
	Field  string
	Fault  string
	Remedy string
}

// Error is the fault, then the remedy.
func (e *OptionError) Error() string {
	return fmt.Sprintf("%s: %s; %s", e.Field, e.Fault, e.Remedy)
}

// Unwrap makes errors.Is(err, ErrOption) true.
func (e *OptionError) Unwrap() error { return ErrOption }

// HasOptions reports whether h carries any option field at all, be it "no".
func HasOptions(h *Header) bool {
	for _, name := range senderFields()[:5] {
		if h.Has(name) {
			return true
		}
	}
	return false
}

// OptionsFromHeader reads the five option fields; the first from the top counts,
// an absent field is "no", and any value but the exact "yes" or "no" is an
// *OptionError. All faults are joined.
func OptionsFromHeader(h *Header) (Options, error) {
	var o Options
	var errs []error
	for _, p := range o.fields() {
		if !h.Has(p.name) {
			continue
		}
		v := h.Get(p.name)
		if checkYesNo(v) != nil {
			errs = append(errs, &OptionError{p.name, "neither yes nor no", `write "yes" or "no" in lower case`})
			continue
		}
		*p.set = v == "yes"
	}
	return o, errors.Join(errs...)
}

// Check reports every option that a sender of this level may not ask for, or not
// in this combination, as joined *OptionError; nil if all can be met. Nothing is
// ever weakened silently (TR-01201 part 3, dispatch options).
func (o Options) Check(level Level, publicAuthority bool) error {
	var errs []error
	fault := func(field, fault, remedy string) {
		errs = append(errs, &OptionError{field, fault, remedy})
	}
	high := level == LevelHigh
	if o.Private && !high {
		fault(FieldPrivate, "needs a login at level high", "leave the option out or send from an account at level high")
	}
	if o.Authoritative && !high {
		fault(FieldAuthoritative, "needs a login at level high", "leave the option out or send from an account at level high")
	}
	if o.ConfirmRetrieve && !high {
		fault(FieldConfirmRetrieve, "needs a login at level high", "leave the option out or send from an account at level high")
	}
	if o.ConfirmRetrieve && !publicAuthority {
		fault(FieldConfirmRetrieve, "is for public authorities only", "ask for a confirmation of receipt instead")
	}
	if o.ConfirmRetrieve && !o.Private {
		fault(FieldConfirmRetrieve, "needs the option private", "set "+FieldPrivate+": yes as well")
	}
	return errors.Join(errs...)
}

// Apply writes all five fields as "yes" or "no" and removes doubled ones.
func (o Options) Apply(h *Header) {
	for _, p := range o.fields() {
		v := "no"
		if *p.set {
			v = "yes"
		}
		// Constant names and values: Replace has nothing to refuse.
		_ = h.Replace(p.name, v)
	}
}

// optionField ties a field's name to its place in Options.
type optionField struct {
	name string
	set  *bool
}

func (o *Options) fields() []optionField {
	return []optionField{
		{FieldConfirmDispatch, &o.ConfirmDispatch},
		{FieldConfirmReceipt, &o.ConfirmReceipt},
		{FieldConfirmRetrieve, &o.ConfirmRetrieve},
		{FieldAuthoritative, &o.Authoritative},
		{FieldPrivate, &o.Private},
	}
}
