package configcmd

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"gitlab.opencode.de/pforte/pforte/internal/config"
)

// verdict is the JSON form of what check says.
type verdict struct {
	File      string        `json:"file"`
	OK        bool          `json:"ok"`
	Signature string        `json:"signature"` // "none", "unchecked" or "verified"
	Box       string        `json:"box,omitempty"`
	Serial    uint64        `json:"serial,omitempty"`
	Tenants   int           `json:"tenants,omitempty"`
	Faults    config.Faults `json:"faults"`
}

func checkCommand() *cobra.Command {
	var asJSON bool
	var keyFile string
	c := &cobra.Command{
		Use:   "check FILE",
		Short: "say what a box would say to a configuration",
		Long: `Check a configuration (YAML, or a signed envelope) as a box does: every fault
with its line, what is wrong and what to do. Lines are those of the YAML
document, also when it comes in an envelope. FILE may be "-".

Exit codes: 0 a box takes it, 1 it has faults or cannot be read, 2 wrong use.`,
		Example: `  pforte config check pforte-1.yaml
  pforte config check pforte.dsse.json --key owner.pem --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := check(cmd, args[0], keyFile)
			if err != nil {
				return err
			}
			return v.print(cmd, asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print the verdict as JSON")
	c.Flags().StringVar(&keyFile, "key", "", "the owner's public `KEY` in PEM: verify the envelope, too")
	return c
}

// check gives a verdict, or an error if there is nothing to judge.
func check(cmd *cobra.Command, name, keyFile string) (*verdict, error) {
	data, err := readInput(cmd, name)
	if err != nil {
		return nil, err
	}
	v := &verdict{File: name, Signature: "none", Faults: config.Faults{}}
	switch {
	case config.IsEnvelope(data) && keyFile != "":
		key, err := config.LoadOwnerKey(keyFile)
		if err != nil {
			return nil, err
		}
		if data, err = config.Verify(data, key); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		v.Signature = "verified"
	case config.IsEnvelope(data):
		if data, err = config.Peek(data); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		v.Signature = "unchecked"
	case keyFile != "":
		return nil, fmt.Errorf("%s: no signed envelope; leave --key out, or sign it first", name)
	}
	doc, err := config.Parse(data)
	if err == nil {
		v.OK, v.Box, v.Serial, v.Tenants = true, doc.Box, doc.Serial, len(doc.Tenants)
		return v, nil
	}
	if !errors.As(err, &v.Faults) {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return v, nil
}

// print writes the verdict to standard output; its error is the exit code.
func (v *verdict) print(cmd *cobra.Command, asJSON bool) error {
	out := cmd.OutOrStdout()
	if asJSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		if err := e.Encode(v); err != nil {
			return fmt.Errorf("print verdict: %w", err)
		}
	} else {
		printFaults(out, v.File, v.Faults)
	}
	if !v.OK {
		return faulty(v.File, v.Faults)
	}
	if !asJSON {
		fmt.Fprintf(out, "%s: box %s, serial %d, %d tenants: no fault\n", v.File, v.Box, v.Serial, v.Tenants)
		switch v.Signature {
		case "verified":
			fmt.Fprintf(out, "%s: signed by the owner\n", v.File)
		case "unchecked":
			fmt.Fprintf(out, "%s: signature not checked (give the owner's public key with --key)\n", v.File)
		}
	}
	return nil
}
