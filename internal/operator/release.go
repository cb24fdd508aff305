package operator

import (
	"crypto"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"gitlab.opencode.de/pforte/pforte/internal/keyfile"
	"gitlab.opencode.de/pforte/pforte/internal/release/sign"
)

// repository is what the commands of both repositories have in common.
type repository struct{ keyFile string }

// flag declares --key, which here is the repository's signing key and hides the
// client key of the same name.
func (r *repository) flag(c *cobra.Command) {
	c.Flags().StringVar(&r.keyFile, "key", "", "the repository's private `KEY`, PKCS#8 in PEM (ECDSA P-256 or Ed25519)")
	if err := c.MarkFlagRequired("key"); err != nil {
		panic(err) // the flag is defined one line above
	}
}

func (r *repository) signer() (crypto.Signer, error) { return keyfile.Load(r.keyFile) }

// initCommand makes an empty repository, the same for both.
func initCommand(whose string) *cobra.Command {
	var r repository
	var rootFile string
	c := &cobra.Command{
		Use:   "init DIR --key KEY",
		Short: "make an empty repository of the " + whose,
		Long: fmt.Sprintf(`Make an empty repository of the %s in DIR: static files for any web server. Its
metadata/1.root.json is what an image carries to trust it. With --root an
existing root is used, so that images which carry it keep trusting.`, whose),
		Example: fmt.Sprintf("  pforte %s init repository --key key.pem", nounOf(whose)),
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := r.signer()
			if err != nil {
				return err
			}
			now := time.Now()
			var root []byte
			if rootFile != "" {
				root, err = os.ReadFile(rootFile)
			} else {
				root, err = sign.Root(key, now)
			}
			if err != nil {
				return err
			}
			if err := sign.Init(args[0], root, key, now); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: repository of the %s; images trust it by %s\n", args[0], whose, filepath.Join(args[0], "metadata", "1.root.json"))
			return nil
		},
	}
	r.flag(c)
	c.Flags().StringVar(&rootFile, "root", "", "existing root metadata, a JSON `FILE`")
	return c
}

func nounOf(whose string) string {
	if whose == "owner" {
		return "rollout"
	}
	return "release"
}

// removeCommand withdraws a release, the same for both.
func removeCommand(use, whose string) *cobra.Command {
	var r repository
	c := &cobra.Command{
		Use:   use + " DIR VERSION --key KEY",
		Short: "withdraw a release from the repository of the " + whose,
		Long: `Withdraw a release: boxes that look again do not install it. A box that runs it
goes on running it.`,
		Example: fmt.Sprintf("  pforte %s %s repository 1.4.0 --key key.pem", nounOf(whose), use),
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := r.signer()
			if err != nil {
				return err
			}
			if err := sign.Remove(args[0], args[1], key, time.Now()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: release %s is withdrawn\n", args[0], args[1])
			return nil
		},
	}
	r.flag(c)
	return c
}

// refreshCommand signs the metadata again, the same for both.
func refreshCommand(whose string) *cobra.Command {
	var r repository
	c := &cobra.Command{
		Use:   "refresh DIR --key KEY",
		Short: "sign the metadata again, before it expires",
		Long: `Sign the metadata again, unchanged, with new dates. Boxes refuse a repository
whose timestamp is older than 30 days: that is how they notice that somebody
hides newer releases from them. Run it once a week.`,
		Example: fmt.Sprintf("  pforte %s refresh repository --key key.pem", nounOf(whose)),
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := r.signer()
			if err != nil {
				return err
			}
			if err := sign.Refresh(args[0], key, time.Now()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: signed again\n", args[0])
			return nil
		},
	}
	r.flag(c)
	return c
}

func releaseCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "release",
		Short: "publish releases in the vendor's repository",
		Long: `Publish releases in the vendor's repository, a TUF repository of static files. This
is the vendor's work on a laptop and needs no box. A box installs a release only
if the owner's repository lists the same file ("pforte rollout").`,
	}
	c.AddCommand(initCommand("vendor"), releaseAddCommand(), removeCommand("remove", "vendor"), refreshCommand("vendor"))
	return c
}

func releaseAddCommand() *cobra.Command {
	var r repository
	var says sign.VendorSays
	c := &cobra.Command{
		Use:   "add DIR FILE --key KEY",
		Short: "publish a release",
		Long: `Publish FILE, a built image (pforte.efi), as a release. Version and epoch are
read from the image; --version and --epoch must agree with it.`,
		Example: "  pforte release add repository build/pforte.efi --key vendor.pem",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := r.signer()
			if err != nil {
				return err
			}
			is, err := readImage(args[1])
			if err != nil {
				return err
			}
			if err := is.agrees(cmd, says); err != nil {
				return err
			}
			says = sign.VendorSays{Version: is.version, Epoch: is.epoch}
			if err := sign.Add(args[0], args[1], says.Version, says, true, key, time.Now()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: release %s (epoch %d) is published\n", args[0], says.Version, says.Epoch)
			if is.variant != "release" {
				fmt.Fprintf(cmd.ErrOrStderr(), "pforte: note: this image is a %q build, not for use\n", is.variant)
			}
			return nil
		},
	}
	r.flag(c)
	c.Flags().StringVar(&says.Version, "version", "", "`VERSION` that the image must have")
	c.Flags().Uint64Var(&says.Epoch, "epoch", 0, "epoch `NUMBER` that the image must have")
	return c
}
