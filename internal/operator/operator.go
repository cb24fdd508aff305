// Package operator is the command "pforte": what owner, hosting, monitor and
// vendor do with boxes from their desks. It is a package so that scenarios can
// run the very command that people use; cmd/pforte only calls Run.
//
// Nouns that ask a box (status, health, key, config put, update, power, queue,
// audit) speak its management API (package manage) through package box. Nouns
// that work on a laptop (config check and sign, mapping, tenant, release, rollout)
// need no box.
//
// # Output
//
// Standard output has the result: text for people, or with --json the result
// as one JSON value, a refusal as {"error": {...}}. Standard error has faults
// ("pforte: fault", then "hint: remedy") and progress.
//
// # Exit codes
//
// 0 done · 1 fault · 2 wrong use · 3 the box refused · 4 the box does not answer.
// They never change their meaning. After 4 it is unknown whether an act was
// carried out.
//
// # Which box
//
// Flags, or environment variables where a flag is not given: --box PFORTE_BOX,
// --cert PFORTE_CERT, --key PFORTE_KEY, --ca PFORTE_CA, --name PFORTE_NAME,
// --box-key PFORTE_BOX_KEY, --timeout PFORTE_TIMEOUT.
package operator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"gitlab.opencode.de/pforte/pforte/internal/manage"
	"gitlab.opencode.de/pforte/pforte/internal/operator/box"
)

// Exit codes of Run.
const (
	ExitDone        = 0
	ExitFault       = 1
	ExitUsage       = 2
	ExitRefused     = 3
	ExitUnreachable = 4
)

// usageError is wrong use that only a command's own work can find.
type usageError struct{ fault, hint string }

func (e *usageError) Error() string { return e.fault }

// verdict is a bad result that was printed as a result; it only makes the exit
// code.
type verdict struct{ text string }

func (e *verdict) Error() string { return e.text }

// faultError is a fault with its remedy.
type faultError struct {
	err  error
	hint string
}

func (e *faultError) Error() string { return e.err.Error() }
func (e *faultError) Unwrap() error { return e.err }

// Run carries out one command line (without the command's own name), writes
// results to out and faults to errOut, and gives the exit code. Standard input
// is read only where an argument is "-".
func Run(ctx context.Context, args []string, out, errOut io.Writer) int {
	root := Command(os.Stdin, out, errOut)
	begun := false
	mark(root, &begun)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return ExitDone
	}
	asJSON, _ := root.PersistentFlags().GetBool("json")
	report(err, asJSON && begun, out, errOut)
	return exitCode(err, begun)
}

// Command gives the whole command for reading its help, or for Run.
func Command(in io.Reader, out, errOut io.Writer) *cobra.Command {
	o := &operator{}
	root := &cobra.Command{
		Use:   "pforte",
		Short: "look after De-Mail gateways",
		Long: `Look after De-Mail gateways ("boxes") from your desk.

Most commands ask a box: --box says which, --cert and --key who asks, and --ca
(with --name) or --box-key how to know the box. The environment can hold them:
PFORTE_BOX, PFORTE_CERT, PFORTE_KEY, PFORTE_CA, PFORTE_NAME, PFORTE_BOX_KEY,
PFORTE_TIMEOUT.

Exit codes: 0 done, 1 fault, 2 wrong use, 3 the box refused, 4 the box does not
answer (after 4 it is unknown whether an act was carried out).`,
		Example: `  export PFORTE_CERT=me.pem PFORTE_KEY=me.key PFORTE_CA=owner-ca.pem
  pforte status --box pforte-1.example:8443
  pforte update start --box pforte-1.example:8443 --wait`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	o.flags(root.PersistentFlags())
	root.AddCommand(
		o.statusCommand(), o.healthCommand(), o.keyCommand(), o.configCommand(), o.updateCommand(),
		o.powerCommand(), o.queueCommand(), o.mailCommand(), o.auditCommand(), releaseCommand(), rolloutCommand(),
		o.mappingCommand(), o.tenantCommand(),
	)
	return root
}

// mark notes when a command's own work begins: whatever fails before that is
// wrong use.
func mark(c *cobra.Command, begun *bool) {
	if work := c.RunE; work != nil {
		c.RunE = func(cmd *cobra.Command, args []string) error {
			*begun = true
			return work(cmd, args)
		}
	}
	for _, sub := range c.Commands() {
		mark(sub, begun)
	}
}

func exitCode(err error, begun bool) int {
	switch {
	case !begun, errors.As(err, new(*usageError)):
		return ExitUsage
	case errors.Is(err, box.ErrUnreachable):
		return ExitUnreachable
	case errors.Is(err, box.ErrUnable):
		return ExitFault
	case errors.Is(err, box.ErrNotAdmitted), errors.As(err, new(*manage.Error)):
		return ExitRefused
	}
	return ExitFault
}

// report writes a fault and its remedy.
func report(err error, asJSON bool, out, errOut io.Writer) {
	fault, hint := strings.TrimSpace(err.Error()), hintOf(err)
	refusal := (*manage.Error)(nil)
	if errors.As(err, &refusal) {
		if hint == "" {
			hint = refusal.Remedy
		}
		fault = strings.TrimSuffix(refusal.Text, "; "+refusal.Remedy)
	}
	if asJSON && !errors.As(err, new(*verdict)) {
		if refusal == nil {
			refusal = &manage.Error{Code: codeOf(err), Text: fault, Remedy: hint}
		}
		_ = json.NewEncoder(out).Encode(manage.Refusal{Error: refusal})
	}
	fmt.Fprintln(errOut, "pforte:", fault)
	if refusal != nil {
		for _, f := range refusal.Faults {
			printFault(errOut, f)
		}
	}
	if hint != "" {
		fmt.Fprintln(errOut, "hint:", hint)
	}
}

// codeOf names a fault of our own for programs.
func codeOf(err error) string {
	switch {
	case errors.Is(err, box.ErrUnreachable):
		return "unreachable"
	case errors.Is(err, box.ErrNotAdmitted):
		return "not-admitted"
	case errors.Is(err, box.ErrStranger):
		return "stranger"
	case errors.As(err, new(*usageError)):
		return "usage"
	}
	return "fault"
}

// hintOf is what to do about a fault of our own.
func hintOf(err error) string {
	if e := (*usageError)(nil); errors.As(err, &e) {
		return e.hint
	}
	if e := (*faultError)(nil); errors.As(err, &e) {
		return e.hint
	}
	switch {
	case errors.Is(err, box.ErrUnreachable):
		return "check --box, the way to the management network, and the box's console"
	case errors.Is(err, box.ErrNotAdmitted):
		return "use a certificate that the owner's, hosting's or monitor's authority issued, as the box's configuration names them; check that it has not expired"
	case errors.Is(err, box.ErrStranger):
		return "do not go on: compare --box-key with the key on the box's console, or check --ca and --name"
	}
	return ""
}

// printFault writes one fault of a configuration with its remedy.
func printFault(w io.Writer, f manage.Fault) {
	place := ""
	if f.Line > 0 {
		place = fmt.Sprintf("line %d: ", f.Line)
	}
	if f.Path != "" {
		place += f.Path + ": "
	}
	fmt.Fprintf(w, "  %s%s\n", place, f.Text)
	if f.Remedy != "" {
		fmt.Fprintf(w, "      hint: %s\n", f.Remedy)
	}
}
