package e2e

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"gitlab.opencode.de/pforte/pforte/image"
	"gitlab.opencode.de/pforte/pforte/image/devkeys"
)

// Images builds development images of several versions with one set of
// throw-away keys.
type Images struct {
	Keys  *devkeys.Set
	Cache string // the user's cache folder for Pforte
	Out   string // one folder per image below it
	Log   io.Writer
}

// NewImages uses the user's cache folder and puts images below out.
func NewImages(out string, log io.Writer) (*Images, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("e2e: %w", err)
	}
	cache := filepath.Join(base, "pforte")
	keys, err := devkeys.Open(filepath.Join(cache, image.DevKeysDir))
	if err != nil {
		return nil, err
	}
	return &Images{Keys: keys, Cache: cache, Out: out, Log: log}, nil
}

// Build makes an image; name is its folder, change may alter the options.
func (i *Images) Build(ctx context.Context, name, version string, change func(*image.Options)) (*image.Result, error) {
	o := image.Options{
		OutDir:   filepath.Join(i.Out, name),
		CacheDir: i.Cache,
		Version:  version,
		Variant:  image.Dev,
		Progress: i.Log,
	}
	if err := o.DevKeys(i.Keys); err != nil {
		return nil, err
	}
	if change != nil {
		change(&o)
	}
	return image.Build(ctx, o)
}
