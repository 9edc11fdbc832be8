"""One worker under attack: the balancer, its nodes, honest clients beside, and what the attack cost whom."""

import contextlib
import http.client
import json
import multiprocessing
import os
import re
import resource
import selectors
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "interop"))

from balancers import Remora  # noqa: E402
from inputs import DISCONNECT, PING, PONG, connect, frame, publish, upgrade_request  # noqa: E402
from process import Process, free_port, wait_until  # noqa: E402

ACCEPTED = b"\x20\x02\x00\x00"

# What an honest client waits at most before it counts as failed.
HONEST_SECONDS = 8

# What memory may grow by beside the account: the balancer's allocator takes some megabytes at a time.
GROWTH_MAX = 24 << 20

# How long the balancer has to be as it was before, once all attackers have gone.
BACK_WITHIN_SECONDS = 15


class Node:
    """A node of node.py, which can be killed and started again at its ports."""

    def __init__(self, name, folder, *how, websocket=True):
        self.name, self.folder, self.how = name, folder, how
        self.port, self.listens = free_port(), free_port()
        # Where the balancer does not know of it, frames are opened for the node.
        self.ws_port = self.listens if websocket else None
        self.start()

    def start(self):
        program = [sys.executable, Path(__file__).with_name("node.py"), self.name, self.port, self.listens, *self.how]
        self.process = Process(self.name, program, self.folder)

    def is_up(self):
        self.process.wait_for("ready")
        return self

    def dials(self):
        return self.process.output().count("dialled")


class Balancer(Remora):
    """`remora run` with one worker, and more of a configuration than the interop cases need."""

    def __init__(self, nodes, folder, authority=None, more=""):
        self.more = more
        super().__init__(nodes, folder, authority=authority)

    def configure(self, nodes):
        super().configure(nodes)
        path = Path(self.folder) / "remora.toml"
        text = path.read_text()
        self.socket = Path(self.folder) / "admin.sock"
        text = text.replace("[admin]\n", f'[admin]\nsocket = "{self.socket}"\n')
        if self.authority:
            text = text.replace('tls = "end"\n', f'tls = "end"\nclient_certificates = "optional"\nclient_ca = "{self.authority.ca}"\n')
        path.write_text(f"workers = 1\n\n{text}\n{self.more}\n")

    def cpu_seconds(self):
        """Of all its threads, in more detail than ticks of a clock."""
        spent = 0
        for task in Path(f"/proc/{self.process.child.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):
                spent += int((task / "schedstat").read_text().split()[0])
        return spent / 1e9

    def page(self):
        return self.metrics("text/plain").decode()

    def value(self, series):
        return float(re.search(rf"^{re.escape(series)} (\S+)$", self.page(), re.MULTILINE)[1])

    def states(self):
        """The state of each endpoint of each node, as the metrics have it."""
        return sorted(line for line in self.page().splitlines() if line.startswith("remora_node_state{") and line.endswith(" 1"))

    def changes(self):
        """How often a node's state has changed, in its log."""
        return len(re.findall(r"node is (?:down|up)", self.process.output()))

    def ready(self):
        with contextlib.suppress(OSError, http.client.HTTPException):
            asked = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=2)
            asked.request("GET", "/readyz")
            return asked.getresponse().status == 200
        return False

    def at_home(self, name, count, form="client-%d"):
        """So many ids whose home is this node."""
        ids, start = [], 0
        while len(ids) < count:
            asked = [form % number for number in range(start, start + 500)]
            start += len(asked)
            command = [os.environ["REMORA_BIN"], "route", "--json", "-c", "remora.toml", *asked]
            answers = json.loads(subprocess.run(command, cwd=self.folder, stdout=subprocess.PIPE, check=True).stdout)
            ids += [answer["id"] for answer in answers if answer["node"] == name]
        return ids[:count]

    def is_sound(self):
        return self.process.running() and self.value("remora_panics_total") == 0


