package seal

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/hsm/hsmtest"
)

// boot gives the TPM the PCR 7 of a boot with the given keys.
func boot(t *testing.T, tpm transport.TPM, keys string) {
	t.Helper()
	if err := Measure(tpm, PCRSecureBoot, keys); err != nil {
		t.Fatal(err)
	}
}

func mustSeal(t *testing.T, tpm transport.TPM, secret []byte) Blob {
	t.Helper()
	blob, err := Seal(tpm, secret, BootState{})
	if err != nil {
		t.Fatal(err)
	}
	// Every test goes through the form that the disk holds.
	data, err := blob.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if blob, err = Parse(data); err != nil {
		t.Fatal(err)
	}
	return blob
}

func TestSealedSecretComesBack(t *testing.T) {
	tpm := hsmtest.StartTPM(t)
	boot(t, tpm, "our keys")
	for _, size := range []int{1, 64, MaxSecret} {
		secret := bytes.Repeat([]byte{0xA5}, size)
		blob := mustSeal(t, tpm, secret)
		// More often than the TPM has room for objects and sessions: each is flushed.
		for range 6 {
			got, err := Unseal(tpm, blob)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, secret) {
				t.Fatalf("unsealed %x, want %x", got, secret)
			}
		}
	}
}

func TestSealedSecretSurvivesReboot(t *testing.T) {
	tpm := hsmtest.StartTPM(t)
	boot(t, tpm, "our keys")
	secret := []byte("the key of the data volume")
	blob := mustSeal(t, tpm, secret)
	tpm.PowerCycle(t)
	boot(t, tpm, "our keys")
	got, err := Unseal(tpm, blob)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, secret) {
		t.Fatalf("unsealed %q, want %q", got, secret)
	}
}

// A persistent root key with the TCG template is the same key; another key at
// its place is passed over.
func TestRootKeyPersistentOrNot(t *testing.T) {
	for name, template := range map[string]tpm2.TPMTPublic{
		"the TCG's ECC root key": tpm2.ECCSRKTemplate,
		"an RSA root key":        tpm2.RSASRKTemplate,
	} {
		t.Run(name, func(t *testing.T) {
			tpm := hsmtest.StartTPM(t)
			boot(t, tpm, "our keys")
			blob := mustSeal(t, tpm, []byte("secret"))
			persist(t, tpm, template)
			if _, err := Unseal(tpm, blob); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func persist(t *testing.T, tpm transport.TPM, template tpm2.TPMTPublic) {
	t.Helper()
	key, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(template)}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	_, err = tpm2.EvictControl{
		Auth:             tpm2.TPMRHOwner,
		ObjectHandle:     &tpm2.NamedHandle{Handle: key.ObjectHandle, Name: key.Name},
		PersistentHandle: persistentRoot,
	}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.FlushContext{FlushHandle: key.ObjectHandle}).Execute(tpm); err != nil {
		t.Fatal(err)
	}
}

func TestUnsealRefuses(t *testing.T) {
	tests := map[string]struct {
		spoil func(t *testing.T, tpm *hsmtest.TPM, blob *Blob)
		want  error
	}{
		"latch closed": {func(t *testing.T, tpm *hsmtest.TPM, _ *Blob) {
			if err := Measure(tpm, PCRLatch, "leave-initrd"); err != nil {
				t.Fatal(err)
			}
		}, ErrState},
		"other Secure Boot keys": {func(t *testing.T, tpm *hsmtest.TPM, _ *Blob) {
			tpm.PowerCycle(t)
			boot(t, tpm, "a stranger's keys")
		}, ErrState},
		"firmware that does not measure": {func(t *testing.T, tpm *hsmtest.TPM, _ *Blob) {
			tpm.PowerCycle(t)
		}, ErrUnmeasured},
		"TPM was cleared": {func(t *testing.T, tpm *hsmtest.TPM, _ *Blob) {
			clearTPM(t, tpm)
		}, ErrChangedTPM},
		"another root key's name in the blob": {func(_ *testing.T, _ *hsmtest.TPM, blob *Blob) {
			blob.Root[len(blob.Root)-1] ^= 1
		}, ErrChangedTPM},
		"private part spoiled": {func(_ *testing.T, _ *hsmtest.TPM, blob *Blob) {
			blob.Private[len(blob.Private)-1] ^= 1
		}, ErrForeign},
		"creation data spoiled": {func(_ *testing.T, _ *hsmtest.TPM, blob *Blob) {
			blob.Creation[len(blob.Creation)-1] ^= 1
		}, nil},
		"creation ticket spoiled": {func(_ *testing.T, _ *hsmtest.TPM, blob *Blob) {
			blob.Ticket[len(blob.Ticket)-1] ^= 1
		}, ErrForeign},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			tpm := hsmtest.StartTPM(t)
			boot(t, tpm, "our keys")
			blob := mustSeal(t, tpm, []byte("secret"))
			test.spoil(t, tpm, &blob)
			secret, err := Unseal(tpm, blob)
			if err == nil {
				t.Fatalf("unsealed %q", secret)
			}
			if test.want != nil && !errors.Is(err, test.want) {
				t.Fatalf("got error %v, want %v", err, test.want)
			}
		})
	}
}

func clearTPM(t *testing.T, tpm transport.TPM) {
	t.Helper()
	_, err := tpm2.Clear{AuthHandle: tpm2.AuthHandle{
		Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil),
	}}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
}

