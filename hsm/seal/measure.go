package seal

import (
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// PCRPhase holds the unified kernel image and the phases of the boot
// (systemd-stub(7), systemd-pcrphase.service(8)).
const PCRPhase = 11

// maxWord bounds a measured word in bytes (TPM 2.0 Library, Part 3, 22.3: the
// event of TPM2_PCR_Event is at most 1024 bytes).
const maxWord = 1024

// Measure extends the PCR in every active bank with the hash of word, as
// systemd-pcrphase does.
func Measure(tpm transport.TPM, pcr int, word string) error {
	if word == "" || len(word) > maxWord {
		return fmt.Errorf("measure into PCR %d: word of %d bytes, allowed are 1 to %d", pcr, len(word), maxWord)
	}
	_, err := tpm2.PCREvent{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
		EventData: tpm2.TPM2BEvent{Buffer: []byte(word)},
	}.Execute(tpm)
	if err != nil {
		return fmt.Errorf("measure %q into PCR %d: %w", word, pcr, known(err))
	}
	return nil
}
