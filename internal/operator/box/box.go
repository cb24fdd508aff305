// Package box calls the management API of one box (package manage) over HTTPS.
//
// A client proves who it is by its certificate, and knows the box in one of two
// ways, or both: by an authority and a name (the box has an installed
// certificate), or by the fingerprint of the box's public key as its console
// shows it. Without either it does not connect; there is no "trust on first
// use".
//
// A call is made once and never repeated by itself: after ErrUnreachable in the
// middle of a call it is unknown whether the box carried it out.
package box

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
	"gitlab.opencode.de/pforte/pforte/internal/tlsprofile"
)

// Errors that callers test.
var (
	// ErrUnreachable: nothing answers, or it stopped answering.
	ErrUnreachable = errors.New("box does not answer")
	// ErrStranger: what answers does not prove that it is the box.
	ErrStranger = errors.New("this is not the box")
	// ErrNotAdmitted: the box does not accept the client certificate.
	ErrNotAdmitted = errors.New("box does not accept the client certificate")
	// ErrUnable: the box did not refuse, it could not. It comes with a *manage.Error.
	ErrUnable = errors.New("box is not able to")
)

const (
	// DefaultTimeout bounds a call. The longest methods look into repositories.
	DefaultTimeout = 2 * time.Minute
	connectTimeout = 10 * time.Second
	maxAnswer      = 4 << 20 // bytes
)

// Options say which box, and who asks.
type Options struct {
	Address     string           // host:port
	Certificate *tls.Certificate // of the client
	Roots       *x509.CertPool   // authorities of the box's certificate; nil: Key alone counts
	Name        string           // DNS name or address in the box's certificate; "" means the host of Address
	Key         string           // hsm.Fingerprint of the box's key; "": Roots alone count
	Timeout     time.Duration    // of one call; 0 means DefaultTimeout
}

// Client calls one box. It may be used by several goroutines.
type Client struct {
	opts Options
	http *http.Client
}

// New returns a client; it does not connect yet.
func New(opts Options) (*Client, error) {
	host, _, err := net.SplitHostPort(opts.Address)
	switch {
	case err != nil || host == "":
		return nil, fmt.Errorf("address %q: want host:port", opts.Address)
	case opts.Certificate == nil:
		return nil, errors.New("no client certificate")
	case opts.Roots == nil && opts.Key == "":
		return nil, errors.New("nothing to know the box by: neither an authority nor a key")
	case opts.Key != "" && !IsFingerprint(opts.Key):
		return nil, fmt.Errorf("%q is no fingerprint; it is \"sha256:\" and 64 hexadecimal digits", opts.Key)
	}
	if opts.Name == "" {
		opts.Name = host
	}
	if opts.Timeout == 0 {
		opts.Timeout = DefaultTimeout
	}
	c := &Client{opts: opts}
	dialer := &net.Dialer{Timeout: connectTimeout}
	c.http = &http.Client{
		Transport: &http.Transport{
			DialContext:         dialer.DialContext,
			TLSClientConfig:     c.tlsConfig(),
			TLSHandshakeTimeout: connectTimeout,
			DisableCompression:  true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// IsFingerprint reports whether s has the form of hsm.Fingerprint.
func IsFingerprint(s string) bool {
	digits, ok := strings.CutPrefix(s, "sha256:")
	return ok && len(digits) == 64 && strings.Trim(digits, "0123456789abcdef") == ""
}

// tlsConfig verifies the box itself: by authority and name, by key, or by both.
func (c *Client) tlsConfig() *tls.Config {
	t := tlsprofile.Client()
	t.InsecureSkipVerify = true // VerifyConnection does it in full
	t.VerifyConnection = c.verify
	if net.ParseIP(c.opts.Name) == nil {
		t.ServerName = c.opts.Name
	}
	t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return c.opts.Certificate, nil // also when the box's list does not name its issuer: the box shall say so
	}
	return t
}

// verify decides whether what answered is the box.
func (c *Client) verify(s tls.ConnectionState) error {
	if err := tlsprofile.CheckState(s); err != nil {
		return fmt.Errorf("%w: %w", ErrStranger, err)
	}
	if len(s.PeerCertificates) == 0 {
		return fmt.Errorf("%w: it shows no certificate", ErrStranger)
	}
	if c.opts.Key != "" {
		shown, err := hsm.Fingerprint(s.PeerCertificates[0].PublicKey)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrStranger, err)
		}
		if shown != c.opts.Key {
			return fmt.Errorf("%w: its key is %s, expected is %s", ErrStranger, shown, c.opts.Key)
		}
	}
	if c.opts.Roots != nil {
		_, err := tlsprofile.VerifyPeer(s, c.opts.Roots, []string{c.opts.Name}, x509.ExtKeyUsageServerAuth, time.Now())
		if err != nil {
			return fmt.Errorf("%w: expected %s: %w", ErrStranger, c.opts.Name, err)
		}
	}
	return nil
}

