"""One client in Python that receives one message, over whichever transport its library has; run by a case in the environment of that
library.

Arguments: the library, transport (tcp, tls, ws, wss), port, client id, protocol level, topic, and the authority's certificate. It
subscribes to the topic, prints `subscribed`, prints the first message that it receives as `received PAYLOAD`, and disconnects.
"""

import asyncio
import ssl
import sys
import threading

PATIENCE = 30
PATH = "/mqtt"


def say(*words):
    print(*words, flush=True)


def gmqtt(transport, port, client_id, level, topic, ca):
    """It speaks TCP and TLS only."""
    from gmqtt import Client
    from gmqtt.mqtt.constants import MQTTv311, MQTTv50

    async def run():
        client, received = Client(client_id, clean_session=True), asyncio.Queue()
        client.on_connect = lambda *_: client.subscribe(topic, qos=1)
        client.on_subscribe = lambda *_: say("subscribed")

        async def on_message(_client, _topic, payload, _qos, _properties):
            received.put_nowait(payload)
            return 0

        client.on_message = on_message
        secured = {"tcp": False, "tls": ssl.create_default_context(cafile=ca)}[transport]
        await client.connect("127.0.0.1", port, ssl=secured, version=MQTTv50 if level == 5 else MQTTv311)
        payload = await asyncio.wait_for(received.get(), PATIENCE)
        await client.disconnect()
        return bytes(payload)

    return asyncio.run(run())


def aiomqtt(transport, port, client_id, level, topic, ca):
    from aiomqtt import Client, ProtocolVersion

    options = {"protocol": ProtocolVersion.V5 if level == 5 else ProtocolVersion.V311}
    if transport in ("ws", "wss"):
        options |= {"transport": "websockets", "websocket_path": PATH}
    if transport in ("tls", "wss"):
        options["tls_context"] = ssl.create_default_context(cafile=ca)

    async def run():
        async with Client("127.0.0.1", port, identifier=client_id, **options) as client:
            await client.subscribe(topic, qos=1)
            say("subscribed")
            message = await asyncio.wait_for(client.messages.__aiter__().__anext__(), PATIENCE)
            return message.payload

    return asyncio.run(run())


def paho(transport, port, client_id, level, topic, ca):
    """paho-mqtt 1 or 2, whichever the environment has."""
    import paho.mqtt.client as paho

    # The second wants to know in which way it is to call back, and takes the first way too.
    versions = (paho.CallbackAPIVersion.VERSION1,) if hasattr(paho, "CallbackAPIVersion") else ()
    way = "websockets" if transport in ("ws", "wss") else "tcp"
    client = paho.Client(*versions, client_id, protocol=paho.MQTTv5 if level == 5 else paho.MQTTv311, transport=way)
    received, arrived = [], threading.Event()
    client.on_connect = lambda *_: client.subscribe(topic, qos=1)
    client.on_subscribe = lambda *_: say("subscribed")

    def on_message(_client, _data, message):
        received.append(message.payload)
        arrived.set()

    client.on_message = on_message
    if way == "websockets":
        client.ws_set_options(path=PATH)
    if transport in ("tls", "wss"):
        client.tls_set(ca)
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert arrived.wait(PATIENCE), "no message"
    client.disconnect()
    client.loop_stop()
    return received[0]


def main():
    library, transport, port, client_id, level, topic, ca = sys.argv[1:]
    receive = {"gmqtt": gmqtt, "aiomqtt": aiomqtt, "paho": paho}[library]
    payload = receive(transport, int(port), client_id, int(level), topic, ca)
    say("received", payload.decode())


main()
