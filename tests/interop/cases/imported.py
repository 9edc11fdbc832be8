"""`remora import` beside the original: nginx or HAProxy serves some clients, and then Remora with the imported configuration, at the same
addresses. Both must give the same answers, and nodes must see the same clients."""

import base64
import hashlib
import os
import socket
import ssl
import struct
import subprocess
import threading
from pathlib import Path

from packets import connect
from process import Process, free_port, wait_until

CONNACK = b"\x20\x02\0\0"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"

# What an upstream proxy says of its client.
SAID = b"PROXY TCP4 192.0.2.7 192.0.2.1 4000 1883\r\n"

NGINX = "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\ndaemon off;\nmaster_process off;\nerror_log stderr;\nevents {}\n"
NGINX_WITH_SCRIPTS = NGINX.replace("daemon", "load_module /usr/lib/nginx/modules/ngx_stream_js_module.so;\ndaemon", 1)
HAPROXY = "defaults\n  timeout connect 3s\n  timeout client 30s\n  timeout server 30s\n"


def nginx_with_proxy_headers(lab):
    """stream, with PROXY headers to the nodes: clients come from several addresses."""
    site = _Site(lab)
    text = f"stream {{ upstream e {{ {site.nginx_servers} }} server {{ listen {site.at}; proxy_pass e; proxy_protocol on; }} }}"
    site.compare(NGINX + text, [dict(source=f"127.0.0.{number}") for number in (1, 2, 3)])


def nginx_with_client_certificates(lab):
    """TLS that ends at the balancer, for clients with a certificate and for one without."""
    site = _Site(lab)
    text = f"""stream {{ upstream e {{ {site.nginx_servers} }} server {{
        listen {site.at} ssl; proxy_pass e; proxy_protocol on; ssl_protocols TLSv1.2 TLSv1.3;
        ssl_certificate {site.chain}; ssl_certificate_key {site.key};
        ssl_client_certificate {site.authority.ca}; ssl_verify_client on; }} }}"""
    site.compare(NGINX + text, [dict(tls=True, shown=site.client), dict(tls=True), dict()])


def nginx_with_networks(lab):
    """Rules on addresses: one is denied, one network allowed, everything else refused."""
    site = _Site(lab)
    text = f"""stream {{ upstream e {{ {site.nginx_servers} }} server {{
        listen {site.at}; proxy_pass e; proxy_protocol on; deny 127.0.1.1; allow 127.0.1.0/24; deny all; }} }}"""
    site.compare(NGINX + text, [dict(source=source) for source in ("127.0.1.1", "127.0.1.2", "127.0.2.1")])


def nginx_with_a_limit_for_each_address(lab):
    """limit_conn: the third connection of an address is refused, and another address is not."""
    site = _Site(lab)
    text = f"""stream {{ limit_conn_zone $binary_remote_addr zone=a:1m; upstream e {{ {site.nginx_servers} }} server {{
        listen {site.at}; proxy_pass e; proxy_protocol on; limit_conn a 2; }} }}"""
    site.compare(NGINX + text, [dict(source=f"127.0.0.{number}") for number in (2, 2, 2, 3)])


def nginx_with_a_script(lab):
    """An njs script that reads the client id, which the upstream is hashed by: a client has one node, from whichever address it comes."""
    site = _Site(lab)
    script = Path(__file__).resolve().parents[3] / "benches" / "client_id.js"
    text = f"""stream {{ js_import mqtt from {script}; js_set $cid mqtt.id;
        upstream e {{ hash $cid consistent; {site.nginx_servers} }} server {{
        listen {site.at}; js_preread mqtt.preread; proxy_pass e; proxy_protocol on; }} }}"""
    ids = [f"sensor-{number}" for number in range(24)]
    clients = [dict(client_id=client_id, source=f"127.0.0.{host}") for host in (2, 3) for client_id in ids]
    site.compare(NGINX_WITH_SCRIPTS + text, clients + [dict(instead=b"GET / HTTP/1.1\r\n\r\n")], sticky=True)


def nginx_behind_a_proxy(lab):
    """PROXY headers come in: the address in them is the client's, and a connection without one is refused."""
    site = _Site(lab)
    text = f"""stream {{ upstream e {{ {site.nginx_servers} }} server {{
        listen {site.at} proxy_protocol; set_real_ip_from 127.0.0.0/8; proxy_pass e; proxy_protocol on; }} }}"""
    site.compare(NGINX + text, [dict(first=SAID), dict()])


