package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
)

// maxQMPMessages bounds the events skipped while waiting for one answer.
const maxQMPMessages = 1000

// qmpMessage is any message of QEMU's machine protocol that matters here.
type qmpMessage struct {
	Greeting *json.RawMessage `json:"QMP"`
	Return   *json.RawMessage `json:"return"`
	Event    string           `json:"event"`
	Error    *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
}

// command opens QEMU's control socket, runs one command without arguments and
// closes it again. A machine that ends before it answers is no error.
func (m *Machine) command(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, qmpWait)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", m.path("qmp.sock"))
	if err != nil {
		return fmt.Errorf("vm: %s: %w", name, err)
	}
	defer func() { _ = conn.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	dec, enc := json.NewDecoder(conn), json.NewEncoder(conn)
	if _, err := answer(dec, func(q qmpMessage) bool { return q.Greeting != nil }); err != nil {
		return fmt.Errorf("vm: %s: %w", name, err)
	}
	for _, c := range []string{"qmp_capabilities", name} {
		if err := enc.Encode(map[string]string{"execute": c}); err != nil {
			return fmt.Errorf("vm: %s: %w", name, err)
		}
		if _, err := answer(dec, func(q qmpMessage) bool { return q.Return != nil }); err != nil {
			return fmt.Errorf("vm: %s: %w", name, err)
		}
	}
	return nil
}

// answer reads messages until one fits, skipping events.
func answer(dec *json.Decoder, fits func(qmpMessage) bool) (qmpMessage, error) {
	for range maxQMPMessages {
		var q qmpMessage
		if err := dec.Decode(&q); err != nil {
			return q, err
		}
		if q.Error != nil {
			return q, fmt.Errorf("%s: %s", q.Error.Class, q.Error.Desc)
		}
		if fits(q) {
			return q, nil
		}
	}
	return qmpMessage{}, errors.New("no answer among " + fmt.Sprint(maxQMPMessages) + " messages")
}
