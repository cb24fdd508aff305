package operator

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/config/configcmd"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
)

// maxEnvelope bounds a file with a signed configuration, in bytes.
const maxEnvelope = 2 * config.MaxSize

func (o *operator) configCommand() *cobra.Command {
	c := configcmd.Command()
	c.Short = "check and sign the configuration of a box, bring it to a box"
	c.Long = `Check and sign the configuration of a box on your laptop, and bring it to a
running box. A new box takes its first one from a volume labelled PFORTE-SEED.`
	c.AddCommand(o.configPutCommand())
	return c
}

func (o *operator) configPutCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "put FILE",
		Short: "bring a signed configuration to a box",
		Long: `Bring a signed configuration (from "pforte config sign") to a running box. Only
the owner may. The box takes it if the owner's key signed it, its serial is
greater than any before, it is for this box, and it has no fault; else it keeps
what it has and says why. FILE may be "-".`,
		Example: "  pforte config put pforte.dsse.json --box pforte-1.example:8443",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			envelope, err := readInput(cmd, args[0], maxEnvelope)
			if err != nil {
				return err
			}
			if !config.IsEnvelope(envelope) {
				return &faultError{fmt.Errorf("%s: no signed configuration", args[0]), "sign it with: pforte config sign " + args[0] + " --key KEY -o OUT"}
			}
			return show(o, cmd, manage.MethodConfig, json.RawMessage(envelope), func(p *printer, t manage.ConfigTaken) {
				p.line("%s: box %s took serial %d", args[0], t.Box, t.Serial)
			})
		},
	}
}

// readInput reads a whole file, or standard input for "-".
func readInput(cmd *cobra.Command, name string, limit int64) ([]byte, error) {
	in := cmd.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("read %s: more than %d bytes", name, limit)
	}
	return data, nil
}
