package initramfs

// Modules are the kernel modules that the box loads, in the order in which they
// are wanted; what each depends on comes before it. What Debian's kernel has
// built in (TPM, virtio-pci, EFI frame buffer, AT keyboard) is not listed.
// There is no modprobe on the box: a module that is not here is never loaded.
//
// Servers of VMware and Hyper-V, and network cards whose driver needs firmware
// files, are not served yet.
func Modules() []string {
	var out []string
	for _, group := range [][]string{watchdog, storage, filesystems, encryption, usb, power, network, firewall} {
		out = append(out, group...)
	}
	return out
}

var (
	// Watchdogs first, so that a hang in what follows is covered. The software one
	// comes last and counts only where there is no other.
	watchdog = []string{"i6300esb", "lpc_ich", "i2c_i801", "iTCO_wdt", "sp5100_tco", "wdat_wdt", "softdog"}

	storage = []string{"virtio_rng", "virtio_blk", "virtio_scsi", "nvme", "ahci", "sd_mod", "loop"}

	// vfat wants its default code pages by name when it mounts; systemd complains at
	// each boot without autofs4.
	filesystems = []string{"squashfs", "efivarfs", "nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8", "vfat", "autofs4", "crc32c_intel", "crc32c_generic", "ext4"}

	// af_alg and its parts are what cryptsetup works with on key slots.
	encryption = []string{"aesni_intel", "xts", "sha256_ssse3", "sha512_ssse3", "af_alg", "algif_hash", "algif_skcipher", "dm_mod", "dm_crypt"}

	// Seed volume, keyboard, later card readers.
	usb = []string{"xhci_pci", "ehci_pci", "uhci_hcd", "usb_storage", "uas", "usbhid", "hid_generic"}

	// The power button, which updated reads.
	power = []string{"button", "evdev"}

	network = []string{"virtio_net", "e1000e", "igb", "igc", "ixgbe", "i40e", "tg3", "r8169", "8021q", "bonding"}

	firewall = []string{
		"nf_tables", "nf_conntrack", "nft_ct", "nft_limit", "nft_connlimit", "nft_log", "nf_log_syslog",
		"nft_reject", "nft_reject_inet", "nft_reject_ipv4", "nft_reject_ipv6", "nft_fib", "nft_fib_ipv4", "nft_fib_ipv6", "nft_fib_inet",
	}
)