def nginx_with_websocket(lab):
    """http, with another path at the node, and the client's address in X-Forwarded-For; other paths are refused."""
    site = _Site(lab)
    servers = site.nginx_servers
    text = f"""http {{ access_log off; upstream e {{ {servers} }} server {{ listen {site.at}; location = /ws {{
        proxy_pass http://e/mqtt; proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection upgrade; proxy_set_header X-Forwarded-For $remote_addr; }} }} }}"""
    site.compare(NGINX + text, [dict(path="/ws", source="127.0.0.5"), dict(path="/other")], websocket=True)


def haproxy_with_proxy_headers(lab):
    """mode tcp, sticky by client id, with PROXY headers of version 2."""
    site = _Site(lab)
    text = f"""frontend f\n  mode tcp\n  bind {site.at}\n  tcp-request inspect-delay 5s
  tcp-request content reject unless {{ req.payload(0,0),mqtt_is_valid }}\n  default_backend e
backend e\n  mode tcp\n  balance hash req.payload(0,0),mqtt_field_value(connect,client_identifier)
  hash-type consistent\n{site.haproxy_servers('send-proxy-v2')}"""
    site.compare(HAPROXY + text, [dict(source=f"127.0.0.{number}") for number in (1, 2, 3)] + [dict(instead=b"GET / HTTP/1.1\r\n\r\n")])


def haproxy_with_client_certificates(lab):
    """TLS that ends at the balancer by a file with chain and key; the certificate's common name goes to the node."""
    site = _Site(lab)
    bundle = Path(lab.folder) / "bundle.pem"
    bundle.write_text(site.chain.read_text() + site.key.read_text())
    text = f"""listen f\n  mode tcp\n  bind {site.at} ssl crt {bundle} ca-file {site.authority.ca} verify optional
{site.haproxy_servers('send-proxy-v2-ssl-cn')}"""
    site.compare(HAPROXY + text, [dict(tls=True, shown=site.client), dict(tls=True), dict()])


def haproxy_with_a_list_of_certificates(lab):
    """TLS by a crt-list with two certificates: each is shown for its own name."""
    site = _Site(lab)
    listed = []
    for name in ("localhost", "mqtt.example"):
        chain, key = site.authority.server(name)
        bundle = Path(lab.folder) / f"{name}.pem"
        bundle.write_text(chain.read_text() + key.read_text())
        listed.append(f"{bundle} [alpn mqtt] {name}")
    (Path(lab.folder) / "list.txt").write_text("# two\n\n" + "\n".join(listed) + "\n")
    text = f"listen f\n  mode tcp\n  bind {site.at} ssl crt-list list.txt\n{site.haproxy_servers('send-proxy-v2')}"
    site.compare(HAPROXY + text, [dict(tls=True), dict(tls=True, server_name="mqtt.example"), dict()])


def haproxy_with_networks(lab):
    """Rules on addresses by ACLs, and a limit for each address by a table."""
    site = _Site(lab)
    text = f"""listen f\n  mode tcp\n  bind {site.at}\n  acl inside src 127.0.1.0/24
  tcp-request connection reject if !inside\n  stick-table type ip size 1m store conn_cur
  tcp-request connection track-sc0 src\n  tcp-request connection reject if {{ sc_conn_cur(0) gt 2 }}
{site.haproxy_servers('send-proxy')}"""
    site.compare(HAPROXY + text, [dict(source=source) for source in ("127.0.2.1", "127.0.1.1", "127.0.1.1", "127.0.1.1", "127.0.1.2")])


def haproxy_with_websocket(lab):
    """mode http, by path, with the client's address in X-Forwarded-For; other paths are refused."""
    site = _Site(lab)
    text = f"""frontend f\n  mode http\n  bind {site.at}\n  option forwardfor\n  acl p path /mqtt
  http-request deny unless p\n  default_backend e\nbackend e\n  mode http\n  timeout tunnel 30s
{site.haproxy_servers('')}"""
    site.compare(HAPROXY + text, [dict(path="/mqtt", source="127.0.0.5"), dict(path="/other")], websocket=True)


