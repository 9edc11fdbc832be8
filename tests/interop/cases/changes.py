"""Nodes that are killed, come back, move and are cut off, under real clients; and the control API under requests made of its document."""

import os
import re
import subprocess
import time
from pathlib import Path

from brokers import Mosquitto
from cases.control import IDS, Steered
from process import Process, free_port, run, wait_until


def a_killed_node_of_a_cluster(lab):
    """kill -9 of one of two joined ejabberds: its clients come back on the other one, whose own notice nothing."""
    cluster = lab.ejabberds()
    remora = Steered(lab, cluster.nodes)
    clients = {}
    for client_id in IDS:
        # paho comes back by itself, as it does for its users.
        client = clients[client_id] = lab.paho(client_id, "3.1.1", cluster.USER_NAME, returns=True)
        client.connect(remora.port)
    homes = {client_id: remora.where(client_id)[0] for client_id in IDS}
    killed, other = cluster.nodes
    gone = [client_id for client_id in IDS if homes[client_id] == killed.name]
    assert 0 < len(gone) < len(IDS), f"all clients sat on one node: {homes}"
    killed.process.kill()
    for client_id in gone:
        clients[client_id].ended()
        # That its session was there is not asked: ejabberd holds one where its client is.
        clients[client_id].returned(seconds=30)
    wait_until(lambda: all(remora.where(client_id) == [other.name] for client_id in IDS), "all on the other node", seconds=30)
    undisturbed = [client_id for client_id in IDS if client_id not in gone]
    assert all(clients[client_id].ends.empty() for client_id in undisturbed), "a client of the other node was disturbed"
    speaker, hearer = clients[gone[0]], clients[undisturbed[0]]
    hearer.subscribe("after")
    speaker.publish("after", b"the end")
    assert hearer.message() == b"the end"


def a_broker_that_restarts_and_one_that_moves(lab):
    """A mosquitto restarts on its port, and another one goes on at a new port: both get their own clients, and no others."""
    brokers = lab.mosquittos()
    remora = Steered(lab, brokers)
    for client_id in IDS:
        lab.mosquitto_sub(remora.port, "-t", "nothing", "-i", client_id)
    homes = remora.at_home(IDS)
    restarted, moved, kept = brokers
    since = remora.since(IDS)
    restarted.kill()
    restarted.start()
    wait_until(lambda: remora.homes(IDS) == homes, "all at home again", seconds=30)
    moved.kill()
    successor = Mosquitto(moved.name, lab.folder)
    text = remora.configuration.read_text()
    remora.configuration.write_text(text.replace(f":{moved.port}\"", f":{successor.port}\""))
    remora.ctl("reload")
    wait_until(lambda: remora.homes(IDS) == homes, "all at home at the new port", seconds=30)
    here = {client_id for client_id in IDS if homes[client_id] == moved.name}
    assert here <= {arrival.client_id for arrival in successor.arrivals()}
    now = remora.since(IDS)
    for client_id in IDS:
        if homes[client_id] == kept.name:
            assert now[client_id] == since[client_id], f"{client_id} was disturbed"


def a_node_that_is_found_at_another_address(lab):
    """dnsmasq gives the target of an SRV record another address: the node keeps its name and its clients."""
    _enter_namespace(lab)
    addresses = {"emqx1.test": "127.0.0.31", "emqx2.test": "127.0.0.32"}
    at = lambda address: Mosquitto(f"mosquitto-{address}", lab.folder, address=address, port=1883, inside=lab.inside)  # noqa: E731
    brokers = {address: at(address) for address in [*addresses.values(), "127.0.0.33"]}

    def serve():
        records = [f"--srv-host=_mqtt._tcp.test,{name},1883" for name in addresses]
        records += [f"--host-record={name},{address}" for name, address in addresses.items()]
        command = [*lab.inside, "dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--user=root"]
        command += ["--pid-file", "--listen-address=127.0.0.1", "--bind-interfaces", "--local-ttl=1", *records]
        return Process("dnsmasq", command, lab.folder)

    server = serve()
    tables = '[[nodes]]\naddress = "{host}:1883"\n[discovery]\nsource = "dns"\nname = "_mqtt._tcp.test"\ninterval = "5s"\n'
    remora = Steered(lab, [], f'{tables}[health]\nresolve_interval = "1s"\n')
    for client_id in IDS:
        lab.mosquitto_sub(remora.port, "-t", "nothing", "-i", client_id)
    homes = remora.at_home(IDS)
    since = remora.since(IDS)
    server.kill()
    addresses["emqx1.test"] = "127.0.0.33"
    serve()
    remora.process.wait_for("addresses=127.0.0.33", seconds=40)
    assert remora.since(IDS) == since, "a change of address disturbs no client"
    brokers["127.0.0.31"].kill()
    here = {client_id for client_id in IDS if homes[client_id] == "emqx1.test"}
    wait_until(lambda: here <= {arrival.client_id for arrival in brokers["127.0.0.33"].arrivals()}, "its clients", seconds=30)
    wait_until(lambda: remora.homes(IDS) == homes, "all where they were", seconds=30)


