// Command init is the first process of the box: it unlocks the data volume and
// starts systemd. Everything it does is in appliance/boot.
package main

import (
	"context"
	"fmt"
	"os"

	"gitlab.opencode.de/pforte/pforte/appliance/boot"
)

func main() {
	if err := boot.Run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
		os.Exit(1)
	}
}
