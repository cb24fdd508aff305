package operator

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/internal/durable"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
)

// maxChainFile bounds a file with certificates, in bytes.
const maxChainFile = 128 << 10

func (o *operator) keyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "key",
		Short: "look at a box's keys, have them certified",
		Long: `Look at a box's private keys and have them certified. The keys themselves never
leave the box: a request comes out, a certificate goes in.

The keys: provider-client (towards the De-Mail provider), tenant-server (for
tenants and for the provider's pushes), management-server (for you).`,
	}
	c.AddCommand(o.keyListCommand(), o.keyRequestCommand(), o.keyInstallCommand())
	return c
}

func (o *operator) keyListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "list the keys, their fingerprints and certificates",
		Example: "  pforte key list --box pforte-1.example:8443",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return show(o, cmd, manage.MethodKeys, nil, printKeys)
		},
	}
}

func printKeys(p *printer, list manage.Keys) {
	for _, k := range list.Keys {
		printKey(p, k)
	}
}

func printKey(p *printer, k manage.Key) {
	p.entry("key", "%s, %d uses", k.Purpose, k.Uses)
	p.entry("", "%s", k.Fingerprint)
	if c := k.Certificate; c != nil {
		p.entry("", "certificate of %s for %s until %s", c.Issuer, strings.Join(append([]string{c.Subject}, c.DNSNames...), ", "), when(c.NotAfter))
	} else if k.Fingerprint != "" {
		p.entry("", "no certificate")
	}
	if k.Fault != "" {
		p.entry("", "FAULT: %s", k.Fault)
	}
}

// purposes completes the names of keys.
func purposes(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	var all []string
	for _, p := range hsm.Purposes() {
		all = append(all, string(p))
	}
	return all, cobra.ShellCompDirectiveNoFileComp
}

// purpose checks the name of a key before anything is asked.
func purpose(s string) (string, error) {
	if !hsm.Purpose(s).Valid() {
		all, _ := purposes(nil, nil, "")
		return "", &usageError{fmt.Sprintf("there is no key %q", s), "choose one of " + strings.Join(all, ", ")}
	}
	return s, nil
}

func (o *operator) keyRequestCommand() *cobra.Command {
	var subject manage.Subject
	var addresses []string
	var output string
	c := &cobra.Command{
		Use:   "csr KEY",
		Short: "fetch a certificate request (PKCS #10) for a key",
		Long: `Fetch a certificate request for a key, signed by it, for your authority. Only
the owner may. Without --cn, --dns and --ip it asks for the box's own name, and
for management-server its management addresses, too.`,
		Example: `  pforte key csr management-server -o management.csr
  pforte key csr tenant-server --cn gateway.example --dns gateway.example`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: purposes,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := purpose(args[0])
			if err != nil {
				return err
			}
			for _, a := range addresses {
				addr, err := netip.ParseAddr(a)
				if err != nil {
					return &usageError{fmt.Sprintf("--ip %q is no address", a), ""}
				}
				subject.Addresses = append(subject.Addresses, addr)
			}
			r, err := ask[manage.Request](o, cmd, manage.MethodCSR, subject, name)
			if err != nil {
				return err
			}
			if output == "" || output == "-" {
				return o.print(cmd, r, func(p *printer) { p.raw(r.PEM) })
			}
			const perm = 0o644 // nothing in it is secret
			if err := durable.WriteFile(output, []byte(r.PEM), perm); err != nil {
				return err
			}
			return o.print(cmd, r, func(p *printer) {
				p.line("%s: request for %s; have it certified, then: pforte key install %s CERTIFICATE", output, name, name)
			})
		},
	}
	f := c.Flags()
	f.StringVar(&subject.CommonName, "cn", "", "common `NAME`")
	f.StringArrayVar(&subject.DNSNames, "dns", nil, "DNS `NAME`; may be repeated")
	f.StringArrayVar(&addresses, "ip", nil, "IP `ADDRESS`; may be repeated")
	f.StringVarP(&output, "output", "o", "", "`FILE` for the request; default: standard output")
	return c
}

func (o *operator) keyInstallCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "install KEY FILE",
		Short: "install the certificate for a key",
		Long: `Install the certificate for a key: FILE holds it and then its issuers in order,
in PEM ("-": standard input). Only the owner may. The box takes it only if it
fits the key and can serve its purpose, and uses it at once.`,
		Example:           "  pforte key install management-server management.pem",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: purposes,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := purpose(args[0])
			if err != nil {
				return err
			}
			chain, err := readInput(cmd, args[1], maxChainFile)
			if err != nil {
				return err
			}
			return show(o, cmd, manage.MethodCertificate, manage.Chain{PEM: string(chain)}, printKey, name)
		},
	}
}
