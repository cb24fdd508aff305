package peers

import (
	"context"
	"crypto/tls"
	"fmt"
	"strings"
)

// Wiring is how a server is connected to its neighbours. Every hop is TLS with
// certificates on both sides.
type Wiring struct {
	Host     string // its own name
	Cert     tls.Certificate
	Token    tls.Certificate // shown to the next hop; none: Cert
	ClientCA string          // PEM: whose clients may relay through it
	Listen   int             // port with implicit TLS, 0: none
	StartTLS int             // port with STARTTLS, 0: none

	// The next hop; Next 0 means that mail is stored in the inbox.
	Next     int
	NextName string // name in the next hop's certificate
	NextCA   string // PEM
	Implicit bool   // implicit TLS towards the next hop
}

func (w Wiring) ports() []int {
	var out []int
	for _, p := range []int{w.Listen, w.StartTLS} {
		if p != 0 {
			out = append(out, p)
		}
	}
	return out
}

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
virtual   unix  -       n       n       -       -       virtual
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
	pem, err := EncodePEM(w.Cert)
	if err != nil {
		return nil, err
	}
	token := pem
	if w.Token.PrivateKey != nil {
		if token, err = EncodePEM(w.Token); err != nil {
			return nil, err
		}
	}
	master := postfixMaster
	if w.Listen != 0 {
		master += fmt.Sprintf("127.0.0.1:%d inet n - n - - smtpd -o smtpd_tls_wrappermode=yes\n", w.Listen)
	}
	if w.StartTLS != 0 {
		master += fmt.Sprintf("127.0.0.1:%d inet n - n - - smtpd\n", w.StartTLS)
	}
	main := []string{
		"compatibility_level = 3.6",
		"queue_directory = /data/spool", "data_directory = /data/lib", "command_directory = /usr/sbin", "daemon_directory = /usr/lib/postfix/sbin",
		"mail_owner = postfix", "setgid_group = postdrop", "inet_interfaces = 127.0.0.1", "inet_protocols = ipv4",
		"myhostname = " + w.Host, "mydestination =", "mynetworks =", "alias_maps =", "local_recipient_maps =", "append_dot_mydomain = no", "biff = no",
		"message_size_limit = 80000000", "mailbox_size_limit = 0", "virtual_mailbox_limit = 0",
		// no name service: neither for peers nor for next hops
		"smtpd_peername_lookup = no", "smtp_dns_support_level = disabled", "smtp_host_lookup = native",
		// TLS on both sides, P-256 as with Pforte
		"smtpd_tls_chain_files = /etc/peer/own.pem", "smtpd_tls_CAfile = /etc/peer/clients.pem", "smtpd_tls_security_level = encrypt",
		"smtpd_tls_ask_ccert = yes", "smtpd_tls_req_ccert = yes", "smtpd_relay_restrictions = permit_tls_all_clientcerts, reject",
		"smtpd_tls_mandatory_protocols = >=TLSv1.2", "smtp_tls_mandatory_protocols = >=TLSv1.2", "tls_eecdh_auto_curves = prime256v1",
		"smtp_tls_chain_files = /etc/peer/token.pem", "smtp_tls_CAfile = /etc/peer/next.pem", "smtp_tls_security_level = secure",
		"smtp_tls_secure_cert_match = " + w.NextName, "smtp_tls_session_cache_database = btree:${data_directory}/smtp_scache", // as Debian sets it
	}
	if w.Next != 0 {
		main = append(main, fmt.Sprintf("relayhost = [127.0.0.1]:%d", w.Next), "smtp_tls_wrappermode = "+yes(w.Implicit))
	} else {
		main = append(main, "virtual_mailbox_domains = static:all", "virtual_mailbox_maps = static:inbox/", "virtual_mailbox_base = /data",
			fmt.Sprintf("virtual_uid_maps = static:%d", inboxUID), fmt.Sprintf("virtual_gid_maps = static:%d", inboxUID))
	}
	return start(ctx, spec{layer: l, dir: dir, ports: w.ports(),
		etc: map[string]string{"postfix/main.cf": strings.Join(append(main, extra...), "\n") + "\n", "postfix/master.cf": master,
			"peer/own.pem": pem, "peer/token.pem": token, "peer/clients.pem": w.ClientCA, "peer/next.pem": w.NextCA},
		start: "chown root:root /data/spool /data/etc && chown postfix /data/lib && chmod 600 /etc/peer/own.pem\n" +
			"postfix set-permissions create-missing 2>/dev/null || true\nexec postfix start-fg\n"})
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
