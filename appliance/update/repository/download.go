package repository

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/release"
)

// stallLimit is how long a download may bring nothing.
const stallLimit = 60 * time.Second

// errStalled ends a download that brings nothing.
var errStalled = errors.New("the server sends nothing any more")

// Open starts the download of a release's file from the vendor's repository. It
// ends with ctx, or when it stands still; the reader is the caller's to close.
// Nothing of it is verified here, but a length that cannot be right is refused.
func (r *Repositories) Open(ctx context.Context, rel release.Release) (io.ReadCloser, error) {
	urls, err := r.urls()
	if err != nil {
		return nil, err
	}
	stall := r.stall
	if stall == 0 {
		stall = stallLimit
	}
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(stall, func() { cancel(errStalled) })
	response, err := get(ctx, r.client, urls.Vendor, rel.Path())
	if err == nil && response.ContentLength >= 0 && response.ContentLength != rel.Length {
		_ = response.Body.Close()
		err = fmt.Errorf("the server has %d bytes, signed are %d", response.ContentLength, rel.Length)
	}
	if err != nil {
		timer.Stop()
		err = because(ctx, err)
		cancel(nil)
		return nil, err
	}
	return &download{ctx: ctx, cancel: cancel, timer: timer, stall: stall, response: response}, nil
}

// download is a body that must keep coming.
type download struct {
	ctx      context.Context
	cancel   context.CancelCauseFunc
	timer    *time.Timer
	stall    time.Duration
	response *http.Response
}

// Read reads on, and gives up after a standstill.
func (d *download) Read(p []byte) (int, error) {
	n, err := d.response.Body.Read(p)
	if n > 0 {
		d.timer.Reset(d.stall)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = because(d.ctx, err)
	}
	return n, err
}

// Close ends the download.
func (d *download) Close() error {
	d.timer.Stop()
	err := d.response.Body.Close()
	d.cancel(nil)
	return err
}

// because adds why ctx ended, if it did for a reason of ours.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, errStalled) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}
