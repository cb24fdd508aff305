package peers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// ErrNoRoot: jails are made of mounts.
var ErrNoRoot = errors.New("running Debian's mail servers needs root (their users, mounts); run it as root or in a container as root")

// startLimit is how long a server may take until its port answers, stopLimit
// until it is gone.
const (
	startLimit = 30 * time.Second
	stopLimit  = 10 * time.Second
)

// spec is a server in a jail.
type spec struct {
	layer *Layer
	dir   string            // on the host; becomes /data in the jail, kept on the disk it lies on
	etc   map[string]string // files below /etc, by path
	start string            // shell script that ends in exec
	ports []int             // it is ready when all of them take connections
	// syslog keeps in the log what it writes to /dev/log: for servers that can tell
	// only there.
	syslog bool
}

// Process is a running server.
type Process struct {
	Name    string
	Version string
	Dir     string // its /data, with its log
	cmd     *exec.Cmd
	life    io.Closer // the jail lives until this is closed
	log     *os.File
	once    sync.Once
	ended   chan struct{}
}

// frame builds the jail and starts the server. The shell is the first process of
// the jail's own process namespace: when it ends, the kernel ends all others. It
// ends with the server, or when its standard input does, so also when the process
// that started it is killed. $1 layer, $2 where the root comes to be, $3 data.
const frame = `set -eu
mount -t tmpfs -o mode=755 peer "$2"
cd "$2"
mkdir usr proc dev tmp var run data root home
chmod 1777 tmp
for d in bin sbin lib lib64; do ln -s usr/$d $d; done
mount -t overlay -o ro,lowerdir="$1/usr:/usr" overlay usr
cp -a "$1/etc" etc
cp -a "$1/var/." var/
mkdir -p var/run var/tmp var/mail var/log etc/ssl
for f in ld.so.cache ld.so.conf ld.so.conf.d alternatives nsswitch.conf services protocols localtime; do [ ! -e /etc/$f ] || [ -e etc/$f ] || cp -a /etc/$f etc/; done
[ ! -e /etc/ssl/openssl.cnf ] || cp /etc/ssl/openssl.cnf etc/ssl/
cp -a "$3/etc/." etc/
chmod 600 etc/peer/*.key 2>/dev/null || true
for f in null zero full random urandom; do : >dev/$f; mount --bind /dev/$f dev/$f; done
[ ! -S "$3/syslog" ] || ln -s /data/syslog dev/log
mount --bind "$3" data
mount -t proc proc proc
exec 3<&0
chroot . /bin/sh /data/start </dev/null 3<&- &
server=$!
trap 'exit 0' TERM
(read _ <&3 || true; kill -TERM 1) &
wait $server
`

// users are the accounts that the servers know.
const users = `root:x:0:0:root:/root:/bin/sh
daemon:x:1:1::/:/usr/sbin/nologin
mail:x:8:8::/var/mail:/usr/sbin/nologin
nobody:x:65534:65534::/:/usr/sbin/nologin
postfix:x:61002:61002::/tmp:/usr/sbin/nologin
Debian-exim:x:61003:61003::/tmp:/usr/sbin/nologin
opensmtpd:x:61004:61004::/tmp:/usr/sbin/nologin
opensmtpq:x:61005:61005::/tmp:/usr/sbin/nologin
smmta:x:61006:61006::/tmp:/usr/sbin/nologin
smmsp:x:61007:61007::/tmp:/usr/sbin/nologin
`

const groups = `root:x:0:
daemon:x:1:
mail:x:8:
nogroup:x:65534:
postfix:x:61002:
postdrop:x:61012:
Debian-exim:x:61003:
opensmtpd:x:61004:
opensmtpq:x:61005:
smmta:x:61006:
smmsp:x:61007:
`

// start runs a server and returns when its ports take connections.
func start(ctx context.Context, s spec) (*Process, error) {
	if os.Geteuid() != 0 {
		return nil, ErrNoRoot
	}
	if err := s.write(); err != nil {
		return nil, fmt.Errorf("peers: %s: %w", s.layer.Package, err)
	}
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		return nil, fmt.Errorf("peers: %w", err)
	}
	if s.syslog {
		if err := listenSyslog(filepath.Join(s.dir, "syslog"), log); err != nil {
			log.Close()
			return nil, fmt.Errorf("peers: %w", err)
		}
	}
	p := &Process{Name: s.layer.Package, Version: s.layer.Version(), Dir: s.dir, log: log, ended: make(chan struct{})}
	p.cmd = exec.Command("unshare", "--mount", "--propagation", "private", "--pid", "--ipc", "--fork", "--kill-child=KILL",
		"sh", "-c", frame, "sh", s.layer.Root, filepath.Join(s.dir, "jail"), s.dir)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if p.life, err = p.cmd.StdinPipe(); err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		log.Close()
		return nil, fmt.Errorf("peers: start %s: %w", p.Name, err)
	}
	go func() { _ = p.cmd.Wait(); close(p.ended) }()
	if err := p.await(ctx, s.ports); err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

