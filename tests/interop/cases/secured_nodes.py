"""Nodes that are reached with TLS and hear before it who the client is: ejabberd and RabbitMQ; mosquitto is in `tls`."""

import re
import socket
import ssl

from packets import connect
from process import wait_until

# More than one record of TLS, than one frame, and than a socket holds.
PAYLOAD = bytes(range(256)) * 4_000


def ejabberds_are_reached_with_tls_after_the_header(lab):
    """Both versions of PROXY before TLS, to mqtts:// and wss://, with a name that is checked: the log names every client."""
    authority = lab.authority()
    cluster = lab.ejabberds(proxy_protocols=["v1", "v2"], authority=authority)
    balancer = lab.balancer(cluster.nodes, authority=authority)
    ways = {balancer.port: "tcp", balancer.tls_port: "tcp", balancer.ws_port: "websockets", balancer.wss_port: "websockets"}
    number = 0
    for port, transport in ways.items():
        for version in ("3.1.1", "5"):
            for _ in range(3):
                number += 1
                _hears_itself(lab, balancer, authority, f"guest-{number}", version, transport, port, cluster.USER_NAME)
    ends = _ends(balancer, number)
    for node in cluster.nodes:
        ours = [end for end in ends if end["node"] == node.name]
        assert ours, f"{node.name} had no client"
        for end in ours:
            node.process.wait_for(rf"Accepted proxied connection {re.escape(end['client'])} -> ")


def rabbitmqs_are_reached_with_tls_after_the_header(lab):
    """The same with RabbitMQ, which demands the balancer's certificate: a client that shows none is refused."""
    authority = lab.authority()
    nodes = lab.rabbitmqs(["v1", "v2"], authority)
    balancer = lab.balancer(nodes, authority=authority)
    number = 0
    for port, transport in {balancer.port: "tcp", balancer.tls_port: "tcp", balancer.wss_port: "websockets"}.items():
        for version in ("3.1", "3.1.1"):
            for _ in range(3):
                number += 1
                _hears_itself(lab, balancer, authority, f"guest-{number}", version, transport, port)
    ends = _ends(balancer, number)
    for node in nodes:
        ours = [end for end in ends if end["node"] == node.name]
        assert ours, f"{node.name} had no client"
        for end in ours:
            node.process.wait_for(rf"connection <\S+> \({re.escape(end['client'])} -> ")
        _takes_nobody_without_a_certificate(node, authority)


def an_ejabberd_with_another_name_gets_nobody(lab):
    """A certificate of the right authority, but not for the name that is asked for, over MQTT and WebSocket."""
    authority = lab.authority()
    cluster = lab.ejabberds(proxy_protocols=["v2"], authority=authority)
    (node,) = cluster.nodes
    right, node.server_name = node.server_name, "elsewhere.example"
    balancer = lab.balancer(cluster.nodes, authority=authority)
    stranger = lab.socket(balancer.port)
    stranger.send(connect("guest-0", login=(cluster.USER_NAME, "any")))
    (end,) = _ends(balancer, 1)
    assert end["cause"] == "no_node", end
    guest = lab.paho("guest-1", "5", cluster.USER_NAME, persistent=False, transport="websockets")
    guest.client.connect("127.0.0.1", balancer.ws_port, **guest.on_connect)
    guest.client.loop_start()
    assert _ends(balancer, 2)[1]["cause"] == "no_node", balancer.ends()
    assert any("TLS handshake with node failed" in warning for warning in balancer.warnings()), balancer.warnings()
    assert "Accepted MQTT authentication" not in node.process.output()
    node.server_name = right
    balancer.configure(cluster.nodes)
    balancer.reload()
    for number, (transport, port) in enumerate((("tcp", balancer.port), ("websockets", balancer.ws_port))):
        _hears_itself(lab, balancer, authority, f"welcome-{number}", "5", transport, port, cluster.USER_NAME)


def _hears_itself(lab, balancer, authority, client_id, version, transport, port, user_name=None):
    client = lab.paho(client_id, version, user_name, persistent=False, transport=transport)
    if port in (balancer.tls_port, balancer.wss_port):
        client.client.tls_set(str(authority.ca))
    client.connect(port)
    client.subscribe(f"to/{client_id}")
    client.publish(f"to/{client_id}", PAYLOAD)
    assert client.message() == PAYLOAD, f"{client_id} heard something else than it said"
    client.disconnect()


def _ends(balancer, count):
    ends = lambda: [end for end in balancer.ends() if end["client_id"].startswith("guest-")]  # noqa: E731
    return wait_until(lambda: len(ends()) >= count and ends(), "the ends of all connections")


def _takes_nobody_without_a_certificate(node, authority):
    trusting = ssl.create_default_context(cafile=authority.ca)
    with socket.create_connection(("127.0.0.1", node.tls_port), timeout=10) as tcp:
        tcp.sendall(b"PROXY TCP4 127.0.0.1 127.0.0.1 4711 1883\r\n")
        try:
            with trusting.wrap_socket(tcp, server_hostname=node.server_name) as tls:
                tls.sendall(connect("without"))
                said = tls.recv(100)
        except ssl.SSLError as error:
            assert "certificate_required" in str(error).lower() or "handshake_failure" in str(error).lower(), error
        else:
            raise AssertionError(f"{node.name} answered {said!r} to a client without a certificate")
