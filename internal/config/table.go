package config

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"gitlab.opencode.de/pforte/pforte/internal/mapping"
)

// Table joins a tenant's mappings and its mapping table. On a Document from Parse it
// succeeds; it does not judge the addresses' domains.
func (t *Tenant) Table() (*mapping.Table, error) {
	var b mapping.Builder
	for i, m := range t.Mappings {
		e, err := m.Entry()
		if err != nil {
			return nil, fmt.Errorf("mapping %d: %w", i+1, err)
		}
		b.Add(e, i+1)
	}
	if t.MappingTable != "" {
		b.CSV(t.MappingTable, 1)
	}
	table, err := b.Table()
	if err != nil {
		return nil, fmt.Errorf("mappings: %w", err)
	}
	return table, nil
}

// Errors of ReplaceMappingTable.
var (
	ErrNoTenant = errors.New("there is no such tenant in the configuration")
	ErrLayout   = errors.New("the document is written in a way that cannot be edited")
)

// ReplaceMappingTable gives a YAML document in which a tenant has this mapping
// table (CSV text) and every other byte is as it was, and the line on which the
// table begins. It checks nothing: Parse says whether the result is right.
//
// The tenant must be written in block style, and its table, if it has one, as
// "mappingTable: |"; else the error wraps ErrLayout.
func ReplaceMappingTable(document []byte, tenant, table string) (out []byte, line int, err error) {
	root, faults := parseTree(document)
	if len(faults) > 0 {
		return nil, 0, faults
	}
	t := tenantNode(root, tenant)
	if t == nil {
		return nil, 0, fmt.Errorf("%w: %s", ErrNoTenant, quote(tenant))
	}
	lines := bytes.SplitAfter(document, []byte("\n"))
	key, value := child(t, "mappingTable")
	from, to := 0, 0 // lines that go, counted from 0
	if key == nil {
		if key, _ = child(t, "account"); key == nil || t.Style&yaml.FlowStyle != 0 {
			return nil, 0, fmt.Errorf("%w: write the keys of tenant %s one below the other, account among them", ErrLayout, quote(tenant))
		}
		from, to = key.Line, key.Line
	} else {
		if value.Style&yaml.LiteralStyle == 0 || len(bytes.TrimSpace(lines[key.Line-1][:key.Column-1])) > 0 {
			return nil, 0, fmt.Errorf(`%w: write "mappingTable: |" on a line of its own and the table below it`, ErrLayout)
		}
		from, to = key.Line-1, blockEnd(lines, key)
	}
	var b bytes.Buffer
	indent := strings.Repeat(" ", key.Column-1)
	b.Write(bytes.Join(lines[:from], nil))
	b.WriteString(indent + "mappingTable: |\n")
	for row := range strings.Lines(strings.TrimPrefix(table, "\ufeff")) {
		if row = strings.TrimSpace(row); row != "" {
			row = indent + "  " + row
		}
		b.WriteString(row + "\n")
	}
	b.Write(bytes.Join(lines[to:], nil))
	return b.Bytes(), from + 2, nil
}

func tenantNode(root *yaml.Node, id string) *yaml.Node {
	_, list := child(root, "tenants")
	if list == nil {
		return nil
	}
	for _, t := range list.Content {
		if _, v := child(t, "id"); v != nil && v.Value == id {
			return t
		}
	}
	return nil
}

// blockEnd gives the line, counted from 0, behind a literal block: the first one
// that is not deeper than its key. Empty lines before it stay.
func blockEnd(lines [][]byte, key *yaml.Node) int {
	end := key.Line
	for i := key.Line; i < len(lines); i++ {
		text := bytes.TrimLeft(lines[i], " ")
		if len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		if len(lines[i])-len(text) < key.Column {
			break
		}
		end = i + 1
	}
	return end
}
