package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"gitlab.opencode.de/pforte/pforte/qemu/peers"
)

// test is one case: so many messages of a size from so many sessions.
type test struct {
	name     string
	messages int
	size     int
	down     bool // the next hop is down: only accepting is measured
}

func tests() []test {
	return []test{
		{"10 KiB", 5000, 10 << 10, false},
		{"100 KiB", 1000, 100 << 10, false},
		{"10 MiB", 30, 10 << 20, false},
		{"10 KiB, next hop down", 5000, 10 << 10, true},
	}
}

// Bounds and shape of a run.
const (
	sessions = 50
	warmUp   = 200 // messages before each run
	arrival  = 4 * time.Minute
)

// Names of the two.
const (
	pforte  = "Pforte"
	postfix = "Postfix"
)

// settings from the environment.
type settings struct {
	scale   float64
	rounds  int
	only    string
	match   string
	profile string
}

func read() (settings, error) {
	s := settings{scale: 1, rounds: 2, only: strings.ToLower(os.Getenv("BENCH_ONLY")), match: os.Getenv("BENCH_CASE"), profile: os.Getenv("PROFILE")}
	var err error
	if v := os.Getenv("BENCH_SCALE"); v != "" {
		if s.scale, err = strconv.ParseFloat(v, 64); err != nil || s.scale <= 0 || s.scale > 10 {
			return s, fmt.Errorf("BENCH_SCALE=%s: want a number above 0 and up to 10", v)
		}
	}
	if v := os.Getenv("BENCH_ROUNDS"); v != "" {
		if s.rounds, err = strconv.Atoi(v); err != nil || s.rounds < 1 || s.rounds > 20 {
			return s, fmt.Errorf("BENCH_ROUNDS=%s: want 1 to 20", v)
		}
	}
	if s.only != "" && s.only != "pforte" && s.only != "postfix" {
		return s, fmt.Errorf("BENCH_ONLY=%s: want pforte or postfix", s.only)
	}
	if s.profile != "" {
		if s.profile, err = filepath.Abs(s.profile); err == nil {
			err = os.MkdirAll(s.profile, 0o755)
		}
	}
	return s, err
}

// count scales a number of messages, to no fewer than one for each session or n.
func (s settings) count(n int) int { return max(min(n, sessions), int(float64(n)*s.scale)) }

// bench is one run of the program.
type bench struct {
	settings
	out   io.Writer
	dir   string
	world *peers.World
	sink  *sink
}

// run measures everything and prints it.
func run(ctx context.Context, out io.Writer) error {
	s, err := read()
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 && s.only != "pforte" {
		return fmt.Errorf("%w; BENCH_ONLY=pforte needs no root", peers.ErrNoRoot)
	}
	if err := os.MkdirAll("build", 0o755); err != nil {
		return err
	}
	b := &bench{settings: s, out: out}
	if b.dir, err = os.MkdirTemp("build", "bench-"); err == nil {
		b.dir, err = filepath.Abs(b.dir)
	}
	if err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if b.world, err = peers.NewWorld(); err != nil {
		return err
	}
	defer b.world.Close()
	if b.sink, err = newSink(b.world.PKI.Server(), b.world.PKI.Pool()); err != nil {
		return err
	}
	defer b.sink.down()
	b.about()
	for _, t := range tests() {
		if strings.Contains(t.name, s.match) {
			if err := b.compare(ctx, t); err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
		}
	}
	if strings.Contains("fair", s.match) && s.only != "postfix" {
		return b.fair(ctx)
	}
	return nil
}

// relay is what is measured.
type relay interface {
	port() int
	state() (state, error)
	end()
}

// pforteUnder is the relay's process as a relay.
type pforteUnder struct{ *relayProcess }

func (p pforteUnder) port() int             { return p.relayProcess.port }
func (p pforteUnder) state() (state, error) { return p.say("state") }
func (p pforteUnder) end()                  { p.stop() }

func (b *bench) start(ctx context.Context, who string) (r relay, clean func(), err error) {
	dir, err := os.MkdirTemp(b.dir, "run-")
	if err != nil {
		return nil, nil, err
	}
	if who == pforte {
		var p *relayProcess
		p, err = startRelay(dir, b.world, b.sink.port)
		r = pforteUnder{p}
	} else {
		var p *postfixUnder
		p, err = startPostfix(ctx, dir, b.world, b.sink.port)
		r = p
	}
	if err != nil {
		os.RemoveAll(dir)
		return nil, nil, fmt.Errorf("%s: %w", who, err)
	}
	return r, func() { r.end(); os.RemoveAll(dir) }, nil
}