// An attacker starts his own system on the box, and seals a secret that he
// knows to the state in which our init runs. The TPM lets him; we do not.
func TestBlobMadeInAnotherStateIsForeign(t *testing.T) {
	tpm := hsmtest.StartTPM(t)
	boot(t, tpm, "our keys")
	terms, err := BootState{}.terms(tpm)
	if err != nil {
		t.Fatal(err)
	}
	tpm.PowerCycle(t)
	boot(t, tpm, "a stranger's keys")
	root, err := openRoot(tpm)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := create(tpm, root, []byte("known to the attacker"), terms)
	root.close()
	if err != nil {
		t.Fatal(err)
	}
	tpm.PowerCycle(t)
	boot(t, tpm, "our keys")
	if secret, err := Unseal(tpm, forged); !errors.Is(err, ErrForeign) {
		t.Fatalf("forged blob gave %q, error %v; want %v", secret, err, ErrForeign)
	}
	// Borrowing the creation data and ticket of a good blob does not help.
	good := mustSeal(t, tpm, []byte("good"))
	forged.Creation, forged.Ticket = good.Creation, good.Ticket
	if secret, err := Unseal(tpm, forged); !errors.Is(err, ErrForeign) {
		t.Fatalf("forged blob with borrowed ticket gave %q, error %v; want %v", secret, err, ErrForeign)
	}
}

func TestSealRefuses(t *testing.T) {
	tpm := hsmtest.StartTPM(t)
	if _, err := Seal(tpm, []byte("x"), BootState{}); !errors.Is(err, ErrUnmeasured) {
		t.Errorf("PCR 7 zero: got %v, want %v", err, ErrUnmeasured)
	}
	boot(t, tpm, "our keys")
	for _, size := range []int{0, MaxSecret + 1} {
		if _, err := Seal(tpm, make([]byte, size), BootState{}); err == nil {
			t.Errorf("sealed %d bytes", size)
		}
	}
	if err := Measure(tpm, PCRLatch, "leave-initrd"); err != nil {
		t.Fatal(err)
	}
	if _, err := Seal(tpm, []byte("x"), BootState{}); !errors.Is(err, ErrState) {
		t.Errorf("latch closed: got %v, want %v", err, ErrState)
	}
}

// meddler is a TPM on which somebody extends a PCR just before each of the
// first n unsealings.
type meddler struct {
	transport.TPM
	n     int
	spied [][]byte
}

func (m *meddler) Send(input []byte) ([]byte, error) {
	m.spied = append(m.spied, slices.Clone(input))
	if m.n > 0 && len(input) > 10 && bytes.Equal(input[6:10], []byte{0, 0, 1, 0x5E}) { // TPM_CC_Unseal
		m.n--
		if err := Measure(m.TPM, 10, "IMA"); err != nil {
			return nil, err
		}
	}
	output, err := m.TPM.Send(input)
	m.spied = append(m.spied, slices.Clone(output))
	return output, err
}

func TestUnsealRepeatsWhenPCRsChange(t *testing.T) {
	tpm := hsmtest.StartTPM(t)
	boot(t, tpm, "our keys")
	blob := mustSeal(t, tpm, []byte("secret"))
	if _, err := Unseal(&meddler{TPM: tpm, n: pcrChangedTries - 1}, blob); err != nil {
		t.Errorf("with %d changes: %v", pcrChangedTries-1, err)
	}
	if _, err := Unseal(&meddler{TPM: tpm, n: pcrChangedTries}, blob); !errors.Is(err, tpm2.TPMRCPCRChanged) {
		t.Errorf("with %d changes: got %v, want %v", pcrChangedTries, err, tpm2.TPMRCPCRChanged)
	}
}

func TestSecretDoesNotCrossTheBus(t *testing.T) {
	tpm := hsmtest.StartTPM(t)
	boot(t, tpm, "our keys")
	bus := &meddler{TPM: tpm}
	secret := []byte("a secret that nobody on the bus may read")
	blob := mustSeal(t, bus, secret)
	if _, err := Unseal(bus, blob); err != nil {
		t.Fatal(err)
	}
	for _, message := range bus.spied {
		if bytes.Contains(message, secret[:16]) {
			t.Fatalf("the secret crosses the bus: %x", message)
		}
	}
	if len(bus.spied) == 0 {
		t.Fatal("nothing was sent")
	}
}

// lockedOut answers every command with TPM_RC_LOCKOUT.
type lockedOut struct{ transport.TPM }

func (l lockedOut) Send(input []byte) ([]byte, error) {
	switch input[9] {
	case 0x53, 0x57: // TPM_CC_Create, TPM_CC_Load
		return []byte{0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x09, 0x21}, nil
	}
	return l.TPM.Send(input)
}

func TestLockOutIsNamed(t *testing.T) {
	tpm := hsmtest.StartTPM(t)
	boot(t, tpm, "our keys")
	blob := mustSeal(t, tpm, []byte("secret"))
	if _, err := Seal(lockedOut{tpm}, []byte("secret"), BootState{}); !errors.Is(err, hsm.ErrLockedOut) {
		t.Errorf("seal: got %v, want %v", err, hsm.ErrLockedOut)
	}
	if _, err := Unseal(lockedOut{tpm}, blob); !errors.Is(err, hsm.ErrLockedOut) {
		t.Errorf("unseal: got %v, want %v", err, hsm.ErrLockedOut)
	}
}

func TestMeasureAsPcrphase(t *testing.T) {
	tpm := hsmtest.StartTPM(t)
	if err := Measure(tpm, PCRPhase, "enter-initrd"); err != nil {
		t.Fatal(err)
	}
	word := sha256.Sum256([]byte("enter-initrd"))
	want := sha256.Sum256(append(make([]byte, 32), word[:]...))
	got, err := readPCR(tpm, banks()[0], PCRPhase)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want[:]) {
		t.Fatalf("PCR 11 is %x, want %x", got, want)
	}
	if err := Measure(tpm, PCRPhase, ""); err == nil {
		t.Error("measured an empty word")
	}
}