class _Site:
    """Two nodes, an address for the balancer, and certificates."""

    def __init__(self, lab):
        self.folder = Path(lab.folder)
        self.nodes = [_Node("127.0.0.1"), _Node("127.0.0.2")]
        for node in self.nodes:
            lab.callback(node.close)
        self.port = free_port()
        self.at = f"127.0.0.1:{self.port}"
        self.authority = lab.authority()
        self.chain, self.key = self.authority.server()
        self.client = self.authority.client("gauge-7")
        self.nginx_servers = " ".join(f"server {node.host}:{node.port};" for node in self.nodes)

    def haproxy_servers(self, options):
        servers = (f"  server node{number} {node.host}:{node.port} {options}" for number, node in enumerate(self.nodes, start=1))
        return "\n".join(servers) + "\n"

    def compare(self, text, clients, websocket=False, sticky=False):
        """What the clients are told and the nodes see with the original, and with Remora in its place. `sticky`: an id has one node."""
        program = "nginx" if text.startswith("load_module") else "haproxy"
        original = self.folder / ("original.conf" if program == "nginx" else "original.cfg")
        original.write_text(text)
        command = ["nginx", "-e", "stderr", "-c", original] if program == "nginx" else ["haproxy", "-db", "-f", original]
        first = self._answers(Process(program, command, self.folder), clients, sticky)
        imported = subprocess.run([os.environ["REMORA_BIN"], "import", program, original.name], cwd=self.folder, capture_output=True, text=True)
        assert imported.returncode in (0, 2), imported.stderr
        toml = imported.stdout
        if websocket:
            # The nodes have nothing but WebSocket; Remora asks for MQTT's own address, and the import says so.
            assert "port 1883 is assumed" in imported.stderr, imported.stderr
            assert 'transport = "ws"' in toml, toml
            for node in self.nodes:
                toml = toml.replace(f"{node.host}:1883", f"{node.host}:{node.port}", 1)
        (self.folder / "imported.toml").write_text(toml + "\n[admin]\nenabled = false\n")
        process = Process("remora", [os.environ["REMORA_BIN"], "run", "-c", "imported.toml"], self.folder)
        second = self._answers(process, clients, sticky)
        print("\n".join(f"    {client}: {answer}" for client, answer in zip(clients, first)))
        assert first == second, f"{program}: {first}\nRemora: {second}"
        assert any(answer[0] == "accepted" for answer in first), first

    def _answers(self, process, clients, sticky):
        wait_until(lambda: process.running() and _listens(self.port), f"{process.name} to listen")
        for node in self.nodes:
            node.clear()
        open_sockets, answers = [], []
        for number, client in enumerate(clients):
            client_id = client.get("client_id", f"client-{number}")
            stream, answer = _visit(self.port, self.authority.ca, **{**client, "client_id": client_id})
            open_sockets.append(stream)
            seen = [line for node in self.nodes for line in node.seen(client_id)]
            answers.append((answer, *seen))
        if sticky:
            ids = {client["client_id"] for client in clients if "client_id" in client}
            homes = [[node.host for node in self.nodes if node.seen(client_id)] for client_id in ids]
            assert all(len(home) == 1 for home in homes), f"{process.name}: {dict(zip(ids, homes))}"
            assert len({home[0] for home in homes}) > 1, f"{process.name} uses one node for all"
        for stream in open_sockets:
            if stream:
                stream.close()
        process.stop()
        wait_until(lambda: not _listens(self.port), f"{process.name} to be gone")
        return answers