def opened(port, source="127.0.0.1", seconds=HONEST_SECONDS, receive_buffer=None):
    """A TCP connection from an address of this machine."""
    stream = socket.socket()
    if receive_buffer:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    stream.settimeout(seconds)
    stream.bind((source, 0))
    stream.connect(("127.0.0.1", port))
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream


def upgraded(port, *asked, **how):
    stream = opened(port, **how)
    stream.sendall(upgrade_request(*asked))
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        more = stream.recv(4_096)
        if not more:
            raise ConnectionError("closed before the 101")
        head += more
    if b" 101 " not in head:
        raise ConnectionError(head[:40])
    return stream


def secured(port, authority, chain_and_key=None, **how):
    context = ssl.create_default_context(cafile=authority.ca)
    if chain_and_key:
        context.load_cert_chain(*chain_and_key)
    return context.wrap_socket(opened(port, **how), server_hostname="localhost")


def gone(stream):
    """Closes without leaving a port behind that nobody may use for a minute."""
    with contextlib.suppress(OSError):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()


def accepted(stream, client_id, **how):
    """Whether a client with this id is accepted."""
    with contextlib.suppress(OSError):
        stream.sendall(connect(client_id, **how))
        return stream.recv(len(ACCEPTED), socket.MSG_WAITALL) == ACCEPTED
    return False


def comes_in(port, client_id, source="127.0.0.1", tries=1):
    """Whether an honest client comes in, which tries again like any other."""
    for _ in range(tries):
        with contextlib.suppress(OSError):
            stream = opened(port, source)
            inside = accepted(stream, client_id)
            gone(stream)
            if inside:
                return True
    return False


def percentile(values, part):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * part))] if values else float("inf")


