"""The control plane with real brokers: steered by curl and `remora ctl`, a broker that freezes, and brokers found by dnsmasq."""

import json
import os
import signal
import subprocess
from pathlib import Path

from brokers import Mosquitto
from process import Process, free_port, wait_until

IDS = [f"device-{number}" for number in range(12)]


class Steered:
    """`remora run` with a socket for the control API; `admin` is more of its table."""

    def __init__(self, lab, nodes, tables="", admin=""):
        self.port = free_port()
        self.admin = free_port()
        self.folder = lab.folder
        self.socket = Path(lab.folder) / "remora.sock"
        listed = "".join(f'[[nodes]]\nname = "{node.name}"\naddress = "127.0.0.1:{node.port}"\n' for node in nodes)
        self.configuration = Path(lab.folder) / "steered.toml"
        self.configuration.write_text(
            f'[[listeners]]\naddress = "127.0.0.1:{self.port}"\n{listed}[admin]\naddress = "127.0.0.1:{self.admin}"\nsocket = "{self.socket}"\n{admin}{tables}'
        )
        self.process = Process("remora", [*lab.inside, os.environ["REMORA_BIN"], "run", "-c", self.configuration], lab.folder)
        self.process.wait_for("listening")

    def ctl(self, *words):
        command = [os.environ["REMORA_BIN"], "ctl", "-c", self.configuration, "--json", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return json.loads(done.stdout)

    def curl(self, path, body=None):
        """What curl gets from the socket; with a body, it posts that."""
        post = [] if body is None else ["--json", json.dumps(body)]
        command = ["curl", "--silent", "--show-error", "--fail", "--unix-socket", self.socket, *post, f"http://remora/api/v1/{path}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        assert done.returncode == 0, f"{path}: {done.stderr}"
        return json.loads(done.stdout)

    def where(self, client_id):
        """The nodes that a client is connected to."""
        return [connection["node"] for connection in self.ctl("client", client_id)["connections"]]

    def homes(self, ids):
        """The node of each of these clients; None for one that is not connected, or more than once."""
        nodes = {client_id: self.where(client_id) for client_id in ids}
        return {client_id: found[0] if len(found) == 1 else None for client_id, found in nodes.items()}

    def at_home(self, ids):
        """The nodes of these clients, once all are connected."""
        wait_until(lambda: None not in self.homes(ids).values(), f"{len(ids)} clients", seconds=30)
        return self.homes(ids)

    def since(self, ids):
        """The number of the connection of each of these clients: another one, if it has come back since."""
        connections = {client_id: self.ctl("client", client_id)["connections"] for client_id in ids}
        return {client_id: found[0]["connection"] if found else None for client_id, found in connections.items()}

    def states(self, node):
        return [endpoint["state"] for endpoint in self.curl(f"nodes/{node}")["endpoints"]]


def curl_and_ctl_drain_a_node_and_bring_its_clients_home(lab):
    """12 mosquitto_sub: found by id, drained away from a broker at a rate, and brought home again."""
    brokers = lab.mosquittos()
    remora = Steered(lab, brokers)
    for client_id in IDS:
        lab.mosquitto_sub(remora.port, "-t", "nothing", "-i", client_id)
    wait_until(lambda: all(len(remora.where(client_id)) == 1 for client_id in IDS), "12 clients", seconds=30)
    homes = {client_id: remora.where(client_id)[0] for client_id in IDS}
    for broker in brokers:
        here = {client_id for client_id, home in homes.items() if home == broker.name}
        assert here == {arrival.client_id for arrival in broker.arrivals()}, f"{broker.name} has others than ctl says"
    drained = homes[IDS[0]]
    here = [client_id for client_id, home in homes.items() if home == drained]

    node = remora.curl(f"nodes/{drained}/drain", {"rate": 100})
    assert node["is_draining"], node
    remora.ctl("drain", drained, "--wait")
    # mosquitto_sub comes back a second after its connection was closed.
    elsewhere = lambda: all(len(now := remora.where(client_id)) == 1 and now[0] != drained for client_id in here)  # noqa: E731
    wait_until(elsewhere, "the drained clients on other nodes", seconds=30)
    away = {connection["client_id"] for connection in remora.curl("clients?off_home=true")["clients"]}
    assert away == set(here), f"{away} are away from home, not {here}"

    remora.ctl("undrain", drained)
    rebalance = remora.ctl("rebalance", "--rate", "100/s", "--wait")
    assert rebalance["closed"] == len(here), rebalance
    home = lambda: all(remora.where(client_id) == [homes[client_id]] for client_id in IDS)  # noqa: E731
    wait_until(home, "everyone at home", seconds=30)


def a_frozen_brokers_clients_go_elsewhere(lab):
    """SIGSTOP: probes find it, its connections are closed; SIGCONT: it takes clients again."""
    brokers = lab.mosquittos()
    remora = Steered(lab, brokers, '[health]\ninterval = "1s"\n[timeouts]\ngreet = "1s"\n')
    for client_id in IDS:
        lab.mosquitto_sub(remora.port, "-t", "nothing", "-i", client_id)
    wait_until(lambda: all(len(remora.where(client_id)) == 1 for client_id in IDS), "12 clients", seconds=30)
    homes = {client_id: remora.where(client_id)[0] for client_id in IDS}
    since = {client_id: remora.ctl("client", client_id)["connections"][0]["connection"] for client_id in IDS}
    frozen = next(broker for broker in brokers if broker.name == homes[IDS[0]])
    lab.callback(frozen.process.child.send_signal, signal.SIGCONT)
    frozen.process.child.send_signal(signal.SIGSTOP)
    wait_until(lambda: remora.states(frozen.name) == ["down"], "the frozen broker to be down", seconds=40)
    here = [client_id for client_id, home in homes.items() if home == frozen.name]
    elsewhere = lambda: all(len(now := remora.where(client_id)) == 1 and now[0] != frozen.name for client_id in here)  # noqa: E731
    wait_until(elsewhere, "its clients on other nodes", seconds=40)
    for client_id in set(IDS) - set(here):
        kept = remora.ctl("client", client_id)["connections"]
        assert [connection["connection"] for connection in kept] == [since[client_id]], f"{client_id} was disturbed"
    frozen.process.child.send_signal(signal.SIGCONT)
    wait_until(lambda: remora.states(frozen.name) == ["up"], "it to be up again", seconds=40)


def nodes_are_those_that_dnsmasq_names(lab):
    """Two brokers behind one name, a third one later; without its name server, Remora goes on with what it knows."""
    addresses = ["127.0.0.21", "127.0.0.22", "127.0.0.23"]
    port = free_port()
    brokers = [Mosquitto(f"mosquitto-{address}", lab.folder, address=address, port=port) for address in addresses]
    names = free_port()

    def serve(known):
        records = [f"--host-record=emqx.test,{address}" for address in known]
        command = ["dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--user=root", "--pid-file"]
        command += [f"--port={names}", "--listen-address=127.0.0.1", "--bind-interfaces", "--local-ttl=1", *records]
        return Process("dnsmasq", command, lab.folder)

    server = serve(addresses[:2])
    tables = f'[discovery]\nsource = "dns"\nname = "emqx.test"\nname_servers = ["127.0.0.1:{names}"]\ninterval = "5s"\n'
    remora = Steered(lab, [], f'[[nodes]]\naddress = "{{host}}:{port}"\n{tables}')
    found = lambda: sorted(node["node"] for node in remora.curl("nodes")["nodes"])  # noqa: E731
    wait_until(lambda: found() == addresses[:2], "two nodes", seconds=30)
    server.kill()
    server = serve(addresses)
    wait_until(lambda: found() == addresses, "a third node", seconds=40)
    server.kill()
    for client_id in IDS:
        lab.mosquitto_sub(remora.port, "-t", "nothing", "-i", client_id)
    arrived = lambda: sum(len(broker.arrivals()) for broker in brokers)  # noqa: E731
    wait_until(lambda: arrived() == len(IDS), "12 clients", seconds=30)
    remora.process.wait_for("nodes cannot be looked for", seconds=40)
    assert found() == addresses, "the nodes stay"
