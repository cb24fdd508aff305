package main

import (
	"encoding/xml"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"gitlab.opencode.de/pforte/pforte/qemu/peers"
)

// scan is what sslscan found; only what is judged.
type scan struct {
	Protocols []struct {
		Type    string `xml:"type,attr"`
		Version string `xml:"version,attr"`
		Enabled int    `xml:"enabled,attr"`
	} `xml:"ssltest>protocol"`
	Renegotiation struct {
		Supported int `xml:"supported,attr"`
		Secure    int `xml:"secure,attr"`
	} `xml:"ssltest>renegotiation"`
	Compression []struct {
		Supported int `xml:"supported,attr"`
	} `xml:"ssltest>compression"`
	Heartbleed []struct {
		Vulnerable int `xml:"vulnerable,attr"`
	} `xml:"ssltest>heartbleed"`
	Ciphers []struct {
		Version string `xml:"sslversion,attr"`
		Cipher  string `xml:"cipher,attr"`
	} `xml:"ssltest>cipher"`
	Groups []struct {
		Version string `xml:"sslversion,attr"`
		Name    string `xml:"name,attr"`
	} `xml:"ssltest>group"`
	Keys []struct {
		Type  string `xml:"type,attr"`
		Curve string `xml:"curve_name,attr"`
		Bits  int    `xml:"bits,attr"`
		Error string `xml:"error,attr"`
	} `xml:"ssltest>certificates>certificate>pk"`
}

// allowed is BSI TR-03116-4 with the tables of TR-02102-2: TLS 1.2 with ECDHE and
// AEAD, TLS 1.3, NIST curves.
var (
	allowedSuite = regexp.MustCompile(`^(ECDHE-(ECDSA|RSA)-AES(128|256)-GCM-SHA(256|384)|TLS_AES_(128_GCM_SHA256|256_GCM_SHA384))$`)
	allowedGroup = regexp.MustCompile(`^(secp(256|384|521)r1|NIST P-(256|384|521)|P-(256|384|521)|brainpoolP(256|384|512)r1.*)( .*)?$`)
)

// TestTLS scans the three ports of a running relay.
func TestTLS(t *testing.T) {
	if _, err := exec.LookPath("sslscan"); err != nil {
		if os.Getenv("SHORT") == "1" {
			t.Skip("sslscan is missing, and SHORT=1 asks to skip")
		}
		t.Fatal("sslscan is missing; install the Debian package sslscan (make setup)")
	}
	w, err := peers.NewWorld()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	s := &stage{dir: t.TempDir(), world: w}
	t.Cleanup(s.end)
	box, _, err := s.toProvider(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range []struct {
		name string
		port int
		args []string
		own  string
	}{
		{"25", box.StartTLS, []string{"--starttls-smtp"}, credentials(t, w, false)},
		{"465", box.Implicit, nil, credentials(t, w, false)},
		{"1465", box.Push, nil, credentials(t, w, true)},
	} {
		t.Run(port.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "scan.xml")
			args := append(port.args, "--no-colour", "--certs="+port.own, "--pk="+port.own, "--xml="+file, fmt.Sprintf("127.0.0.1:%d", port.port))
			if out, err := exec.CommandContext(t.Context(), "sslscan", args...).CombinedOutput(); err != nil {
				t.Fatalf("sslscan: %v: %s", err, out)
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var found scan
			if err := xml.Unmarshal(text, &found); err != nil {
				t.Fatalf("%v in %s", err, text)
			}
			found.judge(t)
			if t.Failed() {
				t.Logf("%s", text)
			}
		})
	}
}

// credentials writes a client certificate, of a tenant or of the provider.
func credentials(t *testing.T, w *peers.World, provider bool) string {
	t.Helper()
	cert := w.Tenants[0]
	if provider {
		cert = w.PKI.Client()
	}
	text, err := peers.EncodePEM(cert)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "own.pem")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (f scan) judge(t *testing.T) {
	for _, p := range f.Protocols {
		name := p.Type + " " + p.Version
		if want := name == "tls 1.2" || name == "tls 1.3"; want != (p.Enabled == 1) {
			t.Errorf("%s: enabled %d", name, p.Enabled)
		}
	}
	if len(f.Protocols) < 5 {
		t.Errorf("only %d protocol versions were tried", len(f.Protocols))
	}
	versions := map[string]int{}
	for _, c := range f.Ciphers {
		versions[c.Version]++
		if !allowedSuite.MatchString(c.Cipher) {
			t.Errorf("%s with %s is accepted", c.Version, c.Cipher)
		}
	}
	if versions["TLSv1.2"] == 0 || versions["TLSv1.3"] == 0 || len(versions) != 2 {
		t.Errorf("suites were found in %v, want some in TLSv1.2 and TLSv1.3 and in no other", versions)
	}
	if len(f.Groups) == 0 {
		t.Error("no group was found")
	}
	for _, g := range f.Groups {
		if !allowedGroup.MatchString(g.Name) {
			t.Errorf("%s with group %s is accepted", g.Version, g.Name)
		}
	}
	if f.Renegotiation.Supported != 0 && f.Renegotiation.Secure == 0 {
		t.Errorf("insecure renegotiation: %+v", f.Renegotiation)
	}
	for _, c := range f.Compression {
		if c.Supported != 0 {
			t.Error("compression is on")
		}
	}
	for _, h := range f.Heartbleed {
		if h.Vulnerable != 0 {
			t.Error("heartbleed")
		}
	}
	if !slices.ContainsFunc(f.Keys, func(k struct {
		Type  string `xml:"type,attr"`
		Curve string `xml:"curve_name,attr"`
		Bits  int    `xml:"bits,attr"`
		Error string `xml:"error,attr"`
	}) bool {
		return k.Type == "EC" && k.Error == "false" || k.Type == "RSA" && k.Bits >= 3000
	}) {
		t.Errorf("no key of an allowed kind was seen: %+v", f.Keys)
	}
}

// TestAllowed: the tables refuse what is not in the technical guideline.
func TestAllowed(t *testing.T) {
	for _, bad := range []string{"ECDHE-RSA-CHACHA20-POLY1305", "AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA256", "DHE-RSA-AES128-GCM-SHA256", "TLS_CHACHA20_POLY1305_SHA256"} {
		if allowedSuite.MatchString(bad) {
			t.Errorf("suite %s is allowed", bad)
		}
	}
	for _, bad := range []string{"x25519", "secp192r1", "sect283k1", "ffdhe2048"} {
		if allowedGroup.MatchString(bad) {
			t.Errorf("group %s is allowed", bad)
		}
	}
}
