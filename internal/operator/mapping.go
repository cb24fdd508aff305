package operator

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/spf13/cobra"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/durable"
	"gitlab.opencode.de/pforte/pforte/internal/mapping"
)

func (o *operator) mappingCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "mapping",
		Short: "check, import and export a tenant's mapping table",
		Long: `Check a mapping table (CSV), bring it into a configuration, and take it out again.
None of this needs a box.

A table has the columns mail, deMail and direction, with semicolons or commas, as
a spreadsheet saves "CSV UTF-8". Directions: both (default), send, receive, none.
"*@" and a domain on both sides is a rule for a whole domain.`,
	}
	c.AddCommand(o.mappingCheckCommand(), o.mappingImportCommand(), o.mappingExportCommand())
	return c
}

// tableVerdict is what check and import say.
type tableVerdict struct {
	File    string          `json:"file"`
	OK      bool            `json:"ok"`
	Entries int             `json:"entries"`
	Faults  []mapping.Fault `json:"faults"` // with lines of the file, 0 for what stands elsewhere
	Total   int             `json:"total"`  // of faults, shown or not
}

func (v *tableVerdict) add(f mapping.Fault) { v.Faults = append(v.Faults, f) }

// show prints the verdict; its error is the exit code.
func (v *tableVerdict) show(o *operator, cmd *cobra.Command, done string) error {
	v.OK = v.Total == 0
	err := o.print(cmd, v, func(p *printer) {
		for _, f := range v.Faults {
			place := v.File
			if f.Line > 0 {
				place = fmt.Sprintf("%s:%d", v.File, f.Line)
			}
			p.line("%s: %s", place, f.Text)
			p.line("    hint: %s", f.Remedy)
		}
		if v.OK {
			p.line("%s", done)
		}
	})
	if err == nil && !v.OK {
		count := "one fault"
		if v.Total != 1 {
			count = fmt.Sprintf("%d faults", v.Total)
		}
		return &verdict{fmt.Sprintf("%s: %s, %d shown; nothing is applied", v.File, count, len(v.Faults))}
	}
	return err
}

// judgeTable looks at a table alone.
func judgeTable(name string, text []byte) *tableVerdict {
	v := &tableVerdict{File: name, Faults: []mapping.Fault{}}
	var b mapping.Builder
	b.CSV(string(text), 1)
	table, err := b.Table()
	if faults := (*mapping.Faults)(nil); errors.As(err, &faults) {
		v.Faults, v.Total = faults.Shown, faults.Total
		return v
	}
	v.Entries = table.Len()
	return v
}

func (o *operator) mappingCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check TABLE",
		Short: "find every fault of a mapping table",
		Long: `Check a mapping table by itself: every fault with its line, what is wrong and what
to do. Whether its domains are the tenant's is seen on import. TABLE may be "-".`,
		Example: "  pforte mapping check gemeinde-a.csv",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := readInput(cmd, args[0], config.MaxSize)
			if err != nil {
				return err
			}
			v := judgeTable(args[0], text)
			return v.show(o, cmd, fmt.Sprintf("%s: %d entries: no fault", args[0], v.Entries))
		},
	}
}

// place is where a table belongs.
type place struct{ document, tenant, output string }

func (p *place) flags(c *cobra.Command, needed ...string) {
	f := c.Flags()
	f.StringVar(&p.document, "config", "", "the configuration, a YAML `FILE`")
	f.StringVar(&p.tenant, "tenant", "", "`ID` of the tenant")
	f.StringVarP(&p.output, "output", "o", "", "`FILE` for the result, or - for standard output")
	for _, name := range needed {
		if err := c.MarkFlagRequired(name); err != nil {
			panic(err) // the flag is defined a few lines above
		}
	}
}

func (o *operator) mappingImportCommand() *cobra.Command {
	var p place
	c := &cobra.Command{
		Use:   "import TABLE --config FILE --tenant ID -o OUT",
		Short: "bring a mapping table into a configuration",
		Long: `Bring a mapping table into a configuration (YAML), as the tenant's mappingTable in
the place of the one before; its list "mappings" stays. The whole document is
checked as a box does. With any fault nothing is written. OUT may be FILE.

Then count up the serial, and sign: pforte config sign.`,
		Example: "  pforte mapping import gemeinde-a.csv --config pforte-1.yaml --tenant gemeinde-a -o pforte-1.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := readInput(cmd, args[0], config.MaxSize)
			if err != nil {
				return err
			}
			v, out, err := importTable(cmd, p, args[0], text)
			if err != nil {
				return err
			}
			if v.Total == 0 && p.output == "-" {
				_, err := cmd.OutOrStdout().Write(out)
				return err
			}
			const perm = 0o644
			if v.Total == 0 {
				if err := durable.WriteFile(p.output, out, perm); err != nil {
					return err
				}
			}
			return v.show(o, cmd, fmt.Sprintf("%s: tenant %s has %d mappings; count up the serial, then sign it", p.output, p.tenant, v.Entries))
		},
	}
	p.flags(c, "config", "tenant", "output")
	return c
}

