"""`remora doctor` before real brokers: joined, apart, bridged, with a rule against its topic; and MQTT.js as the client that suffers."""

import json
import os
import subprocess
from pathlib import Path

from process import free_port

# What the doctor exits with.
FINE, FOUND = 0, 2

# Longer than any message takes on a busy machine; where messages are lost, some seconds are waited for each kind.
TABLE = '[doctor]\ntimeout = "4s"\nslow_after = "4s"\n'


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


def _bridge(hub, number, direction):
    # Tried again at once, since the doctor comes right after the start.
    return (
        f"connection to-hub-{number}\naddress 127.0.0.1:{hub.port}\ntopic # {direction} 1\n"
        f"remote_clientid bridge-{number}\nrestart_timeout 1\n"
    )


def _examine(lab, nodes, expected, table=TABLE, *options):
    """The report of `remora doctor --json`, whose exit code must be `expected`."""
    configuration = Path(lab.folder) / "doctor.toml"
    text = f'{table}[[listeners]]\naddress = "127.0.0.1:{free_port()}"\n'
    for node in nodes:
        text += f'[[nodes]]\nname = "{node.name}"\naddress = "127.0.0.1:{node.port}"\n'
        header = getattr(node, "proxy_protocol", None)
        if header:
            text += f'proxy_protocol = "{header}"\nws_proxy_protocol = "{header}"\n'
        if getattr(node, "ws_port", None):
            text += f'ws = "ws://127.0.0.1:{node.ws_port}/mqtt"\n'
    configuration.write_text(text)
    command = [os.environ["REMORA_BIN"], "doctor", "-c", configuration, "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == expected, f"exit code {done.returncode}: {done.stdout}{done.stderr}"
    report = json.loads(done.stdout)
    assert report["could_not_look"] == [], report["could_not_look"]
    return report


def _codes(report):
    return [finding["code"] for finding in report["findings"]]
