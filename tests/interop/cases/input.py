"""What arrives at the port: CONNECTs in any split and of any size, silence, and what is no MQTT at all."""

import http.client
import random
import ssl
import time

from packets import PUBLISH, SUBACK, connect, publish, subscribe
from process import wait_until

# Default time from accept until a CONNECT was read.
CONNECT_SECONDS = 5

# How much a balancer may grow for a thousand clients that announce the largest packet there is and then stop.
CLAIMS_BYTES_MAX = 8 * 1024 * 1024


def a_hundred_and_fifty_ids_come_home_however_they_are_cut(lab):
    """150 ids, each in one segment, in two with a pause, and byte by byte: no id ever comes to a second broker."""
    brokers = lab.mosquittos()
    port = lab.balancer(brokers).port
    ids = [f"device-{number:04}" for number in range(150)]
    homes = {client_id: set() for client_id in ids}
    visits = 0
    # In one segment twice: a balancer that does not know the id would fail here already.
    for cut in (_whole, _whole, _in_two, _byte_by_byte):
        marks = {broker: len(broker.log()) for broker in brokers}
        for client_id in random.sample(ids, len(ids)):
            connection = lab.socket(port)
            connection.send(*cut(connect(client_id)), pause=0.002 if cut is _in_two else 0)
            connection.accepted().close()
        for broker in brokers:
            for arrival in broker.arrivals(marks[broker]):
                homes[arrival.client_id].add(broker.name)
                visits += 1
        astray = {client_id: names for client_id, names in homes.items() if len(names) != 1}
        assert not astray, f"cut {cut.__name__}: {len(astray)} of 150 came to more than one, such as {astray.popitem()}"
    assert visits == 4 * len(ids), f"{visits} arrivals of {4 * len(ids)}"


def _whole(packet):
    return [packet]


def _in_two(packet):
    # Within the id.
    return [packet[:-3], packet[-3:]]


def _byte_by_byte(packet):
    return [bytes([byte]) for byte in packet]


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


def the_largest_fields_pass(lab):
    """A password of 60 kB behind the id, and an id of 65,535 bytes; both clients then get their own message back."""
    port = lab.balancer(lab.mosquittos()).port
    longest = {"3.1.1": connect("i" * 65_535), "5": connect("i" * 65_535, "5")}
    logins = {version: connect("guarded", version, login=("someone", random.randbytes(60_000))) for version in longest}
    for packets in (logins, longest):
        for version, packet in packets.items():
            connection = lab.socket(port)
            connection.send(packet)
            connection.accepted()
            if version == "3.1.1":
                connection.send(subscribe("echo") + publish("echo", b"still here"))
                assert connection.read_packet()[0] == SUBACK
                assert connection.read_packet() == (PUBLISH, b"\x00\x04echostill here")
            connection.close()


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


def every_stranger_is_closed_for_a_reason_of_its_own(lab):
    """HTTP, TLS, a PROXY header, another protocol's name and junk: the balancer's log tells them apart."""
    balancer = lab.balancer(lab.mosquittos())
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40
    strangers = {
        "not_mqtt_http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "not_mqtt_tls": hello,
        "not_mqtt_proxy": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "malformed": b"\x10\x0f\x00\x04AMQP" + b"\x00" * 9,
        "not_mqtt_junk": b"\x00" * 100,
    }
    # The connection that found out whether it listens said nothing, and made no line.
    for number, (cause, first_bytes) in enumerate(strangers.items(), start=1):
        connection = lab.socket(balancer.port)
        connection.send(first_bytes)
        assert connection.closed_within(2), f"{cause} was not closed"
        wait_until(lambda: len(balancer.causes()) >= number, f"an end for {cause} in the log")
        told = balancer.causes()
        assert told == list(strangers)[:number], f"{cause}: the log has {told}"


def silence_ends_at_the_deadline(lab):
    """A client that sends nothing, one that stops in mid-CONNECT, one that sends a byte a second: all are closed in time."""
    port = lab.balancer(lab.mosquittos()).port
    began = time.monotonic()
    silent, stopped, slow = (lab.socket(port) for _ in range(3))
    packet = connect("s" * 30)
    stopped.send(packet[:-1])
    for number in range(CONNECT_SECONDS - 1):
        slow.send(packet[number : number + 1])
        time.sleep(1)
    for connection in (silent, stopped, slow):
        assert connection.closed_within(began + CONNECT_SECONDS + 2 - time.monotonic()), "a client was left waiting"
    took = time.monotonic() - began
    assert took > CONNECT_SECONDS - 0.5, f"closed after {took:.1f} s already"


def the_largest_claim_costs_no_memory(lab):
    """1,000 clients announce a packet of 268,435,455 bytes and an id of 65,535 and stop: the balancer hardly grows."""
    balancer = lab.balancer(lab.mosquittos())
    process = balancer.process
    for _ in range(20):
        connection = lab.socket(balancer.port)
        connection.send(connect("warm"))
        connection.accepted().close()
    before, open_before = process.resident_bytes(), len(process.descriptors())
    claim = b"\x10\xff\xff\xff\x7f\x00\x04MQTT\x04\x02\x00\x3c\xff\xff" + b"c" * 20
    for _ in range(1_000):
        lab.socket(balancer.port).send(claim)
    wait_until(lambda: len(process.descriptors()) >= open_before + 990, "all to be accepted", seconds=4)
    grown = process.resident_bytes() - before
    assert grown <= CLAIMS_BYTES_MAX, f"the balancer grew by {grown} bytes"
    # None of it is in the way of an honest client.
    connection = lab.socket(balancer.port)
    connection.send(connect("honest"))
    connection.accepted()


def _must_fail(what, *failures, attempt):
    try:
        attempt()
    except TimeoutError:
        raise AssertionError(f"{what} was left waiting") from None
    except failures:
        return
    raise AssertionError(f"{what} was answered")
