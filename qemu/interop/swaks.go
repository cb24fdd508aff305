package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"gitlab.opencode.de/pforte/pforte/qemu/peers"
)

// swaksRow is the matrix's row of swaks, a client that hands in itself.
func (m *matrix) swaksRow(ctx context.Context, world *peers.World, dir string) error {
	if only := os.Getenv("ONLY"); only != "" && only != "swaks" {
		return nil
	}
	if _, err := exec.LookPath("swaks"); err != nil {
		if os.Getenv("SHORT") == "1" {
			fmt.Fprintf(m.out, "\nswaks: skipped (SHORT=1): %v\n", err)
			return nil
		}
		return fmt.Errorf("%w: swaks; run `make setup`", peers.ErrMissing)
	}
	s := &stage{dir: dir, world: world}
	defer s.end()
	box, end, err := s.toProvider(ctx)
	if err != nil {
		return err
	}
	k, err := newSwaks(dir, world, box)
	if err != nil {
		return err
	}
	w := &way{name: "submitting", peer: "swaks", to: peers.Citizen, end: end, box: box, letter: fromTenant}
	send := func(body func(string) []byte, args ...string) func(context.Context, *way) error {
		return func(ctx context.Context, w *way) error { return k.through(ctx, w, body, args...) }
	}
	lacks := func(what string) func(context.Context, *way) error {
		return func(context.Context, *way) error { return notOffered{"peer", what} }
	}
	m.row(ctx, w, []trial{{"plain", send(odd)}, {"8bit", send(func(n string) []byte { return append(odd(n), "Gr\u00fc\u00dfe\r\n"...) })}, {"utf8", lacks("SMTPUTF8")},
		{"chunking", lacks("CHUNKING")}, {"dsn", lacks("DSN")}, {"pipelining", send(odd, "--pipeline")}, {"large", large20(k)}, {"smuggling", k.smuggling}})
	return nil
}

// swaks calls the program.
type swaks struct {
	dir  string
	args []string
}

func newSwaks(dir string, world *peers.World, box *peers.Box) (*swaks, error) {
	text, err := peers.EncodePEM(world.Tenants[0])
	if err != nil {
		return nil, err
	}
	own, ca := filepath.Join(dir, "own.pem"), filepath.Join(dir, "ca.pem")
	if err := errors.Join(os.WriteFile(own, []byte(text), 0o600), os.WriteFile(ca, []byte(world.BoxCA.PEM()), 0o600)); err != nil {
		return nil, err
	}
	return &swaks{dir, []string{"--server", "127.0.0.1", "--port", fmt.Sprint(box.Implicit), "--tls-on-connect", "--tls-cert", own, "--tls-key", own,
		"--from", peers.TenantMail(0), "--to", peers.Citizen, "--no-data-fixup", "--hide-all", "--timeout", "60s"}}, nil
}

// data sends bytes as they are behind DATA.
func (k *swaks) data(ctx context.Context, data []byte, args ...string) error {
	file := filepath.Join(k.dir, "letter")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "swaks", append(append(slices.Clone(k.args), "--data", "@"+file), args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("swaks: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

func (k *swaks) through(ctx context.Context, w *way, body func(string) []byte, args ...string) error {
	marker := name()
	b := body(marker)
	l, err := w.letter(b)
	if err != nil {
		return err
	}
	// swaks ends the data with CRLF itself
	if err := k.data(ctx, stuffed(l.raw), args...); err != nil {
		return err
	}
	_, err = w.once(ctx, marker, b)
	return err
}

func large20(k *swaks) func(context.Context, *way) error {
	return func(ctx context.Context, w *way) error {
		return k.through(ctx, w, func(m string) []byte { return largeBody(m) })
	}
}

// smuggling: Pforte must refuse every one of them.
func (k *swaks) smuggling(ctx context.Context, w *way) error {
	for _, end := range falseEnds() {
		l, err := w.letter([]byte("marker " + name() + "\r\nfirst"))
		if err != nil {
			return err
		}
		before := w.box.Accepted()
		err = k.data(ctx, slices.Concat(l.raw, []byte(end), []byte(l.envelope()+"DATA\r\nmarker\r\n.\r\n")))
		if n := w.box.Accepted() - before; n != 0 || err == nil {
			return fmt.Errorf("%q: Pforte took %d messages (%v), want 0 and a refusal", end, n, err)
		}
	}
	return nil
}
