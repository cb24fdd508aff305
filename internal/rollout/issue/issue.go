// Package issue signs the owner's consent to a release: the rollout order
// (package rollout) beside the release's hash, as a target of the owner's TUF
// repository (release/sign). It needs the file itself, so that the owner signs
// what lies before them and not what somebody said that it is; the file is not
// copied, boxes fetch it from the vendor's repository.
//
// An order that no box could follow is refused before anything is signed. The box
// never links this package.
package issue

import (
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/release/sign"
	"gitlab.opencode.de/pforte/pforte/internal/rollout"
)

// ErrOver: the window of the order has closed already.
var ErrOver = errors.New("the window of the order is over")

// Authorise signs into the owner's repository dir that the boxes of the order
// may install file as release version. A later order for the same version
// replaces the earlier one. Nothing is written unless the order is valid and its
// window still to come or open at now.
func Authorise(dir, file, version string, order rollout.Order, key crypto.Signer, now time.Time) error {
	if err := check(order, now); err != nil {
		return fmt.Errorf("authorise release %s: %w", version, err)
	}
	if err := sign.Add(dir, file, version, order, false, key, now); err != nil {
		return fmt.Errorf("authorise release %s: %w", version, err)
	}
	return nil
}

// check reports what is wrong with an order, as the box will read it.
func check(order rollout.Order, now time.Time) error {
	data, err := json.Marshal(order)
	if err != nil {
		return err
	}
	if _, err := rollout.Parse(data); err != nil {
		return err
	}
	if !order.NotAfter.IsZero() && !now.Before(order.NotAfter) {
		return fmt.Errorf("%w: it closes at %s", ErrOver, order.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// Withdraw takes the consent back: boxes that look again will not install the
// release. One that has it on trial already goes on.
func Withdraw(dir, version string, key crypto.Signer, now time.Time) error {
	if err := sign.Remove(dir, version, key, now); err != nil {
		return fmt.Errorf("withdraw release %s: %w", version, err)
	}
	return nil
}
