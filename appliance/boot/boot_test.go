package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/volume"
	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/hsm/seal"
)

func TestOnlyTheFirstProcessBoots(t *testing.T) {
	if err := Run(t.Context()); err == nil {
		t.Fatal("it ran")
	}
}

// The seed, which anybody may have written, comes after the latch; the latch
// comes after the volume, and /var after that.
func TestOrderOfSteps(t *testing.T) {
	var names []string
	for _, s := range steps() {
		names = append(names, s.name)
		if s.run == nil || s.english == "" || s.german == "" {
			t.Errorf("step %s has no work or no remedy", s.name)
		}
	}
	want := []string{"mounts", "modules", "firmware", "root", "enrol", "disk", "volume", "latch", "var", "seed", "esp", "services", "drivers", "handover"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Fatal(diff)
	}
}

func TestPanicIsAnError(t *testing.T) {
	b := &box{}
	err := b.guarded(t.Context(), step{run: func(*box, context.Context) error { panic("out of cheese") }})
	if err == nil || !strings.Contains(err.Error(), "out of cheese") {
		t.Fatalf("got %v", err)
	}
}

func TestFailureIsShownAndWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var console bytes.Buffer
		b := &box{console: &console}
		start := time.Now()
		b.fail(step{name: "root", english: "Do this.", german: "Dies tun."}, errors.New("no such file"))
		if waited := time.Since(start); waited != failureWait {
			t.Errorf("waited %v, want %v", waited, failureWait)
		}
		for _, want := range []string{"PFORTE boot.failed step=root", "no such file", "Do this.", "Dies tun."} {
			if !strings.Contains(console.String(), want) {
				t.Errorf("the console does not show %q:\n%s", want, &console)
			}
		}
	})
}

func TestEveryReasonIsTold(t *testing.T) {
	sentinels := []error{
		errSecureBootOff, errEnrol, errNoTPM, errNoDisk, errManyDisks, errNoData, errMount, hsm.ErrLockedOut,
		seal.ErrChangedTPM, seal.ErrState, seal.ErrForeign, seal.ErrUnmeasured, seal.ErrFormat,
		volume.ErrForeign, volume.ErrHeader, volume.ErrTooSmall, volume.ErrKey, volume.ErrFileSystem,
	}
	for _, err := range sentinels {
		got := faultOf(fmt.Errorf("data volume /dev/vda2: %w", err))
		if got.Code == "internal" || got.English == "" || got.German == "" || !strings.Contains(got.Detail, "/dev/vda2") {
			t.Errorf("%v: got %+v", err, got)
		}
	}
	if len(reasons()) != len(sentinels) {
		t.Errorf("%d reasons for %d errors", len(reasons()), len(sentinels))
	}
	if got := faultOf(errors.New("else")); got.Code != "internal" || got.English == "" || got.German == "" {
		t.Errorf("unknown error: got %+v", got)
	}
}

func TestFirstReasonCounts(t *testing.T) {
	var console bytes.Buffer
	b := &box{console: &console}
	b.lock(errNoTPM)
	b.lock(errNoDisk)
	if b.report.Locked.Code != "tpm-missing" {
		t.Errorf("code %q", b.report.Locked.Code)
	}
	if n := strings.Count(console.String(), "PFORTE boot.locked"); n != 1 {
		t.Errorf("%d marks", n)
	}
}

// A locked box opens nothing, whatever the disk holds.
func TestLockedBoxOpensNothing(t *testing.T) {
	b := &box{console: &bytes.Buffer{}}
	b.lock(errSecureBootOff)
	if err := b.openVolume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.console.(*bytes.Buffer).String(), "boot.unlocked") {
		t.Fatal("it says that it is unlocked")
	}
}

