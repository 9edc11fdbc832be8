"""What OpenSSL accepts in nginx and HAProxy, beside Remora: the rows of docs/compatibility.md on TLS that can be measured.

Each is asked the same by `openssl s_client`, and an answer is a CONNACK from the node behind.
"""

import os
import socket
import subprocess
from pathlib import Path

from packets import connect
from process import Process, free_port, wait_until

CONNACK = b"\x20\x02\0\0"

OLD = ("-cipher", "ALL:@SECLEVEL=0")

# What a client does, and whether Remora, nginx and HAProxy of Debian 12 serve it with the settings that they have by default.
HANDSHAKES = {
    "TLS 1.2": (("-tls1_2",), (True, True, True)),
    # nginx has it by default since 1.23.4.
    "TLS 1.3": (("-tls1_3",), (True, False, True)),
    "TLS 1.1": (("-tls1_1", *OLD), (False, False, False)),
    "RSA key exchange": (("-tls1_2", "-cipher", "AES128-GCM-SHA256"), (False, True, False)),
    "CBC": (("-tls1_2", "-cipher", "ECDHE-RSA-AES128-SHA256"), (False, True, False)),
    "DHE": (("-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256"), (False, False, False)),
    "Camellia": (("-tls1_2", "-cipher", "ECDHE-RSA-CAMELLIA128-SHA256"), (False, True, False)),
    "CCM": (("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-CCM"), (False, True, False)),
    "SHA-1 only": (("-tls1_2", "-sigalgs", "ECDSA+SHA1:RSA+SHA1", *OLD), (False, False, False)),
    "a server name that no host can have": (("-servername", "broker:8883"), (True, True, True)),
    "the same after a HelloRetryRequest": (("-servername", "broker:8883", "-tls1_3", "-groups", "X448:P-256"), (True, False, True)),
    "a server name of no certificate": (("-servername", "other.example"), (True, True, True)),
    "ALPN without mqtt": (("-alpn", "other"), (True, True, True)),
}

# Certificates, and the same with and without a list of revoked ones of the authority.
SHOWN = {
    "version 3": ((True, True, True), (True, True, True)),
    "version 1": ((True, True, True), (True, True, True)),
    "version 1, revoked": ((True, True, True), (False, False, False)),
    "self-signed and trusted": ((True, True, True), (False, False, False)),
    "keyUsage without digitalSignature": ((True, False, False), (True, False, False)),
    "RSA of 1024 bits": ((False, False, False), (False, False, False)),
    "P-521": ((False, True, True), (False, True, True)),
    "of an authority in the file without its root": ((True, False, False), (False, False, False)),
    "two authorities between": ((True, False, True), (False, False, False)),
    "one authority between": ((True, True, True), (False, False, False)),
}


def tls_is_measured_beside_nginx_and_haproxy(lab):
    """Old suites, odd names and odd certificates: who is served by Remora, by nginx and by HAProxy."""
    site = _Site(lab)
    found = {}
    for name, (options, expected) in HANDSHAKES.items():
        found[name] = (tuple(_is_served(ports["open"], options) for ports in site.ports), expected)
    for name, expected in SHOWN.items():
        chain, key, more = site.shown[name]
        options = ("-cert", chain, "-key", key, *(("-cert_chain", more) if more else ()))
        for listener, listener_expected in zip(("asking", "with a list"), expected):
            served = tuple(_is_served(ports[listener], options) for ports in site.ports)
            found[f"{name}, {listener}"] = (served, listener_expected)
    expired = ("-cert", site.shown["version 3"][0], "-key", site.shown["version 3"][1])
    served = tuple(_is_served(ports["with an expired list"], expired) for ports in site.ports)
    found["an expired list"] = (served, (True, False, False))
    print("\n".join(f"    {name}: {served}" for name, (served, _) in found.items()))
    wrong = {name: f"{served}, not {expected}" for name, (served, expected) in found.items() if served != expected}
    assert not wrong, wrong


