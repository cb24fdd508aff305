package keyd

import (
	"context"
	"crypto"
	"crypto/rand"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/hsm/hsmtest"
	"gitlab.opencode.de/pforte/pforte/hsm/keyclient"
	"gitlab.opencode.de/pforte/pforte/hsm/tpm"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
)

func TestDamagedCounts(t *testing.T) {
	for name, content := range map[string]string{"no JSON": "{", "later": `{"version":2,"uses":{"tenant-server":7}}`} {
		t.Run(name, func(t *testing.T) {
			opts := withKeys(&hsmtest.SoftKeys{})
			opts.Dir = t.TempDir()
			if err := os.WriteFile(filepath.Join(opts.Dir, usesFile), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			b := start(t, opts)
			if _, err := b.client.Signer(t.Context(), hsm.TenantServer); err != nil {
				t.Error(err)
			}
			if !strings.Contains(b.log.String(), "start from zero") {
				t.Errorf("the log keeps silent: %s", b.log)
			}
		})
	}
}

func TestNoDeviceThenOne(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "tpmrm0")
	b := start(t, Options{Open: func(context.Context) (Keys, error) {
		_, err := tpm.OpenDevice(missing)
		return nil, err
	}})
	_, err := b.client.Signer(t.Context(), hsm.TenantServer)
	if !errors.Is(err, hsm.ErrNoDevice) || localapi.Remedy(err) == "" || !strings.Contains(err.Error(), localapi.Remedy(err)) {
		t.Errorf("without a TPM: %v, want ErrNoDevice and a remedy", err)
	}
	b.as(0)
	list, err := b.admin.List(t.Context())
	if err != nil || len(list) != 3 || list[0].Fault == "" {
		t.Errorf("list without a TPM: %+v, %v", list, err)
	}
	if !strings.HasPrefix(b.marks.String(), "PFORTE keyd.ready keys=0 why=") {
		t.Errorf("milestones %q", b.marks)
	}

	synctest.Test(t, func(t *testing.T) {
		tries := 0
		s, err := New(Options{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler), Open: func(context.Context) (Keys, error) {
			if tries++; tries < 4 {
				return nil, hsm.ErrNoDevice
			}
			return &hsmtest.SoftKeys{}, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := s.keepTrying(t.Context()); err != nil || time.Since(began) != 5*retryInterval {
			t.Errorf("keepTrying = %v after %v, want success at the fourth try and its end one later", err, time.Since(began))
		}
		if _, err := s.lookup(hsm.TenantServer); err != nil {
			t.Error(err)
		}
	})
}

func TestAnotherTPM(t *testing.T) {
	dir := t.TempDir()
	openTPM(t, hsmtest.StartTPM(t), filepath.Join(dir, "tpm"))
	other := hsmtest.StartTPM(t)
	b := start(t, Options{Dir: dir, Open: func(ctx context.Context) (Keys, error) {
		return tpm.Open(ctx, other, filepath.Join(dir, "tpm"))
	}})
	_, err := b.client.Signer(t.Context(), hsm.TenantServer)
	if !errors.Is(err, hsm.ErrDeviceChanged) || !strings.Contains(err.Error(), "put the original TPM back") {
		t.Errorf("with another TPM: %v, want ErrDeviceChanged and a remedy", err)
	}
}

func TestOneBrokenKeyLeavesTheOthers(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "tpm"), 0o700); err != nil {
		t.Fatal(err)
	}
	keys := openTPM(t, hsmtest.StartTPM(t), filepath.Join(dir, "tpm"))
	if err := os.WriteFile(filepath.Join(dir, "tpm", "tenant-server.pem"), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := start(t, withKeys(keys))
	if _, err := b.client.Signer(t.Context(), hsm.TenantServer); err == nil {
		t.Error("a damaged key file served")
	}
	if _, err := b.client.Signer(t.Context(), hsm.ProviderClient); err != nil {
		t.Error(err)
	}
	if !strings.Contains(b.marks.String(), "PFORTE keyd.ready keys=2\n") {
		t.Errorf("milestones %q", b.marks)
	}
}

func TestLockedBox(t *testing.T) {
	opts := withKeys(&hsmtest.SoftKeys{})
	opts.Locked = true
	b := start(t, opts)
	if _, err := b.client.Signer(t.Context(), hsm.TenantServer); !errors.Is(err, hsm.ErrLocked) {
		t.Errorf("tenant-server on a locked box: %v, want ErrLocked", err)
	}
	b.as(layout.UIDApid)
	key, err := b.client.Signer(t.Context(), hsm.ManagementServer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keyclient.SelfSigned(key, "box", []string{"box"}, nil); err != nil {
		t.Error(err)
	}
	if _, err := b.admin.CSR(t.Context(), hsm.ManagementServer, keyclient.Subject{CommonName: "box"}); !errors.Is(err, hsm.ErrLocked) {
		t.Errorf("request on a locked box: %v, want ErrLocked", err)
	}
	if _, err := b.admin.Install(t.Context(), hsm.ManagementServer, nil); !errors.Is(err, hsm.ErrLocked) {
		t.Errorf("install on a locked box: %v, want ErrLocked", err)
	}
}

func TestDeviceFaultsCrossTheSocket(t *testing.T) {
	keys := &hsmtest.SoftKeys{}
	b := start(t, withKeys(keys))
	s, err := b.client.Signer(t.Context(), hsm.TenantServer)
	if err != nil {
		t.Fatal(err)
	}
	keys.Fail(hsm.ErrLockedOut)
	if _, err := s.Sign(rand.Reader, digest[:], crypto.SHA256); !errors.Is(err, hsm.ErrLockedOut) {
		t.Errorf("Sign = %v, want ErrLockedOut", err)
	}
}

func TestRateBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBuckets(signRate, signBurst)
		took := func(uid uint32) (n int) {
			for b.take(uid) {
				n++
			}
			return n
		}
		if n := took(1); n != signBurst {
			t.Errorf("at once: %d, want %d", n, signBurst)
		}
		time.Sleep(time.Second)
		if n := took(1); n != signRate {
			t.Errorf("a second later: %d, want %d", n, signRate)
		}
		if n := took(2); n != signBurst {
			t.Errorf("another user: %d, want %d", n, signBurst)
		}
		time.Sleep(time.Hour)
		if n := took(1); n != signBurst {
			t.Errorf("an hour later: %d, want %d", n, signBurst)
		}
	})
}

func TestRateBoundIsEnforced(t *testing.T) {
	b := start(t, withKeys(&hsmtest.SoftKeys{}))
	s, err := b.client.Signer(t.Context(), hsm.TenantServer)
	if err != nil {
		t.Fatal(err)
	}
	for b.service.bucket.take(layout.UIDRelayd) { // until it is empty
	}
	b.service.bucket.mu.Lock()
	b.service.bucket.users[layout.UIDRelayd].filled = time.Now().Add(time.Hour) // and stays so
	b.service.bucket.mu.Unlock()
	if _, err := s.Sign(rand.Reader, digest[:], crypto.SHA256); !errors.Is(err, hsm.ErrTooManyUses) {
		t.Errorf("Sign = %v, want ErrTooManyUses", err)
	}
}

func TestHealthy(t *testing.T) {
	s, err := New(Options{Dir: t.TempDir(), Open: func(context.Context) (Keys, error) { return nil, hsm.ErrNoDevice }})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Healthy(t.Context()); err != nil {
		t.Error(err)
	}
	s.mu.Lock()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Healthy(ended); err == nil {
		t.Error("healthy though stuck")
	}
	s.mu.Unlock()
}
