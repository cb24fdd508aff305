package slot

import (
	"os"

	"golang.org/x/sys/unix"
)

// dropCache asks the kernel to forget the file's pages, so that reading back
// reads the disk. The file was synced before; it is a wish, not a command.
func dropCache(f *os.File) error {
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}
