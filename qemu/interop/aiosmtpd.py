# A mail server on three ports that passes on what it takes, byte by byte.
# Arguments: own.pem clients.pem plain starttls implicit next
import socket
import ssl
import sys

from aiosmtpd.controller import Controller

own, clients = sys.argv[1:3]
plain, starttls, implicit, next_hop = map(int, sys.argv[3:7])


class Forward:
    async def handle_DATA(self, server, session, envelope):
        with socket.create_connection(("127.0.0.1", next_hop)) as s:
            f = s.makefile("rwb")

            def say(line):
                if line is not None:
                    f.write(line)
                    f.flush()
                while True:
                    answer = f.readline()
                    if answer[3:4] != b"-":
                        break
                if answer[:1] not in (b"2", b"3"):
                    raise RuntimeError(answer)

            def options(o):
                return "".join(" " + x for x in o)

            say(None)
            say(b"EHLO aiosmtpd.example\r\n")
            sender = "" if envelope.mail_from == "<>" else envelope.mail_from
            say(("MAIL FROM:<%s>%s\r\n" % (sender, options(envelope.mail_options))).encode())
            for r in envelope.rcpt_tos:
                say(("RCPT TO:<%s>%s\r\n" % (r, options(envelope.rcpt_options))).encode())
            say(b"DATA\r\n")
            body = b"\r\n" + envelope.content
            say(body.replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n")
        return "250 2.0.0 taken"


def context(verify):
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    c.load_cert_chain(own)
    if verify:
        c.verify_mode = ssl.CERT_REQUIRED
        c.load_verify_locations(clients)
    return c


common = dict(hostname="127.0.0.1", data_size_limit=80_000_000, enable_SMTPUTF8=True)
servers = [
    Controller(Forward(), port=plain, **common),
    Controller(Forward(), port=starttls, tls_context=context(False), require_starttls=True, **common),
    Controller(Forward(), port=implicit, ssl_context=context(True), server_hostname="aiosmtpd.example", **common),
]
for s in servers[:2]:
    s.start()
try:
    servers[2].start()
except Exception:  # it tries itself without a client certificate, and is served all the same
    pass
sys.stdin.read()
