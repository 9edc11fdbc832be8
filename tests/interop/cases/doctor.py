"""`remora doctor` before real brokers: joined, apart, bridged, with a rule against its topic; and MQTT.js as the client that suffers."""

import json
import os
import subprocess
from pathlib import Path

from clients import mosquitto_pub
from process import Process, free_port, run, wait_until

# What the doctor exits with.
FINE, FOUND = 0, 2

# Longer than any message takes on a busy machine; where messages are lost, some seconds are waited for each kind.
TABLE = '[doctor]\ntimeout = "4s"\nslow_after = "4s"\n'

# A client that gets a new id each time has been on two of three nodes by then, but for one time in a billion.
RESTARTS_MAX = 20


def brokers_that_were_never_joined_are_named_as_three_clusters(lab):
    """Three mosquittos: each delivers to itself alone."""
    report = _examine(lab, lab.mosquittos(), FOUND)
    assert _codes(report) == ["R101"], report["findings"]
    assert report["findings"][0]["found"].startswith("mosquitto1 | mosquitto2 | mosquitto3 are 3 clusters"), report["findings"]
    shared = {(row["from"], row["once"]) for row in report["routes"]["shared"]}
    assert shared == {(f"mosquitto{number}", 5) for number in (1, 2, 3)}, "each shares with itself"
    assert [kept["is_there"] for kept in report["routes"]["retained"]] == [True] * 3, report["routes"]


def bridged_brokers_route_but_share_no_subscription(lab):
    """mosquitto2 and mosquitto3 have a bridge to mosquitto1, in both directions: every message arrives, and each broker has a group of its own."""
    hub = lab.mosquitto("mosquitto1")
    spokes = [lab.mosquitto(f"mosquitto{number}", _bridge(hub, number, "both")) for number in (2, 3)]
    report = _examine(lab, [hub, *spokes], FOUND)
    assert _codes(report) == ["R108"], report["findings"]
    assert all(route["delivered"] == route["sent"] for route in report["routes"]["routes"]), report["routes"]


def a_bridge_in_one_direction_is_named(lab):
    """mosquitto2 sends what it has to mosquitto1, and gets nothing from there."""
    hub = lab.mosquitto("mosquitto1")
    spoke = lab.mosquitto("mosquitto2", _bridge(hub, 2, "out"))
    report = _examine(lab, [hub, spoke], FOUND)
    assert "R102" in _codes(report) and "R101" not in _codes(report), report["findings"]
    one_way = next(finding for finding in report["findings"] if finding["code"] == "R102")
    assert one_way["found"].startswith("nothing arrives from mosquitto1 at mosquitto2"), one_way


def a_rule_against_the_topic_is_no_loss(lab):
    """A mosquitto whose ACL does not know the topic drops what the doctor publishes without a word; with a rule for it, nothing is found."""
    acl = Path(lab.folder) / "acl"
    acl.write_text("topic readwrite devices/#\n")
    brokers = lab.mosquittos(f"acl_file {acl}\n")[:1] + [lab.mosquitto("other", f"acl_file {acl}\n")]
    report = _examine(lab, brokers, FOUND)
    assert _codes(report) == ["R106"], report["findings"]
    report = _examine(lab, brokers[:1], FINE, TABLE + 'topic = "devices/doctor"\n')
    assert report["findings"] == [], report["findings"]


def a_cluster_apart_is_two_and_a_joined_one_routes_every_message(lab):
    """Two ejabberds, over TCP and WebSocket; without a user name they let nobody in, and the doctor says so. Joined, they still do not share
    retained messages, of which other clients tell the same."""
    cluster = lab.ejabberds(joined=False)
    assert set(_codes(_examine(lab, cluster.nodes, FOUND))) == {"S215"}
    key = Path(lab.folder) / "doctor.key"
    key.write_text(f"{cluster.USER_NAME}:any\n")
    table = f'{TABLE}credentials = "{key}"\n'
    report = _examine(lab, cluster.nodes, FOUND, table)
    assert _codes(report) == ["R101"], report["findings"]
    assert report["findings"][0]["found"].startswith("ejabberd1 | ejabberd2 are 2 clusters"), report["findings"]
    cluster.join()
    for _ in range(4):
        report = _examine(lab, cluster.nodes, FOUND, table)
        assert _codes(report) == ["R107"], report["findings"]
        assert all(route["delivered"] == route["sent"] for route in report["routes"]["routes"]), report["routes"]
    looked_at = {line["what"] for line in report["checked"]}
    assert {"ejabberd1 (ws)", "ejabberd2 (ws)"} <= looked_at, looked_at
    first, second = cluster.nodes
    user = ["-h", "127.0.0.1", "-u", cluster.USER_NAME, "-P", "any", "-V", "5", "-q", "1", "-t", "kept/here"]
    subprocess.run(["mosquitto_pub", "-p", str(first.port), *user, "-m", "kept", "-r"], check=True, timeout=20)
    received = {
        node.name: subprocess.run(
            ["mosquitto_sub", "-p", str(node.port), *user, "-W", "3", "-C", "1"], capture_output=True, text=True, timeout=20
        ).stdout.strip()
        for node in (first, second)
    }
    assert received == {"ejabberd1": "kept", "ejabberd2": ""}, received


