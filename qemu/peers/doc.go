// Package peers runs Debian's mail servers beside Pforte: Postfix, Exim,
// OpenSMTPD and sendmail, each on loopback with ports, queue and configuration
// of its own.
//
// # What it does
//
// The packages exclude one another, and installing one starts a service. So none
// is installed: Fetch has apt-get download the package, with what it needs and
// the host has not, for the host's own Debian release, and unpacks it into the
// user's cache folder. A server then runs in a jail: a mount namespace whose /usr
// is the host's with the package laid over it, whose /etc is its own, and a
// process namespace, so that one kill ends it with all its children. Its queue
// lies on the disk of the folder that the caller names. It shares the host's network.
//
// # What it asks for
//
// Root: mail servers change their user id, and a jail is made of mounts. Debian 12
// or 13 with merged /usr, apt-get, dpkg-deb and unshare (all essential packages), and a mirror
// at the first call.
//
// # What it promises
//
//   - Nothing outside the cache folder and the caller's folder is written. No
//     service of the host is started or stopped.
//   - No fixed port: each server listens where the caller says.
//   - When Stop returns, or the test's process dies, no process of a peer is left.
//
// It trusts apt's signatures on the packages. Maintainer scripts never run.
package peers
