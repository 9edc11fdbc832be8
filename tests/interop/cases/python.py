"""Clients in Python that keep their connection with their own pings, over TCP and TLS, in MQTT 3.1.1 and 5."""

import os
from pathlib import Path

from process import Process

SCRIPT = Path(__file__).parent.parent / "python_client.py"


def gmqtt_sends_receives_and_pings(lab):
    """gmqtt: its messages come back to it in order, before and after a pause."""
    _all_ways(lab, "gmqtt", os.environ["PYTHON_CLIENTS"])


def aiomqtt_sends_receives_and_pings(lab):
    """The same with aiomqtt."""
    _all_ways(lab, "aiomqtt", os.environ["PYTHON_CLIENTS"])


def an_old_paho_sends_receives_and_pings(lab):
    """The same with paho-mqtt 1.6."""
    _all_ways(lab, "paho1", os.environ["PAHO_OLD"])


def _all_ways(lab, library, environment):
    authority = lab.authority()
    brokers = lab.mosquittos("max_queued_messages 0\nmax_inflight_messages 0\n")
    balancer = lab.balancer(brokers, authority=authority)
    ways = [(balancer.port, ()), (balancer.tls_port, (authority.ca,))]
    # Each spends its time in pauses, so all run beside each other.
    clients = [
        Process(f"{library}-{level}-{port}", [f"{environment}/bin/python", SCRIPT, library, port, f"{library}-{level}-{port}", level, *ca],
                lab.folder)
        for port, ca in ways
        for level in (4, 5)
    ]
    for client in clients:
        status = client.wait(60)
        assert status == 0 and client.output().endswith("done\n"), f"{client.name} ended with {status}: {client.output()[-500:]}"
    # A client that closes before it has read the balancer's close_notify resets by that.
    assert set(balancer.causes()) <= {"client_closed", "client_reset", "node_closed"}, balancer.causes()