// write lays out the folder that the jail sees as /data.
func (s spec) write() error {
	files := map[string]string{"start": s.start, "etc/passwd": users, "etc/group": groups, "etc/hosts": "127.0.0.1 localhost\n", "etc/resolv.conf": "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"}
	for name, text := range s.etc {
		files["etc/"+name] = text
	}
	for _, d := range []string{"", "jail", "spool", "lib"} {
		if err := os.MkdirAll(filepath.Join(s.dir, d), 0o755); err != nil {
			return err
		}
	}
	for name, text := range files {
		path := filepath.Join(s.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// listenSyslog copies what comes until the log is closed.
func listenSyslog(path string, log *os.File) error {
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	if err := os.Chmod(path, 0o666); err != nil {
		return err
	}
	go func() {
		defer c.Close()
		line := make([]byte, 8<<10)
		for {
			n, err := c.Read(line)
			if err != nil {
				return
			}
			if _, err := log.Write(append(line[:n:n], '\n')); err != nil {
				return
			}
		}
	}()
	return nil
}

// await waits until all ports take connections.
func (p *Process) await(ctx context.Context, ports []int) error {
	limit := time.Now().Add(startLimit)
	for _, port := range ports {
		for {
			c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
			if err == nil {
				c.Close()
				break
			}
			select {
			case <-p.ended:
				return fmt.Errorf("peers: %s ended at its start: %s", p.Name, p.Log(10))
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(50 * time.Millisecond):
			}
			if time.Now().After(limit) {
				return fmt.Errorf("peers: %s does not listen on port %d: %s", p.Name, port, p.Log(10))
			}
		}
	}
	return nil
}

// Log is the end of what the server said.
func (p *Process) Log(lines int) string {
	text, err := os.ReadFile(p.log.Name())
	if err != nil {
		return err.Error()
	}
	return lastLines(string(text), lines)
}

// Stop ends the server with all its children, at once. Its folder stays.
func (p *Process) Stop() {
	p.once.Do(func() {
		p.life.Close()
		select {
		case <-p.ended:
		case <-time.After(stopLimit):
			_ = p.cmd.Process.Kill()
		}
		p.log.Close()
	})
}

// Usage is what a process and all its descendants have used up.
type Usage struct {
	CPU time.Duration
	RSS int64 // bytes now: shared pages are shared out (PSS)
	N   int   // processes
}

// ticks per second of /proc's times; it is 100 on every Linux that Go runs on.
const ticks = 100

// Usage sums up the server's processes; those that ended count through the
// parents that waited for them.
func (p *Process) Usage() Usage { return UsageOf(p.cmd.Process.Pid, true) }

// UsageOf sums up a process tree. memory asks for RSS, which costs more.
func UsageOf(root int, memory bool) Usage {
	parents := map[int]int{}
	times := map[int]time.Duration{}
	list, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range list {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // gone meanwhile
		}
		pid, ppid, cpu, ok := parseStat(string(text))
		if ok {
			parents[pid], times[pid] = ppid, cpu
		}
	}
	var u Usage
	for pid := range parents {
		if !descends(parents, pid, root) {
			continue
		}
		u.N++
		u.CPU += times[pid]
		if memory {
			u.RSS += pss(pid)
		}
	}
	return u
}

func descends(parents map[int]int, pid, root int) bool {
	for n := 0; pid > 1 && n < 64; n++ {
		if pid == root {
			return true
		}
		pid = parents[pid]
	}
	return false
}

// parseStat reads pid, parent and CPU time with that of children that were waited
// for (proc(5), fields 1, 4 and 14 to 17).
func parseStat(text string) (pid, ppid int, cpu time.Duration, ok bool) {
	open, end := strings.Index(text, "("), strings.LastIndex(text, ")")
	if open < 0 || end < open {
		return 0, 0, 0, false
	}
	if _, err := fmt.Sscan(text[:open], &pid); err != nil {
		return 0, 0, 0, false
	}
	f := strings.Fields(text[end+1:])
	if len(f) < 15 {
		return 0, 0, 0, false
	}
	if _, err := fmt.Sscan(f[1], &ppid); err != nil {
		return 0, 0, 0, false
	}
	own, ok := schedstat(pid)
	times := f[11:15]
	if ok {
		times = f[13:15]
	}
	for _, s := range times {
		var n int64
		if _, err := fmt.Sscan(s, &n); err != nil {
			return 0, 0, 0, false
		}
		cpu += time.Duration(n) * time.Second / ticks
	}
	return pid, ppid, cpu + own, true
}

// schedstat is the time of a process's first thread to the nanosecond. The mail
// servers here have one thread, and so many processes that ticks would lose much.
func schedstat(pid int) (time.Duration, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
	if err != nil {
		return 0, false
	}
	var ns int64
	_, err = fmt.Sscan(string(text), &ns)
	return time.Duration(ns), err == nil
}

func pss(pid int) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "Pss: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	return 0
}

// FreePort is a port of loopback that nobody has right now.
func FreePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("peers: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
