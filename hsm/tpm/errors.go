package tpm

import (
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"gitlab.opencode.de/pforte/pforte/hsm"
)

// remedied is an error with what a person can do about it.
type remedied struct {
	err    error
	remedy string
}

// Error returns the fault, then the remedy.
func (r remedied) Error() string { return r.err.Error() + "; " + r.remedy }

// Unwrap returns the fault.
func (r remedied) Unwrap() error { return r.err }

// Remedy returns the remedy alone.
func (r remedied) Remedy() string { return r.remedy }

// changed says that this is not the TPM that made the keys.
func changed(err error) error {
	return remedied{fmt.Errorf("%w: %w", hsm.ErrDeviceChanged, err),
		"put the original TPM back, or reset the box to make new keys and ask for new certificates"}
}

// known gives a TPM's answer the meaning that callers know. An error that
// already has one passes unchanged.
func known(err error) error {
	switch {
	case errors.Is(err, hsm.ErrDeviceChanged), errors.Is(err, hsm.ErrLockedOut):
		return err
	case errors.Is(err, tpm2.TPMRCLockout):
		return remedied{fmt.Errorf("%w: %w", hsm.ErrLockedOut, err),
			"leave the box running: the TPM forgives one failed try per interval"}
	case errors.Is(err, tpm2.TPMRCIntegrity):
		// The private area was wrapped by another storage root key, or altered.
		return changed(err)
	case errors.Is(err, tpm2.TPMRCAuthFail), errors.Is(err, tpm2.TPMRCBadAuth):
		return remedied{fmt.Errorf("the TPM's owner hierarchy has a password: %w", err),
			"clear the TPM in the firmware's set-up"}
	case errors.Is(err, tpm2.TPMRCHierarchy):
		return remedied{fmt.Errorf("the TPM's owner hierarchy is disabled: %w", err),
			"enable it in the firmware's set-up"}
	}
	return err
}
