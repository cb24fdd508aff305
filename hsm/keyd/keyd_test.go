package keyd

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/hsm/hsmtest"
	"gitlab.opencode.de/pforte/pforte/hsm/keyclient"
	"gitlab.opencode.de/pforte/pforte/hsm/tpm"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
)

// box is a running keyd with its clients. The peer of every new connection is
// whoever as last said.
type box struct {
	service *Service
	sign    string // socket paths
	control string
	client  *keyclient.Client
	admin   *keyclient.Control
	log     *lockedBuffer
	marks   *lockedBuffer
	stop    func()

	mu   sync.Mutex
	peer localapi.Peer
}

// as makes a user the peer of further connections.
func (b *box) as(uid uint32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.peer = localapi.Peer{UID: uid, GID: uid, PID: 4711}
}

// lockedBuffer is a buffer for several writers.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// withKeys opens always the same key device.
func withKeys(keys Keys) Options {
	return Options{Open: func(context.Context) (Keys, error) { return keys, nil }}
}

// start runs keyd until the test ends or stop is called. The first peer is relayd.
func start(t testing.TB, opts Options) *box {
	t.Helper()
	b := &box{log: &lockedBuffer{}, marks: &lockedBuffer{}}
	b.as(layout.UIDRelayd)
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	opts.Log = slog.New(slog.NewTextHandler(b.log, nil))
	opts.Milestones = b.marks
	opts.PeerOf = func(net.Conn) (localapi.Peer, error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.peer, nil
	}
	s, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "kd") // t.TempDir may exceed the 108 bytes of a socket path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b.service, b.sign, b.control = s, filepath.Join(dir, "s"), filepath.Join(dir, "c")
	b.client, b.admin = keyclient.New(b.sign), keyclient.NewControl(b.control)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	signer, control := listen(t, b.sign), listen(t, b.control)
	go func() { done <- s.Run(ctx, signer, control) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	t.Cleanup(b.stop)
	return b
}

