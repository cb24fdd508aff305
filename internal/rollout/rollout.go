// Package rollout is the owner's order: which boxes may install a release,
// when, how many at once, and from which versions. It stands as JSON in the
// custom part of the owner's TUF target (package release) and so carries the
// owner's signature.
//
// Decide is a pure function of the order and of what the box knows of itself.
// It never starts anything: hosting starts an update, and Decide says whether
// the owner allows it. Rules, in this order: the version must not have failed
// on this box; a version that already runs needs no update; the epoch must not
// be lower than the running one (a release with a lower epoch may no longer
// unseal the data volume), nor the version within the same epoch, unless the
// order says Older; the box must be named; the window must be open; the running
// version must not be below the order's minimum epoch.
//
// AtOnce is carried for the rollout of several boxes; one box alone cannot
// check it, and hosting's tool must.
package rollout

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/release"
)

const (
	maxOrder = 64 << 10 // bytes of JSON
	maxBoxes = 1000
)

// Errors of Decide, for errors.Is. Each is wrapped with the details.
var (
	ErrFailedBefore = errors.New("this version failed on this box before")
	ErrEpoch        = errors.New("the release is older than what this box may run")
	ErrOlder        = errors.New("the release is older than the running one")
	ErrBox          = errors.New("the owner's order does not name this box")
	ErrWindow       = errors.New("outside the window of the owner's order")
	ErrMinimum      = errors.New("the running version is too old for a direct step")
	ErrSame         = errors.New("this version already runs")
)

// Order is the owner's permission to run one release.
type Order struct {
	// Boxes are names or patterns (path.Match: "*", "sn-gw-0?") of the boxes
	// that may install. Empty means none.
	Boxes []string `json:"boxes"`
	// NotBefore and NotAfter are the window; a zero time leaves that side open.
	NotBefore time.Time `json:"notBefore,omitzero"`
	NotAfter  time.Time `json:"notAfter,omitzero"`
	// AtOnce is how many boxes may be on trial at the same time, 0 means 1.
	AtOnce int `json:"atOnce,omitempty"`
	// MinimumEpoch is the lowest epoch from which a direct step is allowed.
	MinimumEpoch uint64 `json:"minimumEpoch,omitempty"`
	// Older allows to go back to this release from a newer one of the same epoch.
	Older bool `json:"older,omitempty"`
}

// Parse reads an order strictly: unknown fields, a window that ends before it
// begins, and bad patterns are errors.
func Parse(data []byte) (Order, error) {
	var o Order
	if len(data) == 0 {
		return o, errors.New("rollout: the owner's target carries no order")
	}
	if len(data) > maxOrder {
		return o, fmt.Errorf("rollout: order is larger than %d bytes", maxOrder)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&o); err != nil {
		return Order{}, fmt.Errorf("rollout: order: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Order{}, errors.New("rollout: order: text after the JSON object")
	}
	return o, o.Validate()
}

// Validate reports what is wrong with an order.
func (o Order) Validate() error {
	switch {
	case len(o.Boxes) == 0:
		return errors.New("rollout: order names no box; write \"*\" for all")
	case len(o.Boxes) > maxBoxes:
		return fmt.Errorf("rollout: order names more than %d boxes", maxBoxes)
	case o.AtOnce < 0:
		return errors.New("rollout: atOnce is negative")
	case !o.NotBefore.IsZero() && !o.NotAfter.IsZero() && !o.NotAfter.After(o.NotBefore):
		return errors.New("rollout: the window ends before it begins")
	}
	for _, b := range o.Boxes {
		if _, err := path.Match(b, ""); err != nil || b == "" {
			return fmt.Errorf("rollout: %q is no name and no pattern of a box", b)
		}
	}
	return nil
}

// Candidate is the release in question.
type Candidate struct {
	Version string
	Epoch   uint64
}

// Box is what the box knows of itself.
type Box struct {
	Name    string
	Version string // running
	Epoch   uint64 // running
	Failed  []string
	Now     time.Time
}

// Decide returns nil if the owner's order lets this box install the release
// now, or one of the errors above with its details.
func Decide(o Order, c Candidate, b Box) error {
	if slices.Contains(b.Failed, c.Version) {
		return fmt.Errorf("%w: %s", ErrFailedBefore, c.Version)
	}
	if c.Version == b.Version {
		return fmt.Errorf("%w: %s", ErrSame, c.Version)
	}
	if c.Epoch < b.Epoch {
		return fmt.Errorf("%w: epoch %d, running is %d", ErrEpoch, c.Epoch, b.Epoch)
	}
	if c.Epoch == b.Epoch && !o.Older && release.Compare(c.Version, b.Version) < 0 {
		return fmt.Errorf("%w: %s, running is %s", ErrOlder, c.Version, b.Version)
	}
	if !slices.ContainsFunc(o.Boxes, func(pattern string) bool {
		ok, err := path.Match(pattern, b.Name)
		return err == nil && ok
	}) {
		return fmt.Errorf("%w: %s", ErrBox, b.Name)
	}
	if !o.NotBefore.IsZero() && b.Now.Before(o.NotBefore) {
		return fmt.Errorf("%w: it opens at %s", ErrWindow, o.NotBefore.UTC().Format(time.RFC3339))
	}
	if !o.NotAfter.IsZero() && b.Now.After(o.NotAfter) {
		return fmt.Errorf("%w: it closed at %s", ErrWindow, o.NotAfter.UTC().Format(time.RFC3339))
	}
	if b.Epoch < o.MinimumEpoch {
		return fmt.Errorf("%w: epoch %d, the order asks for at least %d", ErrMinimum, b.Epoch, o.MinimumEpoch)
	}
	return nil
}

// Remedy tells people what to do about an error of Decide, "" if there is nothing.
func Remedy(err error) string {
	for _, r := range []struct {
		err    error
		remedy string
	}{
		{ErrFailedBefore, "the vendor must release a new version"},
		{ErrEpoch, "ask the vendor for a newer release"},
		{ErrOlder, "install a newer release, or have the owner's order allow the older one"},
		{ErrBox, "ask the owner to name this box in the order"},
		{ErrWindow, "start the update within the window, or ask the owner for another one"},
		{ErrMinimum, "install a release in between first"},
	} {
		if errors.Is(err, r.err) {
			return r.remedy
		}
	}
	return ""
}
