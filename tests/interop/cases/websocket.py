"""WebSocket clients come to the node to which TCP leads them, whether it speaks WebSocket itself or not."""

from collections import Counter

WS_URL = "ws://127.0.0.1:PORT/mqtt"

# As in the cases of MQTT.js over TCP.
RECOVERY_SECONDS = 5


def websocket_and_tcp_lead_to_the_same_node(lab):
    """30 ids of paho, first over WebSocket, then over TCP; two brokers speak WebSocket and one does not."""
    brokers = lab.mosquittos(ws=(1, 2))
    balancer = lab.balancer(brokers)
    share = Counter()
    for number in range(30):
        client_id, version = f"tab-{number}", ("3.1.1", "5")[number % 2]
        homes = []
        for port, transport in ((balancer.ws_port, "websockets"), (balancer.port, "tcp")):
            marks = [len(broker.log()) for broker in brokers]
            client = lab.paho(client_id, version, persistent=False, transport=transport)
            client.connect(port)
            client.disconnect()
            homes.append([broker.name for broker, mark in zip(brokers, marks) if broker.knows(client_id, after=mark)])
        assert homes[0] == homes[1] and len(homes[0]) == 1, f"{client_id} came to {homes}"
        share[homes[0][0]] += 1
    assert len(share) == 3, f"not spread: {share}"


def paho_finds_its_session_again_over_websocket(lab):
    """Ten clients leave and return over WebSocket: session present, and the message sent meanwhile arrives."""
    brokers = lab.mosquittos(ws=(1, 2))
    balancer = lab.balancer(brokers)
    for version in ("3.1.1", "5"):
        for number in range(5):
            client_id = f"keeper-{version}-{number}"
            client = lab.paho(client_id, version, transport="websockets")
            assert not client.connect(balancer.ws_port), f"{client_id} is new and found a session"
            client.subscribe(f"to/{client_id}")
            client.disconnect()
            home = next(broker for broker in brokers if broker.knows(client_id))
            publisher = lab.paho("publisher", version, persistent=False)
            publisher.connect(home.port)
            publisher.publish(f"to/{client_id}", client_id)
            publisher.disconnect()
            again = lab.paho(client_id, version, transport="websockets")
            assert again.connect(balancer.ws_port), f"{client_id} did not find its session"
            assert again.message() == client_id.encode()
            again.disconnect()


def mqttjs_over_websocket_survives_the_death_of_its_node(lab):
    """Default options: the node is killed, another takes the client; the node returns and the next reconnect goes home."""
    brokers = lab.mosquittos(ws=(1, 2))
    port = lab.balancer(brokers).ws_port
    for ws in (True, False):
        # One whose home speaks WebSocket, and one whose home does not.
        for number in range(30):
            client = lab.mqttjs(port, f"survivor-{ws}-{number}", url=WS_URL)
            home = client.hears_from(brokers)
            if bool(home.ws_port) == ws:
                break
            client.kill()
        assert bool(home.ws_port) == ws
        home.kill()
        away = client.hears_from([broker for broker in brokers if broker is not home], RECOVERY_SECONDS)
        assert away is not home
        home.start()
        client.comes_home(home, brokers)


def a_reloaded_tab_comes_back_to_its_node(lab):
    """Chromium, MQTT.js from a page: the tab is reloaded three times, and each time finds its session and hears its node."""
    brokers = lab.mosquittos(ws=(1, 2))
    balancer = lab.balancer(brokers)
    for ws in (True, False):
        # One whose home speaks WebSocket, and one whose home does not.
        homes = ((f"tab-{ws}-{number}", lab.home(brokers, balancer.port, f"tab-{ws}-{number}")) for number in range(30))
        client_id, home = next((client_id, home) for client_id, home in homes if bool(home.ws_port) == ws)
        # The only option that is not the default: a session that outlives the page shows what became of the reload.
        tab = lab.tab(balancer.ws_port, client_id, clean=False)
        assert tab.hears_from(brokers) is home, "it came to another node than its id over TCP"
        assert not tab.events("connect")[-1]["sessionPresent"], "a new client found a session"
        for _ in range(3):
            assert tab.reload(), "the tab did not find its session"
            assert tab.hears_from(brokers) is home, "it came to another node"
        assert not tab.events("error"), f"MQTT.js heard of an error: {tab.events('error')}"
        tab.close()


def a_tab_survives_the_death_of_its_node(lab):
    """Chromium, default options: the node is killed, another takes the tab; the node returns and a reconnect goes home."""
    brokers = lab.mosquittos(ws=(1, 2))
    tab = lab.tab(lab.balancer(brokers).ws_port, "tab")
    home = tab.hears_from(brokers)
    home.kill()
    away = tab.hears_from([broker for broker in brokers if broker is not home], RECOVERY_SECONDS)
    assert away is not home
    home.start()
    tab.comes_home(home, brokers)
    tab.reload()
    assert tab.hears_from(brokers) is home, "it came home and did not stay"


def ejabberds_websocket_keeps_sessions_on_their_node(lab):
    """Persistent clients over WebSocket, as paho speaks it: each returns to the node that has its session."""
    cluster = lab.ejabberds()
    balancer = lab.balancer(cluster.nodes)
    for number in range(8):
        client_id, version = f"guest-{number}", ("3.1.1", "5")[number % 2]
        client = lab.paho(client_id, version, cluster.USER_NAME, transport="websockets")
        assert not client.connect(balancer.ws_port), f"{client_id} is new and found a session"
        home = cluster.home(client_id)
        client.disconnect()
        again = lab.paho(client_id, version, cluster.USER_NAME, transport="websockets")
        assert again.connect(balancer.ws_port), f"{client_id} did not find its session"
        assert cluster.home(client_id) is home, f"{client_id} moved"
        again.disconnect()
