package netconf

import (
	"path/filepath"
	"regexp"
	"strings"
)

// pciAddress is domain:bus:device.function in hexadecimal.
var pciAddress = regexp.MustCompile(`^[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)

// pathOf gives where a network card sits, in the form that udev's path_id has:
// "pci-" and the address of the PCI device nearest to it. It is empty for a link
// without a device, and for one behind another bus (USB), which is known by its
// MAC only.
func pathOf(sys, link string) string {
	device, err := filepath.EvalSymlinks(filepath.Join(sys, "class/net", link, "device"))
	if err != nil {
		return ""
	}
	steps := strings.Split(device, string(filepath.Separator))
	for i := len(steps) - 1; i >= 0; i-- {
		if pciAddress.MatchString(steps[i]) {
			return "pci-" + steps[i]
		}
		if !strings.HasPrefix(steps[i], "virtio") {
			return ""
		}
	}
	return ""
}
