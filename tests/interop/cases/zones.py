"""Link-local addresses with their interface, in a network namespace with a pair of virtual interfaces; this takes root."""

import os
import subprocess
from pathlib import Path

from packets import connect
from process import Process

CONNACK = b"\x20\x02\0\0"

# Runs inside of the namespace: sends a CONNECT from one interface to the other, and prints the answer.
CLIENT = """
import socket, sys
host, interface, port, connect = sys.argv[1], sys.argv[2], int(sys.argv[3]), bytes.fromhex(sys.argv[4])
client = socket.create_connection((f"{host}%{interface}", port), timeout=10)
client.sendall(connect)
print(client.recv(100).hex(), client.getpeername()[3] == socket.if_nametoindex(interface))
"""


def a_zone_names_the_interface_of_a_listener_and_of_a_node(lab):
    """A listener and a node at the same link-local addresses on two interfaces: only the zone tells which is meant."""
    near, far = f"remora-near-{os.getpid()}", f"remora-far-{os.getpid()}"
    for namespace in (near, far):
        _ip("netns", "add", namespace)
        lab.callback(_ip, "netns", "delete", namespace)
    for interface in ("clients", "nodes"):
        _ip("-n", near, "link", "add", interface, "type", "veth", "peer", "name", interface, "netns", far)
        for namespace, address in ((near, "fe80::1"), (far, "fe80::2")):
            _ip("-n", namespace, "link", "set", interface, "addrgenmode", "none", "up")
            _ip("-n", namespace, "address", "add", f"{address}/64", "dev", interface, "nodad")
    broker = Path(lab.folder) / "broker.conf"
    broker.write_text("listener 1883 fe80::2%nodes\nallow_anonymous true\nuser root\nlog_dest stderr\n")
    node = Process("broker", [*_inside(far), "mosquitto", "-c", broker], lab.folder)
    node.wait_for(r"mosquitto version \S+ running")
    configuration = Path(lab.folder) / "zones.toml"
    configuration.write_text(
        '[[listeners]]\naddress = "[fe80::1%clients]:1884"\n[[nodes]]\nname = "node1"\naddress = "[fe80::2%nodes]:1883"\n'
    )
    balancer = Process("remora", [*_inside(near), os.environ["REMORA_BIN"], "run", "-c", configuration], lab.folder)
    balancer.wait_for("listening")
    answer = _run_client(far, "clients")
    assert answer.stdout.split() == [CONNACK.hex(), "True"], answer.stdout + answer.stderr
    # It listens on that interface only.
    refused = _run_client(far, "nodes")
    assert "Connection refused" in refused.stderr, refused.stdout + refused.stderr
    assert balancer.stop() == 0
    assert 'client_id=zone version="3.1.1" node="node1" route="home"' in balancer.output(), balancer.output()


def _inside(namespace):
    return ["ip", "netns", "exec", namespace]


def _run_client(namespace, interface):
    command = [*_inside(namespace), "python3", "-c", CLIENT, "fe80::1", interface, "1884", connect("zone").hex()]
    return subprocess.run(command, capture_output=True, text=True, timeout=20)


def _ip(*words):
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
