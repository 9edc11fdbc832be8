"""A configuration of nginx or HAProxy as it is, and what `remora import` makes of it, to be measured side by side.

Each of both runs in a network namespace of its own, where the addresses of its listeners are; and in another one behind it are those of its
nodes, at which small nodes of `remora bench` serve. So nothing is rewritten. That takes root.
"""

import ipaddress
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

# Where the hosts of nodes are that have names instead of addresses.
NAMED = "100.64.1.{}"
# Of the balancer towards its nodes, and theirs.
NEAR, FAR = ("100.64.0.1", "fd64::1"), ("100.64.0.2", "fd64::2")

# Answers every GET as a node that takes clients.
API = """
import http.server, socket, socketserver, sys, threading
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def log_message(self, *words): pass
for host, port in (place.rsplit(":", 1) for place in sys.argv[1:]):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # One for HTTP would ask DNS for its own name.
    server = type("Server", (socketserver.ThreadingTCPServer,), {"address_family": family})((host, int(port)), Answer)
    threading.Thread(target=server.serve_forever).start()
print("ready", flush=True)
"""


class Original:
    """The file, its import, and how clients reach both."""

    def __init__(self, file, remora):
        self.file = file.resolve()
        # HAProxy's sections stand alone on a line, without a brace.
        is_haproxy = re.search(r"^(global|defaults|frontend|listen|backend)\b[^{;]*$", self.file.read_text(errors="replace"), re.MULTILINE)
        self.program = "haproxy" if is_haproxy else "nginx"
        done = subprocess.run([remora, "import", self.program, self.file], cwd=self.file.parent, capture_output=True, text=True)
        print(done.stderr, file=sys.stderr)
        if done.returncode not in (0, 2) or not done.stdout:
            sys.exit(f"{file} cannot be imported")
        self.toml = done.stdout
        # Its metrics are no one's here, and a second Remora may have the port.
        self.toml += "" if "\n[admin]\n" in self.toml else "\n[admin]\nenabled = false\n"
        # Its files are where the original is.
        folder = self.file.parent
        self.toml = re.sub(r'((?:\bchain|\bclient_ca|\bclient_crl|^ca|, key) = ")(?!/)', rf"\g<1>{folder}/", self.toml, flags=re.MULTILINE)
        self.config = tomllib.loads(self.toml)
        self.hosts = {}
        self.nodes = self._nodes()
        self.reach = self._reach()

    def command(self):
        """How the original is started."""
        if self.program == "haproxy":
            return ["haproxy", "-db", "-f", self.file]
        says_daemon = re.search(r"^\s*daemon\s+(\w+)", self.file.read_text(errors="replace"), re.MULTILINE)
        if says_daemon and says_daemon[1] == "on":
            sys.exit(f"{self.file}: take `daemon on` out, so that nginx' processes can be measured")
        return ["nginx", "-e", "stderr", "-c", self.file, *([] if says_daemon else ["-g", "daemon off;"])]

    def _place(self, host, port):
        """Where a node is, by address; a host name gets one."""
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            address = ipaddress.ip_address(self.hosts.setdefault(host, NAMED.format(len(self.hosts) + 1)))
        return address, port

    def _nodes(self):
        """The addresses at which small nodes are to serve, and those of the nodes' APIs."""
        served, apis = {}, {}
        for node in self.config["nodes"]:
            for key in ("address", "ws", "pass", "api"):
                url = urlsplit(value if "://" in (value := node.get(key, "")) else f"mqtt://{value}")
                if not value or "{host}" in value:
                    continue
                if url.scheme in ("mqtts", "wss", "https") or key == "pass":
                    print(f"{value}: the small nodes have no TLS, so what leads there is not measured", file=sys.stderr)
                    continue
                (apis if key == "api" else served)[self._place(url.hostname, url.port or 80)] = True
        if not served:
            sys.exit(f"{self.file} has no nodes that can be put in their place here (those that are looked for cannot)")
        if len({address.is_loopback for address, _ in served | apis}) > 1:
            sys.exit(f"{self.file} has nodes on this machine and on others, which cannot be measured together")
        return list(served), list(apis)

    def _reach(self):
        """The arguments of the bench for what clients may speak: tcp, ws, tls. The first listener of each kind that can be measured."""
        found = {}
        for listener in self.config["listeners"]:
            why = self._why_not(listener)
            if why:
                print(f"{listener['address']} is not measured: {why}", file=sys.stderr)
                continue
            has_tls, is_ws = listener.get("tls") == "end", listener.get("transport") == "ws"
            host, port = listener["address"].rsplit(":", 1)
            address = ipaddress.ip_address(host.strip("[]").split("%")[0])
            host = "127.0.0.1" if address.is_unspecified else f"[{address}]" if address.version == 6 else str(address)
            arguments = ["-t", f"{host}:{port}", "--i-own-this-target"]
            arguments += ["--ws", "--path", listener.get("paths", ["/mqtt"])[0]] if is_ws else []
            arguments += ["--tls", "--insecure", "--server-name", "localhost"] if has_tls else []
            found.setdefault("ws" if is_ws else "tls" if has_tls else "tcp", (arguments, address, int(port)))
        if not found:
            sys.exit(f"{self.file} has no listener that can be measured")
        return found

    def _why_not(self, listener):
        has_tls, is_ws = listener.get("tls") == "end", listener.get("transport") == "ws"
        key = "ws" if is_ws else "address"
        nodes = [node.get(key, "") for node in self.config["nodes"]]
        for is_so, why in [
            (listener.get("tls") == "pass", "the small nodes have no TLS"),
            (has_tls and is_ws, "there are no works with WebSocket and TLS"),
            (listener.get("client_certificates") == "required", "it wants client certificates"),
            ("proxy_protocol_from" in listener, "it wants PROXY headers, which the bench does not send"),
            ("0.0.0.0/0" in listener.get("deny", []), "it takes IPv6 alone, and the bench's clients have IPv4"),
            (any(node.startswith(("mqtts:", "wss:")) for node in nodes), "the small nodes have no TLS"),
            (any(urlsplit(node).path not in ("", "/mqtt") for node in nodes if "://" in node), "the small nodes have WebSocket at /mqtt"),
        ]:
            if is_so:
                return why
        return None

    def own_addresses(self):
        """Those that the balancer must have, besides every machine's."""
        own = {address for _, address, _ in self.reach.values()}
        own |= {ipaddress.ip_address(listener["address"].rsplit(":", 1)[0].strip("[]").split("%")[0]) for listener in self.config["listeners"]}
        own |= {ipaddress.ip_address(source) for source in self.config.get("dial", {}).get("sources", [])}
        return _specific(own)

    def node_addresses(self):
        served, apis = self.nodes
        return _specific({address for address, _ in served + apis})


