package peers

import (
	"context"
	"fmt"
	"strings"
)

// Exim runs Debian's exim4-daemon-heavy in dir.
func Exim(ctx context.Context, dir string, w Wiring) (*Process, error) {
	l, err := Fetch(ctx, "exim4-daemon-heavy")
	if err != nil {
		return nil, err
	}
	etc, err := w.files()
	if err != nil {
		return nil, err
	}
	var ports []string
	for _, p := range w.ports() {
		ports = append(ports, fmt.Sprint(p))
	}
	next, transport := w.NextName, []string{"hosts_require_tls = *", "tls_certificate = /etc/peer/token.crt", "tls_privatekey = /etc/peer/token.key",
		"tls_verify_certificates = /etc/peer/next.pem", "tls_verify_hosts = *"}
	switch w.Way {
	case ImplicitTLS:
		transport = append(transport, "protocol = smtps")
	case NoTLS:
		next, transport = "localhost", []string{"hosts_avoid_tls = *"}
	}
	lines := []string{
		"primary_hostname = " + w.Host, "spool_directory = /data/spool", "log_file_path = /data/lib/%slog", "pid_file_path = /data/lib/pid",
		"daemon_smtp_ports = " + strings.Join(ports, " : "), "local_interfaces = 127.0.0.1", "disable_ipv6 = true", "host_lookup =", "rfc1413_hosts =",
		fmt.Sprintf("tls_on_connect_ports = %d", w.Implicit), fmt.Sprintf("tls_advertise_hosts = ${if eq{$received_port}{%d}{*}{}}", w.StartTLS),
		"tls_verify_certificates = /etc/peer/clients.pem", fmt.Sprintf("tls_verify_hosts = ${if eq{$received_port}{%d}{*}{}}", w.Implicit),
		"message_size_limit = 80M", "smtp_accept_max = 200", "dsn_advertise_hosts = *", "keep_environment =", "acl_smtp_rcpt = accept", "acl_smtp_data = accept",
		"domainlist nowhere =", "log_selector = +all",
	}
	if w.Cert.PrivateKey != nil {
		lines = append(lines, "tls_certificate = /etc/peer/own.crt", "tls_privatekey = /etc/peer/own.key")
	}
	lines = append(lines, "begin routers", "next:", " driver = manualroute", " domains = !+nowhere",
		fmt.Sprintf(" route_list = * %s::%d byname", next, w.Next), " self = send", " transport = next",
		"begin transports", "next:", " driver = smtp", " hosts_try_chunking = *", " message_linelength_limit = 100000")
	for _, t := range transport {
		lines = append(lines, " "+t)
	}
	lines = append(lines, "begin retry", "* * F,1h,10s")
	etc["exim4/exim4.conf"] = strings.Join(lines, "\n") + "\n"
	return start(ctx, spec{layer: l, dir: dir, etc: etc, ports: w.ports(),
		start: "chown Debian-exim:Debian-exim /data/spool /data/lib /etc/peer/* 2>/dev/null\nchown root /etc/exim4/exim4.conf\nchmod 755 /data\nexec exim4 -bdf -q5s\n"})
}
