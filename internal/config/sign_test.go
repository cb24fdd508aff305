package config

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func ecKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSignOpen(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, minRSA)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]crypto.Signer{"P-256": ecKey(t, elliptic.P256()), "P-384": ecKey(t, elliptic.P384()), "Ed25519": ed, "RSA": rsaKey}
	for name, k := range keys {
		t.Run(name, func(t *testing.T) {
			envelope, err := Sign(example(t), k)
			if err != nil {
				t.Fatal(err)
			}
			payload, err := Verify(envelope, k.Public())
			if err != nil || !bytes.Equal(payload, example(t)) {
				t.Fatalf("Verify: %v, payload equal: %v", err, bytes.Equal(payload, example(t)))
			}
			for other, stranger := range keys {
				if _, err := Open(envelope, stranger.Public()); (other == name) != (err == nil) || (err != nil && !errors.Is(err, ErrSignature)) {
					t.Errorf("Open with the key %s = %v", other, err)
				}
			}
		})
	}
}

func TestSignRefuses(t *testing.T) {
	var faults Faults
	if out, err := Sign([]byte("version: 1"), ecKey(t, elliptic.P256())); !errors.As(err, &faults) || out != nil {
		t.Errorf("Sign of a faulty document = %q, %v", out, err)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, k := range map[string]crypto.Signer{"P-521": ecKey(t, elliptic.P521()), "RSA 2048": weak} {
		if _, err := Sign(example(t), k); err == nil {
			t.Errorf("Sign with %s succeeds", name)
		}
		if _, err := Verify(nil, k.Public()); err == nil {
			t.Errorf("Verify with %s succeeds", name)
		}
	}
}

// TestVerifyRefuses changes each part of an envelope.
func TestVerifyRefuses(t *testing.T) {
	k := ecKey(t, elliptic.P256())
	good, err := Sign(example(t), k)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(f func(map[string]any)) []byte {
		var m map[string]any
		if err := json.Unmarshal(good, &m); err != nil {
			t.Fatal(err)
		}
		f(m)
		out, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	signature := func(m map[string]any) map[string]any { return m["signatures"].([]any)[0].(map[string]any) }
	tests := map[string][]byte{
		"nothing":   nil,
		"YAML":      example(t),
		"truncated": good[:len(good)-10],
		"followed":  append(bytes.Clone(good), "{}"...),
		"payload": edit(func(m map[string]any) {
			m["payload"] = base64.StdEncoding.EncodeToString(append(example(t), '\n'))
		}),
		"payload type":   edit(func(m map[string]any) { m["payloadType"] = "text/plain" }),
		"no signature":   edit(func(m map[string]any) { m["signatures"] = []any{} }),
		"signature":      edit(func(m map[string]any) { signature(m)["sig"] = "AAAA" }),
		"other key id":   edit(func(m map[string]any) { signature(m)["keyid"] = "sha256:00" }),
		"unknown field":  edit(func(m map[string]any) { m["extra"] = 1 }),
		"many":           edit(func(m map[string]any) { m["signatures"] = make([]struct{}, maxSignatures+1) }),
		"not base64":     edit(func(m map[string]any) { m["payload"] = "???" }),
		"far too large":  bytes.Repeat([]byte(" "), maxEnvelope+1),
		"other envelope": []byte(`{"payloadType":"` + PayloadType + `","payload":"","signatures":[{"keyid":"","sig":""}]}`),
	}
	for name, envelope := range tests {
		t.Run(name, func(t *testing.T) {
			if payload, err := Verify(envelope, k.Public()); !errors.Is(err, ErrSignature) || payload != nil {
				t.Errorf("Verify = %d bytes, %v; want ErrSignature", len(payload), err)
			}
		})
	}
	// A stranger's signature beside the owner's does no harm, in either order.
	for _, first := range []bool{true, false} {
		both := edit(func(m map[string]any) {
			own, foreign := m["signatures"].([]any)[0], map[string]any{"keyid": "sha256:00", "sig": "AAAA"}
			m["signatures"] = []any{own, foreign}
			if first {
				m["signatures"] = []any{foreign, own}
			}
		})
		if _, err := Verify(both, k.Public()); err != nil {
			t.Errorf("with a second signature (first: %v): %v", first, err)
		}
	}
}

func TestPeek(t *testing.T) {
	envelope, err := Sign(example(t), ecKey(t, elliptic.P256()))
	if err != nil {
		t.Fatal(err)
	}
	if !IsEnvelope(envelope) || IsEnvelope(example(t)) {
		t.Error("IsEnvelope does not tell an envelope from a document")
	}
	if payload, err := Peek(envelope); err != nil || !bytes.Equal(payload, example(t)) {
		t.Errorf("Peek: %v", err)
	}
	if _, err := Peek([]byte("{}")); err == nil {
		t.Error("Peek of an empty object succeeds")
	}
}

func TestLoadOwnerKey(t *testing.T) {
	public := func(key any) []byte {
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	}
	good := public(ecKey(t, elliptic.P256()).Public())
	tests := []struct {
		name string
		text []byte
		ok   bool
	}{
		{"good", good, true},
		{"empty", nil, false},
		{"two keys", append(bytes.Clone(good), good...), false},
		{"text behind", append(bytes.Clone(good), "x"...), false},
		{"other type", bytes.ReplaceAll(good, []byte("PUBLIC KEY"), []byte("CERTIFICATE")), false},
		{"damaged", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte{1, 2}}), false},
		{"unfit curve", public(ecKey(t, elliptic.P224()).Public()), false},
		{"too large", []byte(strings.Repeat("\n", maxKeyFile+1)), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "owner.pem")
			if err := os.WriteFile(path, tt.text, 0o644); err != nil {
				t.Fatal(err)
			}
			if k, err := LoadOwnerKey(path); (err == nil) != tt.ok || (k != nil) != tt.ok {
				t.Errorf("LoadOwnerKey = %v, %v", k, err)
			}
		})
	}
	if _, err := LoadOwnerKey(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("LoadOwnerKey of no file = %v", err)
	}
}
