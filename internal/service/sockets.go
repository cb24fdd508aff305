package service

import (
	"fmt"
	"maps"
	"net"
	"slices"

	"github.com/coreos/go-systemd/v22/activation"
)

// SocketSet holds the listeners that systemd opened for the service, by the
// FileDescriptorName= of their socket unit. One socket unit may hold several
// addresses and then gives several listeners with one name.
type SocketSet map[string][]net.Listener

// Sockets takes over the sockets that systemd passed (sd_listen_fds(3)) and
// clears the environment, so that it works once per process. Without socket
// activation the set is empty. A passed descriptor that is no stream listener
// is an error.
func Sockets() (SocketSet, error) {
	set := SocketSet{}
	for _, file := range activation.Files(true) {
		ln, err := net.FileListener(file) // works on a copy of the descriptor
		_ = file.Close()
		if err != nil {
			set.Close()
			return nil, fmt.Errorf("take socket %q from systemd: %w", file.Name(), err)
		}
		set[file.Name()] = append(set[file.Name()], ln)
	}
	return set, nil
}

// All returns every listener called name, at least one.
func (s SocketSet) All(name string) ([]net.Listener, error) {
	if len(s[name]) == 0 {
		return nil, fmt.Errorf("no socket called %q came from systemd (it passed %q): the socket unit must set FileDescriptorName=%s and name this service",
			name, slices.Sorted(maps.Keys(s)), name)
	}
	return s[name], nil
}

// One returns the only listener called name.
func (s SocketSet) One(name string) (net.Listener, error) {
	all, err := s.All(name)
	if err != nil {
		return nil, err
	}
	if len(all) != 1 {
		return nil, fmt.Errorf("%d sockets called %q came from systemd: the socket unit must have one address", len(all), name)
	}
	return all[0], nil
}

// Close closes every listener of the set.
func (s SocketSet) Close() {
	for _, all := range s {
		for _, ln := range all {
			_ = ln.Close()
		}
	}
}
