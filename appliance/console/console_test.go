package console

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
)

var update = flag.Bool("update", false, "write the golden pages anew")

// readable turns a page into text for people: styles become tags.
func readable(page string) string {
	return strings.NewReplacer(clearScreen, "", "\r\n", "\n", string(alarm), "<alarm>", string(care), "<care>", string(bold), "<bold>", reset, "</>").Replace(page)
}

func healthy() manage.Status {
	return manage.Status{
		Box: "pforte-gw-01", Version: "1.4.0", Variant: "release", Serial: 7,
		Addresses: []string{"10.30.0.2:8443", "[fd10:30::2]:8443"},
		Boot:      manage.Boot{Slot: "a", SecureBoot: true, Lockdown: "integrity"},
		Keys:      []manage.Key{{Purpose: "tenant-server", Fingerprint: "sha256:ffff"}, {Purpose: "management-server", Fingerprint: "sha256:" + strings.Repeat("0123456789abcdef", 4)}},
		Update:    &manage.Update{Slots: map[string]string{"a": "1.4.0", "b": "1.3.0", "fallback": "1.4.0"}, Progress: manage.Progress{Phase: "idle"}},
		Mail:      &manage.Mail{Messages: 12, Dead: 1},
		Health:    []manage.Condition{{Code: "x", Severity: "notice", English: "not shown", German: "nicht gezeigt"}},
	}
}

// pages are what a technician may meet.
func pages() map[string]string {
	with := func(silent bool, change func(*manage.Status)) string {
		s := healthy()
		change(&s)
		return Render(s, silent)
	}
	locked := &manage.Locked{Code: "tpm-changed", English: "This is not the TPM that locked the data, or it was cleared. Put the disk back into its box, or use the owner's recovery key.",
		German: "Dies ist nicht das TPM, das die Daten verschlossen hat, oder es wurde gelöscht. Die Platte in ihre Box zurücksetzen oder den Wiederherstellungsschlüssel des Eigentümers verwenden."}
	return map[string]string{
		"healthy": with(false, func(*manage.Status) {}),
		"dev":     with(false, func(s *manage.Status) { s.Variant = "dev" }),
		"locked": with(false, func(s *manage.Status) {
			s.Locked, s.Mail, s.Update = locked, nil, nil
		}),
		"silent": with(true, func(*manage.Status) {}),
		"before the first answer": Render(FromReport(report.Report{Version: "1.4.0", Variant: "dev", Epoch: 3, Slot: report.SlotB,
			Locked: &report.Fault{Code: "tpm-missing", English: "No TPM 2.0 answers.", German: "Kein TPM 2.0 antwortet."}}), true),
		"nothing known": Render(manage.Status{}, true),
		"refused seed": Render(manage.Status{Version: "1.4.0", Variant: "release", Seed: &manage.Seed{Reason: "2 faults", Faults: []manage.Fault{
			{Line: 14, Text: "serial: the serial is missing or 0; start at 1"}, {Line: 31, Text: "network.interfaces[0].role: there is no role \"tennant\"; write tenant, provider or management"}}},
			Health: []manage.Condition{{Code: "config.none", Severity: "warning", German: "Es gibt noch keine Konfiguration.", English: "There is no configuration yet."}}}, false),
		"sick": with(false, func(s *manage.Status) {
			s.Health = []manage.Condition{{Code: "relay.crl.stale", Severity: "fault", German: "Die Sperrliste des Providers ist abgelaufen; keine De-Mail geht hinaus, bis sie wieder erreichbar ist.", English: "The provider's revocation list has expired; no De-Mail leaves until it can be fetched again."}}
			s.Silent = []manage.Silent{{Service: "netd", Text: "call: dial unix /run/pforte/netd.sock"}}
		}),
		"on trial": with(false, func(s *manage.Status) { s.Boot.Trial, s.Boot.Slot, s.Update.Trial = true, "b", "1.5.0" }),
		"downloading": with(false, func(s *manage.Status) {
			s.Update.Progress = manage.Progress{Phase: manage.PhaseDownloading, Release: "1.5.0", Bytes: 30, Of: 60}
		}),
		"failed update": with(false, func(s *manage.Status) {
			s.Update.Last = &manage.Outcome{Release: "1.5.0", Why: "not healthy within 4m0s: relayd does not answer"}
		}),
		"hostile": with(false, func(s *manage.Status) {
			s.Box = "\x1b[2J\x1b]0;x\a\u202eevil\x9b31m"
			s.Health = []manage.Condition{{Severity: "fault", German: strings.Repeat("Wort ", 400), English: strings.Repeat("x", 3000)}}
			s.Addresses = []string{strings.Repeat("9", 500)}
		}),
	}
}

