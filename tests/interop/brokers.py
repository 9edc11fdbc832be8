"""Real brokers, started from their Debian packages, and a door that can be put before one to make it misbehave."""

import os
import re
import secrets
import selectors
import socket
import subprocess
import threading
from collections import namedtuple
from pathlib import Path

from process import Process, free_port, wait_until

Arrival = namedtuple("Arrival", "kind client_id version")
Takeovers = namedtuple("Takeovers", "within_a_node across_nodes")


class Mosquitto:
    """One mosquitto, alone: it shares nothing with others, so its log alone tells who came to it."""

    # What mosquitto calls the versions in its log.
    VERSIONS = {"1": "3.1", "2": "3.1.1", "5": "5"}

    def __init__(self, name, folder, extra="", ws=False, authority=None, address="127.0.0.1", port=None, inside=()):
        self.name = name
        self.folder = folder
        self.inside = inside
        self.port = port or free_port()
        self.ws_port = free_port() if ws else None
        self.tls_port = free_port() if authority else None
        if ws:
            extra += f"listener {self.ws_port} 127.0.0.1\nprotocol websockets\n"
        if authority:
            chain, key = authority.server(name)
            # A client must show a certificate of the same authority.
            extra += f"listener {self.tls_port} 127.0.0.1\ncafile {authority.ca}\ncertfile {chain}\nkeyfile {key}\n"
            extra += "require_certificate true\n"
        self.configuration = Path(folder) / f"{name}.conf"
        self.configuration.write_text(
            # Anyone may come, since it listens on loopback only.
            f"listener {self.port} {address}\nallow_anonymous true\n"
            # Each line reaches the log when it is written; 'all' names every packet.
            "log_dest stderr\nlog_type all\nconnection_messages true\n"
            # Run as root, it would become a user that may not read these folders.
            f"user root\n{extra}"
        )
        self.start()

    def start(self):
        self.process = Process(self.name, [*self.inside, "mosquitto", "-c", self.configuration], self.folder)
        self.process.wait_for(r"mosquitto version \S+ running")

    def kill(self):
        self.process.kill()

    def log(self):
        return self.process.output()

    def arrivals(self, after=0):
        """The clients whose CONNECT was accepted, in order, from the log behind its first `after` characters; Remora's
        probe of a node that is down comes with a CONNECT as well, whenever it is due, and is no client."""
        lines = re.findall(r"New (client|bridge) connected from \S+ as (?!remora-probe-)(.*) \(p(\d), c\d, k\d+", self.log()[after:])
        return [Arrival(kind, client_id, self.VERSIONS[version]) for kind, client_id, version in lines]

    def knows(self, client_id, after=0):
        """Whether this client came here."""
        return any(arrival.client_id == client_id for arrival in self.arrivals(after))


class EjabberdCluster:
    """ejabberd nodes. Joined, they have one set of sessions, wherever they live, and messages from each node to every other."""

    # It takes no client without a user name, and any at localhost.
    USER_NAME = "someone@localhost"

    def __init__(self, proxy_protocols, folder, authority=None, joined=True, inside=()):
        self.folder = folder
        self.inside = inside
        # Where the library sits depends on the machine's architecture.
        listed = subprocess.run(["dpkg", "-L", "ejabberd"], check=True, capture_output=True, text=True).stdout
        library = re.search(r"^(.*)/ejabberd-[^/]*/ebin$", listed, re.MULTILINE).group(1)
        self.cookie = secrets.token_hex(8)
        self.environment = _erlang_environment(folder) | {"ERL_LIBS": library}
        self.epmd = _port_mapper(folder, self.environment, inside)
        named = [(f"ejabberd{number}", version) for number, version in enumerate(proxy_protocols, start=1)]
        self.nodes = [EjabberdNode(name, self, version, authority) for name, version in named]
        for node in self.nodes:
            node.process.wait_for(r"Start accepting TCP connections at \S+ for mod_mqtt", seconds=60)
        if joined:
            self.join()

    def join(self):
        first, *others = self.nodes
        for node in others:
            joined = self.call(node, f"ejabberd_cluster join ['{first.erlang_name}']")
            assert joined == "ok", f"{node.name} did not join: {joined}"
        for node in self.nodes:
            everyone = {node.erlang_name for node in self.nodes}
            wait_until(
                lambda: set(re.findall(r"\w+@\w+", self.call(node, "ejabberd_cluster get_nodes []"))) == everyone,
                f"{node.name} to see the whole cluster",
                seconds=30,
            )
            # To join, a node starts its MQTT listener anew.
            wait_until(lambda: _listens(node.port, self.inside), f"{node.name} to listen", seconds=30)

    def call(self, node, function):
        """What an Erlang function of a node returns, as Erlang writes it."""
        command = ["erl_call", "-sname", node.erlang_name, "-c", self.cookie, "-a", function]
        return self._command(command, check=True).stdout.strip()

    def write_every_line(self):
        """Lets the logs have as many lines in a second as there are; by its own wish, a node drops those beyond 500."""
        unlimited = (
            "[ok = logger:update_handler_config(Id, config, #{burst_limit_enable => false})"
            " || #{id := Id} = H <- logger:get_handler_config(), is_map_key(config, H)].\n"
        )
        for node in self.nodes:
            command = ["erl_call", "-sname", node.erlang_name, "-c", self.cookie, "-e"]
            answer = self._command(command, check=True, input=unlimited).stdout
            assert "ok" in answer and "error" not in answer, f"{node.name} keeps its limit: {answer}"

    def home(self, client_id):
        """The node on which a client's session lives now, connected or not; the case fails when there is no session.

        Asked of the table of sessions that all nodes share: it names the process that holds each, and that its node. What
        one node writes reaches the others a moment later.
        """
        binary = f"#Bin<{','.join(str(byte) for byte in client_id.encode())}>"

        def holder():
            table = self.call(self.nodes[0], "ets tab2list [mqtt_session]")
            return re.search(rf"{re.escape(binary)}}}, <([^.]+)\.", table)

        session = wait_until(holder, f"a session of {client_id}")
        return next(node for node in self.nodes if node.erlang_name == session.group(1))

    def takeovers(self, client_id, count):
        """How often a client's session was handed to a new connection on its own node, and how often across nodes.

        A node's log names the process that held the session before; its first number is 0 for a process of the same node.
        The log is written behind the CONNACK's back, so that `count` of these lines, as many as there were returns, are
        waited for.
        """
        pattern = rf"Reopened MQTT session via <(\d+)\.\S+ for \S+/{re.escape(client_id)} "
        holders = lambda: [holder for node in self.nodes for holder in re.findall(pattern, node.process.output())]  # noqa: E731
        wait_until(lambda: len(holders()) >= count, f"{count} takeovers of {client_id} in the logs")
        found = holders()
        return Takeovers(found.count("0"), len(found) - found.count("0"))

    def _command(self, command, check=False, **options):
        options |= {"env": self.environment, "timeout": 30}
        return subprocess.run([*self.inside, *command], check=check, capture_output=True, text=True, **options)


