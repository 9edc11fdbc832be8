"""What goes through the balancer arrives whole: payloads, wills, bridges."""

import hashlib
import random
import signal

from clients import mosquitto_pub
from process import wait_until

MIB = 1024 * 1024

# What a balancer may take for bytes that a slow client leaves unread. The bytes are five times as many.
SLOW_BYTES_MAX = 8 * MIB


def messages_of_every_qos_arrive_whole(lab):
    """200 kB each way between two clients on one broker: QoS 0, 1, 2 and retained, MQTT 3.1.1 and 5."""
    brokers = lab.mosquittos()
    port = lab.balancer(brokers).port
    # The brokers share nothing: only clients of one broker hear each other.
    subscriber, publisher = _neighbours(lab, brokers, port)[:2]
    for version in ("3.1.1", "5"):
        for qos in (0, 1, 2):
            payload = random.randbytes(200_000)
            topic = f"whole/{version}/{qos}"
            options = ["-i", subscriber, "-q", qos, "-t", topic, "-C", 1, "-N"]
            receiver = lab.mosquitto_sub(port, *options, version=version)
            _wait_for_subscription(brokers, topic)
            mosquitto_pub(port, "-i", publisher, "-q", qos, "-t", topic, version=version, payload=payload)
            assert receiver.payload() == payload, f"MQTT {version} QoS {qos}: the payload is not what was sent"
            mosquitto_pub(port, "-i", publisher, "-q", qos, "-r", "-t", f"{topic}/kept", version=version, payload=payload)
            options = ["-i", subscriber, "-q", qos, "-t", f"{topic}/kept", "-C", 1, "-N"]
            receiver = lab.mosquitto_sub(port, *options, version=version)
            assert receiver.payload() == payload, f"MQTT {version} QoS {qos}: the retained payload is not what was sent"


def many_messages_arrive_in_order(lab):
    """20,000 small messages from one client to another."""
    # A broker that may queue only so many drops the rest when the subscriber is held up for a moment.
    brokers = lab.mosquittos("max_queued_messages 0\n")
    port = lab.balancer(brokers).port
    subscriber, publisher = _neighbours(lab, brokers, port)[:2]
    lines = [b"%d" % number for number in range(20_000)]
    receiver = lab.mosquitto_sub(port, "-i", subscriber, "-q", 1, "-t", "many", "-C", len(lines))
    _wait_for_subscription(brokers, "many")
    mosquitto_pub(port, "-i", publisher, "-q", 1, "-t", "many", source="-l", payload=b"\n".join(lines) + b"\n")
    assert receiver.payload(seconds=30).split() == lines


def large_messages_keep_their_checksums(lab):
    """1 to 16 MiB from one client to another, at every QoS, as fast as mosquitto can."""
    brokers = lab.mosquittos()
    port = lab.balancer(brokers).port
    subscriber, publisher = _neighbours(lab, brokers, port)[:2]
    for version, qos, size in (("3.1.1", 0, MIB), ("3.1.1", 1, 4 * MIB), ("5", 2, 4 * MIB), ("5", 0, 16 * MIB)):
        payload = random.randbytes(size)
        topic = f"large/{version}/{qos}/{size}"
        options = ["-i", subscriber, "-q", qos, "-t", topic, "-C", 1, "-N"]
        receiver = lab.mosquitto_sub(port, *options, version=version)
        _wait_for_subscription(brokers, topic)
        mosquitto_pub(port, "-i", publisher, "-q", qos, "-t", topic, version=version, payload=payload)
        received = receiver.payload(seconds=30)
        assert len(received) == size, f"{topic}: {len(received)} bytes arrived"
        assert hashlib.sha256(received).digest() == hashlib.sha256(payload).digest(), f"{topic}: other bytes arrived"


def a_slow_subscriber_holds_up_nobody(lab):
    """A mosquitto_sub stops reading while 40 MiB wait for it: the balancer keeps little of it, others go on, all arrives."""
    # Without a window the broker writes until nobody takes any more.
    brokers = lab.mosquittos("max_inflight_messages 0\n")
    balancer = lab.balancer(brokers)
    port = balancer.port
    slow, quick, publisher = _neighbours(lab, brokers, port)[:3]
    payloads = [random.randbytes(4 * MIB) for _ in range(10)]
    sleeper = lab.mosquitto_sub(port, "-i", slow, "-q", 1, "-t", "flood", "-C", len(payloads), "-N")
    _wait_for_subscription(brokers, "flood")
    sleeper.child.send_signal(signal.SIGSTOP)
    before = balancer.process.resident_bytes()
    for payload in payloads:
        mosquitto_pub(port, "-i", publisher, "-q", 1, "-t", "flood", payload=payload)
    for number in range(20):
        topic = f"beside/{number}"
        other = lab.mosquitto_sub(port, "-i", quick, "-q", 1, "-t", topic, "-C", 1, "-N")
        _wait_for_subscription(brokers, topic)
        mosquitto_pub(port, "-i", publisher, "-q", 1, "-t", topic, payload=b"not held up")
        assert other.payload(seconds=2) == b"not held up"
    assert not sleeper.received.stat().st_size, "the slow subscriber was not slow: that proves nothing"
    grown = balancer.process.resident_bytes() - before
    assert grown <= SLOW_BYTES_MAX, f"the balancer grew by {grown} bytes"
    sleeper.child.send_signal(signal.SIGCONT)
    assert sleeper.payload(seconds=30) == b"".join(payloads), "not what was sent, or not in its order"


