// Package uki makes the unified kernel image (UKI): the one signed file that the
// firmware verifies and boots.
//
// # What it does
//
// Build puts systemd's EFI stub (sd-stub, package systemd-boot-efi of Debian
// 13), a kernel, an initramfs and their describing texts into one PE file, as
// the UAPI group's "Unified Kernel Image" specification and systemd 257 want
// it. Sign adds a Secure Boot signature (Authenticode). PCR11 predicts what the
// stub and our init will have measured, and PCRSignature signs that prediction,
// so that a secret sealed to the signing key opens under every signed release.
//
// # What it promises
//
//   - The same Parts give the same bytes: no clock, no random number, no path and
//     no host name goes in. (A signature carries its time, so a signed image
//     differs; its unsigned bytes do not.)
//   - Each section's VirtualSize is the exact length of its content, because the
//     stub measures and passes on VirtualSize bytes. In the file sections follow each
//     other without gaps, padded with zeros to the file alignment; in memory
//     each begins on a page of its own after the stub's last one.
//   - A stub that is not what the package expects is refused with the reason.
//     Nothing of it is guessed or repaired.
//   - Memory in use stays below four times the size of the image.
//
// # What it does not do
//
// It does not fetch the stub or the kernel, does not compress, does not know
// device trees, microcode, splash pictures or multi-profile images, and it is
// for x86-64 only. It does not look into the command line; package image decides
// what stands there. Whoever may write SMBIOS type 11 strings can still make the
// stub append to the command line (systemd-stub(7), io.systemd.stub.kernel-cmdline-extra);
// the stub measures that into PCR 12, and init must compare /proc/cmdline.
//
// # Format
//
// The image is a PE32+ file: the stub's headers and sections, then .osrel,
// .cmdline, .uname, .pcrpkey, .pcrsig, .linux and .initrd. The stub's own .sbat is
// replaced by the merged one.
package uki

import (
	"bytes"
	"debug/pe"
	"errors"
	"fmt"
)

// MaxSize is the largest image, in bytes, that Build makes and Sections reads.
// Firmware reads the whole file into memory, twice over.
const MaxSize = 256 << 20

// Names of the sections, as systemd 257 knows them.
const (
	SectionLinux   = ".linux"
	SectionOSRel   = ".osrel"
	SectionCmdline = ".cmdline"
	SectionInitrd  = ".initrd"
	SectionUname   = ".uname"
	SectionSBAT    = ".sbat"
	SectionPCRSig  = ".pcrsig"
	SectionPCRPKey = ".pcrpkey"
)

// Parts is what an image is made of. Stub, Kernel, Initrd, OSRelease and Cmdline
// must be there; an empty other part leaves its section out.
type Parts struct {
	// Stub is systemd's linuxx64.efi.stub, unsigned.
	Stub []byte
	// Kernel is a bzImage with an EFI stub. It need not be signed.
	Kernel []byte
	// Initrd is the initramfs, in any compression that the kernel knows.
	Initrd []byte
	// OSRelease is an os-release(5) file.
	OSRelease []byte
	// Cmdline is the kernel command line: one line of printable ASCII without a
	// final newline.
	Cmdline string
	// Uname is the kernel's release ("6.12.1-amd64"), for tools that list images.
	Uname string
	// SBAT holds component lines in CSV to append to those of the stub (shim's
	// SBAT.md), each ended by a newline, without the leading "sbat" line.
	SBAT []byte
	// PCRPublicKey is the PEM public key (see PublicKeyPEM) that checks PCRSignature.
	PCRPublicKey []byte
	// PCRSignature is the JSON that PCRSignature makes. It is the only part that
	// is not measured, because it signs the measurement.
	PCRSignature []byte
}

// check reports every fault of p at once, apart from those of the stub.
func (p Parts) check() error {
	var faults []error
	for _, must := range []struct {
		name  string
		empty bool
	}{
		{"kernel", len(p.Kernel) == 0},
		{"initramfs", len(p.Initrd) == 0},
		{"os-release", len(p.OSRelease) == 0},
		{"command line", p.Cmdline == ""},
	} {
		if must.empty {
			faults = append(faults, fmt.Errorf("%s is empty", must.name))
		}
	}
	for _, text := range []struct{ name, value string }{{"command line", p.Cmdline}, {"uname", p.Uname}} {
		for i := range len(text.value) {
			if c := text.value[i]; c < ' ' || c > '~' {
				faults = append(faults, fmt.Errorf("%s has byte %#02x at %d: only printable ASCII may stand there", text.name, c, i))
				break
			}
		}
	}
	if len(p.PCRSignature) > 0 && len(p.PCRPublicKey) == 0 {
		faults = append(faults, errors.New("PCR signature without its public key"))
	}
	if n := len(p.SBAT); n > 0 && (p.SBAT[n-1] != '\n' || bytes.HasPrefix(p.SBAT, []byte("sbat,"))) {
		faults = append(faults, errors.New("SBAT lines must end with a newline and leave out the \"sbat\" line"))
	}
	return errors.Join(faults...)
}

// payload returns the sections to append to the stub, in the order of the file.
func (p Parts) payload() []Section {
	all := []Section{
		{SectionOSRel, p.OSRelease},
		{SectionCmdline, []byte(p.Cmdline)},
		{SectionUname, []byte(p.Uname)},
		{SectionPCRPKey, p.PCRPublicKey},
		{SectionPCRSig, p.PCRSignature},
		{SectionLinux, p.Kernel},
		{SectionInitrd, p.Initrd},
	}
	var present []Section
	for _, s := range all {
		if len(s.Data) > 0 {
			present = append(present, s)
		}
	}
	return present
}

// Build returns the unsigned image. It fails if a part is missing or malformed,
// if the stub is not one that ReadStub accepts or has no room for the sections,
// and if the image would exceed MaxSize.
func Build(p Parts) ([]byte, error) {
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("build UKI: %w", err)
	}
	stub, err := ReadStub(p.Stub)
	if err != nil {
		return nil, fmt.Errorf("build UKI: %w", err)
	}
	if err := stub.replaceSBAT(mergeSBAT(stub.SBAT, p.SBAT)); err != nil {
		return nil, fmt.Errorf("build UKI: %w", err)
	}
	for _, s := range p.payload() {
		if err := stub.add(s); err != nil {
			return nil, fmt.Errorf("build UKI: add %s: %w", s.Name, err)
		}
	}
	if !kernelAllowsNX(p.Kernel) {
		stub.dropNX()
	}
	image, err := stub.assemble()
	if err != nil {
		return nil, fmt.Errorf("build UKI: %w", err)
	}
	return image, nil
}

// kernelAllowsNX tells whether the kernel says that it can run where data pages
// are not executable. The outer image must not promise more than the kernel
// inside (UEFI "NX_COMPAT"). A kernel that is not a PE file promises nothing.
func kernelAllowsNX(kernel []byte) bool {
	f, err := pe.NewFile(bytes.NewReader(kernel))
	if err != nil {
		return false
	}
	h, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	return ok && h.DllCharacteristics&pe.IMAGE_DLLCHARACTERISTICS_NX_COMPAT != 0
}

// mergeSBAT appends lines to the stub's SBAT data, which may be padded with
// zeros. The product's own line tells shim and people what the image is.
func mergeSBAT(stub, lines []byte) []byte {
	merged := bytes.TrimRight(stub, "\x00")
	if len(lines) == 0 {
		return merged
	}
	if n := len(merged); n > 0 && merged[n-1] != '\n' {
		merged = append(bytes.Clone(merged), '\n')
	}
	return append(bytes.Clone(merged), lines...)
}