class EjabberdNode:
    """One node of an EjabberdCluster; with an authority, it has listeners with TLS besides, for MQTT and for WebSocket."""

    def __init__(self, name, cluster, proxy_protocol, authority):
        self.name = name
        self.erlang_name = f"{name}@localhost"
        self.port = free_port()
        self.ws_port = free_port()
        # Where the other nodes of its cluster reach it.
        self.cluster_port = free_port()
        self.proxy_protocol = proxy_protocol
        introduced = str(bool(proxy_protocol)).lower()
        folder = Path(cluster.folder) / name
        folder.mkdir()
        listens, certificates = "", ""
        if authority:
            self.server_name = f"{name}.example"
            self.tls_port, self.wss_port = free_port(), free_port()
            chain, key = authority.server(self.server_name)
            certificates = f"certfiles: ['{chain}', '{key}']\n"
            listens = (
                f"  - {{port: {self.tls_port}, ip: '127.0.0.1', module: mod_mqtt, tls: true, "
                f"use_proxy_protocol: {introduced}}}\n"
                f"  - port: {self.wss_port}\n    ip: '127.0.0.1'\n    module: ejabberd_http\n    tls: true\n"
                f"    use_proxy_protocol: {introduced}\n"
                f"    request_handlers: {{/mqtt: mod_mqtt}}\n"
            )
        (folder / "ejabberd.yml").write_text(
            f"hosts: [localhost]\n"
            f"{certificates}"
            f"loglevel: info\n"
            f"auth_method: [anonymous]\n"
            f"anonymous_protocol: login_anon\n"
            f"listen:\n"
            f"  - {{port: {self.port}, ip: '127.0.0.1', module: mod_mqtt, backlog: 1000, "
            f"use_proxy_protocol: {introduced}}}\n"
            f"  - port: {self.ws_port}\n    ip: '127.0.0.1'\n    module: ejabberd_http\n"
            f"    use_proxy_protocol: {introduced}\n"
            f"    request_handlers: {{/mqtt: mod_mqtt}}\n"
            f"{listens}"
            f"modules:\n"
            f"  mod_mqtt: {{}}\n"
        )
        environment = cluster.environment | {
            "EJABBERD_CONFIG_PATH": str(folder / "ejabberd.yml"),
            "EJABBERD_LOG_PATH": str(folder / "ejabberd.log"),
        }
        # Not through ejabberdctl: as root that becomes another user, and the process would not be ours to end.
        command = [*cluster.inside, "erl", "-noinput", "-sname", self.erlang_name, "-setcookie", cluster.cookie, "-start_epmd", "false"]
        command += ["-kernel", "inet_dist_use_interface", "{127,0,0,1}"]
        command += ["-kernel", "inet_dist_listen_min", self.cluster_port, "inet_dist_listen_max", self.cluster_port]
        command += ["-mnesia", "dir", f'"{folder / "mnesia"}"', "-s", "ejabberd"]
        self.process = Process(name, command, cluster.folder, environment)