def a_firewall_before_one_node(lab):
    """nftables drops, and later rejects, what goes to one broker: it is down in time, its clients move, the others stay."""
    inside = _enter_namespace(lab)
    run(*inside, "nft", "add", "table", "inet", "cut")
    run(*inside, "nft", "add", "chain", "inet", "cut", "out", "{ type filter hook output priority 0; }")
    brokers = [lab.mosquitto(f"mosquitto{number}") for number in (1, 2, 3)]
    # The last of three probes that must fail begins two seconds after the first, and is waited for; and as much again for a busy machine.
    remora = Steered(lab, brokers, '[health]\ninterval = "1s"\nfall = 3\n[timeouts]\ndial = "1s"\ngreet = "1s"\n')
    most = 1.1 + 2 + 2
    for client_id in IDS:
        lab.mosquitto_sub(remora.port, "-t", "nothing", "-i", client_id, "-k", "5")
    homes = remora.at_home(IDS)
    for verdict, broker in (("drop", brokers[0]), ("reject with tcp reset", brokers[1])):
        # Those of the other nodes as they are now: some came there in the round before.
        where = remora.homes(IDS)
        since = remora.since(IDS)
        here = [client_id for client_id in IDS if where[client_id] == broker.name]
        assert 0 < len(here) < len(IDS), f"{broker.name} has {here}"
        run(*inside, "nft", "add", "rule", "inet", "cut", "out", "tcp", "dport", broker.port, *verdict.split())
        began = time.monotonic()
        wait_until(lambda: remora.states(broker.name) == ["down"], f"{broker.name} to be down", seconds=40)
        took = time.monotonic() - began
        print(f"        {verdict}: down after {took:.1f} s, at most {most} s on a quiet machine")
        assert took < most * 3, f"{verdict} was found after {took:.1f} s"
        moved = lambda: all(remora.homes([client_id])[client_id] not in (None, broker.name) for client_id in here)  # noqa: E731
        wait_until(moved, "its clients on other nodes", seconds=30)
        now = remora.since(IDS)
        for client_id in set(IDS) - set(here):
            assert now[client_id] == since[client_id], f"{client_id} was disturbed"
        run(*inside, "nft", "flush", "chain", "inet", "cut", "out")
        wait_until(lambda: remora.states(broker.name) == ["up"], "it to be up again", seconds=30)
    remora.ctl("rebalance", "--rate", "100/s", "--wait")
    wait_until(lambda: remora.homes(IDS) == homes, "all at home", seconds=30)


def schemathesis_finds_no_server_error(lab):
    """Hundreds of requests made of the OpenAPI document, with a token for changes: no answer is a 5xx, and Remora goes on."""
    token = Path(lab.folder) / "token"
    token.write_text("a-token-of-the-tests-only\n")
    token.chmod(0o600)
    brokers = lab.mosquittos()
    remora = Steered(lab, brokers, admin=f'tokens = [{{ name = "tests", file = "{token}", scope = "write" }}]\n')
    for client_id in IDS[:3]:
        lab.mosquitto_sub(remora.port, "-t", "nothing", "-i", client_id)
    base = f"http://127.0.0.1:{remora.admin}"
    command = [Path(os.environ["SCHEMATHESIS"]) / "bin" / "schemathesis", "run", f"{base}/api/v1/openapi.json"]
    command += ["--header", f"Authorization: Bearer {token.read_text().strip()}", "--checks", "not_a_server_error"]
    # The first two end the process, the third goes on without an end.
    command += ["--exclude-path-regex", "^(/api/v1)?/(drain|upgrade|events)$", "--phases", "examples,coverage,fuzzing"]
    command += ["--max-examples", "10", "--seed", "1", "--no-shrink", "--request-timeout", "20", "--warnings", "off"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=80, cwd=lab.folder)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-4_000:]
    generated = re.search(r"(\d+) generated", said)
    assert generated and int(generated.group(1)) > 100, said[-2_000:]
    assert len(remora.curl("nodes")["nodes"]) == len(brokers)


def _enter_namespace(lab):
    """The same for Remora, with port 53 of the namespace as its name server."""
    namespace = lab.enter_namespace()
    resolver = Path("/etc/netns") / namespace / "resolv.conf"
    resolver.parent.mkdir(parents=True)
    lab.callback(resolver.parent.rmdir)
    resolver.write_text("nameserver 127.0.0.1\n")
    lab.callback(resolver.unlink)
    return lab.inside
