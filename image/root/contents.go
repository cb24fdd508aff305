package root

// programs are the executables from Debian. Their libraries follow from the ELF
// headers. There is no shell among them, and nothing that logs anyone in.
var programs = []string{
	"/usr/lib/systemd/systemd",
	"/usr/lib/systemd/systemd-executor",
	"/usr/lib/systemd/systemd-journald",
	"/usr/lib/systemd/systemd-shutdown",
	"/usr/lib/systemd/systemd-sysctl",
	"/usr/bin/mount", // systemd starts these two for its mount units; not set-user-id here
	"/usr/bin/umount",
	"/usr/bin/journalctl", // moves the journal to /var (systemd-journal-flush), and lets apid read it
	"/usr/sbin/cryptsetup",
	"/usr/sbin/mke2fs",
	"/usr/sbin/e2fsck",
}

// dlopened are libraries that no ELF header names. PID 1 reports an error at each
// boot if it has no libkmod to look for modules with, although init has loaded
// them all and the root holds none.
var dlopened = []string{
	"/usr/lib/x86_64-linux-gnu/libkmod.so.2",
}

// configs are Debian's settings that those programs want.
var configs = []string{
	"/etc/mke2fs.conf",
}

// unitNames are the units of systemd that the box uses, from unitDir. udev is
// left out: init has loaded the modules, netd finds links by netlink, and no unit
// waits for a device. logind, networkd, resolved, timers of Debian, gettys and
// everything that asks for a password are left out too.
var unitNames = []string{
	// synchronisation points of the boot
	"basic.target", "sysinit.target", "local-fs.target", "local-fs-pre.target", "swap.target",
	"sockets.target", "timers.target", "paths.target", "slices.target", "multi-user.target",
	"network-pre.target", "network.target", "network-online.target", "nss-lookup.target", "nss-user-lookup.target",
	"remote-fs.target", "remote-fs-pre.target", "time-set.target", "time-sync.target", "boot-complete.target",
	"user.slice",
	// the way down
	"shutdown.target", "umount.target", "final.target", "exit.target",
	"reboot.target", "poweroff.target", "halt.target",
	"systemd-reboot.service", "systemd-poweroff.service", "systemd-halt.service", "systemd-exit.service",
	// the journal
	"systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket",
	"systemd-journal-flush.service",
	// /tmp and kernel settings; files in /run and /var are made by init and by the units
	"tmp.mount", "systemd-sysctl.service",
}

const unitDir = "/usr/lib/systemd/system"

// wants are the links by which Debian's units start each other; packages ship
// them, and they are taken over as they are.
var wants = map[string]string{
	unitDir + "/sockets.target.wants/systemd-journald.socket":         "../systemd-journald.socket",
	unitDir + "/sockets.target.wants/systemd-journald-dev-log.socket": "../systemd-journald-dev-log.socket",
	unitDir + "/sysinit.target.wants/systemd-journald.service":        "../systemd-journald.service",
	unitDir + "/sysinit.target.wants/systemd-journal-flush.service":   "../systemd-journal-flush.service",
	unitDir + "/sysinit.target.wants/systemd-sysctl.service":          "../systemd-sysctl.service",
	unitDir + "/local-fs.target.wants/tmp.mount":                      "../tmp.mount",
}

// dirs are the empty folders on which something is mounted.
var dirs = []string{"/dev", "/proc", "/sys", "/run", "/tmp", "/var", "/efi", "/root", "/usr/share/pforte"}

// links make the merged /usr.
var links = map[string]string{
	"/bin":            "usr/bin",
	"/sbin":           "usr/sbin",
	"/lib":            "usr/lib",
	"/lib64":          "usr/lib64",
	"/etc/os-release": "../usr/lib/os-release",
}

// Packages are the Debian packages whose files the root has. The kernel and the
// stub are package image's.
func Packages() []string {
	return []string{
		"systemd", "libsystemd-shared", "libc6",
		"libacl1", "libapparmor1", "libaudit1", "libblkid1", "libcap-ng0", "libcap2", "libcrypt1", "libmount1",
		"libpam0g", "libpcre2-8-0", "libseccomp2", "libselinux1", "libssl3t64", "libzstd1", "zlib1g",
		"cryptsetup-bin", "libcryptsetup12", "libdevmapper1.02.1", "libjson-c5", "libpopt0", "libudev1", "libuuid1",
		"e2fsprogs", "libcom-err2", "libext2fs2t64",
		"mount", "libsmartcols1",
		"libkmod2", "liblzma5",
	}
}