def a_header_that_only_one_side_knows_is_named_with_the_key(lab):
    """Two ejabberds, of which one wants a PROXY header that it is not sent, and one is sent a header that it does not want."""
    cluster = lab.ejabberds(proxy_protocols=("v2", None), joined=False)
    key = Path(lab.folder) / "doctor.key"
    key.write_text(f"{cluster.USER_NAME}:any\n")
    first, second = cluster.nodes
    first.proxy_protocol, second.proxy_protocol = None, "v2"
    report = _examine(lab, cluster.nodes, FOUND, f'{TABLE}credentials = "{key}"\n')
    found = {(finding["code"], *finding["subjects"]) for finding in report["findings"]}
    assert found == {("S206", "ejabberd1"), ("S207", "ejabberd2")}, report["findings"]


def a_subscriber_behind_the_balancer_misses_what_the_other_broker_gets(lab):
    """Two mosquittos apart and the balancer before them: the restarted subscriber receives from one of the publishers alone."""
    brokers = lab.mosquittos()[:2]
    port = lab.balancer(brokers).port
    report = _examine(lab, brokers, FOUND, TABLE, "--front", f"mqtt://127.0.0.1:{port}", "--restarts", "2")
    assert _codes(report) == ["R101", "F303"], report["findings"]
    received = {row["from"]: row["received"] for row in report["front"][0]["publishers"]}
    of_brokers = sorted(received[broker.name] for broker in brokers)
    # Behind a balancer that takes the brokers in turn it would be one of each.
    assert of_brokers == [0, 2], received


def a_bridge_that_drops_packets_one_way_passes_nothing_and_heals(lab):
    """Two bridged mosquittos, and what the second sends to the first is dropped by nftables. A bridge is one TCP connection, on which nothing
    passes in the other direction either once that is not acknowledged: they are two clusters, until the packets are let through."""
    lab.enter_namespace()
    hub = lab.mosquitto("mosquitto1")
    brokers = [hub, lab.mosquitto("mosquitto2", _bridge(hub, 2, "both"))]
    # As bridged brokers are.
    assert _codes(_examine(lab, brokers, FOUND)) == ["R108"]
    # The doctor comes from another address than the bridge: its packets are let through.
    heal = _drop(lab, hub.port, source="127.0.0.1")
    report = _examine(lab, brokers, FOUND, f'{TABLE}[dial]\nsources = ["127.0.0.2"]\n')
    assert _codes(report) == ["R101"], report["findings"]
    assert report["findings"][0]["found"].startswith("mosquitto1 | mosquitto2 are 2 clusters"), report["findings"]
    heal()
    wait_until(lambda: _codes(_examine(lab, brokers, FOUND)) == ["R108"], "the bridge to heal", seconds=40)


def joined_nodes_that_drop_packets_one_way_stall_and_heal(lab):
    """Two joined ejabberds, and what the second sends to the first is dropped by nftables: each waits for the other before it accepts a client."""
    lab.enter_namespace()
    cluster = lab.ejabberds()
    key = Path(lab.folder) / "doctor.key"
    key.write_text(f"{cluster.USER_NAME}:any\n")
    table = f'{TABLE}credentials = "{key}"\n'
    assert _codes(_examine(lab, cluster.nodes, FOUND, table)) == ["R107"]
    # The second has joined the first.
    heal = _drop(lab, cluster.nodes[0].cluster_port)
    report = _examine(lab, cluster.nodes, FOUND, table)
    assert set(_codes(report)) == {"R109"}, report["findings"]
    assert {name for finding in report["findings"] for name in finding["subjects"]} == {"ejabberd1", "ejabberd2"}, report["findings"]
    heal()
    wait_until(lambda: _codes(_examine(lab, cluster.nodes, FOUND, table)) == ["R107"], "the link to heal", seconds=40)


def rabbitmqs_apart_are_two_clusters_and_one_alone_is_sound(lab):
    """RabbitMQ with its MQTT plugin: a node alone has no finding; two that were never joined are named as two clusters."""
    nodes = lab.rabbitmqs([None, None])
    report = _examine(lab, nodes[:1], FINE)
    assert all(route["delivered"] == route["sent"] == 10 for route in report["routes"]["routes"]), report["routes"]
    report = _examine(lab, nodes, FOUND)
    assert _codes(report) == ["R101"], report["findings"]
    assert report["findings"][0]["found"].startswith("rabbitmq1 | rabbitmq2 are 2 clusters"), report["findings"]