// TestPages compares with what a person has looked at.
func TestPages(t *testing.T) {
	for name, page := range pages() {
		t.Run(name, func(t *testing.T) {
			checkPage(t, page)
			golden := filepath.Join("testdata", strings.ReplaceAll(name, " ", "-")+".page")
			got := readable(page) + "\n"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// checkPage holds what is true of every page: it fits the screen, and nothing
// but our own styles steers the terminal.
func checkPage(t *testing.T, page string) {
	t.Helper()
	text, ok := strings.CutPrefix(page, clearScreen)
	if !ok {
		t.Fatalf("page does not begin with a clear screen: %q", page)
	}
	for _, own := range []string{string(alarm), string(care), string(bold), reset} {
		text = strings.ReplaceAll(text, own, "")
	}
	lines := strings.Split(text, "\r\n")
	if len(lines) > Height {
		t.Errorf("%d lines", len(lines))
	}
	for _, l := range lines {
		if n := utf8.RuneCountInString(l); n > Width {
			t.Errorf("line of %d characters: %q", n, l)
		}
		for _, r := range l {
			if r < ' ' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError {
				t.Errorf("character %U on the page: %q", r, l)
			}
		}
	}
}

// FuzzRender: whatever the status says, the page fits and is harmless.
func FuzzRender(f *testing.F) {
	for _, s := range []manage.Status{healthy(), {}, {Locked: &manage.Locked{German: "x\x00\x1b[1m"}}} {
		seed, err := json.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed, true)
	}
	f.Fuzz(func(t *testing.T, data []byte, silent bool) {
		var s manage.Status
		if json.Unmarshal(data, &s) != nil {
			return
		}
		checkPage(t, Render(s, silent))
	})
}

func TestWrap(t *testing.T) {
	for _, tt := range []struct {
		in     string
		indent string
		want   []string
	}{
		{"", "", []string{""}},
		{"one two", "", []string{"one two"}},
		{"one two three", "  ", []string{"one two", "  three"}},
		{"onetwothreefour", "", []string{"onetwothr", "eefour"}},
		{"onetwothreefour", "  ", []string{"onetwothr", "  eefour"}},
		{"a  bbbbbbbbbbbb", "", []string{"a", "bbbbbbbbb", "bbb"}},
	} {
		if diff := cmp.Diff(tt.want, wrap(tt.in, 9, tt.indent)); diff != "" {
			t.Errorf("%q: %s", tt.in, diff)
		}
	}
}

// screenful collects what is written to the screen.
type screenful struct {
	mu    sync.Mutex
	pages []string
	fault error
}

func (s *screenful) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pages = append(s.pages, string(p))
	return len(p), s.fault
}

// shown gives the number of pages, and the last.
func (s *screenful) shown() (n int, last string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n = len(s.pages); n > 0 {
		last = s.pages[n-1]
	}
	return n, last
}

// answers is what apid says.
type answers struct {
	mu     sync.Mutex
	status manage.Status
	fault  error
}

func (a *answers) set(s manage.Status, fault error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status, a.fault = s, fault
}

func (a *answers) ask(context.Context) (manage.Status, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.status, a.fault
}

// TestRun: the page is written when it changed, and once a minute; a silent apid
// leaves the last page with a note.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		out := &screenful{}
		apid := &answers{fault: errors.New("not yet")}
		screen := Screen{Out: out, Log: slog.New(slog.DiscardHandler), Boot: manage.Status{Version: "1.4.0"}, Ask: apid.ask}
		done := make(chan error, 1)
		go func() { done <- screen.Run(ctx) }()
		after := func(d time.Duration, pages int, text string) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if n, last := out.shown(); n != pages || !strings.Contains(last, text) {
				t.Errorf("%d pages, want %d; the last: %q, want %q", n, pages, last, text)
			}
		}
		after(time.Second, 1, "antwortet nicht")
		apid.set(healthy(), nil)
		after(interval, 2, "Keine Störung")
		after(10*interval, 2, "Keine Störung")
		apid.set(manage.Status{}, errors.New("gone"))
		after(interval, 3, "pforte-gw-01")
		after(0, 3, "antwortet nicht")
		after(repaintTime+interval, 4, "antwortet nicht")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestHangingApid: a question without an answer is given up.
func TestHangingApid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		out := &screenful{}
		screen := Screen{Out: out, Log: slog.New(slog.DiscardHandler), Ask: func(ctx context.Context) (manage.Status, error) {
			<-ctx.Done()
			return manage.Status{}, ctx.Err()
		}}
		done := make(chan error, 1)
		go func() { done <- screen.Run(ctx) }()
		time.Sleep(askTimeout + time.Second)
		synctest.Wait()
		if n, last := out.shown(); n != 1 || !strings.Contains(last, "antwortet nicht") {
			t.Errorf("%d pages, the last: %q", n, last)
		}
		cancel()
		<-done
	})
}

// TestNoScreen: without a screen there is nothing to do.
func TestNoScreen(t *testing.T) {
	screen := Screen{Out: &screenful{fault: errors.New("no tty")}, Ask: func(context.Context) (manage.Status, error) { return manage.Status{}, nil }}
	if err := screen.Run(t.Context()); err == nil {
		t.Error("a broken screen is no fault")
	}
}
