package peers

import (
	"crypto/tls"
	"encoding/pem"
	"strings"
)

// Way is how a server comes to TLS with its next hop.
type Way int

// Ways.
const (
	NoTLS Way = iota
	StartTLS
	ImplicitTLS
)

// Wiring is how a server is connected to its neighbours. It relays everything
// that it takes to one next hop. A port that is 0 is not opened.
type Wiring struct {
	Host     string          // its own name
	Cert     tls.Certificate // of its TLS ports
	ClientCA string          // PEM: who must have issued the certificates of clients on Implicit
	Implicit int             // port with implicit TLS and client certificates
	StartTLS int             // port with STARTTLS
	Plain    int             // port without TLS

	Next     int             // port of the next hop on loopback
	Way      Way             // TLS towards it
	NextName string          // name in its certificate
	NextCA   string          // PEM: who issued it
	Token    tls.Certificate // what it is shown
}

func (w Wiring) ports() []int {
	var out []int
	for _, p := range []int{w.Implicit, w.StartTLS, w.Plain} {
		if p != 0 {
			out = append(out, p)
		}
	}
	return out
}

// files are the keys and certificates below /etc: own.crt and own.key for its
// ports, token.crt and token.key for its next hop, and whom it trusts.
func (w Wiring) files() (map[string]string, error) {
	out := map[string]string{"peer/clients.pem": w.ClientCA, "peer/next.pem": w.NextCA, "peer/all.pem": w.ClientCA + w.NextCA,
		"hosts": "127.0.0.1 localhost\n127.0.0.1 " + w.Host + "\n"}
	if w.NextName != "" && w.NextName != w.Host {
		out["hosts"] += "127.0.0.1 " + w.NextName + "\n"
	}
	for name, cert := range map[string]tls.Certificate{"own": w.Cert, "token": w.Token} {
		if cert.PrivateKey == nil {
			continue
		}
		text, err := EncodePEM(cert)
		if err != nil {
			return nil, err
		}
		key, rest := pem.Decode([]byte(text))
		out["peer/"+name+".key"] = string(pem.EncodeToMemory(key))
		out["peer/"+name+".crt"] = strings.TrimLeft(string(rest), "\n")
	}
	return out, nil
}
