package main

import (
	"context"
	"path/filepath"
	"sync"
	"time"

	"gitlab.opencode.de/pforte/pforte/qemu/peers"
)

// tuning is what is changed from Postfix's defaults, in its favour.
func tuning() []string {
	return []string{
		"default_process_limit = 200",                // all 50 sessions at once, and as many deliveries
		"in_flow_delay = 0",                          // never slows senders down in favour of delivery
		"smtpd_client_connection_count_limit = 0",    // one load generator is one client; also spares the anvil process
		"smtpd_client_connection_rate_limit = 0",     // same
		"initial_destination_concurrency = 20",       // no slow start towards the one next hop
		"default_destination_concurrency_limit = 50", // more deliveries at once than the default of 20
		"smtp_destination_concurrency_limit = 50",    // same
		"relay_destination_concurrency_limit = 50",   // same
		"qmgr_message_active_limit = 200000",         // the whole test in the active queue
		"qmgr_message_recipient_limit = 200000",      // same
		"smtp_tls_connection_reuse = yes",            // not the default: without it each delivery makes its own TLS connection
		"max_use = 1000",                             // a daemon serves 1,000 connections, not 100, before it is replaced
		"smtpd_error_sleep_time = 0",                 // no errors are expected; they should not cost
		"hopcount_limit = 100",
	}
}

// postfixUnder is Postfix with a watch on its memory.
type postfixUnder struct {
	*peers.Process
	at   int
	peak int64
	mu   sync.Mutex
	stop context.CancelFunc
	done chan struct{}
}

// startPostfix runs Postfix with its queue in dir.
func startPostfix(ctx context.Context, dir string, w *peers.World, next int) (*postfixUnder, error) {
	at, err := peers.FreePort()
	if err != nil {
		return nil, err
	}
	p, err := peers.Postfix(ctx, filepath.Join(dir, "postfix"), peers.Wiring{Host: peers.BoxName, Cert: w.Box, Token: w.Token,
		ClientCA: w.CAs[0].PEM() + w.CAs[1].PEM(), Implicit: at, Next: next, NextName: peers.Provider, NextCA: string(w.PKI.CAPEM()), Way: peers.ImplicitTLS}, tuning()...)
	if err != nil {
		return nil, err
	}
	watch, stop := context.WithCancel(context.Background())
	u := &postfixUnder{Process: p, at: at, stop: stop, done: make(chan struct{})}
	go u.watch(watch)
	return u, nil
}

// lookEvery is how often memory is looked at: looking costs CPU that both lack.
const lookEvery = time.Second

func (u *postfixUnder) watch(ctx context.Context) {
	defer close(u.done)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			u.note(u.Process.Usage())
		}
	}
}

func (u *postfixUnder) note(x peers.Usage) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.peak = max(u.peak, x.RSS)
}

func (u *postfixUnder) port() int { return u.at }

func (u *postfixUnder) state() (state, error) {
	x := u.Process.Usage()
	u.note(x)
	u.mu.Lock()
	defer u.mu.Unlock()
	return state{CPU: x.CPU, Peak: u.peak}, nil
}

func (u *postfixUnder) end() {
	u.stop()
	<-u.done
	u.Process.Stop()
}