func listen(t testing.TB, path string) net.Listener {
	t.Helper()
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// openTPM opens a TPM's keys.
func openTPM(t testing.TB, dev *hsmtest.TPM, dir string) *tpm.Store {
	t.Helper()
	s, err := tpm.Open(t.Context(), dev, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

var digest = sha256.Sum256([]byte("pforte"))

// viaKeyd is a key device at the far end of keyd's socket, for the conformance suite.
type viaKeyd struct {
	t    *testing.T
	keys Keys
	box  *box
}

func (v *viaKeyd) Create(ctx context.Context, p hsm.Purpose) (bool, error) {
	created, err := v.keys.Create(ctx, p)
	if err == nil {
		if _, err := v.box.service.open(v.t.Context()); err != nil {
			v.t.Fatal(err)
		}
	}
	return created, err
}

func (v *viaKeyd) Signer(p hsm.Purpose) (crypto.Signer, error) {
	v.box.as(layout.UIDRelayd)
	if p == hsm.ManagementServer {
		v.box.as(layout.UIDApid)
	}
	return v.box.client.Signer(v.t.Context(), p)
}

// lazy keeps keyd from making the keys, which is what the suite tests.
type lazy struct{ Keys }

func (l lazy) Create(context.Context, hsm.Purpose) (bool, error) { return false, nil }

func TestConformanceThroughTheSocket(t *testing.T) {
	everybody := map[hsm.Purpose][]localapi.Caller{}
	for _, p := range hsm.Purposes() {
		everybody[p] = []localapi.Caller{localapi.UID(layout.UIDRelayd), localapi.UID(layout.UIDApid)}
	}
	for name, device := range map[string]func(t *testing.T) Keys{
		"software": func(*testing.T) Keys { return &hsmtest.SoftKeys{} },
		"TPM":      func(t *testing.T) Keys { return openTPM(t, hsmtest.StartTPM(t), t.TempDir()) },
	} {
		t.Run(name, func(t *testing.T) {
			hsmtest.TestKeys(t, func(t *testing.T) hsmtest.Keys {
				keys := device(t)
				opts := withKeys(lazy{keys})
				opts.Signers = everybody
				return &viaKeyd{t, keys, start(t, opts)}
			})
		})
	}
}

func TestWhoMayUseWhat(t *testing.T) {
	b := start(t, withKeys(&hsmtest.SoftKeys{}))
	const nobody = 65534
	allowed := map[hsm.Purpose]uint32{
		hsm.ProviderClient:   layout.UIDRelayd,
		hsm.TenantServer:     layout.UIDRelayd,
		hsm.ManagementServer: layout.UIDApid,
	}
	for _, uid := range []uint32{0, layout.UIDKeyd, layout.UIDRelayd, layout.UIDApid, layout.UIDNetd, layout.UIDConsole, nobody} {
		b.as(uid)
		for _, p := range hsm.Purposes() {
			_, err := b.client.Signer(t.Context(), p)
			if allowed[p] == uid {
				if err != nil {
					t.Errorf("uid %d, %s: %v", uid, p, err)
				}
				continue
			}
			if !errors.Is(err, hsm.ErrDenied) && !errors.Is(err, localapi.ErrDenied) {
				t.Errorf("uid %d, %s: %v, want a denial", uid, p, err)
			}
		}
		_, err := b.admin.List(t.Context())
		if uid == 0 || uid == layout.UIDApid {
			if err != nil {
				t.Errorf("uid %d, list: %v", uid, err)
			}
		} else if !errors.Is(err, localapi.ErrDenied) {
			t.Errorf("uid %d, list: %v, want a denial", uid, err)
		}
	}
	// A signer that somebody else made is no permission.
	b.as(layout.UIDApid)
	s, err := b.client.Signer(t.Context(), hsm.ManagementServer)
	if err != nil {
		t.Fatal(err)
	}
	b.as(layout.UIDRelayd)
	if _, err := s.Sign(rand.Reader, digest[:], crypto.SHA256); !errors.Is(err, hsm.ErrDenied) {
		t.Errorf("relayd signs for management: %v, want ErrDenied", err)
	}
}

// TestSocketsAreApart: neither socket knows the other's methods.
func TestSocketsAreApart(t *testing.T) {
	b := start(t, withKeys(&hsmtest.SoftKeys{}))
	b.as(layout.UIDApid)
	if _, err := keyclient.NewControl(b.sign).List(t.Context()); !errors.Is(err, localapi.ErrUnknownMethod) {
		t.Errorf("list on the signer socket: %v", err)
	}
	if _, err := keyclient.New(b.control).Signer(t.Context(), hsm.ManagementServer); !errors.Is(err, localapi.ErrUnknownMethod) {
		t.Errorf("key on the control socket: %v", err)
	}
}

func TestBadSignRequests(t *testing.T) {
	b := start(t, withKeys(&hsmtest.SoftKeys{}))
	api := localapi.Dial(b.sign, keyclient.Codes()...)
	for name, tt := range map[string]struct {
		in   any
		want error
	}{
		"unknown purpose": {keyclient.SignRequest{Purpose: "root-ca", Hash: "sha256", Digest: digest[:]}, hsm.ErrUnknownPurpose},
		"no purpose":      {keyclient.SignRequest{Hash: "sha256", Digest: digest[:]}, hsm.ErrUnknownPurpose},
		"no hash":         {keyclient.SignRequest{Purpose: hsm.TenantServer, Digest: digest[:]}, localapi.ErrBadRequest},
		"SHA-1":           {keyclient.SignRequest{Purpose: hsm.TenantServer, Hash: "sha1", Digest: digest[:20]}, localapi.ErrBadRequest},
		"short digest":    {keyclient.SignRequest{Purpose: hsm.TenantServer, Hash: "sha256", Digest: digest[:31]}, localapi.ErrBadRequest},
		"no digest":       {keyclient.SignRequest{Purpose: hsm.TenantServer, Hash: "sha256"}, localapi.ErrBadRequest},
		"oversize":        {keyclient.SignRequest{Purpose: hsm.TenantServer, Hash: "sha256", Digest: make([]byte, 4096)}, localapi.ErrTooLarge},
		"unknown field":   {map[string]any{"purpose": hsm.TenantServer, "hash": "sha256", "digest": digest[:], "uid": 0}, localapi.ErrBadRequest},
		"wrong type":      {"sign!", localapi.ErrBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			var out keyclient.SignResponse
			if err := api.Call(t.Context(), keyclient.MethodSign, tt.in, &out); !errors.Is(err, tt.want) {
				t.Errorf("%x, %v, want %v", out.Signature, err, tt.want)
			}
		})
	}
	if n := b.service.uses.of(hsm.TenantServer); n != 0 {
		t.Errorf("%d uses counted", n)
	}
}

func TestUsesAreCountedAndLogged(t *testing.T) {
	keys, dir := &hsmtest.SoftKeys{}, t.TempDir()
	opts := withKeys(keys)
	opts.Dir = dir
	b := start(t, opts)
	s, err := b.client.Signer(t.Context(), hsm.TenantServer)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := s.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
			t.Fatal(err)
		}
	}
	b.stop()
	want := fmt.Sprintf(`msg="key used" purpose=tenant-server uid=%d pid=4711 count=3`, layout.UIDRelayd)
	if !strings.Contains(b.log.String(), want) {
		t.Errorf("the log lacks %q:\n%s", want, b.log)
	}
	for _, secret := range []string{fmt.Sprintf("%x", digest), string(digest[:8])} {
		if strings.Contains(b.log.String(), secret) {
			t.Error("the log holds the digest")
		}
	}
	b = start(t, opts)
	b.as(0)
	list, err := b.admin.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if list[1].Purpose != hsm.TenantServer || list[1].Uses != 3 || list[0].Uses != 0 {
		t.Errorf("after a restart: %+v, want 3 uses of tenant-server", list)
	}
	if !strings.Contains(b.marks.String(), "PFORTE keyd.ready keys=3\n") {
		t.Errorf("milestones %q", b.marks)
	}
}
