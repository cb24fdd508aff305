package operator

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"gitlab.opencode.de/pforte/pforte/internal/secret"
)

func (o *operator) tenantCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "tenant",
		Short: "make what a tenant's part of the configuration needs",
		Long:  "Make what a tenant's part of the configuration needs. None of this needs a box.",
	}
	c.AddCommand(o.tenantSecretCommand())
	return c
}

// newSecret is what "tenant secret" says.
type newSecret struct {
	Secret string `json:"secret,omitempty"` // only if it was generated
	Hash   string `json:"hash"`
}

func (o *operator) tenantSecretCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "secret [-]",
		Short: "make a secret for a system that logs in, and its hash",
		Long: fmt.Sprintf(`Make a secret with which a tenant's system logs in (SMTP AUTH), and its argon2id
hash. The hash goes into the configuration (tenants, clients, secret), the secret
into the system, and nowhere else: it cannot be found out from the hash.

With "-" the secret is the first line of standard input (%d to %d bytes), and only the hash is printed.`, secret.MinSecret, secret.MaxSecret),
		Example: `  pforte tenant secret
  pforte tenant secret - < secret.txt`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var s newSecret
			text := secret.Generate()
			switch {
			case len(args) == 0:
				s.Secret = text
			case args[0] == "-":
				var err error
				if text, err = firstLine(cmd.InOrStdin()); err != nil {
					return err
				}
			default: // else it would stand in the shell's history
				return &usageError{"a secret is no argument", `write it to standard input and give "-", or give nothing to have one made`}
			}
			h, err := secret.New(text)
			if err != nil {
				return &faultError{err, "choose a longer one, or have one made: pforte tenant secret"}
			}
			s.Hash = h.String()
			return o.print(cmd, s, func(p *printer) {
				p.entry("secret", "%s", s.Secret)
				p.entry("hash", "%s", s.Hash)
			})
		},
	}
}

// firstLine reads one line without its end.
func firstLine(in io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(in, secret.MaxSecret+2)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read the secret: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}
