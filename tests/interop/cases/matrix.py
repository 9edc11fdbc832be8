"""Every client over every transport that it has: it sits at the home of its id, and receives what another client publishes there.

| client | TCP | TLS | WS | WSS |
| --- | --- | --- | --- | --- |
| MQTT.js | yes | yes | yes | yes |
| paho-mqtt 1.6 and 2 | yes | yes | yes | yes |
| aiomqtt | yes | yes | yes | yes |
| rumqttc | yes | yes | yes | yes |
| gmqtt | yes | yes | it has none | it has none |
| mosquitto's bridge | yes | yes | it has none | it has none |
"""

import json
import os
import subprocess
from pathlib import Path

from clients import mosquitto_pub
from process import Process, wait_until

HERE = Path(__file__).parent.parent

STREAMS = ("tcp", "tls")
EVERY = (*STREAMS, "ws", "wss")
LEVELS = (4, 5)

# Above one packet of the network and one small record; text, since that is how the clients print it.
PAYLOAD = "0123456789abcdef" * 400


class _Field:
    """Three brokers that share nothing, one of them without WebSocket, and a client that publishes at each."""

    def __init__(self, lab):
        self.lab = lab
        self.authority = lab.authority()
        self.brokers = lab.mosquittos(ws=(1, 2))
        self.balancer = lab.balancer(self.brokers, authority=self.authority)
        self.ports = {
            "tcp": self.balancer.port, "tls": self.balancer.tls_port, "ws": self.balancer.ws_port, "wss": self.balancer.wss_port
        }
        self.publishers = {home: client_id for client_id, home in self.homes("publisher").items()}
        assert len(self.publishers) == 3

    def homes(self, *names):
        """Ids that begin with these names, 60 of each, and the broker that `remora route` says is the home of each."""
        ids = [f"{name}-{number}" for name in names for number in range(60)]
        command = [os.environ["REMORA_BIN"], "route", "-c", self.lab.folder / "remora.toml", "--json", *ids]
        said = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout
        by_name = {broker.name: broker for broker in self.brokers}
        return {answer["id"]: by_name[answer["node"]] for answer in json.loads(said)}

    def each(self, client, transports, start):
        """Lets `start` begin a client for each transport and version, two homes for each; each must receive what is published."""
        begun = []
        homes = set()
        for transport in transports:
            for level in LEVELS:
                # One whose home has WebSocket, and the one whose home has none.
                for has_ws in (True, False):
                    ids = self.homes(f"{client}-{transport}-{level}").items()
                    client_id, home = next((one, home) for one, home in ids if bool(home.ws_port) == has_ws)
                    homes.add(home)
                    topic = f"to/{client_id}"
                    begun.append((client_id, home, topic, start(transport, self.ports[transport], client_id, level, topic)))
        assert len(homes) >= 2
        for client_id, home, topic, process in begun:
            process.wait_for("subscribed", 30)
            assert home.knows(client_id), f"{client_id} is not at {home.name}"
            mosquitto_pub(self.balancer.port, "-i", self.publishers[home], "-q", 1, "-t", topic, payload=PAYLOAD.encode())
        for client_id, home, topic, process in begun:
            wait_until(lambda: f"received {PAYLOAD}" in process.output(), f"the message to {client_id}")
            self.ended(client_id, home, process)

    def ended(self, client_id, home, process):
        status = process.wait(30)
        assert status == 0, f"{client_id} ended with {status}: {process.output()[-500:]}"
        line = lambda: next((end for end in self.balancer.ends() if end.get("client_id") == client_id), None)  # noqa: E731
        end = wait_until(line, f"the line on {client_id}")
        assert (end["node"], end["route"]) == (home.name, "home"), end
        # A client that closes before it has read the balancer's close_notify resets by that; and so does a broker that closes on a
        # DISCONNECT with the acknowledgement behind it unread.
        assert end["cause"] in ("client_closed", "client_reset", "node_closed", "node_reset"), end


