// Command bench runs Pforte's relay and Debian's Postfix side by side and prints
// what each of them does (`make bench`).
//
// # What is measured
//
// One load generator and one next hop, both in this process and both small, serve
// both relays in turns (Pforte, Postfix, Pforte, Postfix), on one disk. TLS 1.3 with
// P-256 and client certificates on both hops; every accepted message is synced
// before the 250. Pforte runs in a process of its own with the code of relayd, and
// does what Postfix does not: addresses mapped, header rewritten, dispatch options
// read. Each run begins with an empty queue and a short warm-up.
//
// End to end is from the first connection until the next hop has the last message;
// accept latency from MAIL until the 250 behind the final dot. CPU is user and
// system time of the relay's processes (for Postfix: of all its daemons), RSS the most that
// was seen (Postfix: proportional shares, looked at once a second). The next hop checks that every message
// came exactly once with its body unchanged (XXH64: the apparatus must be light); a run in which one did not is an
// error, not a figure.
//
// Postfix logs nothing here (there is no syslog in its jail), Pforte writes its
// log to a file. How Postfix is tuned stands in postfix.go, each line with its reason.
//
// # Settings, from the environment
//
//	BENCH_SCALE=0.1     a share of the messages
//	BENCH_ROUNDS=1      turns of each (2)
//	BENCH_ONLY=pforte   or postfix
//	BENCH_CASE=10       only cases whose name contains that
//	PROFILE=dir         CPU profiles of Pforte's relay, one for each case
//
// It needs root for Postfix (see qemu/peers), writes below build/ only, and
// leaves nothing there.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if path := os.Getenv(childEnv); path != "" {
		err = child(context.Background(), path)
	} else {
		err = run(ctx, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