// Call calls a method of package manage, with values for its braces in order.
// in is marshalled as JSON (nil: no argument; json.RawMessage: as it is), and
// the result is read into out (nil to drop it). A refusal by the box is a
// *manage.Error, with ErrUnable if the box could not rather than would not;
// otherwise the error wraps one of this package's, or ctx's.
func (c *Client) Call(ctx context.Context, method string, in, out any, values ...string) error {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	request, err := c.request(ctx, method, in, values)
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return c.failure(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return c.failure(err)
	case len(body) > maxAnswer:
		return fmt.Errorf("box %s: the answer has more than %d bytes", c.opts.Address, maxAnswer)
	case response.StatusCode != http.StatusOK:
		return c.refusal(response.StatusCode, body)
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("box %s: read the answer: %w", c.opts.Address, err)
	}
	return nil
}

func (c *Client) request(ctx context.Context, method string, in any, values []string) (*http.Request, error) {
	verb, path, _ := strings.Cut(method, " ")
	for _, v := range values {
		from, to := strings.Index(path, "{"), strings.Index(path, "}")
		if from < 0 || to < from {
			return nil, fmt.Errorf("method %s takes no value %q", method, v)
		}
		path = path[:from] + v + path[to+1:]
	}
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if raw, ok := in.(json.RawMessage); ok {
			data, err = raw, nil
		}
		if err != nil {
			return nil, fmt.Errorf("method %s: %w", method, err)
		}
		body = bytes.NewReader(data)
	}
	r, err := http.NewRequestWithContext(ctx, verb, "https://"+c.opts.Address+path, body)
	if err != nil {
		return nil, fmt.Errorf("method %s: %w", method, err)
	}
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return r, nil
}

// refusal reads why the box refused.
func (c *Client) refusal(status int, body []byte) error {
	var r manage.Refusal
	if err := json.Unmarshal(body, &r); err != nil || r.Error == nil {
		return fmt.Errorf("box %s: it answered with HTTP status %d and no reason", c.opts.Address, status)
	}
	if status >= http.StatusInternalServerError {
		return fmt.Errorf("%w: %w", ErrUnable, r.Error)
	}
	return r.Error
}

// failure says what it means that there is no answer.
func (c *Client) failure(err error) error {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		err = u.Err // without verb and URL, which say nothing more
	}
	alert := (*net.OpError)(nil)
	switch {
	case errors.Is(err, ErrStranger):
		return fmt.Errorf("box %s: %w", c.opts.Address, err)
	case errors.As(err, &alert) && alert.Op == "remote error" && strings.Contains(alert.Err.Error(), "certificate"):
		return fmt.Errorf("box %s: %w (%w)", c.opts.Address, ErrNotAdmitted, alert.Err)
	}
	return fmt.Errorf("box %s: %w: %w", c.opts.Address, ErrUnreachable, err)
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }
