package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/dmda/dmdatest"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/qemu/vm"
)

// Bounds of the story's waits.
const (
	storyBoot = 6 * time.Minute // from power-on to a provisioned box, on a slow machine
	storyMail = 3 * time.Minute
	storyOff  = 2 * time.Minute
	tailLines = 40
)

// Story is what `make run` shows: the box from its source to mail both ways.
type Story struct {
	Out   string // folder for build results
	Print io.Writer
	// Stay keeps the box running until ctx ends; otherwise it is powered off.
	Stay bool

	start   time.Time
	step    string
	machine *vm.Machine
}

// Run tells the story. On an error it has printed the step, the reason and the
// last lines of the serial port.
func (s *Story) Run(ctx context.Context) error {
	s.start = time.Now()
	err := s.run(ctx)
	if err == nil || ctx.Err() != nil && s.Stay {
		return err
	}
	fmt.Fprintf(s.Print, "\nFAILED while: %s\n  %v\n", s.step, err)
	if s.machine != nil && s.machine.Serial() != nil {
		fmt.Fprintf(s.Print, "\nLast lines of the serial port:\n%s", s.machine.Serial().Tail(tailLines))
	}
	return err
}

// tell prints a step that was reached.
func (s *Story) tell(heading, format string, args ...any) {
	fmt.Fprintf(s.Print, "%6.1fs  %-24s %s\n", time.Since(s.start).Seconds(), heading, fmt.Sprintf(format, args...))
	s.step = "what follows " + heading
}

func (s *Story) run(ctx context.Context) (err error) {
	s.step = "building the image"
	images, err := NewImages(s.Out, s.Print)
	if err != nil {
		return err
	}
	built, err := images.Build(ctx, "", "0.1.0", nil)
	if err != nil {
		return err
	}
	s.tell("built", "%s, %.1f MiB, sha256 %s", filepath.Base(built.UKI), float64(built.Size)/(1<<20), built.SHA256)
	s.step = "preparing the virtual world"
	kvm := vm.ProbeKVM(ctx)
	world, err := NewWorld(built, images.Keys, kvm)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, world.Close()) }()
	seed, err := world.Seed("seed.img", 1, nil, nil)
	if err != nil {
		return err
	}
	if s.machine, err = world.NewMachine("box", seed); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.machine.Cut()) }()
	s.tell("power on", "%s; provider, two tenants and both repositories are on the virtual networks", map[bool]string{true: "KVM", false: "TCG (no working KVM)"}[kvm])
	s.step = "first boot"
	bootCtx, cancel := context.WithTimeout(ctx, storyBoot)
	defer cancel()
	stop := s.ticker(bootCtx)
	box, err := world.Provision(bootCtx, s.machine, s.tell)
	stop()
	if err != nil {
		return err
	}
	if err := s.mailBothWays(ctx, box); err != nil {
		return err
	}
	if s.Stay {
		return s.stay(ctx, box)
	}
	return s.powerOff(ctx)
}

// ticker prints a sign of life while nothing else is told.
func (s *Story) ticker(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(10 * time.Second)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				last := strings.TrimSpace(s.machine.Serial().Tail(1))
				fmt.Fprintf(s.Print, "%6.1fs  ...                      %.100s\n", time.Since(s.start).Seconds(), last)
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() { cancel(); <-done }
}