def _specific(addresses):
    return sorted((address for address in addresses if not address.is_unspecified and not address.is_loopback), key=str)


def joined(place):
    address, port = place
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


class Place:
    """The network namespaces of a balancer and of its nodes, with these."""

    def __init__(self, original, directory, bench):
        self.children = []
        try:
            self._make(original, directory, bench)
        except BaseException:
            self.stop()
            raise

    def _make(self, original, directory, bench):
        hosts = directory / "hosts"
        names = "".join(f"{address} {name}\n" for name, address in original.hosts.items())
        hosts.write_text("127.0.0.1 localhost\n" + names)
        # What either writes there is nobody's, and the directories are those of Debian's packages.
        mounts = [f"mount --bind {hosts} /etc/hosts", "mount -t tmpfs run /run", "mount -t tmpfs log /var/log"]
        mounts += ["mkdir -p /run/haproxy /run/nginx /var/log/haproxy /var/log/nginx"]
        self.pid = self._namespace(mounts)
        behind = self._namespace([])
        # One wire, on which each answers for all of its addresses.
        self._run("ip", "link", "add", "nodes", "netns", str(self.pid), "type", "veth", "peer", "name", "balancer", "netns", str(behind))
        for pid, interface, ends, own in (
            (self.pid, "nodes", NEAR, original.own_addresses()),
            (behind, "balancer", FAR, original.node_addresses()),
        ):
            enter = ["nsenter", "-t", str(pid), "-n", "ip"]
            for end, bits in zip(ends, (24, 64)):
                self._run(*enter, "address", "add", f"{end}/{bits}", "dev", interface, *(["nodad"] if bits == 64 else []))
            for address in own:
                self._run(*enter, "address", "add", f"{address}/{address.max_prefixlen}", "dev", "lo")
            self._run(*enter, "link", "set", interface, "up")
            for family in ("-4", "-6"):
                self._run(*enter, family, "route", "add", "default", "dev", interface)
        served, apis = original.nodes
        self.prefix = ["nsenter", "-t", str(self.pid), "-n", "-m"]
        # A node on the balancer's own machine is on it.
        beside = self.prefix if served[0][0].is_loopback else ["nsenter", "-t", str(behind), "-n"]
        at = [joined(place) for place in served]
        self.process = self._start([*beside, bench, "bench", "--serve-at", ",".join(at)])
        for _ in at:
            if not self.process.stdout.readline():
                sys.exit(f"the nodes cannot be served at {', '.join(at)}")
        if apis:
            answering = self._start([*beside, "python3", "-c", API, *(f"{address}:{port}" for address, port in apis)])
            # A balancer that asks earlier takes the nodes for dead.
            answering.stdout.readline()

    def _namespace(self, commands):
        """The process that holds a new one, with loopback up."""
        script = " && ".join([*commands, "ip link set lo up", "echo ready", "exec sleep infinity"])
        holder = self._start(["unshare", "--net", "--mount", "sh", "-c", script])
        if holder.stdout.readline().strip() != "ready":
            sys.exit("a network namespace of its own takes root, util-linux and iproute2")
        return holder.pid

    def _run(self, *command):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")

    def inside(self, command, folder):
        """A command in the balancer's namespace, in this folder."""
        return [*self.prefix, "env", f"--chdir={folder}", *map(str, command)]

    def listens(self, port):
        """Whether something listens there, by the kernel's own table."""
        tables = [Path(f"/proc/{self.pid}/net/{name}") for name in ("tcp", "tcp6")]
        lines = [line.split() for table in tables if table.exists() for line in table.read_text().splitlines()[1:]]
        return any(line[3] == "0A" and int(line[1].rsplit(":", 1)[1], 16) == port for line in lines)

    def stop(self):
        for child in reversed(self.children):
            child.kill()
            child.wait()
            child.stdout.close()
        self.children.clear()

    def _start(self, command):
        # None outlives this run, however it ends.
        child = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *map(str, command)], stdout=subprocess.PIPE, text=True)
        self.children.append(child)
        return child
