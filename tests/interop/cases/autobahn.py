"""Autobahn's cases, behind a CONNECT, through listeners before both kinds of node. Only where Python 2.7 is, which the suite wants."""

import json
import os
import subprocess
from pathlib import Path

from process import Process, free_port

SCRIPT = Path(__file__).parent.parent / "autobahn_client.py"

# Compression (12 and 13) is never agreed on. The largest messages of 9 and the smallest fragments take minutes at Autobahn's own pace.
LIMITS = ["9.1.1", "9.1.2", "9.1.3", "9.2.1", "9.2.2", "9.2.3", "9.3.4", "9.4.4", "9.5.4", "9.6.4"]

# There is no empty message over TCP that could be echoed.
NOT_OPENED = ["-1.1.1", "-1.2.1"]

# What a case may end in. Informational are those of which RFC 6455 leaves open what happens.
FINE = {"OK", "NON-STRICT", "INFORMATIONAL"}


def autobahn_finds_nothing_where_frames_are_relayed(lab):
    """Sections 1 to 5, 7 and 10 through a listener before a node with WebSocket: as the node itself answers."""
    _fuzz(lab, "ws", ["1.*", "2.*", "3.*", "4.*", "5.*", "7.*", "10.1.1"])


def autobahn_finds_nothing_in_text_where_frames_are_relayed(lab):
    """Section 6: what is text, and what is not, is the node's to judge."""
    _fuzz(lab, "ws", ["6.*"])


def autobahn_finds_nothing_in_sizes_where_frames_are_relayed(lab):
    """Section 9: messages of a megabyte whole, and of four in fragments."""
    _fuzz(lab, "ws", LIMITS)


def autobahn_finds_nothing_where_frames_are_opened(lab):
    """Sections 1 to 5 and 7 through a listener before a node without WebSocket, as binary."""
    _fuzz(lab, "tcp", ["1.*", "2.*", "3.*", "4.*", "5.*", "7.*", *NOT_OPENED])


def autobahn_finds_nothing_in_sizes_where_frames_are_opened(lab):
    """Section 9 there."""
    _fuzz(lab, "tcp", LIMITS)


def _environment():
    return os.environ | {"PYTHONPATH": os.environ["AUTOBAHN_PATH"]}


class _Node:
    def __init__(self, lab, kind):
        self.name = "node1"
        self.port = free_port()
        self.ws_port = self.port if kind == "ws" else None
        self.process = Process(self.name, [os.environ["AUTOBAHN_PYTHON"], SCRIPT, "node", kind, self.port], lab.folder, _environment())
        self.process.wait_for("listening")


def _fuzz(lab, kind, sections):
    balancer = lab.balancer([_Node(lab, kind)])
    file = lab.folder / "outcomes.json"
    words = [os.environ["AUTOBAHN_PYTHON"], SCRIPT, "fuzz", f"ws://127.0.0.1:{balancer.ws_port}/mqtt", kind, file, *sections]
    said = subprocess.run(
        list(map(str, words)), cwd=lab.folder, env=_environment(), capture_output=True, text=True, timeout=85
    )
    assert file.exists(), said.stdout[-2_000:] + said.stderr[-2_000:]
    outcomes = json.loads(file.read_text())
    bad = {name: end for name, end in outcomes.items() if not {end["behavior"], end["behaviorClose"]} <= FINE}
    print(f"    {len(outcomes)} cases of Autobahn, {sum(end['behavior'] == 'OK' for end in outcomes.values())} of them OK")
    assert len(outcomes) >= 10 and not bad, bad
