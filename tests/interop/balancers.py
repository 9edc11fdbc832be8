"""The balancer under test, and another one to try the cases on."""

import os
import re
import signal
import socket
import urllib.request
from pathlib import Path

from process import Process, free_port, wait_until


class Remora:
    """`remora run` with the listener and the nodes it is given, and defaults for the rest.

    With an authority, it has listeners with TLS too, whose certificate is one of that authority's; clients must show one
    too where it `demands` that. Nodes with TLS are believed by the same authority.
    """

    def __init__(self, nodes, folder, proxy_protocol_from=(), authority=None, demands=False):
        self.folder = folder
        self.proxy_protocol_from = list(proxy_protocol_from)
        self.port = free_port()
        self.ws_port = free_port()
        self.admin = free_port()
        self.authority = authority
        self.demands = demands
        if authority:
            self.tls_port, self.wss_port = free_port(), free_port()
            self.chain, self.key = authority.server()
        self.configure(nodes)
        self.start()

    def configure(self, nodes):
        """Writes the configuration; the next start reads it."""
        tables = [f'[admin]\naddress = "127.0.0.1:{self.admin}"\n']
        # Every end is looked for in the log.
        tables += ["[log]\nunrouted_rate = 1000000\n"]
        introduced = f"proxy_protocol_from = {self.proxy_protocol_from}\n"
        tables += [f'[[listeners]]\naddress = "127.0.0.1:{self.port}"\n{introduced}']
        tables += [f'[[listeners]]\naddress = "127.0.0.1:{self.ws_port}"\ntransport = "ws"\n{introduced}']
        if self.authority:
            tls = f'tls = "end"\ncertificates = [{{ chain = "{self.chain}", key = "{self.key}" }}]\n'
            if self.demands:
                tls += f'client_certificates = "required"\nclient_ca = "{self.authority.ca}"\n'
            tables += [f'[[listeners]]\naddress = "127.0.0.1:{self.tls_port}"\n{tls}']
            tables += [f'[[listeners]]\naddress = "127.0.0.1:{self.wss_port}"\ntransport = "ws"\n{tls}']
            chain, key = self.authority.client("remora")
            shown = f'{{ chain = "{chain}", key = "{key}" }}'
            tables += [f'[nodes_tls]\nca = "{self.authority.ca}"\ncertificate = {shown}\n']
        for node in nodes:
            address = f"127.0.0.1:{node.port}"
            if getattr(node, "tls_port", None):
                address = f"mqtts://127.0.0.1:{node.tls_port}"
            table = f'[[nodes]]\nname = "{node.name}"\naddress = "{address}"\n'
            if getattr(node, "server_name", None):
                table += f'server_name = "{node.server_name}"\n'
            if getattr(node, "wss_port", None):
                table += f'ws = "wss://127.0.0.1:{node.wss_port}"\n'
            elif getattr(node, "ws_port", None):
                table += f'ws = "127.0.0.1:{node.ws_port}"\n'
            if getattr(node, "proxy_protocol", None):
                table += f'proxy_protocol = "{node.proxy_protocol}"\n'
                if getattr(node, "ws_port", None):
                    table += f'ws_proxy_protocol = "{node.proxy_protocol}"\n'
            tables.append(table)
        (Path(self.folder) / "remora.toml").write_text("\n".join(tables))

    def start(self):
        self.process = Process("remora", [os.environ["REMORA_BIN"], "run", "-c", "remora.toml"], self.folder)
        wait_until(lambda: _accepts(self), "remora to listen")

    def metrics(self, accept):
        """What it answers to a scrape."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.admin}/metrics", headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.read()

    def ended(self, cause):
        """How many connections have ended with this cause, lines or none."""
        found = re.search(rf'^remora_ends_total{{cause="{cause}"}} (\d+)', self.metrics("text/plain").decode(), re.MULTILINE)
        return int(found.group(1))

    def reload(self):
        """Makes it read its configuration and certificates again, and waits until it has."""
        reloads = self.process.output().count("configuration reloaded")
        self.process.child.send_signal(signal.SIGHUP)
        wait_until(lambda: self.process.output().count("configuration reloaded") > reloads, "a reload")

    def causes(self):
        """Why connections ended, in the order of their ends, in the balancer's own words."""
        return re.findall(r'cause="(\w+)"', self.process.output())

    def ends(self):
        """The lines on connections that have ended, as dictionaries."""
        lines = [line for line in self.process.output().splitlines() if "connection ended" in line]
        return [{key: value.strip('"') for key, value in re.findall(r'(\w+)=("[^"]*"|\S*)', line)} for line in lines]

    def warnings(self):
        """The lines that an operator should look at."""
        return re.findall(r"^.*\b(?:WARN|ERROR)\b.*$", self.process.output(), re.MULTILINE)

    def stop(self):
        """Ends it as a service manager would; a balancer that crashed, complained or hung fails the case."""
        assert self.process.running(), f"remora ended by itself with {self.process.child.returncode}"
        status = self.process.stop()
        assert status == 0, f"remora ended with {status} when it was asked to end"
        assert "panicked" not in self.process.output(), "remora panicked"


