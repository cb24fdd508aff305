package peers

import (
	"context"
	"fmt"
	"strings"
)

// postfixMaster are Debian's services with no chroot of their own, without those
// that local mail would need.
const postfixMaster = `pickup    unix  n       -       n       60      1       pickup
cleanup   unix  n       -       n       -       0       cleanup
qmgr      unix  n       -       n       300     1       qmgr
tlsmgr    unix  -       -       n       1000?   1       tlsmgr
rewrite   unix  -       -       n       -       -       trivial-rewrite
bounce    unix  -       -       n       -       0       bounce
defer     unix  -       -       n       -       0       bounce
trace     unix  -       -       n       -       0       bounce
verify    unix  -       -       n       -       1       verify
flush     unix  n       -       n       1000?   0       flush
proxymap  unix  -       -       n       -       -       proxymap
proxywrite unix -       -       n       -       1       proxymap
smtp      unix  -       -       n       -       -       smtp
relay     unix  -       -       n       -       -       smtp
showq     unix  n       -       n       -       -       showq
error     unix  -       -       n       -       -       error
retry     unix  -       -       n       -       -       error
discard   unix  -       -       n       -       -       discard
anvil     unix  -       -       n       -       1       anvil
scache    unix  -       -       n       -       1       scache
tlsproxy  unix  -       -       n       -       0       tlsproxy
postlog   unix-dgram n  -       n       -       1       postlogd
`

// Postfix runs Debian's Postfix in dir. extra are more lines of main.cf.
func Postfix(ctx context.Context, dir string, w Wiring, extra ...string) (*Process, error) {
	l, err := Fetch(ctx, "postfix")
	if err != nil {
		return nil, err
	}
	etc, err := w.files()
	if err != nil {
		return nil, err
	}
	master := postfixMaster
	if w.Implicit != 0 {
		master += fmt.Sprintf("127.0.0.1:%d inet n - n - - smtpd -o smtpd_tls_wrappermode=yes\n", w.Implicit)
	}
	if w.StartTLS != 0 {
		master += fmt.Sprintf("127.0.0.1:%d inet n - n - - smtpd -o smtpd_tls_req_ccert=no -o smtpd_relay_restrictions=permit_mynetworks,reject\n", w.StartTLS)
	}
	if w.Plain != 0 {
		master += fmt.Sprintf("127.0.0.1:%d inet n - n - - smtpd -o smtpd_tls_security_level=none -o smtpd_tls_req_ccert=no -o smtpd_relay_restrictions=permit_mynetworks,reject\n", w.Plain)
	}
	security := "secure"
	if w.Way == NoTLS {
		security = "none"
	}
	main := []string{
		"compatibility_level = 3.6",
		"queue_directory = /data/spool", "data_directory = /data/lib", "command_directory = /usr/sbin", "daemon_directory = /usr/lib/postfix/sbin",
		"mail_owner = postfix", "setgid_group = postdrop", "inet_interfaces = 127.0.0.1", "inet_protocols = ipv4",
		"myhostname = " + w.Host, "mydestination =", "mynetworks = 127.0.0.0/8", "alias_maps =", "local_recipient_maps =", "append_dot_mydomain = no", "biff = no",
		"message_size_limit = 80000000", "mailbox_size_limit = 0",
		// no name service: neither for peers nor for next hops
		"smtpd_peername_lookup = no", "smtp_dns_support_level = disabled", "smtp_host_lookup = native",
		// TLS on both sides, P-256 as with Pforte
		"smtpd_tls_chain_files = /etc/peer/own.key, /etc/peer/own.crt", "smtpd_tls_CAfile = /etc/peer/clients.pem", "smtpd_tls_security_level = encrypt",
		"smtpd_tls_ask_ccert = yes", "smtpd_tls_req_ccert = yes", "smtpd_relay_restrictions = permit_tls_all_clientcerts, reject",
		"smtpd_tls_mandatory_protocols = >=TLSv1.2", "smtp_tls_mandatory_protocols = >=TLSv1.2", "tls_eecdh_auto_curves = prime256v1",
		"smtp_tls_chain_files = /etc/peer/token.key, /etc/peer/token.crt", "smtp_tls_CAfile = /etc/peer/next.pem", "smtp_tls_security_level = " + security,
		"smtp_tls_session_cache_database = btree:${data_directory}/smtp_scache", // as Debian sets it
	}
	if w.Way != NoTLS {
		main = append(main, "smtp_tls_secure_cert_match = "+w.NextName)
	}
	main = append(main, fmt.Sprintf("relayhost = [127.0.0.1]:%d", w.Next), "smtp_tls_wrappermode = "+yes(w.Way == ImplicitTLS))
	etc["postfix/main.cf"], etc["postfix/master.cf"] = strings.Join(append(main, extra...), "\n")+"\n", master
	return start(ctx, spec{layer: l, dir: dir, ports: w.ports(),
		etc: etc,
		start: "chown root:root /data/spool /data/etc && chown postfix /data/lib\n" +
			"postfix set-permissions create-missing 2>/dev/null || true\nexec postfix start-fg\n"})
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
