package dmdatest

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Files of a stored PKI. Each .pem holds a certificate with the authority behind
// it, each -key.pem its PKCS #8 key.
const (
	FileCA     = "ca"
	FileServer = "server"
	FileClient = "client"
	FileSigner = "signer"
)

// Save writes the PKI into dir, which is made if it is missing; keys are readable
// by their owner only. Revocations are not kept: the simulator forgets them.
func (p *PKI) Save(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("save PKI: %w", err)
	}
	ca := tls.Certificate{Certificate: [][]byte{p.ca.Raw}, PrivateKey: p.caKey, Leaf: p.ca}
	for name, c := range map[string]tls.Certificate{
		FileCA: ca, FileServer: p.server, FileClient: p.client, FileSigner: p.signer,
	} {
		if err := p.SaveCertificate(dir, name, c); err != nil {
			return err
		}
	}
	return nil
}

// SaveCertificate writes one certificate with its key as name.pem and
// name-key.pem.
func (p *PKI) SaveCertificate(dir, name string, c tls.Certificate) error {
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		return fmt.Errorf("save certificate %s: %w", name, err)
	}
	chain := certPEM(c.Leaf)
	if !c.Leaf.Equal(p.ca) {
		chain = append(chain, p.CAPEM()...)
	}
	err = os.WriteFile(filepath.Join(dir, name+".pem"), chain, 0o644)
	if err == nil {
		block := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
		err = os.WriteFile(filepath.Join(dir, name+"-key.pem"), block, 0o600)
	}
	if err != nil {
		return fmt.Errorf("save certificate %s: %w", name, err)
	}
	return nil
}

// LoadPKI reads what Save wrote.
func LoadPKI(dir string) (*PKI, error) {
	p := &PKI{}
	for name, to := range map[string]*tls.Certificate{FileServer: &p.server, FileClient: &p.client, FileSigner: &p.signer} {
		c, err := LoadCertificate(dir, name)
		if err != nil {
			return nil, fmt.Errorf("load PKI: %w", err)
		}
		*to = c
	}
	ca, err := LoadCertificate(dir, FileCA)
	if err != nil {
		return nil, fmt.Errorf("load PKI: %w", err)
	}
	key, ok := ca.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("load PKI: the authority's key is not ECDSA; remove the folder and start anew")
	}
	p.ca, p.caKey = ca.Leaf, key
	return p, nil
}

// LoadCertificate reads name.pem and name-key.pem.
func LoadCertificate(dir, name string) (tls.Certificate, error) {
	return tls.LoadX509KeyPair(filepath.Join(dir, name+".pem"), filepath.Join(dir, name+"-key.pem"))
}

// LoadOrNewPKI loads the PKI in dir, or makes one there if there is no authority
// yet. A folder that holds part of one is an error: nothing is overwritten.
func LoadOrNewPKI(dir string, opt PKIOptions) (p *PKI, isNew bool, err error) {
	if _, err := os.Stat(filepath.Join(dir, FileCA+".pem")); !errors.Is(err, fs.ErrNotExist) {
		p, err := LoadPKI(dir)
		return p, false, err
	}
	if p, err = NewPKI(opt); err == nil {
		err = p.Save(dir)
	}
	return p, true, err
}
