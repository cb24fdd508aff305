package operator

import (
	"debug/pe"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"gitlab.opencode.de/pforte/pforte/internal/release/sign"
)

// maxOSRelease bounds an image's os-release section in bytes.
const maxOSRelease = 64 << 10

// image is what an image says of itself (os-release(5) in its .osrel section).
type image struct {
	name             string
	version, variant string
	epoch            uint64
}

// readImage reads it. It proves nothing; it keeps a vendor or an owner from
// publishing one file under the name of another.
func readImage(name string) (image, error) {
	f, err := os.Open(name)
	if err != nil {
		return image{}, err
	}
	defer f.Close()
	fault := func(why string) (image, error) {
		return image{}, &faultError{fmt.Errorf("%s: %s", name, why), "give the image that was built: pforte.efi"}
	}
	uki, err := pe.NewFile(f)
	if err != nil {
		return fault("no image: " + err.Error())
	}
	section := uki.Section(".osrel")
	if section == nil {
		return fault("no image of ours: it has no .osrel section")
	}
	text, err := io.ReadAll(io.LimitReader(section.Open(), maxOSRelease))
	if err != nil {
		return image{}, fmt.Errorf("%s: %w", name, err)
	}
	is := image{name: name}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimRight(line, "\r\n\x00"), "=")
		value = strings.Trim(value, `"'`)
		switch key {
		case "VERSION_ID":
			is.version = value
		case "VARIANT_ID":
			is.variant = value
		case "PFORTE_EPOCH":
			if is.epoch, err = strconv.ParseUint(value, 10, 64); err != nil {
				return fault(fmt.Sprintf("its epoch %q is no number", value))
			}
		}
	}
	if is.version == "" {
		return fault("it names no version")
	}
	return is, nil
}

// agrees checks what was given on the command line against the image.
func (i image) agrees(cmd *cobra.Command, says sign.VendorSays) error {
	if cmd.Flags().Changed("version") && says.Version != i.version {
		return &faultError{fmt.Errorf("%s: the image is version %s, not %s", i.name, i.version, says.Version), "give another file, or leave --version out"}
	}
	if cmd.Flags().Changed("epoch") && says.Epoch != i.epoch {
		return &faultError{fmt.Errorf("%s: the image has epoch %d, not %d", i.name, i.epoch, says.Epoch), "give another file, or leave --epoch out"}
	}
	return nil
}
