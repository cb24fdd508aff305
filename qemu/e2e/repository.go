package e2e

import (
	"crypto"
	"fmt"
	"net/http"
	"net/netip"
	"path/filepath"
	"time"

	"gitlab.opencode.de/pforte/pforte/image/devkeys"
	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/release/sign"
	"gitlab.opencode.de/pforte/pforte/internal/rollout"
)

// Repository is one of the two update repositories, a folder of static files.
type Repository struct {
	Dir string
	key crypto.Signer
}

func (w *World) startRepositories() error {
	for _, r := range []struct {
		to   **Repository
		key  string
		host netip.Addr
	}{
		{&w.Vendor, devkeys.VendorTUF, vendorHost()},
		{&w.Owner, devkeys.OwnerTUF, ownerHost()},
	} {
		key, err := w.Keys.Signer(r.key)
		if err != nil {
			return err
		}
		root, err := w.Keys.TUFRoot(r.key)
		if err != nil {
			return err
		}
		dir := w.path(r.key)
		if err := sign.Init(dir, root, key, time.Now()); err != nil {
			return err
		}
		*r.to = &Repository{Dir: dir, key: key}
		if err := w.serveHTTP(w.ManagementNet, r.host, http.FileServer(http.Dir(dir))); err != nil {
			return err
		}
	}
	return nil
}

// Release publishes a release file in the vendor's repository.
func (r *Repository) Release(file, version string, epoch uint64) error {
	return sign.Add(r.Dir, file, version, sign.VendorSays{Version: version, Epoch: epoch}, true, r.key, time.Now())
}

// Authorise publishes the owner's consent to a release file for every box.
func (r *Repository) Authorise(file, version string) error {
	return sign.Add(r.Dir, file, version, rollout.Order{Boxes: []string{"*"}}, false, r.key, time.Now())
}

// Target is the path of a published release's file in the repository.
func (r *Repository) Target(version string) (string, error) {
	found, err := filepath.Glob(filepath.Join(r.Dir, "targets", "*.pforte-"+version+".efi"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("e2e: repository %s: %d files for release %s", r.Dir, len(found), version)
	}
	return found[0], nil
}

// sealConfig signs a configuration's text without judging it: scenarios need
// broken ones, too, which the owner's own tool refuses to sign.
func sealConfig(text []byte, key crypto.Signer) ([]byte, error) {
	return config.Seal(text, key)
}
