package configcmd

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/durable"
	"gitlab.opencode.de/pforte/pforte/internal/keyfile"
)

func signCommand() *cobra.Command {
	var keyFile, out string
	c := &cobra.Command{
		Use:   "sign FILE --key KEY -o OUT",
		Short: "sign a configuration without fault for a box",
		Long: `Sign a configuration with the owner's private key (PKCS#8 PEM: ECDSA P-256 or
P-384, Ed25519, RSA from 3072 bits). OUT is a DSSE envelope; name it
pforte.dsse.json on a FAT volume labelled PFORTE-SEED, or send it with
"pforte config put". A document with faults is refused, and nothing is written.

Exit codes: 0 signed, 1 refused or failed, 2 wrong use.`,
		Example: "  pforte config sign pforte-1.yaml --key owner-key.pem -o pforte.dsse.json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return sign(cmd, args[0], keyFile, out)
		},
	}
	c.Flags().StringVar(&keyFile, "key", "", "the owner's private `KEY`, PKCS#8 in PEM")
	c.Flags().StringVarP(&out, "output", "o", "", "file for the envelope, or - for standard output")
	for _, name := range []string{"key", "output"} {
		if err := c.MarkFlagRequired(name); err != nil {
			panic(err) // the flag is defined two lines above
		}
	}
	return c
}

func sign(cmd *cobra.Command, name, keyFile, out string) error {
	data, err := readInput(cmd, name)
	if err != nil {
		return err
	}
	if config.IsEnvelope(data) {
		return fmt.Errorf("%s: already an envelope; sign the YAML document", name)
	}
	if same(name, out) {
		return fmt.Errorf("%s: it would be overwritten; give another file with -o", name)
	}
	signer, err := keyfile.Load(keyFile)
	if err != nil {
		return err
	}
	envelope, err := config.Sign(data, signer)
	var faults config.Faults
	if errors.As(err, &faults) {
		printFaults(cmd.ErrOrStderr(), name, faults)
		return faulty(name, faults)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if out == "-" {
		_, err = cmd.OutOrStdout().Write(envelope)
		return err
	}
	const perm = 0o644 // nothing in it is secret
	if err := durable.WriteFile(out, envelope, perm); err != nil {
		return err
	}
	doc, err := config.Open(envelope, signer.Public()) // what a box will do first
	if err != nil {
		return fmt.Errorf("%s: verify again: %w", out, err)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s: box %s, serial %d, signed\n", out, doc.Box, doc.Serial)
	return nil
}

// same reports whether two names are one file.
func same(a, b string) bool {
	x, errA := os.Stat(a)
	y, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(x, y)
}
