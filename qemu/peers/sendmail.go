package peers

import (
	"context"
	"fmt"
	"strings"
)

// Sendmail runs Debian's sendmail in dir. It has no implicit TLS as a client:
// Way must not be ImplicitTLS.
func Sendmail(ctx context.Context, dir string, w Wiring) (*Process, error) {
	l, err := Fetch(ctx, "sendmail-bin")
	if err != nil {
		return nil, err
	}
	etc, err := w.files()
	if err != nil {
		return nil, err
	}
	mc := []string{
		"include(`/usr/share/sendmail/cf/m4/cf.m4')", "OSTYPE(`linux')",
		"define(`confDOMAIN_NAME', `" + w.Host + "')", "define(`confCACERT', `/etc/peer/all.pem')", "define(`confCACERT_PATH', `/etc/peer')",
		"define(`confCLIENT_CERT', `/etc/peer/token.crt')", "define(`confCLIENT_KEY', `/etc/peer/token.key')",
		"define(`QUEUE_DIR', `/data/spool')", "define(`confPID_FILE', `/data/lib/pid')", "define(`STATUS_FILE', `/data/lib/statistics')",
		"define(`confTO_IDENT', `0')", "define(`confTO_QUEUERETURN', `1h')", "define(`confMIN_QUEUE_AGE', `1s')", "define(`confMAX_MESSAGE_SIZE', `80000000')",
		"define(`confSERVICE_SWITCH_FILE', `/etc/mail/service.switch-files')", "define(`ALIAS_FILE', `')", "define(`confDONT_PROBE_INTERFACES', `True')",
		"define(`confTRUSTED_USER', `smmta')", "define(`confQUEUE_LA', `1000')", "define(`confREFUSE_LA', `1000')", "define(`confDELAY_LA', `0')",
		"define(`confLOG_LEVEL', `14')", "define(`confBIND_OPTS', `-DNSRCH -DEFNAMES')", "define(`confBAD_RCPT_THROTTLE', `0')",
		"FEATURE(`promiscuous_relay')", "FEATURE(`accept_unresolvable_domains')", "FEATURE(`accept_unqualified_senders')", "FEATURE(`nocanonify')", "FEATURE(`no_default_msa')",
		fmt.Sprintf("define(`RELAY_MAILER_ARGS', `TCP $h %d')", w.Next), "define(`SMART_HOST', `relay:[127.0.0.1]')",
	}
	if w.Cert.PrivateKey != nil {
		mc = append(mc, "define(`confSERVER_CERT', `/etc/peer/own.crt')", "define(`confSERVER_KEY', `/etc/peer/own.key')")
	}
	for _, p := range []struct {
		port      int
		name, how string
	}{{w.Implicit, "implicit", "s"}, {w.StartTLS, "starttls", "E"}, {w.Plain, "plain", "S"}} {
		if p.port != 0 {
			mc = append(mc, fmt.Sprintf("DAEMON_OPTIONS(`Port=%d, Addr=127.0.0.1, Name=%s, M=%s')", p.port, p.name, p.how))
		}
	}
	mc = append(mc, "MAILER(`smtp')")
	etc["mail/peer.mc"] = strings.Join(mc, "\n") + "\n"
	etc["mail/service.switch-files"] = "hosts files\naliases files\npasswd files\n"
	return start(ctx, spec{layer: l, dir: dir, etc: etc, ports: w.ports(), syslog: true,
		start: "cd /usr/share/sendmail/cf/cf\nm4 -D_CF_DIR_=/usr/share/sendmail/cf/ /etc/mail/peer.mc >/etc/mail/sendmail.cf || exit 1\n" +
			"chmod 700 /data/spool\nchmod 755 /data\n: >/data/lib/statistics\nexec /usr/libexec/sendmail/sendmail -bD -q5s -C /etc/mail/sendmail.cf\n"})
}