def a_big_will_passes(lab):
    """A CONNECT with a will of 20 kB, more than other balancers hold; the client dies and the will arrives whole."""
    brokers = lab.mosquittos()
    port = lab.balancer(brokers).port
    for version in ("3.1.1", "5"):
        will = "".join(random.choices("abcdefgh", k=20_000))
        topic = f"will/{version}"
        # Past the balancer, on every broker, since the will is told by the one that got the CONNECT.
        hearers = [lab.mosquitto_sub(broker.port, "-t", topic, "-N", version=version) for broker in brokers]
        _wait_for_subscription(brokers, topic, count=3)
        options = ["-i", f"testator-{version}", "-t", "nothing", "--will-topic", topic, "--will-payload", will]
        client = lab.mosquitto_sub(port, *options, version=version)
        _wait_for_arrival(brokers, f"testator-{version}")
        client.kill()
        wait_until(lambda: any(hearer.received.stat().st_size >= len(will) for hearer in hearers), "the will")
        heard = [hearer.received.read_text() for hearer in hearers]
        assert sorted(heard) == ["", "", will], "not exactly one broker told the will, or not as it was given"


def a_mosquitto_bridge_works(lab):
    """A mosquitto joins itself to a node as a bridge, protocol level 0x83 or 0x84, or with MQTT 5; messages cross once, both ways."""
    brokers = lab.mosquittos()
    port = lab.balancer(brokers).port
    for version in ("mqttv31", "mqttv311", "mqttv50"):
        _bridges(lab, brokers, port, version)


def a_mosquitto_bridge_works_over_tls(lab):
    """The same with TLS up to the balancer, in MQTT 3.1.1 and 5."""
    authority = lab.authority()
    brokers = lab.mosquittos()
    port = lab.balancer(brokers, authority=authority).tls_port
    for version in ("mqttv311", "mqttv50"):
        _bridges(lab, brokers, port, version, f"bridge_cafile {authority.ca}\n")


def _bridges(lab, brokers, port, version, extra=""):
    edge = lab.mosquitto(
        f"edge-{version}",
        f"connection bridge\naddress 127.0.0.1:{port}\nremote_clientid bridge-{version}\ntopic # both 1\n"
        f"try_private true\nbridge_protocol_version {version}\nnotifications false\nrestart_timeout 1\n{extra}",
    )
    node = _wait_for_arrival(brokers, f"bridge-{version}")
    kinds = {arrival.kind for arrival in node.arrivals() if arrival.client_id == f"bridge-{version}"}
    # MQTT 5 has an option of subscriptions instead of the bit.
    expected = "client" if version == "mqttv50" else "bridge"
    assert kinds == {expected}, f"the node took it for another kind of client: the bridge bit got lost in {version}"
    up = lab.mosquitto_sub(node.port, "-q", 1, "-t", f"up/{version}")
    down = lab.mosquitto_sub(edge.port, "-q", 1, "-t", f"+/{version}")
    _wait_for_subscription([node], f"up/{version}")
    _wait_for_subscription([edge], f"+/{version}")
    wait_until(lambda: "SUBACK" in edge.log(), "the bridge to have subscribed")
    mosquitto_pub(edge.port, "-q", 1, "-t", f"up/{version}", payload=b"from the edge")
    wait_until(lambda: up.received.read_bytes() == b"from the edge\n", "a message to cross to the node")
    mosquitto_pub(node.port, "-q", 1, "-t", f"down/{version}", payload=b"from the node")
    # A node returns none of a bridge's own messages to it. A returning one would have come first, on the same way.
    wait_until(lambda: b"from the node\n" in down.received.read_bytes(), "a message to cross to the edge")
    assert down.received.read_bytes() == b"from the edge\nfrom the node\n", "messages came back over the bridge"
    edge.process.stop()


def _neighbours(lab, brokers, port):
    """Client ids that the balancer sends to one and the same broker."""
    by_broker = {broker: [] for broker in brokers}
    for client_id in (f"neighbour-{number}" for number in range(9)):
        by_broker[lab.home(brokers, port, client_id)].append(client_id)
    return max(by_broker.values(), key=len)


def _wait_for_subscription(brokers, topic, count=1):
    """Waits until a broker's log tells that this many clients subscribed."""
    told = lambda: sum(f"\t{topic} (QoS" in line for broker in brokers for line in broker.log().splitlines())  # noqa: E731
    wait_until(lambda: told() >= count, f"a subscription to {topic}")


def _wait_for_arrival(brokers, client_id):
    return wait_until(lambda: next(filter(lambda broker: broker.knows(client_id), brokers), None), f"{client_id} to arrive")