func TestParseModules(t *testing.T) {
	got, err := parseModules(strings.NewReader("/modules/loop.ko\n\n# comment\n  /modules/vfat.ko # with reason\n"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/modules/loop.ko", "/modules/vfat.ko"}, got); diff != "" {
		t.Error(diff)
	}
	for name, text := range map[string]string{
		"relative":  "modules/loop.ko",
		"not clean": "/modules/../x.ko",
		"no module": "/modules/loop",
		"too many":  strings.Repeat("/m/x.ko\n", maxModules+1),
	} {
		if _, err := parseModules(strings.NewReader(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestLastOwnModule(t *testing.T) {
	paths := []string{"/modules/loop.ko", "/modules/usb-storage.ko", "/modules/e1000e.ko", "/modules/nf_tables.ko"}
	if got := lastOwn(paths); got != 1 {
		t.Errorf("got %d, want 1", got)
	}
	if got := lastOwn(paths[2:]); got != -1 {
		t.Errorf("got %d, want -1", got)
	}
}

func TestModulesInTheBackground(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.ko")
	if err := os.WriteFile(bad, []byte("no module"), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		b := &box{watchdog: &watchdog{}, rest: loadLater(nil)}
		if err := b.awaitModules(t.Context()); err != nil {
			t.Errorf("nothing to load: %v", err)
		}
		b.rest = make(chan error)
		start := time.Now()
		if err := b.awaitModules(t.Context()); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != modulesWait {
			t.Errorf("a module that hangs: %v after %v", err, time.Since(start))
		}
		files, err := openAll([]string{bad})
		if err != nil {
			t.Fatal(err)
		}
		b.rest = loadLater(files)
		if err := b.awaitModules(t.Context()); err == nil {
			t.Error("a module that fails goes unnoticed")
		}
	})
}

func TestAbsentHardware(t *testing.T) {
	if !absent(fmt.Errorf("load: %w", unix.ENODEV)) {
		t.Error("a driver without device is an error")
	}
	for _, err := range []error{unix.ENOEXEC, unix.EKEYREJECTED, unix.EPERM} {
		if absent(err) {
			t.Errorf("%v is passed over", err)
		}
	}
}

func TestParseRelease(t *testing.T) {
	got := parseRelease(strings.NewReader("ID=pforte\nVERSION_ID=\"1.2.3\"\nVARIANT_ID=dev\nPFORTE_EPOCH=7\nOTHER\n"))
	if got != (release{"1.2.3", "dev", 7}) {
		t.Fatalf("got %+v", got)
	}
	if got := readRelease(filepath.Join(t.TempDir(), "none")); got != (release{}) {
		t.Fatalf("a missing file gave %+v", got)
	}
}

func TestReadLockdown(t *testing.T) {
	for text, want := range map[string]string{
		"none [integrity] confidentiality\n": "integrity",
		"[none] integrity confidentiality\n": "none",
		"":                                   "none",
		"none [integrity":                    "none",
	} {
		path := filepath.Join(t.TempDir(), "lockdown")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := readLockdown(path); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	if got := readLockdown(filepath.Join(t.TempDir(), "none")); got != "none" {
		t.Errorf("missing: got %q", got)
	}
}

func TestAwaitIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		if await(t.Context(), time.Second, func() bool { return false }) {
			t.Error("saw what never was")
		}
		if d := time.Since(start); d < time.Second || d > 1100*time.Millisecond {
			t.Errorf("waited %v", d)
		}
		asked := 0
		if !await(t.Context(), time.Second, func() bool { asked++; return asked == 3 }) {
			t.Error("missed it")
		}
		if !await(t.Context(), 0, func() bool { return true }) {
			t.Error("does not ask even once")
		}
	})
}

func TestOnlyAnInitramfsIsDeleted(t *testing.T) {
	root, err := os.OpenRoot("/proc")
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := deleteInitramfs(root); err == nil || !strings.Contains(err.Error(), "no initramfs") {
		t.Fatalf("got %v", err)
	}
}

func TestMakeFolders(t *testing.T) {
	dir := t.TempDir()
	folders := []varFolder{
		{filepath.Join(dir, "a"), 0o755, os.Getuid()},
		{filepath.Join(dir, "a/b"), 0o777 | os.ModeSticky, os.Getuid()},
	}
	for range 2 { // the second boot finds everything there
		if err := makeFolders(folders); err != nil {
			t.Fatal(err)
		}
		if err := makeLinks(map[string]string{filepath.Join(dir, "run"): "../run"}); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range folders {
		info, err := os.Stat(f.path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode() &^ os.ModeDir; got != f.mode {
			t.Errorf("%s has mode %v, want %v", f.path, got, f.mode)
		}
	}
}

// Parents stand before what lies in them.
func TestVarFoldersInOrder(t *testing.T) {
	seen := []string{"/var"}
	for _, f := range varFolders() {
		if !slices.Contains(seen, filepath.Dir(f.path)) {
			t.Errorf("%s comes before its parent", f.path)
		}
		seen = append(seen, f.path)
	}
}

// The programs tests run the shell of the test machine.
const shell = "/bin/sh"

func TestProgramsRun(t *testing.T) {
	p := programs{&watchdog{}}
	t.Setenv("LANG", "de_DE.UTF-8")
	err := p.Run(t.Context(), []byte("secret"), shell, "-c",
		`test "$LANG$DM_DISABLE_UDEV" = C1 && test "$(cat)" = secret && test -z "$HOME"`)
	if err != nil {
		t.Errorf("environment or input is not as declared: %v", err)
	}
	err = p.Run(t.Context(), nil, shell, "-c", "echo out; echo fault >&2; exit 5")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 5 || !strings.Contains(err.Error(), "out fault") {
		t.Errorf("got %v", err)
	}
	err = p.Run(t.Context(), nil, shell, "-c", "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; exit 1")
	if err == nil || len(err.Error()) > 2*maxOutput || !strings.Contains(err.Error(), "line 1999") {
		t.Errorf("long output: error of %d bytes", len(fmt.Sprint(err)))
	}
}

func TestProgramsAreBounded(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := programs{&watchdog{}}.Run(ctx, nil, shell, "-c", "exec sleep 60")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
}

func TestSyncOfDevice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := programs{&watchdog{}}
	if err := p.Sync(path); err != nil {
		t.Error(err)
	}
	if err := p.Sync(path + "y"); err == nil {
		t.Error("synced what is not there")
	}
}
