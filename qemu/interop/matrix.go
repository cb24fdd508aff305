package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gitlab.opencode.de/pforte/pforte/qemu/peers"
)

// trialLimit bounds one cell.
const trialLimit = 4 * time.Minute

// cell is one result.
type cell struct{ text, fault string }

func judge(err error) cell {
	var missing notOffered
	var split splits
	switch {
	case err == nil:
		return cell{text: "pass"}
	case errors.As(err, &missing), errors.As(err, &split):
		return cell{text: err.Error()}
	}
	return cell{"FAIL", err.Error()}
}

// matrix is what is printed: each row as it comes, and the table at the end.
type matrix struct {
	out    io.Writer
	fails  int
	counts map[string]int
	rows   []string
}

// short is a cell of the table; the rows above it say it in full.
func (c cell) short() string {
	switch {
	case c.text == "pass", c.text == "FAIL":
		return c.text
	case strings.HasPrefix(c.text, "peer splits"):
		return "splits"
	case strings.HasPrefix(c.text, "Pforte"):
		return "(Pforte)"
	}
	return "(peer)"
}

// table prints all rows.
func (m *matrix) table() {
	fmt.Fprintf(m.out, "\n%-22s", "")
	for _, t := range trials() {
		fmt.Fprintf(m.out, " %-10s", t.name)
	}
	fmt.Fprintf(m.out, "\n%s\n(peer), (Pforte): who does not offer it\n", strings.Join(m.rows, "\n"))
}

// run goes through all peers.
func run(ctx context.Context, out io.Writer) error {
	if os.Geteuid() != 0 {
		return peers.ErrNoRoot
	}
	if err := os.MkdirAll("build", 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("build", "interop-")
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return err
	}
	if os.Getenv("KEEP") == "" {
		defer os.RemoveAll(dir)
	}
	world, err := peers.NewWorld()
	if err != nil {
		return err
	}
	defer world.Close()
	m := &matrix{out: out, counts: map[string]int{}}
	for _, r := range runners() {
		if only := os.Getenv("ONLY"); only != "" && only != r.name {
			continue
		}
		if err := m.peer(ctx, r, world, filepath.Join(dir, r.name)); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	if err := m.swaksRow(ctx, world, dir); err != nil {
		return fmt.Errorf("swaks: %w", err)
	}
	m.table()
	fmt.Fprintf(out, "\n%d pass, %d not offered or peer's own, %d fail\n", m.counts["pass"], m.counts["other"], m.fails)
	if m.fails > 0 {
		return fmt.Errorf("%d cells failed", m.fails)
	}
	return nil
}

// peer fills the rows of one peer.
func (m *matrix) peer(ctx context.Context, r runner, world *peers.World, dir string) error {
	s, err := open(ctx, r, world, dir)
	if errors.Is(err, peers.ErrMissing) && os.Getenv("SHORT") == "1" {
		fmt.Fprintf(m.out, "%s: skipped (SHORT=1): %v\n", r.name, err)
		return nil
	}
	if err != nil {
		return err
	}
	defer s.end()
	for _, w := range s.ways {
		m.row(ctx, w, trials())
	}
	return nil
}

// row runs every trial of one way.
func (m *matrix) row(ctx context.Context, w *way, list []trial) {
	fmt.Fprintf(m.out, "\n%s, %s\n", w.peer, w.name)
	var faults []string
	line := fmt.Sprintf("%-22s", w.peer+", "+w.name)
	for _, t := range list {
		one, cancel := context.WithTimeout(ctx, trialLimit)
		c := judge(t.run(one, w))
		cancel()
		fmt.Fprintf(m.out, "  %-11s %s\n", t.name, c.text)
		line += fmt.Sprintf(" %-10s", c.short())
		switch c.text {
		case "pass":
			m.counts["pass"]++
		case "FAIL":
			m.fails++
			faults = append(faults, t.name+": "+c.fault)
		default:
			m.counts["other"]++
		}
	}
	m.rows = append(m.rows, strings.TrimRight(line, " "))
	if len(faults) > 0 {
		fmt.Fprintf(m.out, "    %s\n", strings.Join(faults, "\n    "))
	}
}