class _Site:
    """The three balancers with the same certificates, each with listeners that ask for none, for some, and with lists."""

    def __init__(self, lab):
        self.lab, self.folder = lab, Path(lab.folder)
        authority = lab.authority()
        self.ecdsa = authority.server()
        self.rsa = authority.issue("rsa-server", "-newkey", "rsa:2048", extensions="subjectAltName=DNS:localhost")
        self.shown = _certificates(authority, self.folder)
        revoked = authority.revoke(self.shown["version 1, revoked"][0])
        expired = authority.revoke(hours=0)
        self.listeners = {"open": None, "asking": (authority.ca, None)}
        self.listeners |= {"with a list": (authority.ca, revoked), "with an expired list": (authority.ca, expired)}
        self.broker = lab.mosquitto("mosquitto1")
        self.ports = [self._remora(), self._nginx(), self._haproxy()]

    def _started(self, name, command, ports):
        process = Process(name, command, self.folder)
        for port in ports.values():
            wait_until(lambda: process.running() and _listens(port), f"{name} to listen")
        return ports

    def _remora(self):
        ports = {name: free_port() for name in self.listeners}
        tables = [f'[[nodes]]\nname = "node1"\naddress = "127.0.0.1:{self.broker.port}"\n']
        pairs = ", ".join(f'{{ chain = "{chain}", key = "{key}" }}' for chain, key in (self.ecdsa, self.rsa))
        for name, port in ports.items():
            tables.append(f'[[listeners]]\naddress = "127.0.0.1:{port}"\ntls = "end"\ncertificates = [{pairs}]\n')
            if self.listeners[name]:
                ca, revoked = self.listeners[name]
                tables.append(f'client_certificates = "required"\nclient_ca = "{ca}"\n')
                tables.append(f'client_crl = "{revoked}"\n' if revoked else "")
        configuration = self.folder / "beside.toml"
        configuration.write_text("".join(tables))
        return self._started("remora", [os.environ["REMORA_BIN"], "run", "-c", configuration], ports)

    def _nginx(self):
        ports = {name: free_port() for name in self.listeners}
        servers = ""
        for name, port in ports.items():
            servers += f"server {{ listen 127.0.0.1:{port} ssl; proxy_pass 127.0.0.1:{self.broker.port};\n"
            servers += "".join(f"ssl_certificate {chain}; ssl_certificate_key {key};\n" for chain, key in (self.ecdsa, self.rsa))
            if self.listeners[name]:
                ca, revoked = self.listeners[name]
                servers += f"ssl_verify_client on; ssl_client_certificate {ca};\n"
                servers += f"ssl_crl {revoked};\n" if revoked else ""
            servers += "}\n"
        configuration = self.folder / "nginx.conf"
        configuration.write_text(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n"
            f"daemon off; master_process off; pid {self.folder}/nginx.pid; error_log stderr info;\n"
            f"events {{}}\nstream {{\n{servers}}}\n"
        )
        return self._started("nginx", ["nginx", "-e", "stderr", "-c", configuration], ports)

    def _haproxy(self):
        ports = {name: free_port() for name in self.listeners}
        bundle = self.folder / "bundle.pem"
        for kind, (chain, key) in (("ecdsa", self.ecdsa), ("rsa", self.rsa)):
            Path(f"{bundle}.{kind}").write_text(chain.read_text() + key.read_text())
        binds = ""
        for name, port in ports.items():
            binds += f"  bind 127.0.0.1:{port} ssl crt {bundle}"
            if self.listeners[name]:
                ca, revoked = self.listeners[name]
                binds += f" verify required ca-file {ca}" + (f" crl-file {revoked}" if revoked else "")
            binds += "\n"
        configuration = self.folder / "beside.cfg"
        configuration.write_text(
            "global\n  maxconn 1000\ndefaults\n  mode tcp\n  timeout connect 3s\n  timeout client 1m\n  timeout server 1m\n"
            f"frontend mqtt\n{binds}  default_backend nodes\nbackend nodes\n  server node1 127.0.0.1:{self.broker.port}\n"
        )
        return self._started("haproxy", ["haproxy", "-db", "-f", configuration], ports)


def _certificates(authority, folder):
    """What clients show: a certificate, its key, and what goes with it."""
    issuing = "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign,cRLSign"
    first = authority.issue("first", extensions=issuing)
    second = authority.issue("second", extensions=issuing, issuer=first)
    between = folder / "between.pem"
    between.write_text(second[0].read_text() + first[0].read_text())
    shown = {
        "version 3": (*authority.client("new"), None),
        "version 1": (*authority.old_client("old"), None),
        "version 1, revoked": (*authority.old_client("gone"), None),
        "keyUsage without digitalSignature": (
            *authority.issue("mute", "-newkey", "rsa:2048", extensions="keyUsage=keyEncipherment\nextendedKeyUsage=clientAuth"), None
        ),
        "RSA of 1024 bits": (*authority.issue("short", "-newkey", "rsa:1024"), None),
        "P-521": (*authority.issue("p521", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp521r1"), None),
        "one authority between": (*authority.issue("one-between", issuer=first), first[0]),
        "two authorities between": (*authority.issue("two-between", issuer=second), between),
    }
    shown["self-signed and trusted"] = (*authority.trusted_client("own"), None)
    # An authority whose own root is not in the file.
    root = type(authority)(folder, "root")
    middle = root.issue("middle", extensions=issuing)
    with authority.ca.open("a") as trusted:
        trusted.write(middle[0].read_text())
    shown["of an authority in the file without its root"] = (*root.issue("rootless", issuer=middle), None)
    return shown


def _is_served(port, options):
    words = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-quiet", "-ign_eof", *map(str, options)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        try:
            child.stdin.write(connect("measured"))
            child.stdin.flush()
        except BrokenPipeError:
            pass
        answer = child.stdout.read(len(CONNACK))
        child.kill()
    return answer == CONNACK


def _listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