func (s *Story) mailBothWays(ctx context.Context, box *Box) error {
	ctx, cancel := context.WithTimeout(ctx, storyMail)
	defer cancel()
	s.step = "a tenant's letter to a citizen"
	a, b := partyA(), partyB()
	sent, err := box.World.MailOut(ctx, Draft{
		From: a.Address("poststelle"), To: "erika.mustermann@buerger.de-mail.example", Subject: "Ihr Bescheid",
		Fields: []string{"X-De-Mail-Confirmation-Of-Dispatch: yes"},
	})
	if err != nil {
		return err
	}
	s.tell("tenant's mail accepted", "250, queue id %s", sent.Queue)
	if err := sent.SameBody(); err != nil {
		return err
	}
	s.tell("delivered to provider", "over mutual TLS with the TPM's key; body SHA-256 equal (%s)", sent.Draft.BodyHash()[:16])
	s.headers("as the tenant handed it in", headerOf(sent.Before))
	s.headers("as it lies in the citizen's mailbox", HeaderText(sent.Delivered.Header))

	s.step = "a citizen's De-Mail to a tenant"
	composed, letter, err := box.MailIn(ctx, dmdatest.DeMail{
		From: "erika.mustermann@buerger.de-mail.example", To: []string{b.DeMailAddress("poststelle")}, Subject: "Antrag", Holder: "Erika Mustermann",
	})
	if err != nil {
		return err
	}
	if got, want := letter.BodyHash(), fmt.Sprintf("%x", composed.BodySHA256); got != want {
		return fmt.Errorf("the body changed on its way in: SHA-256 %s, was %s", got, want)
	}
	s.tell("De-Mail delivered", "to %s; body SHA-256 equal (%x)", b.ServerName(), composed.BodySHA256[:8])
	s.headers("as the provider pushed it", headerOf(composed.Raw))
	s.headers("as the tenant's server got it", letter.Header)
	return nil
}

func headerOf(message []byte) string {
	head, _, _ := strings.Cut(string(message), "\r\n\r\n")
	return head
}

// headers prints a header block, long lines cut.
func (s *Story) headers(title, text string) {
	const width = 110
	fmt.Fprintf(s.Print, "\n    %s:\n", title)
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if len(line) > width {
			line = line[:width] + "…"
		}
		fmt.Fprintf(s.Print, "      %s\n", line)
	}
	fmt.Fprintln(s.Print)
}

func (s *Story) powerOff(ctx context.Context) error {
	s.step = "powering off"
	ctx, cancel := context.WithTimeout(ctx, storyOff)
	defer cancel()
	if err := s.machine.PowerOff(ctx); err != nil {
		return err
	}
	s.tell("powered off", "cleanly, by its power button")
	return nil
}

// stay forwards the box's ports to localhost and waits.
func (s *Story) stay(ctx context.Context, box *Box) error {
	s.step = "forwarding ports"
	w := box.World
	smtp, err := w.Forward(w.TenantNet, partyA().Host, netip.AddrPortFrom(boxTenant(), layout.PortSMTP))
	if err != nil {
		return err
	}
	push, err := w.Forward(w.ProviderNet, providerHost(), netip.AddrPortFrom(boxProvider(), layout.PortProvider))
	if err != nil {
		return err
	}
	client := w.PKI.Client()
	pushCert, pushKey, err := WritePair(w.Dir, "provider-push", client)
	if err != nil {
		return err
	}
	composed, err := w.Provider.Compose(dmdatest.DeMail{
		From: "erika.mustermann@buerger.de-mail.example", To: []string{partyA().DeMailAddress("poststelle")}, Subject: "Noch ein Antrag",
	})
	if err != nil {
		return err
	}
	letter := w.path("demail.eml")
	if err := os.WriteFile(letter, composed.Raw, 0o644); err != nil {
		return err
	}
	fmt.Fprintf(s.Print, `
The box keeps running. From another terminal:

  a tenant's letter out:
    swaks --server %s --tls --tls-cert %s --tls-key %s \
      --from %s --to max@buerger.de-mail.example --header 'Subject: Hallo'

  a De-Mail in (a sealed one, as the provider made it):
    swaks --server %s --tls-on-connect --tls-cert %s --tls-key %s \
      --from erika.mustermann@buerger.de-mail.example --to %s --data @%s

  the operators:
    export PFORTE_BOX=%s PFORTE_BOX_KEY=%s
    go run ./cmd/pforte status --cert %s --key %s

Ctrl-C ends it.
`, smtp, w.path("a.pem"), w.path("a.key"), partyA().Address("poststelle"),
		push, pushCert, pushKey, partyA().DeMailAddress("poststelle"), letter,
		box.API, box.Key, w.path("owner.pem"), w.path("owner.key"))
	gone := make(chan error, 1)
	go func() { gone <- s.machine.WaitOff(context.WithoutCancel(ctx)) }()
	select {
	case <-ctx.Done():
		fmt.Fprintln(s.Print, "\npowering off")
		return s.powerOff(context.WithoutCancel(ctx))
	case <-gone:
		s.tell("the box went off", "somebody asked for it")
		return nil
	}
}