class HAProxy:
    """HAProxy, sticky by client id, set up as well as it can be: what it fails is what it cannot do."""

    def __init__(self, nodes, folder):
        self.folder = folder
        self.port = free_port()
        self.configure(nodes)
        self.start()

    def configure(self, nodes):
        """Writes the configuration; the next start reads it."""
        # HAProxy places a server on its ring by its id, so that the order of the list does not matter to it either.
        servers = [
            f"  server {node.name} 127.0.0.1:{node.port} weight 100 id {int(node.name[-1])} check inter 500ms fall 2 rise 1"
            for node in nodes
        ]
        (Path(self.folder) / "haproxy.cfg").write_text(
            "global\n  maxconn 1000\n  nbthread 2\n  log stdout format raw local0\n"
            "defaults\n  mode tcp\n  log global\n  option tcplog\n  option redispatch 1\n  retries 2\n"
            "  timeout connect 3s\n  timeout client 30m\n  timeout server 30m\n"
            f"frontend mqtt\n  bind 127.0.0.1:{self.port}\n"
            "  tcp-request inspect-delay 5s\n"
            "  tcp-request content reject unless { req.payload(0,0),mqtt_is_valid }\n"
            "  tcp-request content set-var(txn.cid) req.payload(0,0),mqtt_field_value(connect,client_identifier)\n"
            "  default_backend nodes\n"
            "backend nodes\n  balance hash var(txn.cid)\n  hash-type consistent crc32 avalanche\n"
            + "\n".join(servers)
            + "\n"
        )

    def start(self):
        self.process = Process("haproxy", ["haproxy", "-db", "-f", "haproxy.cfg"], self.folder)
        wait_until(lambda: _accepts(self), "haproxy to listen")

    def causes(self):
        """Why connections ended: the two letters that HAProxy has for it."""
        return re.findall(r" (\S\S) \d+/\d+/\d+/\d+/\d+ ", self.process.output())

    def stop(self):
        self.process.stop()


class SendingHAProxy:
    """A HAProxy that stands before the balancer under test and knows nothing of MQTT; it looks whether that is there, too."""

    def __init__(self, port, options, folder, certificates=None):
        self.port = free_port()
        bind = f"127.0.0.1:{self.port}"
        if certificates:
            bind += f" ssl crt {certificates / 'server.pem'} ca-file {certificates / 'ca.crt'} verify optional"
        configuration = Path(folder) / f"before-{self.port}.cfg"
        configuration.write_text(
            "global\n  maxconn 5000\n  log stdout format raw local0\n"
            "defaults\n  mode tcp\n  log global\n  timeout connect 3s\n  timeout client 1m\n  timeout server 1m\n"
            f"frontend clients\n  bind {bind}\n  default_backend balancer\n"
            f"backend balancer\n  server remora 127.0.0.1:{port} {options} check inter 100ms\n"
        )
        self.process = Process(f"before-{self.port}", ["haproxy", "-db", "-f", configuration], folder)
        wait_until(lambda: _accepts(self), "the HAProxy in front to listen")


def _accepts(balancer):
    assert balancer.process.running(), f"{balancer.process.name} ended at its start:\n{balancer.process.output()}"
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", balancer.port)) == 0


BALANCERS = {"remora": Remora, "haproxy": HAProxy}
