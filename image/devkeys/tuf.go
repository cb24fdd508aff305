package devkeys

import (
	"crypto"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// TUFRoot returns the first root metadata of an update repository whose four roles
// all have the named key, and which stays the same for the life of the set.
func (s *Set) TUFRoot(name string) ([]byte, error) {
	k, err := s.Signer(name)
	if err != nil {
		return nil, err
	}
	return s.File(name+"-root.json", func() ([]byte, error) {
		root := metadata.Root(time.Now().UTC().Truncate(time.Hour).AddDate(lifetime, 0, 0))
		public, err := metadata.KeyFromPublicKey(k.Public())
		if err != nil {
			return nil, err
		}
		for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
			if err := root.Signed.AddKey(public, role); err != nil {
				return nil, err
			}
		}
		signer, err := signature.LoadSigner(k, crypto.SHA256)
		if err != nil {
			return nil, err
		}
		if _, err := root.Sign(signer); err != nil {
			return nil, err
		}
		return root.ToBytes(true)
	})
}
