// Package config reads, checks, signs and keeps the configuration of a box.
//
// # What it is
//
// One document in one file says everything that is particular to one box:
// links and addresses, who may administer it, the De-Mail provider, the
// tenants. It is YAML inside a DSSE envelope that the owner signed (payload
// type PayloadType), so that nobody between the owner's desk and the box can
// change it. testdata/example.yaml is a commented example to begin with and
// testdata/complete.yaml one with every field; the types
// of this package are the reference.
//
// # What it promises
//
// Parse is all or nothing: it gives a Document without any fault, or no
// Document and every fault that can be seen at once (Faults, sorted by line,
// each with a remedy). It is strict where YAML is lax: unknown and doubled
// keys, several documents, anchors, aliases, tags, values of another type,
// empty values, and numbers in any but the plain decimal form are faults. A
// Document is resolved: defaults stand in it in full.
//
// The verdict depends on the bytes alone: not on the clock (a certificate that
// expires next week does not make a configuration wrong), not on the machine.
// So `pforte config check` on a laptop says what the box will say.
//
// Everything is bounded: MaxSize bytes (MaxText beside
// mapping tables), MaxFaults faults, and as many
// interfaces, tenants and networks as the Max constants say. Nesting is bounded
// by the types.
//
// Open verifies before it parses. A Store takes an envelope only with the
// owner's signature, with a greater serial than it ever took, for the box it
// belongs to, and without fault; otherwise it keeps what it has.
//
// # Whom it trusts
//
// The holder of the owner's key, and nobody else. It does not ask whether
// addresses answer or certificates are revoked; that is seen at run time.
//
// # Why not ...
//
// Why not one file per tenant: a signature over the whole leaves no way to mix
// old and new parts. Why not JSON: the document is written by people, and needs
// comments. Why no include, no variables: what is signed is what is read.
package config

import (
	"bytes"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// Bounds of a document. They are far above what one box can carry and keep a
// broken file from using up the machine.
//
// Two bounds for the size, because the YAML reader takes about a hundred bytes of
// memory for each short value, but a mapping table is one long one. Measured: a
// signed document of 31 MiB with 320,000 entries takes netd 320 MB to open and
// updated 460 MB to put in the place of another; their units allow that and not
// much more. Who has more addresses writes rules for whole domains.
const (
	MaxSize       = 32 << 20 // bytes of the YAML document
	MaxText       = 16 << 20 // bytes of it beside mapping tables
	MaxFaults     = 200      // faults that Parse reports; one more says that there are more
	MaxInterfaces = 64       // links, bonds and VLANs together
	MaxTenants    = 4096
	MaxNetworks   = 1024 // prefixes in one list
)

// Version is the format version that this package reads and writes.
const Version = 1

// Parse reads one YAML document. On any fault the document is nil and the error
// is a non-empty Faults.
func Parse(data []byte) (*Document, error) {
	root, faults := parseTree(data)
	if len(faults) > 0 {
		return nil, faults
	}
	d := &decoder{bad: map[string]bool{}}
	doc := &Document{}
	d.decode(root, doc)
	c := &checker{doc: doc, root: root, bad: d.bad, faults: d.faults}
	c.document()
	if len(c.faults) > 0 {
		return nil, c.faults.sorted(c.hidden)
	}
	doc.resolve()
	return doc, nil
}

// Marshal writes a document as YAML that Parse reads back to an equal one, if
// it is one that Parse would give. It does not check.
func Marshal(doc *Document) ([]byte, error) {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(doc); err != nil {
		return nil, fmt.Errorf("marshal configuration: %w", err)
	}
	if err := e.Close(); err != nil {
		return nil, fmt.Errorf("marshal configuration: %w", err)
	}
	return b.Bytes(), nil
}