def _visit(port, ca, client_id, source=None, tls=False, server_name="localhost", shown=None, first=b"", path=None, instead=None):
    """Connects, sends a CONNECT, and stays. Returns the connection, and "accepted" or "refused"."""
    try:
        stream = socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0) if source else None)
        stream.sendall(first)
        if tls:
            context = ssl.create_default_context(cafile=ca)
            if shown:
                context.load_cert_chain(*shown)
            stream = context.wrap_socket(stream, server_hostname=server_name)
        data = instead or connect(client_id)
        if path:
            key = base64.b64encode(os.urandom(16)).decode()
            head = [f"GET {path} HTTP/1.1", "Host: mqtt.example", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {key}"]
            head += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: mqtt"]
            stream.sendall("\r\n".join(head).encode() + b"\r\n\r\n")
            if b" 101 " not in _until(stream, b"\r\n\r\n"):
                return stream, "refused"
            # A masking key of zeros leaves the bytes as they are.
            data = bytes([0x82, 0x80 | len(data)]) + bytes(4) + data
        stream.sendall(data)
        answer = _until(stream, CONNACK)
        return stream, "accepted" if answer.endswith(CONNACK) else "refused"
    except (ConnectionError, ssl.SSLError):
        return None, "refused"


def _until(stream, end):
    """What arrives, up to `end` or to the end of the connection."""
    data = b""
    while not data.endswith(end):
        more = stream.recv(1)
        if not more:
            break
        data += more
    return data


def _listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class _Node:
    """Accepts CONNECTs over TCP and WebSocket, and remembers what it was told of each client."""

    def __init__(self, host):
        self.listening = socket.create_server((host, 0), backlog=64)
        self.host, self.port = self.listening.getsockname()
        self.lines = []
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def close(self):
        # Closed under the thread that waits in it, its number would soon be another socket's, from which that thread would accept.
        self.listening.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listening.close()

    def clear(self):
        self.lines.clear()

    def seen(self, client_id):
        return [line[1:] for line in list(self.lines) if line[0] == client_id]

    def _accept(self):
        while True:
            try:
                stream, _ = self.listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(stream,), daemon=True).start()

    def _serve(self, stream):
        try:
            self._greet(stream)
            # Until the balancer closes.
            while stream.recv(4096):
                pass
        except OSError:
            pass
        finally:
            stream.close()

    def _greet(self, stream):
        head, told = stream.recv(5, socket.MSG_WAITALL), []
        if head == b"PROXY":
            # PROXY TCP4 client node port port
            told.append(_until(stream, b"\r\n").split()[1].decode())
            head = stream.recv(5, socket.MSG_WAITALL)
        elif head == SIGNATURE[:5]:
            rest = stream.recv(11, socket.MSG_WAITALL)
            told += _version_2(rest[8], stream.recv(struct.unpack(">H", rest[9:11])[0], socket.MSG_WAITALL))
            head = stream.recv(5, socket.MSG_WAITALL)
        if len(head) < 5:
            # A look at whether the balancer listens.
            return
        is_ws = head.startswith(b"GET")
        if is_ws:
            request = head + _until(stream, b"\r\n\r\n")
            fields = dict(line.split(": ", 1) for line in request.decode().split("\r\n")[1:] if ": " in line)
            fields = {name.lower(): value for name, value in fields.items()}
            told += [request.split()[1].decode(), fields.get("x-forwarded-for", "-")]
            accepted = hashlib.sha1((fields["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
            answer = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Protocol: mqtt"]
            answer += [f"Sec-WebSocket-Accept: {base64.b64encode(accepted).decode()}"]
            stream.sendall("\r\n".join(answer).encode() + b"\r\n\r\n")
            frame = stream.recv(2, socket.MSG_WAITALL)
            mask = stream.recv(4, socket.MSG_WAITALL)
            body = stream.recv(frame[1] & 0x7F, socket.MSG_WAITALL)
            packet = bytes(byte ^ mask[place % 4] for place, byte in enumerate(body))
        else:
            packet = head + stream.recv(head[1] - 3, socket.MSG_WAITALL)
        client_id = packet[14 : 14 + struct.unpack(">H", packet[12:14])[0]].decode()
        # Before the answer, so that a client that has it can ask.
        self.lines.append((client_id, *told))
        stream.sendall((b"\x82\x04" if is_ws else b"") + CONNACK)


def _version_2(family, body):
    """The client's address, and the common name of its certificate if there is one."""
    if family >> 4 != 1:
        return ["-"]
    told, rest = [socket.inet_ntoa(body[:4])], body[12:]
    while len(rest) >= 3:
        kind, length = rest[0], struct.unpack(">H", rest[1:3])[0]
        value, rest = rest[3 : 3 + length], rest[3 + length :]
        # Within what is said of TLS, behind five bytes.
        rest = value[5:] + rest if kind == 0x20 else rest
        if kind == 0x22:
            told.append(value.decode())
    return told