// compare runs one case for both, in turns.
func (b *bench) compare(ctx context.Context, t test) error {
	t.messages = b.count(t.messages)
	sums := map[string]*figures{pforte: {}, postfix: {}}
	for round := range b.rounds {
		for _, who := range []string{pforte, postfix} {
			if b.only != "" && b.only != strings.ToLower(who) {
				continue
			}
			if err := b.once(ctx, t, who, round, sums[who]); err != nil {
				return fmt.Errorf("%s: %w", who, err)
			}
		}
	}
	b.print(t, sums)
	return nil
}

// once is one run of one case.
func (b *bench) once(ctx context.Context, t test, who string, round int, f *figures) error {
	r, clean, err := b.start(ctx, who)
	if err != nil {
		return err
	}
	defer clean()
	g := newGenerator(r.port(), sessions, peers.BoxName, b.world.BoxCA, b.world.Tenants[0])
	if err := b.through(ctx, g, "warm", min(warmUp, 4*t.messages), 1<<10); err != nil {
		return fmt.Errorf("warm-up: %w", err)
	}
	l, expected := newLetters(fmt.Sprintf("%s-%d", strings.ToLower(who), round), 0, t.messages, t.size)
	b.sink.expect(expected)
	if t.down {
		b.sink.down()
		defer func() { err = errors.Join(err, b.sink.up()) }()
	}
	if who == pforte && b.profile != "" && round == 0 {
		if _, err := r.(pforteUnder).say("profile " + filepath.Join(b.profile, strings.NewReplacer(" ", "", ",", "-").Replace(t.name)+".pprof")); err != nil {
			return err
		}
	}
	before, err := r.state()
	if err != nil {
		return err
	}
	own, _ := ownUsage()
	machine := machineBusy()
	s, err := g.send(ctx, l)
	if err != nil {
		return err
	}
	end := s.end
	if !t.down {
		if err := b.awaitAll(ctx); err != nil {
			return err
		}
		end = b.sink.last
	}
	after, err := r.state()
	if err != nil {
		return err
	}
	ownAfter, _ := ownUsage()
	f.add(t, s, end, before, after, ownAfter-own, machineBusy()-machine, b.sink.total)
	if who == pforte && b.profile != "" && round == 0 {
		if _, err := r.(pforteUnder).say("end"); err != nil {
			return err
		}
	}
	return b.check(t)
}

func (b *bench) check(t test) error {
	if t.down {
		return nil
	}
	return b.sink.verdict()
}

// through sends messages that do not count, and waits for them.
func (b *bench) through(ctx context.Context, g *generator, name string, count, size int) error {
	l, expected := newLetters(name, 0, count, size)
	b.sink.expect(expected)
	if _, err := g.send(ctx, l); err != nil {
		return err
	}
	if err := b.awaitAll(ctx); err != nil {
		return err
	}
	return b.sink.verdict()
}

// awaitAll waits until the next hop has everything.
func (b *bench) awaitAll(ctx context.Context) error {
	limit := time.NewTimer(arrival)
	defer limit.Stop()
	select {
	case <-b.sink.all:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-limit.C:
		return fmt.Errorf("not all came within %v: %w", arrival, b.sink.verdict())
	}
}

// figures sum up the runs of one relay in one case.
type figures struct {
	messages    int
	wall        time.Duration // until the next hop had all
	accepting   time.Duration // until the last 250
	wait        []time.Duration
	cpu         time.Duration
	peak        int64
	syncs       int64
	written     int64
	generator   time.Duration // CPU of generator and sink
	busy        time.Duration // CPU of the whole machine
	connections int
}

func (f *figures) add(t test, s *sent, end time.Time, before, after state, own, busy time.Duration, conns int) {
	f.messages += t.messages
	f.wall += end.Sub(s.start)
	f.accepting += s.end.Sub(s.start)
	f.wait = append(f.wait, s.wait...)
	slices.Sort(f.wait)
	f.cpu += after.CPU - before.CPU
	f.peak = max(f.peak, after.Peak)
	f.syncs += after.Syncs - before.Syncs
	f.written += after.Written - before.Written
	f.generator += own
	f.busy += busy
	f.connections += conns
}
