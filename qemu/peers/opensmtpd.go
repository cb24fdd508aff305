package peers

import (
	"context"
	"fmt"
	"strings"
)

// OpenSMTPD runs Debian's opensmtpd in dir.
func OpenSMTPD(ctx context.Context, dir string, w Wiring) (*Process, error) {
	l, err := Fetch(ctx, "opensmtpd")
	if err != nil {
		return nil, err
	}
	etc, err := w.files()
	if err != nil {
		return nil, err
	}
	lines := []string{"smtp max-message-size 80M", "queue ttl 1h"}
	if w.Cert.PrivateKey != nil {
		lines = append(lines, `pki own cert "/etc/peer/own.crt"`, `pki own key "/etc/peer/own.key"`, `ca clients cert "/etc/peer/clients.pem"`)
	}
	if w.Token.PrivateKey != nil {
		lines = append(lines, `pki token cert "/etc/peer/token.crt"`, `pki token key "/etc/peer/token.key"`, `ca next cert "/etc/peer/next.pem"`)
	}
	for _, p := range []struct {
		port int
		how  string
	}{{w.Implicit, "smtps verify pki own ca clients"}, {w.StartTLS, "tls pki own"}, {w.Plain, ""}} {
		if p.port != 0 {
			lines = append(lines, fmt.Sprintf("listen on 127.0.0.1 port %d %s hostname %s", p.port, p.how, w.Host))
		}
	}
	relay := fmt.Sprintf(`host "smtp+notls://127.0.0.1:%d"`, w.Next)
	switch w.Way {
	case StartTLS:
		relay = fmt.Sprintf(`host "smtp+tls://%s:%d" pki token ca next tls`, w.NextName, w.Next)
	case ImplicitTLS:
		relay = fmt.Sprintf(`host "smtps://%s:%d" pki token ca next tls`, w.NextName, w.Next)
	}
	lines = append(lines, `action next relay `+relay+` helo "`+w.Host+`"`, "match from any for any action next")
	etc["smtpd.conf"] = strings.Join(lines, "\n") + "\n"
	etc["mailname"] = w.Host + "\n"
	return start(ctx, spec{layer: l, dir: dir, etc: etc, ports: w.ports(),
		// The queue's path is compiled in; its folder lies on the disk.
		start: "mkdir -p /var/lib/opensmtpd/empty /var/spool/smtpd /data/spool/smtpd\nmount --bind /data/spool/smtpd /var/spool/smtpd\nchmod 711 /var/spool/smtpd\n" +
			"chmod 600 /etc/smtpd.conf\nexec smtpd -d\n"})
}
