package config

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"golang.org/x/tools/txtar"
)

// FuzzParse: any bytes give a document or faults in order, never both, and a
// document can be written and read again.
func FuzzParse(f *testing.F) {
	f.Add(example(f))
	f.Add(testdata(f, "complete.yaml"))
	files, err := filepath.Glob("testdata/broken/yaml-*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		a, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, part := range a.Files {
			if part.Name == "config" {
				f.Add(part.Data)
			}
		}
	}
	f.Add([]byte("network: {links: [{name: a, mac: 52:54:00:50:46:01}], interfaces: [{name: a, role: tenant, addresses: [10.0.0.2/8]}]}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, err := Parse(data)
		if err != nil {
			checkFaults(t, doc, err)
			return
		}
		out, err := Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(out)
		if d := cmp.Diff(doc, again, equal); err != nil || d != "" {
			t.Fatalf("read again: %v\n%s", err, d)
		}
	})
}

func checkFaults(t *testing.T, doc *Document, err error) {
	t.Helper()
	var faults Faults
	if !errors.As(err, &faults) || len(faults) == 0 || len(faults) > MaxFaults+1 || doc != nil {
		t.Fatalf("Parse = %v, %v", doc, err)
	}
	shown := faults[:min(len(faults), MaxFaults)]
	if !slices.IsSortedFunc(shown, func(a, b Fault) int { return a.Line - b.Line }) {
		t.Fatalf("faults are not in order: %v", faults)
	}
	for _, f := range faults {
		if f.Text == "" || f.Remedy == "" {
			t.Fatalf("fault without text or remedy: %+v", f)
		}
	}
}

// FuzzOpen: no bytes but those that were signed open.
func FuzzOpen(f *testing.F) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)) // deterministic: so is its only envelope
	good, err := Sign(example(f), key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(signed(f, []byte("version: 1"), key))
	f.Add([]byte(`{"payloadType":"` + PayloadType + `","payload":"","signatures":[{"keyid":"","sig":""}]}`))
	f.Add([]byte(`{"payloadType":"text/plain","payload":"dmVyc2lvbjogMQ==","signatures":[]}`))
	want := string(example(f))
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, err := Open(data, key.Public())
		if (doc == nil) == (err == nil) {
			t.Fatalf("Open = %v, %v", doc, err)
		}
		if payload, err := Verify(data, key.Public()); err == nil && string(payload) != want && string(payload) != "version: 1" {
			t.Fatalf("Verify accepts what was never signed: %q", payload)
		}
	})
}

// signed makes an envelope around anything, which Sign would refuse.
func signed(t testing.TB, payload []byte, k crypto.Signer) []byte {
	t.Helper()
	pub, err := newKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	es, err := dsse.NewEnvelopeSigner(dsseSigner{pub, k})
	if err != nil {
		t.Fatal(err)
	}
	env, err := es.SignPayload(context.Background(), PayloadType, payload)
	if err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(env)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
