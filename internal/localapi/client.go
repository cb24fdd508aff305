package localapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
)

// Client calls the methods of one server. It may be used by several goroutines.
type Client struct {
	socket string
	codes  []Code
	http   *http.Client
}

// Dial returns a client of the server at the socket's path. It does not connect
// yet: a server that is not there shows at the first Call. Codes are the
// service's own errors, the same list that its server has.
func Dial(socket string, codes ...Code) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &Client{
		socket: socket,
		codes:  slices.Concat(codes, channelCodes()),
		http: &http.Client{
			Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true, DisableCompression: true},
			CheckRedirect: func(*http.Request, []*http.Request) error {
				return http.ErrUseLastResponse
			},
		},
	}
}

// Call calls a method ("POST /v1/sign") with in as its argument (nil for none)
// and reads its result into out (nil to drop it). A ctx without a deadline gets
// DefaultTimeout.
//
// A refusal or failure of the server comes back as *Error, for which errors.Is
// knows the registered sentinels; no answer at all is ErrUnavailable, or ctx's
// error when ctx ended first. Then it is unknown whether the server carried
// the call out. Call never repeats by itself.
func (c *Client) Call(ctx context.Context, method string, in, out any) error {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
	}
	request, err := newRequest(ctx, method, in)
	if err != nil {
		return fmt.Errorf("call %s: %w", method, err)
	}
	response, err := c.http.Do(request)
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("call %s: %w", method, ctx.Err())
		}
		return fmt.Errorf("call %s: %w at %s: %w", method, ErrUnavailable, c.socket, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, MaxResponse+1))
	switch {
	case err != nil:
		return fmt.Errorf("call %s: read the answer: %w", method, err)
	case len(body) > MaxResponse:
		return fmt.Errorf("call %s: the answer exceeds %d bytes", method, MaxResponse)
	case response.StatusCode != http.StatusOK:
		return fmt.Errorf("call %s: %w", method, c.parseError(response.StatusCode, body))
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("call %s: read the answer: %w", method, err)
	}
	return nil
}

func newRequest(ctx context.Context, method string, in any) (*http.Request, error) {
	verb, path, ok := strings.Cut(method, " ")
	if !ok {
		return nil, fmt.Errorf("%q: want a name such as \"POST /v1/sign\"", method)
	}
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	request, err := http.NewRequestWithContext(ctx, verb, "http://localapi"+path, body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	return request, nil
}

// parseError reads the wire form; an answer that has none (it is not ours) is
// reported by its status alone.
func (c *Client) parseError(status int, body []byte) error {
	var wire struct {
		Error *Error `json:"error"`
	}
	if err := json.Unmarshal(body, &wire); err != nil || wire.Error == nil {
		return &Error{Code: failed, Text: fmt.Sprintf("the server answered with status %d", status)}
	}
	return wire.Error.bind(c.codes)
}
