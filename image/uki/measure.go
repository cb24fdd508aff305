package uki

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
)

// PCR is the register that the stub and the boot phases extend (UAPI group,
// "Linux TPM PCR Registry": 11, kernel-boot).
const PCR = 11

// Words that mark how far a boot has come. Each is extended into PCR 11 as the
// SHA-256 of its letters, in this order. Our init extends the first when it
// starts and the second before it hands over to systemd; a secret that is sealed to
// PhaseEnterInitrd alone cannot be read after that. Our image carries no
// systemd-pcrphase, so the other two never happen on the box; they stand here
// because systemd-measure predicts them by default.
const (
	PhaseEnterInitrd = "enter-initrd"
	PhaseLeaveInitrd = "leave-initrd"
	PhaseSysinit     = "sysinit"
	PhaseReady       = "ready"
)

// measured returns the names of the sections that the stub of systemd 257
// measures, in its order, whatever their order in the file is.
func measured() []string {
	return []string{
		SectionLinux, SectionOSRel, SectionCmdline, SectionInitrd, ".ucode", ".splash",
		".dtb", SectionUname, SectionSBAT, SectionPCRPKey, ".profile", ".dtbauto", ".hwids",
	}
}

// PCR11 returns the SHA-256 value that PCR 11 has when an image of these parts has
// been started and the given phases were extended, each argument one word. It
// is the value that `systemd-measure calculate` prints.
func PCR11(p Parts, phases ...string) ([]byte, error) {
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("predict PCR 11: %w", err)
	}
	stub, err := ReadStub(p.Stub)
	if err != nil {
		return nil, fmt.Errorf("predict PCR 11: %w", err)
	}
	sections := append(p.payload(), Section{SectionSBAT, mergeSBAT(stub.SBAT, p.SBAT)})
	return predict(sections, phases)
}

// PCR11Of is PCR11 for a finished image, signed or not, read as the stub reads it.
func PCR11Of(image []byte, phases ...string) ([]byte, error) {
	sections, err := Sections(image)
	if err != nil {
		return nil, fmt.Errorf("predict PCR 11: %w", err)
	}
	return predict(sections, phases)
}

// predict extends a fresh register by name (with its final NUL) and content
// of each measured section and then by the phases. Of sections with one name
// the stub takes the first.
func predict(sections []Section, phases []string) ([]byte, error) {
	var pcr [sha256.Size]byte
	extend := func(data []byte) {
		digest := sha256.Sum256(data)
		pcr = sha256.Sum256(append(pcr[:], digest[:]...))
	}
	for _, name := range measured() {
		i := slices.IndexFunc(sections, func(s Section) bool { return s.Name == name })
		if i < 0 || len(sections[i].Data) == 0 {
			if name == SectionLinux {
				return nil, errors.New("predict PCR 11: image has no section .linux")
			}
			continue
		}
		extend([]byte(name + "\x00"))
		extend(sections[i].Data)
	}
	for _, word := range phases {
		if word == "" {
			return nil, errors.New("predict PCR 11: a phase is an empty word")
		}
		extend([]byte(word))
	}
	return pcr[:], nil
}
