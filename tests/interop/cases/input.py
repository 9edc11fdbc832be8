"""What arrives at the port: CONNECTs in any split, and what is no MQTT at all."""

import http.client
import ssl

from packets import PUBLISH, SUBACK, connect, publish, subscribe
from process import wait_until


def every_split_of_a_connect_comes_home(lab):
    """One byte at a time, and cut in two at every place, in MQTT 3.1, 3.1.1 and 5: always the same broker."""
    brokers = lab.mosquittos()
    port = lab.balancer(brokers).port
    for number, version in enumerate(("3.1", "3.1.1", "5")):
        for client_id in (f"split-{number}-{copy}" for copy in range(3)):
            packet = connect(client_id, version)
            splits = [[packet], [bytes([byte]) for byte in packet]]
            splits += [[packet[:cut], packet[cut:]] for cut in range(1, len(packet))]
            for segments in splits:
                connection = lab.socket(port)
                connection.send(*segments, pause=0.002)
                connection.accepted().close()
            homes = [broker.name for broker in brokers for arrival in broker.arrivals() if arrival.client_id == client_id]
            assert len(homes) == len(splits), f"{client_id}: {len(homes)} arrivals of {len(splits)}"
            assert len(set(homes)) == 1, f"{client_id} in MQTT {version} came to {set(homes)}"


def a_length_cut_in_its_middle_comes_home(lab):
    """A CONNECT of 128, 256 and 384 bytes whose first segment ends between the two bytes of its length."""
    brokers = lab.mosquittos()
    port = lab.balancer(brokers).port
    for remaining in (128, 256, 384):
        # In MQTT 3.1.1 the id is all that follows the 12 bytes up to and with its own length.
        client_id = f"length-{remaining}-".ljust(remaining - 12, "x")
        packet = connect(client_id)
        assert len(packet) == remaining + 3
        for segments in ([packet], [packet[:2], packet[2:]]):
            connection = lab.socket(port)
            connection.send(*segments, pause=0.05)
            connection.accepted().close()
        homes = [broker.name for broker in brokers for arrival in broker.arrivals() if arrival.client_id == client_id]
        assert len(homes) == 2 and len(set(homes)) == 1, f"remaining length {remaining} came to {homes}"


def ids_with_a_long_common_prefix_spread(lab):
    """Thirty ids that differ only behind their 90th character."""
    brokers = lab.mosquittos()
    port = lab.balancer(brokers).port
    for number in range(30):
        connection = lab.socket(port)
        connection.send(connect("p" * 90 + f"-{number}"))
        connection.accepted().close()
    share = {broker.name: len(broker.arrivals()) for broker in brokers}
    assert sum(share.values()) == 30 and min(share.values()) >= 3, f"not spread: {share}"


def big_user_properties_pass(lab):
    """A v5 CONNECT with 2 kB of user properties before the client id, in one piece and byte by byte."""
    brokers = lab.mosquittos()
    port = lab.balancer(brokers).port
    packet = connect("proud", "5", user_properties=[("k" * 100, "v" * 100)] * 10)
    for segments in ([packet], [bytes([byte]) for byte in packet]):
        connection = lab.socket(port)
        connection.send(*segments)
        connection.accepted().close()
    homes = [broker.name for broker in brokers for _ in broker.arrivals()]
    assert len(homes) == 2 and len(set(homes)) == 1, f"came to {homes}"


def what_follows_the_connect_at_once_is_not_lost(lab):
    """CONNECT, SUBSCRIBE and PUBLISH in one segment, without waiting for the CONNACK."""
    port = lab.balancer(lab.mosquittos()).port
    payload = bytes(range(256)) * 100
    connection = lab.socket(port)
    connection.send(connect("hasty") + subscribe("echo") + publish("echo", payload))
    connection.accepted()
    kind, _ = connection.read_packet()
    assert kind == SUBACK, f"packet type {kind} where a SUBACK was expected"
    kind, body = connection.read_packet()
    assert kind == PUBLISH and body == b"\x00\x04echo" + payload, "the message did not come back as it was sent"


def what_is_no_mqtt_never_reaches_a_node(lab):
    """HTTP, TLS and junk are closed at once; the brokers' logs show nothing of them."""
    brokers = lab.mosquittos()
    port = lab.balancer(brokers).port
    marks = {broker: len(broker.log()) for broker in brokers}

    request = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    _must_fail("HTTP", OSError, http.client.HTTPException, attempt=lambda: request.request("GET", "/") or request.getresponse())
    anything = ssl.create_default_context()
    anything.check_hostname, anything.verify_mode = False, ssl.CERT_NONE
    _must_fail("TLS", OSError, attempt=lambda: anything.wrap_socket(lab.socket(port).stream))
    junk = [b"SSH-2.0-OpenSSH_9.2\r\n", b"\x00" * 100, b"\xff" * 100, b"\r\n\r\n", publish("a", b"b"), b"\x10\x0f\x00\x04AMQP" + b"\x00" * 9]
    for bytes_sent in junk:
        connection = lab.socket(port)
        connection.send(bytes_sent)
        assert connection.closed_within(2), f"{bytes_sent[:12]} was not closed"

    # An honest client behind them is the first that the brokers hear of.
    connection = lab.socket(port)
    connection.send(connect("honest"))
    connection.accepted()
    wait_until(lambda: any("as honest" in broker.log() for broker in brokers), "the honest client in a broker's log")
    dialed = [line for broker in brokers for line in broker.log()[marks[broker] :].splitlines() if "New connection" in line]
    assert len(dialed) == 1, f"the brokers heard of more than the honest client: {dialed}"


def _must_fail(what, *failures, attempt):
    try:
        attempt()
    except TimeoutError:
        raise AssertionError(f"{what} was left waiting") from None
    except failures:
        return
    raise AssertionError(f"{what} was answered")
