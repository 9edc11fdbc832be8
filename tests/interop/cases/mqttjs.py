"""MQTT.js under default options keeps receiving whatever its node does. A refusing CONNACK would end it for ever."""

from process import wait_until

# Server unavailable, as an evacuating node says it in MQTT 3.1.1, and Use another server, in MQTT 5.
UNAVAILABLE = bytes([0x20, 2, 0, 3])
USE_ANOTHER_SERVER = bytes([0x20, 3, 0, 0x9C, 0])

# A node that is about to end closes what it still accepts, without a word.
NOTHING = b""

# MQTT.js comes back a second after a cut; the rest is the balancer's time, and this machine's.
RECOVERY_SECONDS = 5


def mqttjs_never_hears_that_its_node_refuses(lab):
    """The node cuts its clients and refuses them, as in an evacuation; another takes them; later they go home."""
    brokers = lab.mosquittos()
    doors = lab.doors(brokers)
    port = lab.balancer(doors).port
    for number, (refusal, options) in enumerate(((UNAVAILABLE, {}), (USE_ANOTHER_SERVER, {"protocolVersion": 5}), (NOTHING, {}))):
        client = lab.mqttjs(port, f"evacuated-{number}", **options)
        home = client.hears_from(brokers)
        door = next(door for door in doors if door.broker is home)
        refused = door.refused
        door.refuse(refusal)
        door.cut()
        away = client.hears_from(brokers, RECOVERY_SECONDS)
        assert away is not home
        assert door.refused > refused, "its own node was not even asked"
        assert not client.events("error"), f"MQTT.js heard of it: {client.events('error')}"
        door.welcome()
        client.drop()
        assert client.hears_from(brokers, RECOVERY_SECONDS) is home, "it did not come home once its node took it again"


def mqttjs_survives_the_death_of_its_node(lab):
    """The node is killed; the client receives from another; the node returns and the next reconnect goes home."""
    brokers = lab.mosquittos()
    port = lab.balancer(brokers).port
    client = lab.mqttjs(port, "survivor")
    home = client.hears_from(brokers)
    home.kill()
    away = client.hears_from([broker for broker in brokers if broker is not home], RECOVERY_SECONDS)
    assert away is not home
    home.start()
    client.drop()
    assert client.hears_from(brokers, RECOVERY_SECONDS) is home, "it did not come home when its node was back"


def mqttjs_comes_home_to_a_node_that_was_held_for_down(lab):
    """The client reconnects often enough for its dead node to be taken off; the node returns and is tried again."""
    brokers = lab.mosquittos()
    port = lab.balancer(brokers).port
    client = lab.mqttjs(port, "patient")
    home = client.hears_from(brokers)
    others = [broker for broker in brokers if broker is not home]
    home.kill()
    for _ in range(4):
        client.hears_from(others, RECOVERY_SECONDS)
        client.drop()
    client.hears_from(others, RECOVERY_SECONDS)
    home.start()
    client.comes_home(home, brokers)
    for _ in range(2):
        client.drop()
        assert client.hears_from(brokers, RECOVERY_SECONDS) is home, "it came home and did not stay"


def mqttjs_returns_after_all_nodes_were_gone(lab):
    """All nodes are killed and the client finds nothing for a while; they return, and it is at home again."""
    brokers = lab.mosquittos()
    port = lab.balancer(brokers).port
    client = lab.mqttjs(port, "castaway")
    home = client.hears_from(brokers)
    for broker in brokers:
        broker.kill()
    # The first is the cut; then come reconnects that find no node.
    wait_until(lambda: len(client.events("close")) >= 4, "MQTT.js to try in vain", seconds=15)
    for broker in brokers:
        broker.start()
    assert client.hears_from(brokers, RECOVERY_SECONDS) is home, "it did not come home when all nodes were back"
