// Package configcmd is the noun "config" of the operator's command: what the
// owner does with a configuration on a laptop, without a box.
//
// check gives the same verdict as the box, because it runs the same code: every
// fault with file, line and remedy. sign wraps a document without fault into the
// envelope that a box takes; any other it refuses, and writes nothing.
//
// The private key is read from a PKCS#8 PEM file and used through
// crypto.Signer. A key on a card or in an HSM signs through config.Sign.
package configcmd

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"gitlab.opencode.de/pforte/pforte/internal/config"
)

// maxInput bounds what is read of a file: an envelope of the largest document.
const maxInput = 2 * config.MaxSize

// Command returns the command "config" with its verbs.
func Command() *cobra.Command {
	c := &cobra.Command{
		Use:   "config",
		Short: "check and sign the configuration of a box",
		Long:  "Check and sign the configuration of a box. None of this needs a box.",
	}
	c.AddCommand(checkCommand(), signCommand())
	return c
}

// readInput reads a whole file, or standard input for "-".
func readInput(cmd *cobra.Command, name string) ([]byte, error) {
	in := cmd.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxInput+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(data) > maxInput {
		return nil, fmt.Errorf("read %s: more than %d bytes; this is no configuration", name, maxInput)
	}
	return data, nil
}

// printFaults writes each fault as an editor can jump to it, with its remedy.
func printFaults(w io.Writer, name string, faults config.Faults) {
	for _, f := range faults {
		place := name
		if f.Line > 0 {
			place = fmt.Sprintf("%s:%d", name, f.Line)
		}
		if f.Path != "" {
			place += ": " + f.Path
		}
		fmt.Fprintf(w, "%s: %s\n    hint: %s\n", place, f.Text, f.Remedy)
	}
}

// faulty is the error after the faults were printed.
func faulty(name string, faults config.Faults) error {
	if len(faults) == 1 {
		return fmt.Errorf("%s: one fault; a box would refuse it", name)
	}
	return fmt.Errorf("%s: %d faults; a box would refuse it", name, len(faults))
}
