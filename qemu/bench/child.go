package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/service"
	"gitlab.opencode.de/pforte/pforte/qemu/peers"
)

// childEnv names the order of a child process: this program started once more as
// the relay alone, so that its CPU seconds and memory are its own.
const childEnv = "PFORTE_BENCH_RELAY"

// order is what the child gets, as a file of JSON.
type order struct {
	Dir           string
	Document      *config.Document
	Server, Token string // key and certificates, PEM
}

// state is what the child answers to each line on its standard input.
type state struct {
	Implicit int           // port
	CPU      time.Duration // user and system
	Peak     int64         // most memory so far, bytes
	Syncs    int64         // fsync and its relatives
	Written  int64         // bytes written to files
	Error    string
}

// child runs the relay until its standard input ends. A line "profile PATH"
// starts a CPU profile, "end" ends it, "state" asks for numbers.
func child(ctx context.Context, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var o order
	if err := json.Unmarshal(text, &o); err != nil {
		return err
	}
	options := peers.BoxOptions{Document: o.Document, Dir: o.Dir}
	if options.Server, err = peers.ParseCertificate(o.Server); err != nil {
		return err
	}
	if options.Token, err = peers.ParseCertificate(o.Token); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(filepath.Dir(path), "relay.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	options.Log = service.NewLogger(log) // as cmd/relayd does
	files := &countingFS{FS: vfs.Default}
	options.FS = files
	box, err := peers.StartBox(ctx, options)
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	answer := func(fault error) error {
		s := state{Implicit: box.Implicit, Syncs: files.syncs.Load(), Written: files.written.Load()}
		s.CPU, s.Peak = ownUsage()
		if fault != nil {
			s.Error = fault.Error()
		}
		return out.Encode(s)
	}
	if err := answer(nil); err != nil {
		return err
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if err := answer(profile(lines.Text())); err != nil {
			return err
		}
	}
	return box.Stop()
}

// profile carries out "profile PATH" and "end".
func profile(line string) error {
	var path string
	switch n, _ := fmt.Sscanf(line, "profile %s", &path); {
	case n == 1:
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		return pprof.StartCPUProfile(f)
	case line == "end":
		pprof.StopCPUProfile()
	}
	return nil
}

// ownUsage reads this process's CPU time and peak memory.
func ownUsage() (cpu time.Duration, peak int64) {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0, 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano()), r.Maxrss << 10
}

// relayProcess is the child as its parent sees it.
type relayProcess struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *json.Decoder
	port int
}

// startRelay runs Pforte's relay in its own process, with its state in dir.
func startRelay(dir string, w *peers.World, provider int) (*relayProcess, error) {
	o := order{Dir: filepath.Join(dir, "state"), Document: w.Document(provider)}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	var err error
	if o.Server, err = peers.EncodePEM(w.Box); err != nil {
		return nil, err
	}
	if o.Token, err = peers.EncodePEM(w.Token); err != nil {
		return nil, err
	}
	text, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "order.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &relayProcess{cmd: exec.Command(self)}
	p.cmd.Env, p.cmd.Stderr = append(os.Environ(), childEnv+"="+path), os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.out = json.NewDecoder(out)
	s, err := p.read()
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("relay process: %w", err)
	}
	p.port = s.Implicit
	return p, nil
}

func (p *relayProcess) read() (state, error) {
	var s state
	if err := p.out.Decode(&s); err != nil {
		return s, err
	}
	if s.Error != "" {
		return s, errors.New(s.Error)
	}
	return s, nil
}

// say sends one line and returns the answer.
func (p *relayProcess) say(line string) (state, error) {
	if _, err := fmt.Fprintln(p.in, line); err != nil {
		return state{}, err
	}
	return p.read()
}

// stop ends the child at once: what it holds is not wanted any more.
func (p *relayProcess) stop() {
	p.in.Close()
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}
