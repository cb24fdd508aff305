package netconf

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"

	"gitlab.opencode.de/pforte/pforte/internal/durable"
)

const (
	resolverPerm = 0o644
	maxResolver  = 64 << 10 // bytes that are compared
)

// WriteResolver writes the list of name servers in the form of resolv.conf(5),
// and reports whether it had to: a file that says the same stays untouched.
// Without servers resolvers ask the loopback, where nobody answers.
func WriteResolver(path string, servers []netip.Addr) (bool, error) {
	var b bytes.Buffer
	b.WriteString("# Written by netd from the configuration of the box.\n")
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	b.WriteString("options edns0 timeout:3 attempts:2\n")
	if f, err := os.Open(path); err == nil {
		old, err := io.ReadAll(io.LimitReader(f, maxResolver))
		_ = f.Close()
		if err == nil && bytes.Equal(old, b.Bytes()) {
			return false, nil
		}
	}
	if err := durable.WriteFile(path, b.Bytes(), resolverPerm); err != nil {
		return false, fmt.Errorf("name servers: %w", err)
	}
	if err := os.Chmod(path, resolverPerm); err != nil { // whatever umask the service has: all of them read it
		return false, fmt.Errorf("name servers: %w", err)
	}
	return true, nil
}