def _python(lab, library, name, environment, transports):
    field = _Field(lab)

    def start(transport, port, client_id, level, topic):
        program = [Path(environment) / "bin/python", HERE / "matrix_client.py", library]
        return Process(client_id, [*program, transport, port, client_id, level, topic, field.authority.ca], lab.folder)

    field.each(name, transports, start)


def paho_receives_over_every_transport(lab):
    """paho-mqtt 2 over TCP, TLS, WS and WSS, in MQTT 3.1.1 and 5."""
    _python(lab, "paho", "paho2", os.environ["PAHO"], EVERY)


def an_old_paho_receives_over_every_transport(lab):
    """paho-mqtt 1.6, the same."""
    _python(lab, "paho", "paho1", os.environ["PAHO_OLD"], EVERY)


def aiomqtt_receives_over_every_transport(lab):
    """aiomqtt, the same."""
    _python(lab, "aiomqtt", "aiomqtt", os.environ["PYTHON_CLIENTS"], EVERY)


def gmqtt_receives_over_tcp_and_tls(lab):
    """gmqtt, which has no WebSocket."""
    _python(lab, "gmqtt", "gmqtt", os.environ["PYTHON_CLIENTS"], STREAMS)


def mqttjs_receives_over_every_transport(lab):
    """MQTT.js over TCP, TLS, WS and WSS, in MQTT 3.1.1 and 5."""
    field = _Field(lab)
    urls = {"tcp": "mqtt://127.0.0.1:PORT", "tls": "mqtts://127.0.0.1:PORT", "ws": "ws://127.0.0.1:PORT/mqtt"}
    urls["wss"] = "wss://127.0.0.1:PORT/mqtt"

    def start(transport, port, client_id, level, topic):
        options = {"url": urls[transport], "protocolVersion": level, "ca": field.authority.ca.read_text()}
        command = ["node", HERE / "mqttjs_client.js", port, client_id, topic, json.dumps(options), "once"]
        return Process(client_id, command, lab.folder)

    field.each("mqttjs", EVERY, start)


def rumqttc_receives_over_every_transport(lab):
    """rumqttc over TCP, TLS, WS and WSS, in MQTT 3.1.1 and 5."""
    field = _Field(lab)

    def start(transport, port, client_id, level, topic):
        command = [os.environ["RUMQTTC_CLIENT"], transport, port, client_id, level, topic, field.authority.ca]
        return Process(client_id, command, lab.folder)

    field.each("rumqttc", EVERY, start)


def mosquittos_bridge_receives_over_tcp_and_tls(lab):
    """mosquitto's bridge, which has no WebSocket, at the home of its id; what it receives reaches a client of its own broker."""
    field = _Field(lab)
    for transport in STREAMS:
        for level, version in ((4, "mqttv311"), (5, "mqttv50")):
            name = f"edge-{transport}-{level}"
            topic = f"to/{name}"
            client_id, home = next(iter(field.homes(f"bridge-{name}").items()))
            secured = f"bridge_cafile {field.authority.ca}\n" if transport == "tls" else ""
            edge = lab.mosquitto(
                name,
                f"connection bridge\naddress 127.0.0.1:{field.ports[transport]}\nremote_clientid {client_id}\ntopic {topic} in 1\n"
                f"bridge_protocol_version {version}\nnotifications false\nrestart_timeout 1\n{secured}",
            )
            wait_until(lambda: f"\t{topic} (QoS" in home.log(), f"{client_id} to subscribe at {home.name}")
            receiver = lab.mosquitto_sub(edge.port, "-q", 1, "-t", topic, "-C", 1, "-N")
            wait_until(lambda: edge.log().count(f"\t{topic} (QoS") >= 1, "a subscriber at the edge")
            mosquitto_pub(field.balancer.port, "-i", field.publishers[home], "-q", 1, "-t", topic, payload=PAYLOAD.encode())
            assert receiver.payload().decode() == PAYLOAD
            edge.process.stop()
            field.ended(client_id, home, edge.process)
