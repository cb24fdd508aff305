package keyd

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"time"
	"unicode"
	"unicode/utf8"

	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/hsm/keyclient"
	"gitlab.opencode.de/pforte/pforte/internal/durable"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
)

const (
	maxCommonName = 64  // characters (RFC 5280, A.1: ub-common-name)
	maxDNSName    = 253 // bytes (RFC 1035, 2.3.4, without the root's)
	maxLabel      = 63
	maxNames      = 32 // DNS names, and addresses, of one request
)

// controlMethods are the control socket's.
func (s *Service) controlMethods() []localapi.Method {
	return []localapi.Method{
		{Name: keyclient.MethodList, Allow: s.opts.Control, Handler: localapi.Typed(s.handleList)},
		{Name: keyclient.MethodCSR, Allow: s.opts.Control, MaxBody: controlBody, Timeout: signTimeout, Handler: localapi.Typed(s.handleCSR)},
		{Name: keyclient.MethodInstall, Allow: s.opts.Control, MaxBody: controlBody, Handler: localapi.Typed(s.handleInstall)},
	}
}

func (s *Service) handleList(context.Context, localapi.Peer, localapi.None) (keyclient.ListResponse, error) {
	var out keyclient.ListResponse
	for _, p := range hsm.Purposes() {
		out.Keys = append(out.Keys, s.status(p))
	}
	return out, nil
}

func (s *Service) status(p hsm.Purpose) keyclient.Status {
	status := keyclient.Status{Purpose: p, Uses: s.uses.of(p)}
	e, err := s.lookup(p)
	if err == nil {
		status.Fingerprint, err = hsm.Fingerprint(e.signer.Public())
	}
	if err != nil {
		status.Fault = err.Error()
		return status
	}
	if e.flaw != nil {
		status.Fault = e.flaw.Error()
	}
	if e.chain != nil {
		status.Certificate = keyclient.Describe(e.chain.leaf())
	}
	return status
}

func (s *Service) handleCSR(_ context.Context, peer localapi.Peer, in keyclient.CSRRequest) (keyclient.CSRResponse, error) {
	e, err := s.keepable(in.Purpose)
	if err != nil {
		return keyclient.CSRResponse{}, err
	}
	template, err := csrTemplate(in.Subject)
	if err != nil {
		return keyclient.CSRResponse{}, fmt.Errorf("%w: %w", localapi.ErrBadRequest, err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, s.counted(peer, in.Purpose, e.signer))
	if err != nil {
		return keyclient.CSRResponse{}, fmt.Errorf("certificate request: %w", err)
	}
	return keyclient.CSRResponse{
		PEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})),
	}, nil
}

// keepable returns the key of p if a certificate for it could be kept.
func (s *Service) keepable(p hsm.Purpose) (*entry, error) {
	e, err := s.lookup(p)
	if err == nil && s.opts.Locked {
		err = fmt.Errorf("key %s is lost at the next start: %w", p, hsm.ErrLocked)
	}
	return e, err
}

// csrTemplate checks the subject and reports every fault.
func csrTemplate(s keyclient.Subject) (*x509.CertificateRequest, error) {
	var faults []error
	if n := utf8.RuneCountInString(s.CommonName); n < 1 || n > maxCommonName || !printable(s.CommonName) {
		faults = append(faults, fmt.Errorf("common name %q: want 1 to %d printable characters", s.CommonName, maxCommonName))
	}
	if len(s.DNSNames) > maxNames || len(s.Addresses) > maxNames {
		faults = append(faults, fmt.Errorf("more than %d names or addresses", maxNames))
		return nil, errors.Join(faults...)
	}
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: s.CommonName}, DNSNames: s.DNSNames}
	for _, name := range s.DNSNames {
		if !hostName(name) {
			faults = append(faults, fmt.Errorf("DNS name %q: want lower-case letters, digits, hyphens and dots", name))
		}
	}
	for _, a := range s.Addresses {
		if !a.IsValid() || a.Zone() != "" {
			faults = append(faults, fmt.Errorf("address %q is none", a))
			continue
		}
		template.IPAddresses = append(template.IPAddresses, net.IP(a.Unmap().AsSlice()))
	}
	return template, errors.Join(faults...)
}

func printable(s string) bool {
	for _, r := range s {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return false
		}
	}
	return true
}

// hostName reports whether s is a host name of RFC 1123, 2.1, in lower case.
func hostName(s string) bool {
	if len(s) == 0 || len(s) > maxDNSName {
		return false
	}
	start := 0
	for i := 0; i <= len(s); i++ {
		if i < len(s) && s[i] != '.' {
			c := s[i]
			if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-') {
				return false
			}
			continue
		}
		label := s[start:i]
		if len(label) == 0 || len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		start = i + 1
	}
	return true
}

func (s *Service) handleInstall(_ context.Context, peer localapi.Peer, in keyclient.InstallRequest) (keyclient.Status, error) {
	s.installing.Lock()
	defer s.installing.Unlock()
	e, err := s.keepable(in.Purpose)
	if err != nil {
		return keyclient.Status{}, err
	}
	c, err := parseChain([]byte(in.Chain))
	if err == nil {
		err = c.fits(e.signer.Public())
	}
	if err == nil {
		err = c.serves(in.Purpose, time.Now())
	}
	if err != nil {
		return keyclient.Status{}, err
	}
	if err := durable.WriteFile(s.chainPath(in.Purpose), c.pem(), fileMode); err != nil {
		return keyclient.Status{}, fmt.Errorf("install certificate: %w", err)
	}
	s.setChain(in.Purpose, c)
	s.log.Info("certificate installed", "purpose", in.Purpose, "uid", peer.UID, "pid", peer.PID,
		"serial", c.leaf().SerialNumber.Text(16), "until", c.leaf().NotAfter)
	return s.status(in.Purpose), nil
}
