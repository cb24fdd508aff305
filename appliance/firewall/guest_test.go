package firewall

import (
	"testing"

	"gitlab.opencode.de/pforte/pforte/qemu/boxkernel"
)

func TestMain(m *testing.M) { boxkernel.Main(m) }

// TestGuest sends the packets through the box's own kernel, with no other
// modules than the box loads: a rule whose module is missing would be refused.
func TestGuest(t *testing.T) {
	boxkernel.Run(t, boxkernel.Guest{
		Pattern: "^TestPackets$",
		Modules: []string{"crc32c_generic", "nf_tables", "nf_conntrack", "nft_ct", "nft_limit"},
		Extra:   []string{"veth"},
		Files:   []string{"../../internal/config/testdata/example.yaml"},
	})
}
