package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
)

// pipe passes connections on, and changes between TLS and plain text: for peers
// whose own TLS does not work. in nil: plain text comes in; out nil: plain text
// goes out.
func (s *stage) pipe(to int, in, out *tls.Config) (port int, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	if in != nil {
		l = tls.NewListener(l, in)
	}
	s.close = append(s.close, func() { l.Close() })
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			go join(near, to, out)
		}
	}()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func join(near net.Conn, to int, out *tls.Config) {
	defer near.Close()
	var far net.Conn
	var err error
	address := fmt.Sprintf("127.0.0.1:%d", to)
	if out != nil {
		far, err = tls.Dial("tcp", address, out)
	} else {
		far, err = net.Dial("tcp", address)
	}
	if err != nil {
		return
	}
	defer far.Close()
	go func() { _, _ = io.Copy(far, near); far.Close(); near.Close() }()
	_, _ = io.Copy(near, far)
}
