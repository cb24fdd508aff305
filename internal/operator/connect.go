package operator

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"gitlab.opencode.de/pforte/pforte/internal/operator/box"
)

// operator holds the flags that every command has.
type operator struct {
	box, cert, key, ca, name, boxKey string
	timeout                          time.Duration
	json                             bool
}

func (o *operator) flags(f *pflag.FlagSet) {
	f.StringVar(&o.box, "box", "", "`HOST:PORT` of the box's management API")
	f.StringVar(&o.cert, "cert", "", "your client certificate with its chain, a PEM `FILE`")
	f.StringVar(&o.key, "key", "", "its private key, a PEM `FILE` (PKCS#8)")
	f.StringVar(&o.ca, "ca", "", "authority of the box's certificate, a PEM `FILE`")
	f.StringVar(&o.name, "name", "", "`NAME` in the box's certificate, if it is not the host of --box")
	f.StringVar(&o.boxKey, "box-key", "", "`FINGERPRINT` of the box's key (sha256:...), as its console shows it")
	f.DurationVar(&o.timeout, "timeout", box.DefaultTimeout, "`TIME` that one call may take")
	f.BoolVar(&o.json, "json", false, "print the result as JSON")
}

// environment fills in the flags that were not given.
func (o *operator) environment(f *pflag.FlagSet) error {
	for flag, variable := range map[string]string{
		"box": "PFORTE_BOX", "cert": "PFORTE_CERT", "key": "PFORTE_KEY", "ca": "PFORTE_CA",
		"name": "PFORTE_NAME", "box-key": "PFORTE_BOX_KEY", "timeout": "PFORTE_TIMEOUT",
	} {
		value, there := os.LookupEnv(variable)
		if !there || value == "" || f.Changed(flag) {
			continue
		}
		if err := f.Set(flag, value); err != nil {
			return &usageError{fmt.Sprintf("%s=%q: %v", variable, value, err), ""}
		}
	}
	return nil
}

// connect gives a client of the box that the flags name.
func (o *operator) connect(cmd *cobra.Command) (*box.Client, error) {
	if err := o.environment(cmd.Flags()); err != nil {
		return nil, err
	}
	switch {
	case o.box == "":
		return nil, &usageError{"which box? --box is missing", "give --box HOST:PORT, or set PFORTE_BOX"}
	case o.cert == "" || o.key == "":
		return nil, &usageError{"who asks? --cert or --key is missing", "give --cert FILE and --key FILE, or set PFORTE_CERT and PFORTE_KEY"}
	case o.ca == "" && o.boxKey == "":
		return nil, &usageError{"how to know the box? --ca and --box-key are missing",
			"give --ca FILE, or before the box has a certificate --box-key sha256:... as its console shows it"}
	case o.boxKey != "" && !box.IsFingerprint(o.boxKey):
		return nil, &usageError{fmt.Sprintf("--box-key %q is no fingerprint", o.boxKey), "it is \"sha256:\" and 64 hexadecimal digits, as the box's console shows it"}
	}
	cert, err := tls.LoadX509KeyPair(o.cert, o.key)
	if err != nil {
		return nil, &faultError{fmt.Errorf("client certificate: %w", err), "--cert holds your certificate, --key its private key, both in PEM"}
	}
	opts := box.Options{Address: o.box, Certificate: &cert, Name: o.name, Key: o.boxKey, Timeout: o.timeout}
	if o.ca != "" {
		if opts.Roots, err = readRoots(o.ca); err != nil {
			return nil, err
		}
	}
	c, err := box.New(opts)
	if err != nil {
		return nil, &usageError{err.Error(), ""}
	}
	return c, nil
}

func readRoots(name string) (*x509.CertPool, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, &faultError{fmt.Errorf("authority %s: no certificate in PEM", name), "--ca holds the certificate of the authority that issued the box's certificate"}
	}
	return pool, nil
}

// ask calls the box once.
func ask[Out any](o *operator, cmd *cobra.Command, method string, in any, values ...string) (result Out, err error) {
	c, err := o.connect(cmd)
	if err != nil {
		return result, err
	}
	defer c.Close()
	err = c.Call(cmd.Context(), method, in, &result, values...)
	return result, err
}

// show asks the box once and prints the result, which is all that most commands do.
func show[Out any](o *operator, cmd *cobra.Command, method string, in any, human func(*printer, Out), values ...string) error {
	result, err := ask[Out](o, cmd, method, in, values...)
	if err != nil {
		return err
	}
	return o.print(cmd, result, func(p *printer) { human(p, result) })
}

// print writes a result for programs or for people.
func (o *operator) print(cmd *cobra.Command, result any, human func(*printer)) error {
	if o.json {
		e := json.NewEncoder(cmd.OutOrStdout())
		e.SetIndent("", "  ")
		if err := e.Encode(result); err != nil {
			return fmt.Errorf("print the result: %w", err)
		}
		return nil
	}
	p := &printer{}
	human(p)
	if _, err := cmd.OutOrStdout().Write(p.b.Bytes()); err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	return nil
}