// importTable gives the new document, or a verdict with every fault.
func importTable(cmd *cobra.Command, p place, name string, text []byte) (*tableVerdict, []byte, error) {
	v := judgeTable(name, text)
	if v.Total > 0 {
		return v, nil, nil
	}
	before, old, err := p.read(cmd)
	if err != nil {
		return nil, nil, err
	}
	out, first, err := config.ReplaceMappingTable(before, p.tenant, string(text))
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", p.document, err)
	}
	doc, err := config.Parse(out)
	var faults config.Faults
	if errors.As(err, &faults) {
		rows := bytes.Count(text, []byte("\n")) + 1
		for _, f := range faults {
			one := mapping.Fault{Line: f.Line - first + 1, Text: f.Text, Remedy: f.Remedy}
			if !strings.HasSuffix(f.Path, ".mappingTable") || one.Line < 1 || one.Line > rows {
				one.Line, one.Text = 0, fmt.Sprintf("%s with this table: %s: %s", p.document, f.Path, f.Text)
			}
			v.add(one)
		}
		v.Total = len(faults)
		return v, nil, nil
	}
	if !onlyTable(old, doc, p.tenant) {
		return nil, nil, fmt.Errorf("%s: %w", p.document, config.ErrLayout)
	}
	table, err := tenantOf(doc, p.tenant).Table()
	if err != nil {
		return nil, nil, err
	}
	v.Entries = table.Len()
	return v, out, nil
}

// read gives the configuration as text and parsed; it must be without fault.
func (p *place) read(cmd *cobra.Command) ([]byte, *config.Document, error) {
	data, err := readInput(cmd, p.document, maxEnvelope)
	if err != nil {
		return nil, nil, err
	}
	if config.IsEnvelope(data) {
		if data, err = config.Peek(data); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", p.document, err)
		}
	}
	doc, err := config.Parse(data)
	if err != nil {
		return nil, nil, &faultError{fmt.Errorf("%s: the configuration has faults", p.document), "see: pforte config check " + p.document}
	}
	if tenantOf(doc, p.tenant) == nil {
		var ids []string
		for _, t := range doc.Tenants {
			ids = append(ids, t.ID)
		}
		return nil, nil, &faultError{fmt.Errorf("%s: there is no tenant %q", p.document, p.tenant), "its tenants are " + strings.Join(ids, ", ")}
	}
	return data, doc, nil
}

func tenantOf(doc *config.Document, id string) *config.Tenant {
	for i := range doc.Tenants {
		if doc.Tenants[i].ID == id {
			return &doc.Tenants[i]
		}
	}
	return nil
}

// onlyTable reports whether two documents differ in nothing but a tenant's table.
func onlyTable(a, b *config.Document, tenant string) bool {
	x, y := tenantOf(a, tenant), tenantOf(b, tenant)
	if x == nil || y == nil {
		return false
	}
	x.MappingTable = y.MappingTable
	return reflect.DeepEqual(a, b)
}

func (o *operator) mappingExportCommand() *cobra.Command {
	var p place
	var all bool
	c := &cobra.Command{
		Use:   "export --config FILE --tenant ID [-o OUT]",
		Short: "take a tenant's mapping table out of a configuration",
		Long: `Take a tenant's mapping table out of a configuration (YAML, or signed; the
signature is not checked) as CSV that "mapping import" reads. With --all the
entries of the list "mappings" are in it, too.`,
		Example: "  pforte mapping export --config pforte-1.yaml --tenant gemeinde-a -o gemeinde-a.csv",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, doc, err := p.read(cmd)
			if err != nil {
				return err
			}
			t := tenantOf(doc, p.tenant)
			if !all {
				t.Mappings = nil
			}
			table, err := t.Table()
			if err != nil {
				return err
			}
			return writeTable(cmd.OutOrStdout(), p.output, table)
		},
	}
	p.flags(c, "config", "tenant")
	c.Flags().BoolVar(&all, "all", false, `also the entries of the list "mappings"`)
	return c
}

func writeTable(out io.Writer, name string, table *mapping.Table) error {
	if name == "" || name == "-" {
		return table.WriteCSV(out)
	}
	var b bytes.Buffer
	if err := table.WriteCSV(&b); err != nil {
		return err
	}
	const perm = 0o644
	return durable.WriteFile(name, b.Bytes(), perm)
}
