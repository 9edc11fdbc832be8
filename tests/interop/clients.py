"""Real clients: mosquitto_pub and mosquitto_sub, MQTT.js, paho-mqtt."""

import json
import queue
import subprocess
import uuid
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from process import Process, wait_until

HERE = Path(__file__).parent

# How long a persistent session of MQTT 5 outlives its connection: longer than any case.
SESSION_SECONDS = 300

# How the mosquitto tools call the versions.
TOOL_VERSIONS = {"3.1": "mqttv31", "3.1.1": "mqttv311", "5": "mqttv5"}


def _tool(name, port, version, *options):
    return [name, "-h", "127.0.0.1", "-p", str(port), "-V", TOOL_VERSIONS[version], *map(str, options)]


def mosquitto_pub(port, *options, version="3.1.1", payload=b"hello", source="-s"):
    """Publishes a payload, or with `-l` as its source each of its lines, and waits for the end of the tool."""
    command = _tool("mosquitto_pub", port, version, *options, source)
    done = subprocess.run(command, input=payload, capture_output=True, timeout=20)
    assert done.returncode == 0, f"mosquitto_pub failed: {done.stderr.decode().strip() or done.returncode}"


class MosquittoSub(Process):
    """A mosquitto_sub whose standard output holds payloads and nothing else."""

    def __init__(self, port, folder, *options, version="3.1.1", inside=()):
        name = f"mosquitto_sub-{uuid.uuid4().hex[:8]}"
        self.received = Path(folder) / f"{name}.received"
        # The tool's own messages go to the log, payloads to a file of their own, byte for byte.
        script = 'received=$1; shift; exec "$@" >"$received"'
        command = _tool("mosquitto_sub", port, version, *options)
        super().__init__(name, [*inside, "sh", "-c", script, "sh", self.received, *command], folder)

    def payload(self, seconds=10):
        """All it received, once it ended by itself as `-C` makes it do."""
        status = self.wait(seconds)
        assert status == 0, f"mosquitto_sub ended with {status}: {self.output().strip()}"
        return self.received.read_bytes()


class Hearer:
    """An MQTT.js that is subscribed to one topic, wherever it runs: `events` tells what happened to it, `say` what it is to do."""

    TOPIC = "to/mqttjs"

    def drop(self):
        """Cuts its connection on its own side; MQTT.js then comes back by itself."""
        closes = len(self.events("close"))
        self.say("drop")
        wait_until(lambda: len(self.events("close")) > closes, "MQTT.js to notice that its connection is gone")

    def hears_from(self, brokers, seconds=10):
        """The one of these brokers whose messages reach the client.

        Every broker is told the same over and over, each with its own name in the message, as a publisher does that talks
        past the balancer to nodes which share nothing.
        """
        rounds = iter(range(1_000_000))

        def heard():
            stamp = f"{uuid.uuid4().hex}-{next(rounds)}"
            for broker in brokers:
                mosquitto_pub(broker.port, "-t", self.TOPIC, payload=f"{stamp} {broker.name}".encode())
            try:
                wait_until(lambda: self._heard(stamp), "a message", seconds=0.3)
            except AssertionError:
                return None
            return self._heard(stamp)

        names = wait_until(heard, f"MQTT.js to receive messages (so far: {self.events()[-5:]})", seconds)
        assert len(names) == 1, f"one message came from {names}"
        return next(broker for broker in brokers if broker.name == names[0])

    def comes_home(self, home, brokers, seconds=35):
        """Drops its connection until it hears from `home`, which may be held for down for a while after its return."""

        def at_home():
            self.drop()
            # MQTT.js comes back a second after a cut; the rest is the balancer's time, and this machine's.
            return self.hears_from(brokers, 5) is home

        wait_until(at_home, "the client to come home", seconds)

    def _heard(self, stamp):
        payloads = (event["payload"].split() for event in self.events("message"))
        return [name for heard_stamp, name in payloads if heard_stamp == stamp]


