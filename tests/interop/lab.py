"""What one case builds up: brokers, a balancer before them, clients. All of it ends with the case."""

import contextlib
import os

from balancers import BALANCERS
from balancers import SendingHAProxy
from browser import Tab
from brokers import Door, EjabberdCluster, Mosquitto, RabbitMQ
from certificates import Authority
from clients import MosquittoSub, MqttJs, Paho
from packets import Socket, connect
from pages import Browser
from process import Process, run


class Lab(contextlib.ExitStack):
    """Starts things, and ends them when the case ends."""

    def __init__(self, folder, through):
        super().__init__()
        self.folder = folder
        self.through = through
        # What a command begins with that is to run in another network namespace.
        self.inside = []
        self.callback(Process.kill_all)

    def balancer(self, nodes, **options):
        """The balancer under test. When the case held, it must also end in order."""
        balancer = BALANCERS[self.through](nodes, self.folder, **options)
        self.push(lambda failure, *_: None if failure else balancer.stop())
        return balancer

    def enter_namespace(self):
        """Has brokers and clients of mosquitto run in a network namespace of their own from now on, and returns its name; this takes root."""
        namespace = f"remora-interop-{os.getpid()}"
        run("ip", "netns", "add", namespace)
        self.callback(run, "ip", "netns", "delete", namespace)
        run("ip", "-n", namespace, "link", "set", "lo", "up")
        self.inside = ["ip", "netns", "exec", namespace]
        return namespace

    def authority(self, name="authority"):
        return Authority(self.folder, name)

    def mosquitto(self, name, extra="", ws=False, authority=None):
        return Mosquitto(name, self.folder, extra, ws, authority, inside=self.inside)

    def mosquittos(self, extra="", ws=()):
        """Three brokers that share nothing; those whose numbers are in `ws` speak WebSocket too."""
        return [self.mosquitto(f"mosquitto{number}", extra, number in ws) for number in (1, 2, 3)]

    def doors(self, brokers):
        """A door before each broker; the balancer is then given the doors as its nodes."""
        doors = [Door(broker) for broker in brokers]
        for door in doors:
            self.callback(door.close)
        return doors

    def ejabberds(self, proxy_protocols=(None, None), authority=None, joined=True):
        """Two nodes, joined if not said otherwise; one with a version of PROXY takes no connection that does not begin with a header, of either."""
        return EjabberdCluster(proxy_protocols, self.folder, authority, joined, inside=self.inside)

    def rabbitmqs(self, proxy_protocols, authority=None):
        """Nodes apart that take no connection that does not begin with a PROXY header; which version is for the balancer."""
        named = [(f"rabbitmq{number}", version) for number, version in enumerate(proxy_protocols, start=1)]
        nodes = [RabbitMQ(name, self.folder, version, authority) for name, version in named]
        # Each takes long to start, and does so beside the others.
        for node in nodes:
            node.process.wait_for(r"Server startup complete", seconds=60)
        return nodes

    def sending_haproxy(self, port, options, certificates=None):
        """A HAProxy before the balancer at `port`, which says with these options who its clients are."""
        return SendingHAProxy(port, options, self.folder, certificates)

    def home(self, brokers, port, client_id):
        """The broker to which the balancer at `port` sends this id, found by a visit that leaves no session behind."""
        marks = [len(broker.log()) for broker in brokers]
        connection = self.socket(port)
        connection.send(connect(client_id))
        connection.accepted().close()
        found = [broker for broker, mark in zip(brokers, marks) if broker.knows(client_id, after=mark)]
        assert len(found) == 1, f"{client_id} came to {[broker.name for broker in found]}"
        return found[0]

    def mosquitto_sub(self, port, *options, version="3.1.1"):
        return MosquittoSub(port, self.folder, *options, version=version, inside=self.inside)

    def mqttjs(self, port, client_id, **options):
        return MqttJs(port, self.folder, client_id, **options)

    def tab(self, port, client_id, trusted_key=None, subscribes=True, **options):
        tab = Tab(port, self.folder, client_id, trusted_key, subscribes, **options)
        self.callback(tab.close)
        return tab

    def browser(self):
        """A Chromium for status pages."""
        browser = Browser(self.folder)
        self.callback(browser.close)
        return browser

    def paho(self, client_id, version, user_name=None, persistent=True, transport="tcp", returns=False):
        client = Paho(client_id, version, user_name, persistent, transport, returns)
        self.callback(client.stop)
        return client

    def socket(self, port, source=None):
        connection = Socket(port, source=source)
        self.callback(connection.close)
        return connection