def mqttjs_that_restarts_before_brokers_apart_misses_messages(lab):
    """MQTT.js that makes up its id, restarted until it has been on two of three mosquittos: a publisher past the balancer reaches it on one
    of them only. `ctl doctor` names the brokers that are not joined, and the ids that change."""
    brokers = lab.mosquittos()
    remora = _Examined(lab, brokers)
    heard = set()
    for number in range(RESTARTS_MAX):
        client = lab.mqttjs(remora.port, f"restart-{number}", clientId=None)
        # Told by each of the brokers, it hears one.
        heard.add(client.hears_from(brokers).name)
        if len(heard) > 1:
            break
        client.stop()
    assert len(heard) > 1, f"{RESTARTS_MAX} ids led to {heard}"
    report = remora.doctor()
    assert _codes(report) == ["R101", "C502"], report["findings"]
    not_joined, made_up = report["findings"]
    assert not_joined["found"].startswith("mosquitto1 | mosquitto2 | mosquitto3 are 3 clusters"), not_joined
    assert "such as mqttjs_" in made_up["found"], made_up


def mqttjs_that_restarts_before_joined_nodes_receives_each_time(lab):
    """The same before two ejabberds of one cluster: wherever it comes to, it receives from both, and no finding is about the routes."""
    cluster = lab.ejabberds()
    key = Path(lab.folder) / "doctor.key"
    key.write_text(f"{cluster.USER_NAME}:any\n")
    remora = _Examined(lab, cluster.nodes, f'{TABLE}credentials = "{key}"\n')
    for number in range(4):
        client = lab.mqttjs(remora.port, f"restart-{number}", clientId=None, username=cluster.USER_NAME, password="any")

        def has_heard_both():
            for node in cluster.nodes:
                user = ["-u", cluster.USER_NAME, "-P", "any"]
                mosquitto_pub(node.port, *user, "-t", client.TOPIC, payload=node.name.encode())
            return {event["payload"] for event in client.events("message")} == {node.name for node in cluster.nodes}

        wait_until(has_heard_both, "messages of both nodes", seconds=20)
        if number < 3:
            client.stop()
    report = remora.doctor()
    # ejabberd keeps a retained message on one node.
    assert _codes(report) == ["R107", "C502"], report["findings"]
    assert all(route["delivered"] == route["sent"] for route in report["routes"]["routes"]), report["routes"]


def _drop(lab, port, source=None):
    """Drops the packets to this port in the namespace; returns what lets them through again."""
    run(*lab.inside, "nft", "add", "table", "inet", "cut")
    run(*lab.inside, "nft", "add", "chain", "inet", "cut", "out", "{ type filter hook output priority 0; }")
    of_source = ["ip", "saddr", source] if source else []
    run(*lab.inside, "nft", "add", "rule", "inet", "cut", "out", *of_source, "tcp", "dport", port, "drop")
    return lambda: run(*lab.inside, "nft", "delete", "table", "inet", "cut")


def _bridge(hub, number, direction):
    # Tried again at once, since the doctor comes right after the start.
    return (
        f"connection to-hub-{number}\naddress 127.0.0.1:{hub.port}\ntopic # {direction} 1\n"
        f"remote_clientid bridge-{number}\nrestart_timeout 1\n"
    )


def _examine(lab, nodes, expected, table=TABLE, *options):
    """The report of `remora doctor --json`, whose exit code must be `expected`."""
    configuration, _ = _configuration(lab, nodes, table)
    return _report(["doctor", "-c", configuration, "--json", *options], expected, lab.inside)


class _Examined:
    """A balancer that runs, and is asked to examine itself."""

    def __init__(self, lab, nodes, table=TABLE):
        admin = f'[admin]\naddress = "127.0.0.1:{free_port()}"\nsocket = "{lab.folder}/doctor.sock"\n'
        self.configuration, self.port = _configuration(lab, nodes, table + admin)
        command = [os.environ["REMORA_BIN"], "run", "-c", self.configuration]
        self.process = Process("remora", command, lab.folder)
        self.process.wait_for("listening")

    def doctor(self, expected=FOUND):
        return _report(["ctl", "-c", self.configuration, "doctor", "--json"], expected)["report"]


def _configuration(lab, nodes, tables):
    """The path of a configuration with these nodes, and the port of its listener."""
    configuration, port = Path(lab.folder) / "doctor.toml", free_port()
    text = f'{tables}[[listeners]]\naddress = "127.0.0.1:{port}"\n'
    for node in nodes:
        text += f'[[nodes]]\nname = "{node.name}"\naddress = "127.0.0.1:{node.port}"\n'
        header = getattr(node, "proxy_protocol", None)
        if header:
            text += f'proxy_protocol = "{header}"\nws_proxy_protocol = "{header}"\n'
        if getattr(node, "ws_port", None):
            text += f'ws = "ws://127.0.0.1:{node.ws_port}/mqtt"\n'
    configuration.write_text(text)
    return configuration, port


def _report(arguments, expected, inside=()):
    """What this command prints as JSON."""
    done = subprocess.run([*inside, os.environ["REMORA_BIN"], *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == expected, f"exit code {done.returncode}: {done.stdout}{done.stderr}"
    report = json.loads(done.stdout)
    could_not_look = report.get("report", report)["could_not_look"]
    assert could_not_look == [], could_not_look
    return report


def _codes(report):
    return [finding["code"] for finding in report["findings"]]
