package boot

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"
)

// maxRelease bounds os-release in bytes.
const maxRelease = 16 << 10

// release is what os-release says about the image (os-release(5)).
type release struct {
	version, variant string
	epoch            int
}

// readRelease reads an os-release file; a missing one gives nothing.
func readRelease(path string) release {
	f, err := os.Open(path)
	if err != nil {
		return release{}
	}
	defer f.Close()
	return parseRelease(f)
}

func parseRelease(r io.Reader) release {
	var out release
	lines := bufio.NewScanner(io.LimitReader(r, maxRelease))
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), "=")
		value = strings.Trim(value, `"'`)
		switch key {
		case "VERSION_ID":
			out.version = value
		case "VARIANT_ID":
			out.variant = value
		case "PFORTE_EPOCH":
			out.epoch, _ = strconv.Atoi(value) // 0 is the oldest epoch
		}
	}
	return out
}
