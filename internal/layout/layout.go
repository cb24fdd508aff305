// Package layout holds the names that several parts of the box must agree on:
// partitions, files on the EFI system partition, paths in the running system,
// sockets and user ids. It has no behaviour.
//
// A name stands here only if two packages that may not import each other use
// it. Everything else belongs to the package that owns it.
package layout

// Labels and files on the disk.
const (
	// ESPLabel is the GPT name of the EFI system partition. Its FAT volume label
	// is ESPVolume (FAT allows 11 characters).
	ESPLabel  = "pforte-esp"
	ESPVolume = "PFORTE-ESP"
	// DataLabel is the GPT name of the partition that holds the LUKS2 volume.
	DataLabel = "pforte-data"
	// DataType is the GPT type GUID of the data partition ("Linux reserved" would
	// invite other tools; this one is ours alone).
	DataType = "6F4E9E2C-5B5B-4C0A-9C1B-70666F727465"
	// SeedVolume is the FAT label of the volume that brings the first configuration.
	SeedVolume = "PFORTE-SEED"
	// SeedConfig is the file on the seed volume: a DSSE envelope around the YAML
	// configuration document.
	SeedConfig = "pforte.dsse.json"

	// SlotA and SlotB are the two update slots on the EFI system partition, and
	// FallbackSlot the copy of the last blessed one that firmware boots when it
	// has lost its boot entries. Forward slashes, relative to the partition.
	SlotA        = "EFI/pforte/a.efi"
	SlotB        = "EFI/pforte/b.efi"
	FallbackSlot = "EFI/BOOT/BOOTX64.EFI"
	// EntryA, EntryB and EntryFallback are the descriptions of the firmware's boot
	// entries for these files.
	EntryA        = "Pforte A"
	EntryB        = "Pforte B"
	EntryFallback = "Pforte fallback"
)

// Paths in the initramfs and in the running system.
const (
	// RootImage is the squashfs in the initramfs that becomes the root.
	RootImage = "/root.img"
	// SignedCmdline is the kernel command line that the image was signed with.
	SignedCmdline = "/cmdline"
	// ModulesDir is the folder of kernel modules in the initramfs.
	ModulesDir = "/modules"

	// ShareDir holds what the image brings and the box only reads.
	ShareDir = "/usr/share/pforte"
	// TrustDir holds the public keys that the image carries: OwnerKey,
	// VendorRoot, OwnerRoot.
	TrustDir = ShareDir + "/trust"
	// OwnerKey is the PEM public key that signs configurations.
	OwnerKey = TrustDir + "/owner.pem"
	// VendorRoot and OwnerRoot are the TUF root metadata of the two update repositories.
	VendorRoot = TrustDir + "/vendor-root.json"
	OwnerRoot  = TrustDir + "/owner-root.json"
	// SecureBootDir holds PK.auth, KEK.auth and db.auth, which init enrols when the
	// firmware is in setup mode.
	SecureBootDir = ShareDir + "/secureboot"

	// ESPMount is where the EFI system partition is mounted for updated.
	ESPMount = "/efi"
	// VarDir is the mount point of the data volume.
	VarDir = "/var"
	// StateDir is the parent of every service's state folder (owned by the service's user).
	StateDir = "/var/lib/pforte"
	// ConfigDir holds the accepted configuration, written by init and updated only.
	ConfigDir = StateDir + "/config"
	// ConfigFile is the accepted DSSE envelope.
	ConfigFile = ConfigDir + "/current.dsse.json"

	// RunDir holds sockets and what init reports to the services.
	RunDir = "/run/pforte"
	// ResolvConf is what /etc/resolv.conf points to; netd writes it.
	ResolvConf = RunDir + "/netd/resolv.conf"
	// LockedConfig is the verified configuration that a locked box took from its
	// seed volume, so that its management network comes up.
	LockedConfig = RunDir + "/config-seed.dsse.json"
	// SystemdRunDir is where the socket units that depend on the configuration go.
	SystemdRunDir = "/run/systemd/system"
	// MachineID is the box's identity for the journal, made at the first boot.
	MachineID = StateDir + "/machine-id"
	// BootReport is the JSON that init leaves for the services (appliance/boot.Report).
	BootReport = RunDir + "/boot.json"
	// LockedMark exists if and only if the data volume could not be unlocked.
	LockedMark = RunDir + "/locked"
	// TrialMark exists if and only if this boot is the trial of an update.
	TrialMark = RunDir + "/trial"
	// BlessedMark is written by updated when this boot needs no further verdict: the
	// running release is blessed. The trial guard then rests.
	BlessedMark = RunDir + "/blessed"
)

// Sockets, all HTTP with JSON (internal/localapi), all made by systemd.
const (
	KeydSignSocket    = RunDir + "/keyd-sign.sock"
	KeydControlSocket = RunDir + "/keyd-control.sock"
	UpdatedSocket     = RunDir + "/updated.sock"
	RelaydSocket      = RunDir + "/relayd.sock"
	NetdSocket        = RunDir + "/netd.sock"
	ApidSocket        = RunDir + "/apid.sock"
)

// User and group ids of the services; each group has the number of its user.
const (
	UIDNetd    = 901
	UIDKeyd    = 902
	UIDRelayd  = 903
	UIDUpdated = 0 // EFI variables and reboot need root; the unit takes the rest away
	UIDApid    = 905
	UIDConsole = 906
)

// Ports of the box.
const (
	PortSMTP       = 25
	PortSubmission = 465
	PortProvider   = 1465 // TR-01201: SMTP over implicit TLS between providers
	PortManagement = 8443
)
