package hsmtest

import (
	"crypto"
	"errors"
	"testing"

	"gitlab.opencode.de/pforte/pforte/hsm"
)

func TestSoftKeys(t *testing.T) {
	TestKeys(t, func(*testing.T) Keys { return &SoftKeys{} })
}

func TestSoftKeysFail(t *testing.T) {
	keys := &SoftKeys{}
	s := create(t, keys)[0]
	keys.Fail(hsm.ErrLockedOut)
	if _, err := s.Sign(nil, make([]byte, 32), crypto.SHA256); !errors.Is(err, hsm.ErrLockedOut) {
		t.Errorf("Sign = %v, want ErrLockedOut", err)
	}
	keys.Fail(nil)
	if _, err := s.Sign(nil, make([]byte, 32), crypto.SHA256); err != nil {
		t.Error(err)
	}
}
