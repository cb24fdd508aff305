package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

func (w *world) issueCommand() *cobra.Command {
	var csr, to string
	c := &cobra.Command{
		Use:     "issue",
		Short:   "Answer a gateway's certificate request",
		Example: "  pforte key csr provider-client > gate.csr\n  dmdasim issue --csr gate.csr --out gate.pem",
		Args:    cobra.NoArgs,
		RunE:    w.work(func(_ context.Context, out io.Writer) error { return w.issue(csr, to, out) }),
	}
	c.Flags().StringVar(&csr, "csr", "", "file with the request (PEM)")
	c.Flags().StringVar(&to, "out", "", "file for the chain (PEM); empty: standard output")
	_ = c.MarkFlagRequired("csr")
	return c
}

func (w *world) issue(csr, to string, out io.Writer) error {
	request, err := os.ReadFile(csr)
	if err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	pki, err := w.pki(io.Discard)
	if err != nil {
		return err
	}
	chain, err := pki.IssueFromCSR(request, w.token)
	if err != nil {
		return err
	}
	if to == "" {
		_, err = out.Write(chain)
		return err
	}
	if err := os.WriteFile(to, chain, 0o644); err != nil {
		return fmt.Errorf("write chain: %w", err)
	}
	fmt.Fprintf(out, "token %s: chain in %s\n", w.token, to)
	return nil
}
