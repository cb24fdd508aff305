package image

import (
	"gitlab.opencode.de/pforte/pforte/image/devkeys"
	"gitlab.opencode.de/pforte/pforte/image/secureboot"
)

// DevKeysDir is the folder of throw-away keys below a cache folder.
const DevKeysDir = "keys-dev"

// DevKeys fills in every key of a development build from a set of throw-away keys,
// which are made if they do not exist.
func (o *Options) DevKeys(set *devkeys.Set) error {
	var keys secureboot.Keys
	for name, pair := range map[string]*secureboot.Pair{
		devkeys.PlatformKey: &keys.PK, devkeys.KeyExchange: &keys.KEK, devkeys.Database: &keys.DB,
	} {
		cert, k, err := set.Certificate(name)
		if err != nil {
			return err
		}
		*pair = secureboot.Pair{Certificate: cert, Signer: k}
	}
	updates, err := secureboot.Sign(&keys, keys.PK.Certificate.NotBefore)
	if err != nil {
		return err
	}
	o.Trust.SecureBoot = updates.Files()
	o.SecureBootSigner, o.SecureBootCert = keys.DB.Signer, keys.DB.Certificate
	if o.PCRSigner, err = set.RSA(devkeys.PCRKey); err != nil {
		return err
	}
	owner, err := set.Signer(devkeys.OwnerConfig)
	if err != nil {
		return err
	}
	if o.Trust.OwnerKey, err = devkeys.PublicPEM(owner); err != nil {
		return err
	}
	if o.Trust.VendorRoot, err = set.TUFRoot(devkeys.VendorTUF); err != nil {
		return err
	}
	o.Trust.OwnerRoot, err = set.TUFRoot(devkeys.OwnerTUF)
	return err
}
