"""Autobahn's fuzzing client where MQTT is spoken, and the two kinds of node behind it, which echo. For Python 2.7, as Autobahn's suite is.

    node ws PORT        a node with WebSocket: it accepts a CONNECT, and echoes every message behind it
    node tcp PORT       a node without: it accepts a CONNECT, and echoes every byte behind it
    fuzz URL KIND FILE CASE...
                        runs these cases, without those behind a `-`, against the balancer at this URL before that kind of node, and
                        writes what became of each

Each case begins behind a CONNECT and its CONNACK. Before a node without WebSocket, what a case sends as text is sent as binary: MQTT is
binary, and text is refused there (MQTT-6.0.0-1). Frames have no meaning to such a node either, so what it echoes counts as one message.
"""

import json
import sys

from twisted.internet import protocol, reactor

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol, connectWS, listenWS
from autobahntestsuite import fuzzing

CONNECT = b"\x10\x14\x00\x04MQTT\x04\x02\x00\x3c\x00\x08autobahn"
CONNACK = b"\x20\x02\x00\x00"

TEXT, BINARY = 1, 2


class WsNode(WebSocketServerProtocol):
    def onConnect(self, request):
        self.is_accepted = False
        return "mqtt"

    def onMessage(self, payload, isBinary):
        if self.is_accepted:
            return self.sendMessage(payload, isBinary)
        assert payload == CONNECT and isBinary, payload
        self.is_accepted = True
        self.sendMessage(CONNACK, True)


class TcpNode(protocol.Protocol):
    def connectionMade(self):
        self.transport.setTcpNoDelay(True)
        self.begin = b""

    def dataReceived(self, data):
        if self.begin != CONNECT:
            missing = len(CONNECT) - len(self.begin)
            self.begin, data = self.begin + data[:missing], data[missing:]
            if len(self.begin) < len(CONNECT):
                return
            assert self.begin == CONNECT, self.begin
            self.transport.write(CONNACK)
        self.transport.write(data)


def node(kind, port):
    if kind == "ws":
        factory = WebSocketServerFactory("ws://127.0.0.1:" + port, protocols=["mqtt"])
        factory.protocol = WsNode
        factory.setProtocolOptions(failByDrop=False)
        # Clients ask for the balancer's port, of which it knows nothing.
        factory.externalPort = None
        listenWS(factory, interface="127.0.0.1")
    else:
        factory = protocol.Factory()
        factory.protocol = TcpNode
        reactor.listenTCP(int(port), factory, interface="127.0.0.1")
    print("listening")
    sys.stdout.flush()


class Client(fuzzing.FuzzingClientProtocol):
    """A case of the suite, behind a CONNACK."""

    is_opened = False
    is_accepted = False
    sends_text = False

    def onOpen(self):
        fuzzing.FuzzingClientProtocol.sendFrame(self, opcode=BINARY, payload=CONNECT)

    def onMessage(self, payload, isBinary):
        if not self.is_accepted:
            assert payload == CONNACK and isBinary, repr(payload)
            self.is_accepted = True
            return fuzzing.FuzzingClientProtocol.onOpen(self)
        if self.factory.is_opened:
            return self.echoed(payload)
        return fuzzing.FuzzingClientProtocol.onMessage(self, payload, isBinary)

    def sendFrame(self, opcode, **options):
        if self.factory.is_opened and opcode == TEXT:
            self.sends_text, opcode = True, BINARY
        return fuzzing.FuzzingClientProtocol.sendFrame(self, opcode, **options)

    def beginMessage(self, isBinary=False, **options):
        if self.factory.is_opened and not isBinary:
            self.sends_text, isBinary = True, True
        return fuzzing.FuzzingClientProtocol.beginMessage(self, isBinary, **options)

    def echoed(self, payload):
        """Passes on what the case expects as a message once all of it has come."""
        case = self.runCase
        self.waiting = getattr(self, "waiting", b"") + payload
        length = getattr(case, "DATALEN", None)
        if length is None:
            expected = [event[1] for events in case.expected.values() for event in events if event[0] == "message"]
            got = [event[1] for event in case.received if event[0] == "message"]
            lengths = [len(message) for message in expected[len(got):]]
            length = lengths[0] if lengths else 0
        while self.waiting and len(self.waiting) >= length:
            length = length or len(self.waiting)
            message, self.waiting = self.waiting[:length], self.waiting[length:]
            fuzzing.FuzzingClientProtocol.onMessage(self, message, not self.sends_text)


class Factory(fuzzing.FuzzingClientFactory):
    def buildProtocol(self, address):
        made = fuzzing.FuzzingClientFactory.buildProtocol(self, address)
        client = Client()
        client.factory, client.caseAgent, client.case, client.Case = self, made.caseAgent, made.case, made.Case
        client.runCase = client.Case(client)
        return client

    def logCase(self, case):
        self.outcomes[case["id"]] = {
            name: case[name] for name in ("behavior", "behaviorClose", "result", "resultClose", "remoteCloseCode", "duration")
        }

    def createReports(self):
        with open(self.outcomes_file, "w") as file:
            json.dump(self.outcomes, file)


def fuzz(url, kind, file, *cases):
    Factory.is_opened, Factory.outcomes, Factory.outcomes_file = kind == "tcp", {}, file
    spec = {"outdir": file + ".reports", "exclude-agent-cases": {}}
    spec["cases"] = [case for case in cases if case[0] != "-"]
    spec["exclude-cases"] = [case[1:] for case in cases if case[0] == "-"]
    spec["servers"] = [{"agent": "balancer", "url": url, "protocols": ["mqtt"]}]
    Factory(spec)


{"node": node, "fuzz": fuzz}[sys.argv[1]](*sys.argv[2:])
reactor.run()
