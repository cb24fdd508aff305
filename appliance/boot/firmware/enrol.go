package firmware

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/u-root/u-root/pkg/efivarfs"
)

// maxAuth bounds a signed variable update in bytes.
const maxAuth = 64 << 10

// keyAttributes are those of PK, KEK and db (UEFI 2.10, 32.3): kept over
// power-off, visible before and after the boot, changed by signed updates only.
const keyAttributes = efivarfs.AttributeNonVolatile | efivarfs.AttributeBootserviceAccess |
	efivarfs.AttributeRuntimeAccess | efivarfs.AttributeTimeBasedAuthenticatedWriteAccess

// Keys are signed updates of the Secure Boot variables, in the form of
// EFI_VARIABLE_AUTHENTICATION_2 and the new content (".auth" files).
type Keys struct {
	PK, KEK, DB []byte
}

// Enrol writes our keys while the firmware is in setup mode: db, then KEK, and
// the platform key last, since that ends setup mode. A variable that has the
// content already is left alone, so that an enrolment that lost its power is
// completed by the next one. The new keys count from the next boot on.
func Enrol(v Vars, keys Keys) error {
	for _, k := range []struct {
		name, vendor string
		auth         []byte
	}{
		{"db", vendorImages, keys.DB},
		{"KEK", vendorGlobal, keys.KEK},
		{"PK", vendorGlobal, keys.PK},
	} {
		if err := enrol(v, variable(k.name, k.vendor), k.auth); err != nil {
			return fmt.Errorf("enrol Secure Boot key %s: %w", k.name, err)
		}
	}
	return nil
}

func enrol(v Vars, name efivarfs.VariableDescriptor, auth []byte) error {
	want, err := content(auth)
	if err != nil {
		return err
	}
	if _, have, err := v.Get(name); err == nil && bytes.Equal(have, want) {
		return nil
	}
	return v.Set(name, keyAttributes, auth)
}

// content cuts the descriptor off a signed update: a time stamp of 16 bytes and
// a WIN_CERTIFICATE that begins with its own length (UEFI 2.10, 8.2.6).
func content(auth []byte) ([]byte, error) {
	const stamp, minCertificate = 16, 24
	if len(auth) < stamp+minCertificate || len(auth) > maxAuth {
		return nil, fmt.Errorf("signed update of %d bytes", len(auth))
	}
	size := binary.LittleEndian.Uint32(auth[stamp:])
	if size < minCertificate || uint64(size) >= uint64(len(auth)-stamp) {
		return nil, errors.New("signed update without content")
	}
	return auth[stamp+size:], nil
}
