package operator

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gitlab.opencode.de/pforte/pforte/internal/release/sign"
	"gitlab.opencode.de/pforte/pforte/internal/rollout"
	"gitlab.opencode.de/pforte/pforte/internal/rollout/issue"
)

func rolloutCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "rollout",
		Short: "allow releases in the owner's repository",
		Long: `Allow releases in the owner's repository: which boxes may install one, when, and
from where. This is the owner's work on a laptop and needs no box. The order is
signed; hosting then starts the update ("pforte update start").`,
	}
	c.AddCommand(initCommand("owner"), rolloutAuthoriseCommand(), removeCommand("withdraw", "owner"), refreshCommand("owner"))
	return c
}

// window is an order's times as they are typed.
type window struct{ from, to string }

func rolloutAuthoriseCommand() *cobra.Command {
	var r repository
	var says sign.VendorSays
	var order rollout.Order
	var w window
	c := &cobra.Command{
		Use:   "authorise DIR FILE --box-name PATTERN --key KEY",
		Short: "allow boxes to install a release",
		Long: `Allow boxes to install FILE, the very image that the vendor released; its hash goes
into the order, not the file. --box-name takes a box's name or a pattern ("*",
"sn-gw-0?") and may be repeated.`,
		Example: `  pforte rollout authorise repository pforte.efi --box-name "sn-gw-*" --key owner.pem
  pforte rollout authorise repository pforte.efi --box-name sn-gw-01 \
      --not-before 2026-03-02T20:00:00Z --not-after 2026-03-03T04:00:00Z --key owner.pem`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := r.signer()
			if err != nil {
				return err
			}
			if err := w.fill(&order); err != nil {
				return err
			}
			if err := order.Validate(); err != nil {
				return &usageError{err.Error(), ""}
			}
			is, err := readImage(args[1])
			if err != nil {
				return err
			}
			if err := is.agrees(cmd, says); err != nil {
				return err
			}
			if err := issue.Authorise(args[0], args[1], is.version, order, key, time.Now()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s may install release %s\n", args[0], strings.Join(order.Boxes, ", "), is.version)
			return nil
		},
	}
	r.flag(c)
	f := c.Flags()
	f.StringArrayVar(&order.Boxes, "box-name", nil, "name or `PATTERN` of boxes; may be repeated")
	f.StringVar(&w.from, "not-before", "", "`TIME` from which it is allowed (RFC 3339)")
	f.StringVar(&w.to, "not-after", "", "`TIME` until which it is allowed (RFC 3339)")
	f.IntVar(&order.AtOnce, "at-once", 0, "`NUMBER` of boxes on trial at the same time; 0 means 1")
	f.Uint64Var(&order.MinimumEpoch, "minimum-epoch", 0, "lowest `EPOCH` from which a direct step is allowed")
	f.BoolVar(&order.Older, "allow-older", false, "also for boxes that run a newer version of the same epoch")
	f.StringVar(&says.Version, "version", "", "`VERSION` that the image must have")
	f.Uint64Var(&says.Epoch, "epoch", 0, "epoch `NUMBER` that the image must have")
	if err := c.MarkFlagRequired("box-name"); err != nil {
		panic(err) // the flag is defined above
	}
	return c
}

// fill reads the times.
func (w window) fill(o *rollout.Order) error {
	for _, t := range []struct {
		flag, text string
		to         *time.Time
	}{{"--not-before", w.from, &o.NotBefore}, {"--not-after", w.to, &o.NotAfter}} {
		if t.text == "" {
			continue
		}
		at, err := time.Parse(time.RFC3339, t.text)
		if err != nil {
			return &usageError{fmt.Sprintf("%s %q is no time", t.flag, t.text), "write it as 2026-03-02T20:00:00Z"}
		}
		*t.to = at
	}
	return nil
}
