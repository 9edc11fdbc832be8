"""Each client id comes back to its node, and ids spread over the nodes: three mosquittos that share nothing."""

import random
from collections import Counter

from clients import mosquitto_pub
from process import wait_until

# Few enough to be quick; enough that a balancer which does not know the id cannot pass by luck.
IDS = [f"device-{number}" for number in range(60)]


def every_id_returns_to_its_node(lab):
    """60 ids in MQTT 3.1, 3.1.1 and 5, each twice, in random order and from another address."""
    brokers = lab.mosquittos()
    port = lab.balancer(brokers).port
    homes = None
    for version in ("3.1", "3.1.1", "5"):
        first = _connect_all(brokers, port, version, source="127.0.0.1")
        again = _connect_all(brokers, port, version, source="127.0.0.2")
        _same(first, again)
        # The version is no part of the key: a device that is upgraded stays where it is.
        _same(homes or first, first)
        homes = first
    share = Counter(homes.values())
    assert all(share[broker.name] >= 8 for broker in brokers), f"not spread: {share}"


def a_restart_or_another_order_of_nodes_moves_nobody(lab):
    """The balancer ends, its nodes are listed the other way round, it starts again."""
    brokers = lab.mosquittos()
    balancer = lab.balancer(brokers)
    before = _connect_all(brokers, balancer.port)
    balancer.stop()
    balancer.configure(brokers[::-1])
    balancer.start()
    _same(before, _connect_all(brokers, balancer.port))


def losing_a_node_moves_only_its_ids(lab):
    """One broker is killed: the other brokers' ids stay; it returns: its ids are at home again."""
    brokers = lab.mosquittos()
    lost, *others = brokers
    port = lab.balancer(brokers).port
    homes = _connect_all(brokers, port)
    lost.kill()
    meanwhile = _connect_all(others, port)
    _same({client_id: home for client_id, home in homes.items() if home != lost.name}, meanwhile)
    moved = Counter(meanwhile[client_id] for client_id, home in homes.items() if home == lost.name)
    assert len(moved) == 2, f"all ids of the lost node went to one other: {moved}"
    lost.start()

    def at_home():
        # The node counts as down for a while: how long depends on how often it was found so.
        return _connect_all(brokers, port, ids=[client_id for client_id in IDS if homes[client_id] == lost.name][:1])

    wait_until(lambda: set(at_home().values()) == {lost.name}, "the node's first client to come home", seconds=35)
    _same(homes, _connect_all(brokers, port))


def clients_without_an_id_spread(lab):
    """40 mosquitto_sub without a client id stay connected; no broker is left out."""
    brokers = lab.mosquittos()
    port = lab.balancer(brokers).port
    for version in ("3.1.1", "5"):
        for _ in range(20):
            lab.mosquitto_sub(port, "-t", "nothing", version=version)
    total = lambda: sum(len(broker.arrivals()) for broker in brokers)  # noqa: E731
    wait_until(lambda: total() >= 40, "40 clients", seconds=20)
    share = {broker.name: len(broker.arrivals()) for broker in brokers}
    assert sum(share.values()) == 40 and min(share.values()) >= 5, f"not spread: {share}"


def an_assigned_id_comes_home(lab):
    """mosquitto_sub takes on the id a broker gave it: after a cut it comes back to that broker with it."""
    brokers = lab.mosquittos()
    doors = lab.doors(brokers)
    port = lab.balancer(doors).port
    # With a session that outlives the cut, so that coming home is worth something.
    for _ in range(8):
        lab.mosquitto_sub(port, "-t", "nothing", "-x", 300, version="5")
    assigned = wait_until(lambda: _arrived(brokers, 8), "8 clients", seconds=20)
    marks = {broker: len(broker.log()) for broker in brokers}
    for door in doors:
        door.cut()
    _same(assigned, wait_until(lambda: _arrived(brokers, 8, marks), "8 clients to come back", seconds=20))


def _arrived(brokers, count, marks=None):
    """Who sits where, once this many have arrived."""
    homes = {}
    for broker in brokers:
        for arrival in broker.arrivals(marks[broker] if marks else 0):
            homes[arrival.client_id] = broker.name
    return homes if len(homes) >= count else None


def _connect_all(brokers, port, version="3.1.1", source="127.0.0.1", ids=IDS):
    """Lets mosquitto_pub connect with each id, and reads in the brokers' logs to which of them it came."""
    marks = {broker: len(broker.log()) for broker in brokers}
    for client_id in random.sample(ids, len(ids)):
        mosquitto_pub(port, "-A", source, "-i", client_id, "-t", "hello", version=version)
    arrivals = [(arrival, broker) for broker in brokers for arrival in broker.arrivals(marks[broker])]
    arrived = Counter(arrival.client_id for arrival, _ in arrivals)
    wrong = [(broker.name, arrival.client_id) for arrival, broker in arrivals if arrived[arrival.client_id] != 1]
    missing, strangers = sorted(set(ids) - set(arrived)), sorted(set(arrived) - set(ids))
    assert arrived == Counter(ids), f"not each id arrived exactly once: {wrong} more than once, {missing} nowhere, strangers {strangers}"
    assert {arrival.version for arrival, _ in arrivals} == {version}, f"not all in MQTT {version}"
    return {arrival.client_id: broker.name for arrival, broker in arrivals}


def _same(before, after):
    moved = {client_id: (home, after.get(client_id)) for client_id, home in before.items() if after.get(client_id) != home}
    assert not moved, f"{len(moved)} of {len(before)} moved, such as {next(iter(moved.items()))}"