class RabbitMQ:
    """One RabbitMQ that listens for MQTT alone; with an authority, on a listener with TLS besides.

    That one takes nobody who shows no certificate of the same authority.
    """

    def __init__(self, name, folder, proxy_protocol, authority=None):
        self.name = name
        self.proxy_protocol = proxy_protocol
        self.port = free_port()
        own = Path(folder) / name
        own.mkdir()
        secured = ""
        if authority:
            self.server_name = f"{name}.example"
            self.tls_port = free_port()
            chain, key = authority.server(self.server_name)
            secured = (
                f"listeners.ssl = none\nmqtt.listeners.ssl.default = 127.0.0.1:{self.tls_port}\n"
                f"ssl_options.cacertfile = {authority.ca}\nssl_options.certfile = {chain}\nssl_options.keyfile = {key}\n"
                f"ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n"
            )
        (own / "enabled_plugins").write_text("[rabbitmq_mqtt].\n")
        (own / "rabbitmq.conf").write_text(
            f"listeners.tcp = none\nmqtt.listeners.tcp.default = 127.0.0.1:{self.port}\n"
            f"mqtt.allow_anonymous = true\nmqtt.proxy_protocol = {str(bool(proxy_protocol)).lower()}\n"
            f"log.console = true\nlog.console.level = info\nlog.file = false\n{secured}"
        )
        environment = _erlang_environment(folder) | {
            "RABBITMQ_NODENAME": f"{name}@localhost",
            "RABBITMQ_BASE": str(own),
            "RABBITMQ_CONFIG_FILE": str(own / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(own / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(own / "mnesia"),
            "RABBITMQ_LOG_BASE": str(own / "log"),
            "RABBITMQ_PID_FILE": str(own / "pid"),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            # Then its script becomes the node, so that the process is ours to end; there is no systemd.
            "RUNNING_UNDER_SYSTEMD": "true",
        }
        self.epmd = _port_mapper(folder, environment)
        # Not the script on the path, which becomes another user.
        self.process = Process(name, ["/usr/lib/rabbitmq/bin/rabbitmq-server"], folder, environment)


def _erlang_environment(folder):
    return {
        "PATH": os.environ["PATH"],
        # Erlang keeps a cookie file in the home folder.
        "HOME": str(folder),
        # An own port mapper, so that neither ports nor node names meet those of another Erlang on this machine.
        "ERL_EPMD_PORT": str(free_port()),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
    }


def _port_mapper(folder, environment, inside=()):
    command = [*inside, "epmd", "-port", environment["ERL_EPMD_PORT"]]
    mapper = Process(f"epmd-{environment['ERL_EPMD_PORT']}", command, folder, environment)
    names = [*inside, "epmd", "-names"]
    listens = lambda: subprocess.run(names, capture_output=True, env=environment).returncode == 0  # noqa: E731
    wait_until(listens, "the Erlang port mapper")
    return mapper


def _listens(port, inside=()):
    command = [*inside, "bash", "-c", f"</dev/tcp/127.0.0.1/{port}"]
    return subprocess.run(command, capture_output=True).returncode == 0


class Door:
    """Stands before a broker and passes every byte, until it is told to refuse newcomers as an evacuating node would."""

    def __init__(self, broker):
        self.name = broker.name
        self.broker = broker
        self.port = free_port()
        self.refusal = None
        self.refused = 0
        self._pairs = set()
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        threading.Thread(target=self._accept, daemon=True).start()

    def refuse(self, connack):
        """From now on every CONNECT is answered by this CONNACK, or by nothing where it is empty, and a close."""
        self.refusal = connack

    def welcome(self):
        """From now on newcomers reach the broker again."""
        self.refusal = None

    def cut(self):
        """Closes every connection that goes through."""
        for pair in list(self._pairs):
            for end in pair:
                _shut(end)

    def close(self):
        # Wakes the accepting thread, which a plain close would not.
        _shut(self._listener)
        self.cut()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            serve = self._pass if self.refusal is None else self._refuse
            threading.Thread(target=serve, args=[client], daemon=True).start()

    def _refuse(self, client):
        with client:
            if client.recv(65_536):
                self.refused += 1
                client.sendall(self.refusal)

    def _pass(self, client):
        with client:
            try:
                broker = socket.create_connection(("127.0.0.1", self.broker.port))
            except OSError:
                return
            with broker, selectors.DefaultSelector() as selector:
                pair = (client, broker)
                self._pairs.add(pair)
                selector.register(client, selectors.EVENT_READ, broker)
                selector.register(broker, selectors.EVENT_READ, client)
                try:
                    while _carry(selector.select()):
                        pass
                finally:
                    self._pairs.discard(pair)


def _carry(ready):
    """Moves what can be read; false once either end is gone."""
    for key, _ in ready:
        try:
            data = key.fileobj.recv(65_536)
            if not data:
                return False
            key.data.sendall(data)
        except OSError:
            return False
    return True


def _shut(end):
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        # The other end was faster.
        pass
