package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"debug/pe"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"gitlab.opencode.de/pforte/pforte/appliance/apid"
	"gitlab.opencode.de/pforte/pforte/appliance/apid/apidtest"
	"gitlab.opencode.de/pforte/pforte/appliance/update/control"
	"gitlab.opencode.de/pforte/pforte/hsm/hsmtest"
	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"pforte": main})
}

// TestScripts runs each script against a box of its own: the real apid, with
// stand-ins for updated, netd and relayd behind it.
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("scripts: %v, %v", scripts, err)
	}
	for _, script := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txtar"), func(t *testing.T) {
			s := &stage{t: t}
			s.box = apidtest.New(t, apidtest.Options{Locked: strings.HasPrefix(filepath.Base(script), "locked")})
			s.key = s.box.Marks.Next().Fields["key"]
			testscript.Run(t, testscript.Params{
				Files: []string{script},
				Setup: s.setup,
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					"fails": fails, "box": s.change, "did": s.did, "certify": s.certify, "image": makeImage, "keypair": keypair,
				},
			})
		})
	}
}

// stage is what a script acts on.
type stage struct {
	t   *testing.T
	box *apidtest.Box
	key string
	ca  *hsmtest.CA // of the box's certificates
}

// setup writes NAME.pem and NAME.key for owner, hosting, monitor and stranger,
// box-ca.pem, the example of a whole configuration as config.yaml, and names the
// box in the environment.
func (s *stage) setup(env *testscript.Env) error {
	example, err := os.ReadFile("../../internal/config/testdata/complete.yaml")
	if err == nil {
		err = os.WriteFile(filepath.Join(env.WorkDir, "config.yaml"), example, 0o644)
	}
	s.ca = hsmtest.NewCA(s.t, "box CA")
	certs := map[string]tls.Certificate{"stranger": apidtest.Client(s.t, s.box.Stranger, "stranger")}
	for _, role := range []apid.Role{apid.Owner, apid.Hosting, apid.Monitor} {
		certs[string(role)] = s.box.Certificate(role)
	}
	errs := []error{err, os.WriteFile(filepath.Join(env.WorkDir, "box-ca.pem"), hsmtest.PEM(s.ca.Certificate), 0o644)}
	for name, c := range certs {
		der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
		key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
		errs = append(errs, err,
			os.WriteFile(filepath.Join(env.WorkDir, name+".pem"), hsmtest.PEM(c.Leaf), 0o644),
			os.WriteFile(filepath.Join(env.WorkDir, name+".key"), key, 0o600))
	}
	env.Setenv("PFORTE_BOX", s.box.Address)
	env.Setenv("PFORTE_BOX_KEY", s.key)
	env.Setenv("PFORTE_CERT", "owner.pem")
	env.Setenv("PFORTE_KEY", "owner.key")
	return errors.Join(errs...)
}

// fails CODE COMMAND... runs a command that must end with the exit code.
func fails(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: fails CODE COMMAND...")
	}
	exit := (*exec.ExitError)(nil)
	err := ts.Exec(args[1], args[2:]...)
	if !errors.As(err, &exit) || strconv.Itoa(exit.ExitCode()) != args[0] {
		ts.Fatalf("%v; want exit code %s", err, args[0])
	}
}

// box STATE changes what the services of the box say.
func (s *stage) change(ts *testscript.TestScript, _ bool, args []string) {
	states := map[string]func(*apidtest.Behind){
		"update-refused": func(b *apidtest.Behind) {
			b.Err = localapi.WithRemedy(control.ErrRefused, "ask the owner for another window")
		},
		"repository-away": func(b *apidtest.Behind) {
			b.Err = localapi.WithRemedy(control.ErrSource, "check the way to the repositories")
		},
		"willing": func(b *apidtest.Behind) { b.Err = nil },
		"faulty-config": func(b *apidtest.Behind) {
			b.Config = control.ConfigTaken{Faults: []config.Fault{{Line: 14, Path: "serial", Text: "the serial is missing or 0", Remedy: "start at 1"}}}
		},
		"takes-config": func(b *apidtest.Behind) { b.Config = control.ConfigTaken{Serial: 8, Box: apidtest.BoxName} },
		"unhealthy": func(b *apidtest.Behind) {
			b.Status.Health = []control.Condition{{Code: "disk.full", Severity: "fault", English: "The disk is full.", German: "Die Platte ist voll.", Remedy: "remove mail"}}
		},
		"blesses": func(b *apidtest.Behind) { b.Wait = s.ends(control.Outcome{Release: "0.2.0", Blessed: true}) },
		"rejects": func(b *apidtest.Behind) {
			b.Wait = s.ends(control.Outcome{Release: "0.2.0", Why: "not healthy within 4m0s"})
		},
	}
	if len(args) != 1 || states[args[0]] == nil {
		ts.Fatalf("usage: box STATE")
	}
	s.box.Behind.Set(states[args[0]])
}

// ends makes the update that is being started have an outcome at once.
func (s *stage) ends(o control.Outcome) func() {
	return func() { s.box.Behind.Set(func(b *apidtest.Behind) { b.Status.Last = &o }) }
}

// did TEXT checks that a service was asked to do something.
func (s *stage) did(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] did TEXT")
	}
	calls := s.box.Behind.Calls()
	if slices.ContainsFunc(calls, func(c string) bool { return strings.Contains(c, args[0]) }) == neg {
		ts.Fatalf("the services were asked %q", calls)
	}
}

// certify REQUEST CERTIFICATE has the box's authority certify a request.
func (s *stage) certify(ts *testscript.TestScript, _ bool, args []string) {
	block, _ := pem.Decode([]byte(ts.ReadFile(args[0])))
	if block == nil {
		ts.Fatalf("%s: no PEM", args[0])
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	ts.Check(err)
	ts.Check(csr.CheckSignature())
	leaf := s.ca.Issue(s.t, csr.PublicKey, x509.ExtKeyUsageServerAuth, csr.DNSNames, func(c *x509.Certificate) {
		c.Subject = pkix.Name{CommonName: csr.Subject.CommonName}
		c.IPAddresses = csr.IPAddresses
	})
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), s.ca.Chain(leaf), 0o644))
}

// image FILE VERSION EPOCH VARIANT makes a file with an image's os-release.
func makeImage(ts *testscript.TestScript, _ bool, args []string) {
	text := []byte("ID=pforte\nVERSION_ID=" + args[1] + "\nPFORTE_EPOCH=" + args[2] + "\nVARIANT_ID=" + args[3] + "\n")
	var b bytes.Buffer
	section := pe.SectionHeader32{VirtualSize: uint32(len(text)), SizeOfRawData: uint32(len(text)), PointerToRawData: 60}
	copy(section.Name[:], ".osrel")
	ts.Check(binary.Write(&b, binary.LittleEndian, pe.FileHeader{Machine: pe.IMAGE_FILE_MACHINE_AMD64, NumberOfSections: 1}))
	ts.Check(binary.Write(&b, binary.LittleEndian, section))
	b.Write(append(text, make([]byte, 64)...))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b.Bytes(), 0o644))
}

// keypair FILE writes a private key.
func keypair(ts *testscript.TestScript, _ bool, args []string) {
	der, err := x509.MarshalPKCS8PrivateKey(hsmtest.NewSoftKey(&testing.T{}))
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
}
