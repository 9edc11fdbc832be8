"""Who the client is: what brokers hear of it in PROXY headers, and what a balancer before this one says."""

import re
import ssl
import subprocess
from pathlib import Path

from packets import Socket, connect
from process import wait_until

CONNECTIONS = 1_000

LOGIN = ("someone@localhost", "any")


def rabbitmq_sees_every_client_by_its_own_address(lab):
    """1,000 connections from as many addresses: the logs of two RabbitMQ nodes, told in either version, name every one."""
    brokers = lab.rabbitmqs(["v1", "v2"])
    clients = _come_and_go([lab.balancer(brokers).port])
    saw = [lambda broker=broker: _addresses(r"connection <\S+> \((\S+) -> ", broker) for broker in brokers]
    _all_were_seen(clients, saw, "RabbitMQ")


def ejabberd_sees_every_client_by_its_own_address(lab):
    """The same with two joined ejabberd nodes."""
    cluster = lab.ejabberds(proxy_protocols=["v1", "v2"])
    cluster.write_every_line()
    clients = _come_and_go([lab.balancer(cluster.nodes).port], LOGIN)
    _all_were_seen(clients, _ejabberd_saw(cluster), "ejabberd")


def ejabberds_websocket_hears_it_before_the_upgrade(lab):
    """Clients over WebSocket, to WebSocket listeners of ejabberd that take nothing without a header."""
    cluster = lab.ejabberds(proxy_protocols=["v1", "v2"])
    balancer = lab.balancer(cluster.nodes)
    for number in range(20):
        client = lab.paho(f"guest-{number}", "5", cluster.USER_NAME, persistent=False, transport="websockets")
        client.connect(balancer.ws_port)
        client.disconnect()
    ours = lambda: {end["client"] for end in balancer.ends() if end["client_id"].startswith("guest-")}  # noqa: E731
    wait_until(lambda: len(ours()) == 20, "the ends of all connections")
    _all_were_seen(ours(), _ejabberd_saw(cluster), "ejabberd")


def the_chain_of_two_balancers_says_who_the_client_is(lab):
    """Two HAProxys, each with its version, then Remora, then ejabberd: each tells the next; checks are counted and make no line."""
    cluster = lab.ejabberds(proxy_protocols=["v2", "v1"])
    balancer = lab.balancer(cluster.nodes, proxy_protocol_from=["127.0.0.0/8"])
    cluster.write_every_line()
    fronts = [lab.sending_haproxy(balancer.port, options) for options in ("send-proxy", "send-proxy-v2")]
    clients = _come_and_go([front.port for front in fronts], LOGIN)
    _all_were_seen(clients, _ejabberd_saw(cluster), "ejabberd")
    _all_were_seen(clients, [lambda: {end["client"] for end in balancer.ends()}], "Remora")
    # The checks of HAProxy come and go meanwhile.
    counted = lambda: sum(balancer.ended(cause) for cause in ("client_closed", "client_reset"))  # noqa: E731
    wait_until(lambda: counted() >= len(clients) + 5, "checks of HAProxy")
    checks = [end for end in balancer.ends() if end["client"] not in clients]
    assert not checks, checks
    assert not balancer.warnings(), balancer.warnings()


def what_tls_said_to_haproxy_is_believed_and_told(lab):
    """TLS ends at HAProxy: the certificate's common name and the server name arrive at Remora, by a checksummed header."""
    certificates = _certificates(Path(lab.folder))
    mosquitto = lab.mosquitto("mosquitto1")
    balancer = lab.balancer([mosquitto], proxy_protocol_from=["127.0.0.0/8"])
    options = "send-proxy-v2 proxy-v2-options ssl,cert-cn,ssl-cipher,authority,crc32c,unique-id"
    front = lab.sending_haproxy(balancer.port, options, certificates)
    for name in ("gauge-7", None):
        context = ssl.create_default_context(cafile=certificates / "ca.crt")
        if name:
            context.load_cert_chain(certificates / "client.pem")
        plain = Socket(front.port)
        client = _shown(plain.stream.getsockname())
        plain.stream = context.wrap_socket(plain.stream, server_hostname="mqtt.example")
        plain.send(connect(f"with-{name}"))
        plain.accepted().close()
        find = lambda: [end for end in balancer.ends() if end["client"] == client]  # noqa: E731
        (end,) = wait_until(find, "the end of a connection")
        assert end["client_id"] == f"with-{name}", end
        assert end["server_name"] == "mqtt.example", end
        assert end.get("certificate_cn") == name, end


def _come_and_go(ports, login=None):
    """Connections from as many addresses to these ports in turn, each accepted and closed; where they came from."""
    clients = set()
    for number in range(CONNECTIONS):
        source = f"127.{40 + number // 250}.{number % 7}.{1 + number % 250}"
        connection = Socket(ports[number % len(ports)], source=source)
        clients.add(_shown(connection.stream.getsockname()))
        connection.send(connect(f"client-{number}", login=login))
        connection.accepted().close()
    assert len({client.split(":")[0] for client in clients}) == CONNECTIONS, "every address is another one"
    return clients


def _all_were_seen(clients, saw, by):
    missing = lambda: clients - set().union(*(seen() for seen in saw))  # noqa: E731
    try:
        wait_until(lambda: not missing(), f"{by} to name every client")
    except AssertionError:
        lost = missing()
        raise AssertionError(f"{by} named {len(clients) - len(lost)} of {len(clients)}; not {sorted(lost)[:3]}") from None
    # Else a log that names nobody would do.
    assert all(seen() & clients for seen in saw), f"one {by} had none of the clients"


def _addresses(pattern, broker):
    return set(re.findall(pattern, broker.process.output()))


def _ejabberd_saw(cluster):
    pattern = r"Accepted (?:proxied )?connection (\S+) -> "
    return [lambda node=node: _addresses(pattern, node) for node in cluster.nodes]


def _shown(address):
    return "%s:%s" % address[:2]


def _certificates(folder):
    """A CA, and certificates of a server and a client, made for this case alone."""

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)

    new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    openssl(*new, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=a CA of one case")
    signed = ["-CA", "ca.crt", "-CAkey", "ca.key"]
    names = ["-addext", "subjectAltName=DNS:mqtt.example", "-addext", "basicConstraints=critical,CA:FALSE"]
    for who, subject in (("server", "/CN=mqtt.example"), ("client", "/CN=gauge-7")):
        openssl(*new, *signed, *names, "-keyout", f"{who}.key", "-out", f"{who}.crt", "-subj", subject)
        (folder / f"{who}.pem").write_text((folder / f"{who}.crt").read_text() + (folder / f"{who}.key").read_text())
    return folder
