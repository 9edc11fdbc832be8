"""Two joined ejabberd nodes: sessions roam between them, at the cost of a takeover that stickiness spares."""

from brokers import Takeovers

VERSIONS = ("3.1.1", "5")

# The reason code with which MQTT 5 ends the older of two connections with one id.
SESSION_TAKEN_OVER = 0x8E


def sticky_sessions_are_never_taken_over_by_another_node(lab):
    """Persistent sessions return through the balancer again and again: present each time, always on their node."""
    cluster = lab.ejabberds()
    port = lab.balancer(cluster.nodes).port
    ids = [(f"sticky-{version}-{number}", version) for version in VERSIONS for number in range(4)]
    for client_id, version in ids:
        _come_and_go(lab, cluster, client_id, version, ports=[port] * 5)
        takeovers = cluster.takeovers(client_id, count=4)
        assert takeovers == Takeovers(within_a_node=4, across_nodes=0), f"{client_id}: {takeovers}"
    visited = {cluster.home(client_id) for client_id, _ in ids}
    assert visited == set(cluster.nodes), "all clients sat on one node: that proves nothing"


def taking_the_nodes_in_turn_takes_sessions_over(lab):
    """The same clients on the nodes in turn, as behind a balancer that knows no ids: the session moves on each return."""
    cluster = lab.ejabberds()
    # One return each: of two moves in quick succession ejabberd now and then refuses the second.
    ports = [node.port for node in cluster.nodes]
    for client_id, version in ((f"roaming-{version}-{number}", version) for version in VERSIONS for number in range(4)):
        _come_and_go(lab, cluster, client_id, version, ports)
        takeovers = cluster.takeovers(client_id, count=1)
        assert takeovers == Takeovers(within_a_node=0, across_nodes=1), f"{client_id}: {takeovers}"


def the_second_of_two_connections_finds_the_session_on_its_node(lab):
    """An id connects again while it is connected: the first is told 0x8E; through the balancer the session stays put."""
    cluster = lab.ejabberds()
    sticky = lab.balancer(cluster.nodes).port
    apart = [node.port for node in cluster.nodes]
    for client_id, ports, expected in (("sticky", [sticky, sticky], Takeovers(1, 0)), ("astray", apart, Takeovers(0, 1))):
        first, second = (lab.paho(client_id, "5", cluster.USER_NAME) for _ in ports)
        first.connect(ports[0])
        assert second.connect(ports[1]), f"{client_id}: the second connection did not get the session"
        reason = first.ended()
        assert reason.value == SESSION_TAKEN_OVER, f"{client_id}: the first connection ended with {reason}"
        takeovers = cluster.takeovers(client_id, count=1)
        assert takeovers == expected, f"{client_id}: {takeovers}"


def messages_cross_the_cluster(lab):
    """Two clients that the balancer sends to different nodes hear each other."""
    cluster = lab.ejabberds()
    port = lab.balancer(cluster.nodes).port
    by_node = {}
    for number in range(20):
        client = lab.paho(f"speaker-{number}", "5", cluster.USER_NAME)
        client.connect(port)
        by_node.setdefault(cluster.home(client.client_id), client)
    assert set(by_node) == set(cluster.nodes), "20 clients were all sent to one node"
    one, other = by_node.values()
    for speaker, hearer in ((one, other), (other, one)):
        hearer.subscribe(f"to/{hearer.client_id}")
        speaker.publish(f"to/{hearer.client_id}", b"across")
        assert hearer.message() == b"across"


def _come_and_go(lab, cluster, client_id, version, ports):
    """Lets a client with a persistent session connect at each port in turn.

    While it is away, a message for it is given to the node that does not hold the session. That it is there on the return
    shows that sessions and routing are the whole cluster's.
    """
    for visit, port in enumerate(ports):
        client = lab.paho(client_id, version, cluster.USER_NAME)
        session_present = client.connect(port)
        assert session_present == (visit > 0), f"{client_id}: session present {session_present} on visit {visit + 1}"
        if visit == 0:
            client.subscribe(f"to/{client_id}")
        else:
            assert client.message() == b"%d" % visit
        client.disconnect()
        home = cluster.home(client_id)
        elsewhere = next(node for node in cluster.nodes if node is not home)
        publisher = lab.paho("publisher", version, cluster.USER_NAME, persistent=False)
        publisher.connect(elsewhere.port)
        publisher.publish(f"to/{client_id}", b"%d" % (visit + 1))
        publisher.disconnect()