class Honest:
    """Honest clients, in a process of their own: one that pings, and one after another that comes, is accepted and leaves."""

    # Another address than the attackers': what is kept by source does not hit them.
    SOURCE = "127.0.0.2"

    def __init__(self, port, ids):
        self.port, self.ids = port, ids
        self.mine, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("fork").Process(target=self._run, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        assert self.mine.recv() == "ready"

    def begin(self):
        self.mine.send("begin")

    def end(self):
        """Seconds of each ping, of each set-up, and how many failed, since `begin`."""
        self.mine.send("end")
        return self.mine.recv()

    def stop(self):
        self.process.kill()
        self.process.join()

    def _run(self, pipe):
        pings, set_ups, failed = [], [], 0
        pinger = self._stay()
        pipe.send("ready")
        number = 0
        while True:
            order = pipe.recv() if pipe.poll(0.005) else None
            if order == "begin":
                pings, set_ups, failed = [], [], 0
            elif order == "end":
                pipe.send((pings, set_ups, failed))
            began = time.monotonic()
            try:
                pinger.sendall(PING)
                if pinger.recv(2, socket.MSG_WAITALL) != PONG:
                    raise ConnectionError
                pings.append(time.monotonic() - began)
            except OSError:
                failed += 1
                with contextlib.suppress(OSError, AssertionError):
                    pinger = self._stay()
            number += 1
            if number % 8 == 0:
                began = time.monotonic()
                if comes_in(self.port, self.ids[number % len(self.ids)], self.SOURCE):
                    set_ups.append(time.monotonic() - began)
                else:
                    failed += 1

    def _stay(self):
        stream = opened(self.port, self.SOURCE)
        assert accepted(stream, "honest-and-there"), "an honest client was not accepted"
        return stream


class Toll:
    """What attackers count in a process of their own: connections and bytes. It alone writes, and nobody locks: it is killed at any
    moment, and a lock that it held would never be released."""

    def __init__(self):
        self.connections = multiprocessing.Value("Q", lock=False)
        self.bytes = multiprocessing.Value("Q", lock=False)

    def add(self, connections=0, count=0):
        self.connections.value += connections
        self.bytes.value += count


@contextlib.contextmanager
def attacking(work, *arguments):
    """`work` in a process of its own until the end of the block; its first argument is its toll."""
    toll = Toll()

    def run():
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        # Attackers and honest clients are of one machine here, and the former shall not win by its scheduler.
        os.nice(10)
        work(toll, *arguments)

    process = multiprocessing.get_context("fork").Process(target=run, daemon=True)
    process.start()
    try:
        yield toll
    finally:
        process.kill()
        process.join()


class Price:
    """What the balancer spends on something honest, by connection and by byte."""

    def __init__(self, balancer, act, count):
        act(0)
        began = balancer.cpu_seconds()
        sent = sum(act(number) for number in range(1, count + 1))
        # The balancer is not done when the last answer is read.
        time.sleep(0.05)
        self.seconds = max((balancer.cpu_seconds() - began) / count, 1e-6)
        self.bytes = sent / count

    def of(self, connections, count):
        """The price of as many connections, or of as many bytes, whichever is dearer to an attacker."""
        return self.seconds * max(connections, count / self.bytes, 1)


def plain_set_up(balancer):
    def act(number):
        words = connect(f"price-{number}")
        stream = opened(balancer.port)
        assert accepted(stream, f"price-{number}"), "an honest client was not accepted"
        stream.sendall(DISCONNECT)
        gone(stream)
        return len(words) + len(DISCONNECT)

    return act


def websocket_set_up(balancer):
    def act(number):
        words = frame(connect(f"price-{number}"))
        stream = upgraded(balancer.ws_port)
        stream.sendall(words)
        assert stream.recv(64).endswith(ACCEPTED), "an honest client was not accepted"
        gone(stream)
        return len(words) + len(upgrade_request())

    return act


def websocket_messages(balancer):
    """A message of 16 KB in a frame, and a ping of MQTT whose answer says that the node has both."""
    stream = upgraded(balancer.ws_port)
    stream.sendall(frame(connect("price")))
    assert stream.recv(64).endswith(ACCEPTED), "an honest client was not accepted"
    words = frame(publish("t", bytes(16_000))) + frame(PING)

    def act(_):
        stream.sendall(words)
        answer = b""
        while not answer.endswith(PONG):
            answer += stream.recv(64)
        return len(words)

    return act


def tls_set_up(balancer):
    """With a certificate of the client's, whose bytes are those of its chain and of a usual handshake."""
    shown = balancer.authority.client("device")
    size = len(Path(shown[0]).read_bytes()) * 3 // 4 + 900

    def act(number):
        stream = secured(balancer.tls_port, balancer.authority, shown)
        stream.sendall(connect(f"price-{number}"))
        assert stream.recv(4) == ACCEPTED, "an honest client was not accepted"
        gone(stream)
        return size

    return act


class Siege:
    """The balancer before, during and after an attack, beside honest clients; and whether what must hold did."""

    RATIO_MAX = 100
    FACTOR_MAX = 2.0

    def __init__(self, size, balancer, price=None, honest_ids=None):
        self.size, self.balancer = size, balancer
        ids = honest_ids or [f"honest-{number}" for number in range(50)]
        self.price = Price(balancer, (price or plain_set_up)(balancer), size.prices)
        self.honest = Honest(balancer.port, ids)
        self.honest.begin()
        began = balancer.cpu_seconds()
        time.sleep(size.quiet_s)
        self.quiet = self.honest.end()
        self.quiet_cpu = (balancer.cpu_seconds() - began) / size.quiet_s
        self.descriptors, self.resident = len(balancer.process.descriptors()), balancer.process.resident_bytes()
        self.states, self.changes = balancer.states(), balancer.changes()
        self.most = {"resident": self.resident, "held": 0}

    def under(self, work, *arguments, meanwhile=None):
        """The attack, for as long as this run's size says, or for as long as `meanwhile` takes."""
        balancer = self.balancer
        self.honest.begin()
        spent, began = balancer.cpu_seconds(), time.monotonic()
        with attacking(work, balancer, *arguments) as toll:
            if meanwhile:
                self.answer = meanwhile()
            until = began + self.size.attack_s
            while time.monotonic() < until:
                self.look()
                time.sleep(0.1)
            lasted = time.monotonic() - began
            self.besieged = self.honest.end()
            spent = balancer.cpu_seconds() - spent
        self.connections, self.bytes = toll.connections.value, toll.bytes.value
        self.extra_cpu = max(0.0, spent - self.quiet_cpu * lasted)
        self.ratio = self.extra_cpu / self.price.of(self.connections, self.bytes)
        self.honest.stop()
        return self

    def look(self):
        self.most["resident"] = max(self.most["resident"], self.balancer.process.resident_bytes())

    def remains(self):
        """What is not as it was before, once the attackers have gone."""
        balancer = self.balancer
        left = {}

        def is_back():
            left.clear()
            # The honest client that pinged has gone as well, with its node's socket.
            descriptors = len(balancer.process.descriptors())
            if descriptors > self.descriptors:
                left["descriptors"] = descriptors - self.descriptors
            for series in ("remora_held_bytes", "remora_undecided_connections"):
                if value := balancer.value(series):
                    left[series] = int(value)
            return not left

        with contextlib.suppress(AssertionError):
            wait_until(is_back, "the state from before", BACK_WITHIN_SECONDS)
        if (states := balancer.states()) != self.states:
            left["states"] = [state for state in states if state not in self.states]
        if changes := balancer.changes() - self.changes:
            left["changes of nodes"] = changes
        return left

    def verdict(self, held=True, figures="", ratio_max=RATIO_MAX):
        """Whether all held that must hold, and the figures."""
        quiet_p99, p99 = percentile(self.quiet[0] + self.quiet[1], 0.99), percentile(self.besieged[0] + self.besieged[1], 0.99)
        failed, grown = self.besieged[2], self.most["resident"] - self.resident
        slow = p99 > max(self.FACTOR_MAX * quiet_p99, self.size.p99_floor_s)
        quiet_median, median = percentile(self.quiet[0], 0.5), percentile(self.besieged[0], 0.5)
        slow |= median > max(self.FACTOR_MAX * quiet_median, self.size.median_floor_s)
        left = self.remains()
        sound = self.balancer.is_sound()
        faults = [
            text
            for text, fault in (
                (f"CPU ratio {self.ratio:.0f}", self.ratio > ratio_max),
                ("slow", slow),
                (f"{failed} honest failed", failed),
                (f"memory grew by {grown / 1e6:.1f} MB", grown > GROWTH_MAX),
                (f"left behind: {left}", left),
                ("not sound", not sound),
                ("its own promise", not held),
            )
            if fault
        ]
        text = (
            f"{self.connections} connections and {self.bytes} bytes cost {self.extra_cpu * 1e3:.0f} ms, {self.ratio:.1f} times an honest one's; "
            f"honest median {quiet_median * 1e3:.1f} ms, then {median * 1e3:.1f} ms, p99 {quiet_p99 * 1e3:.1f} ms, then {p99 * 1e3:.1f} ms; "
            f"memory +{grown / 1e6:.1f} MB"
        )
        if figures:
            text += f"; {figures}"
        if faults:
            text += f" -- {', '.join(faults)}"
        return not faults, text


def drained(streams, seconds):
    """Reads so many streams until they end or the time is over; how many have ended."""
    waiting, until = selectors.DefaultSelector(), time.monotonic() + seconds
    for stream in streams:
        waiting.register(stream, selectors.EVENT_READ)
    while waiting.get_map() and time.monotonic() < until:
        for key, _ in waiting.select(0.1):
            with contextlib.suppress(OSError):
                if key.fileobj.recv(65_536):
                    continue
            waiting.unregister(key.fileobj)
    return len(streams) - len(waiting.get_map())


def kernel_bytes(process):
    """What the kernel holds for all TCP sockets of this process: read and not taken, and sent and not acknowledged."""
    listed = subprocess.run(["ss", "-tmnpHO"], capture_output=True, text=True, check=True).stdout.splitlines()
    held = 0
    for line in listed:
        if f"pid={process}," in line and (found := re.search(r"skmem:\(r(\d+),.*?,t(\d+),.*?,w(\d+)", line)):
            held += sum(map(int, found.groups()))
    return held