class MqttJs(Hearer, Process):
    """MQTT.js in Node.js under default options, subscribed to one topic."""

    def __init__(self, port, folder, client_id, **options):
        command = ["node", HERE / "mqttjs_client.js", port, client_id, self.TOPIC, json.dumps(options)]
        Process.__init__(self, f"mqttjs-{client_id}", command, folder, stdin=subprocess.PIPE)
        self.wait_for('"subscribed"', seconds=20)

    def events(self, kind=None):
        """What happened to it so far, or only the events of one kind."""
        complete = self.output().rpartition("\n")[0].splitlines()
        events = [json.loads(line) for line in complete if line.startswith("{")]
        return [event for event in events if kind in (None, event["event"])]

    def say(self, command):
        self.child.stdin.write(f"{command}\n".encode())
        self.child.stdin.flush()


class Paho:
    """One paho-mqtt client; what it is told arrives in queues."""

    PROTOCOLS = {"3.1": paho.MQTTv31, "3.1.1": paho.MQTTv311, "5": paho.MQTTv5}

    def __init__(self, client_id, version, user_name, persistent, transport, returns=False):
        self.client_id = client_id
        # Before MQTT 5 one flag says both whether to begin anew and whether to keep the session; MQTT 5 says them apart,
        # and when connecting.
        self.on_connect, options = {}, {}
        if version == "5":
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = SESSION_SECONDS if persistent else 0
            self.on_connect = {"clean_start": not persistent, "properties": properties}
        else:
            options["clean_session"] = not persistent
        # Most cases say when it connects; by itself it would fight for its id with the client that takes it over.
        options["reconnect_on_failure"] = returns
        options["transport"] = transport
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=self.PROTOCOLS[version], **options)
        if user_name:
            # ejabberd wants a password too, and takes any.
            self.client.username_pw_set(user_name, "any")
        self.connacks, self.messages, self.ends = queue.Queue(), queue.Queue(), queue.Queue()
        self.subacks, self.pubacks = queue.Queue(), queue.Queue()
        self.client.on_connect = lambda _, __, flags, reason, ___: self.connacks.put((flags.session_present, reason))
        self.client.on_message = lambda _, __, message: self.messages.put(message.payload)
        self.client.on_disconnect = lambda _, __, ___, reason, ____: self.ends.put(reason)
        self.client.on_subscribe = lambda _, __, ___, reasons, ____: self.subacks.put(reasons)
        self.client.on_publish = lambda _, __, ___, reason, ____: self.pubacks.put(reason)

    def connect(self, port):
        """Connects, and returns whether the broker had a session already."""
        self.client.connect("127.0.0.1", port, **self.on_connect)
        self.client.loop_start()
        session_present, reason = _next(self.connacks, "a CONNACK")
        assert not reason.is_failure, f"refused: {reason}"
        return session_present

    def subscribe(self, topic):
        self.client.subscribe(topic, qos=1)
        reasons = _next(self.subacks, "a SUBACK")
        assert not reasons[0].is_failure, f"subscribing was refused: {reasons[0]}"

    def publish(self, topic, payload):
        """Publishes with QoS 1 and waits until the broker has it."""
        self.client.publish(topic, payload, qos=1)
        _next(self.pubacks, "a PUBACK")

    def message(self):
        return _next(self.messages, "a message")

    def ended(self):
        """The reason for which the broker ended the connection."""
        return _next(self.ends, "the end of the connection")

    def returned(self, seconds):
        """Waits until it has come back by itself."""
        _, reason = _next(self.connacks, "a CONNACK", seconds)
        assert not reason.is_failure, f"refused: {reason}"

    def disconnect(self):
        self.client.disconnect()
        self.ended()
        self.client.loop_stop()

    def stop(self):
        """Ends whatever is left of it, in any state."""
        self.client.disconnect()
        self.client.loop_stop()


def _next(arrived, what, seconds=10):
    try:
        return arrived.get(timeout=seconds)
    except queue.Empty:
        raise AssertionError(f"waited {seconds} s in vain for {what}") from None
