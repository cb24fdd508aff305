package rules

// cgoHome is the only package that may use cgo: PKCS#11 is a C interface.
const cgoHome = "hsm/pkcs11"

// ban forbids packages to a set of packages, by any path through this module.
type ban struct {
	who     []string // folders (with everything below) that the ban binds
	except  []string // folders among them that it does not bind
	never   []string // folders of this module, or import paths (with everything below)
	because string
	direct  bool // only imports in the package's own files
}

// boxCommands are the commands that go into the image.
func boxCommands() []string {
	return []string{"cmd/init", "cmd/netd", "cmd/keyd", "cmd/relayd", "cmd/updated", "cmd/apid", "cmd/console"}
}

// bans is design.md §5 as a table.
func bans() []ban {
	return []ban{
		{who: []string{"internal"}, never: []string{"cmd", "appliance", "image", "qemu"},
			because: "lower layers know nothing of the product around them"},
		{who: boxCommands(), never: []string{"qemu", "image", "internal/dmda/dmdatest", "hsm/hsmtest", "appliance/update/slot/slottest"},
			because: "no simulator, builder or software key can ship"},
		{who: boxCommands(), never: []string{"internal/release/sign", "internal/release/releasetest", "internal/rollout/issue"},
			because: "the box verifies releases and never signs any"},
		{who: []string{"cmd/relayd", "internal/relay", "internal/smtpguard", "internal/queue", "internal/demail"},
			never: []string{"appliance", "image", "hsm/tpm", "hsm/pkcs11", "hsm/seal", "github.com/vishvananda/netlink", "github.com/google/nftables",
				"github.com/google/go-tpm", "os/exec", "internal/release/sign", "internal/rollout/issue"},
			because: "a broken parser reaches neither keys nor network nor updates"},
		{who: []string{"cmd/keyd", "hsm"}, except: []string{"hsm/hsmtest"}, never: []string{"internal/relay", "appliance", "image", "qemu"},
			because: "the key holder stays small and off the network"},
		{who: []string{"internal/release", "internal/rollout"}, except: []string{"internal/release/sign", "internal/release/releasetest", "internal/rollout/issue"},
			never: []string{"os", "os/exec", "net"}, direct: true,
			because: "verification is bytes in, verdict out"},
		{who: []string{"."}, except: []string{"cmd/vmrun", "qemu"}, never: []string{"qemu"},
			because: "only vmrun and tests start virtual machines"},
		{who: []string{"."}, except: []string{"appliance/netconf", "appliance/firewall"},
			never: []string{"github.com/vishvananda/netlink", "github.com/google/nftables"}, direct: true,
			because: "one place per power: the network is netconf's and firewall's"},
		{who: []string{"."}, except: []string{"hsm/tpm", "hsm/seal", "hsm/hsmtest", "appliance/boot"},
			never: []string{"github.com/google/go-tpm", "github.com/foxboron/go-tpm-keyfiles"}, direct: true,
			because: "one place per power: the TPM is hsm's, and boot's before hsm runs"},
		{who: []string{"."}, except: []string{"image/disk", "appliance/update"},
			never: []string{"github.com/diskfs/go-diskfs"}, direct: true,
			because: "one place per power: partitions and the EFI system partition"},
		{who: []string{"."}, except: []string{"image", "qemu", "hsm/hsmtest", "appliance/boot"},
			never: []string{"os/exec"}, direct: true,
			because: "the box runs no programs; exceptions: boot runs cryptsetup and mke2fs before systemd, hsmtest runs swtpm"},
	}
}

// topLevel is everything that may stand beside the dot files.
func topLevel() []string {
	return []string{"cmd", "appliance", "image", "hsm", "internal", "qemu", "go.mod", "go.sum", "Makefile", "README.md"}
}
