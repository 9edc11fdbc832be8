"""One client in Python, run by a case in the environment that has its library.

Arguments: the library, port, client id, protocol level, and the authority's certificate for TLS. It subscribes to a topic of its
own, publishes COUNT messages there with QoS 1, receives them in order, stays silent for longer than its Keep Alive, so that the
library's own pings must keep it connected, does the same once more, disconnects, and prints `done`.
"""

import asyncio
import ssl
import sys
import threading
import time

COUNT = 200
KEEP_ALIVE = 2
PAUSE = 2 * KEEP_ALIVE
PATIENCE = 20


def payloads(batch):
    return [f"{batch}-{number}".encode() for number in range(COUNT)]


def context(ca):
    return ssl.create_default_context(cafile=ca) if ca else None


async def gmqtt(port, client_id, level, ca):
    from gmqtt import Client
    from gmqtt.mqtt.constants import MQTTv311, MQTTv50

    client = Client(client_id, clean_session=True)
    connected, subscribed, received, ends = asyncio.Event(), asyncio.Event(), asyncio.Queue(), []
    client.on_connect = lambda *_: connected.set()
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_disconnect = lambda *_: ends.append("disconnected")

    async def on_message(_client, _topic, payload, _qos, _properties):
        received.put_nowait(bytes(payload))
        return 0

    client.on_message = on_message
    version = MQTTv50 if level == 5 else MQTTv311
    await client.connect("127.0.0.1", port, ssl=context(ca) or False, keepalive=KEEP_ALIVE, version=version)
    await asyncio.wait_for(connected.wait(), PATIENCE)
    client.subscribe(f"own/{client_id}", qos=1)
    await asyncio.wait_for(subscribed.wait(), PATIENCE)
    for batch in range(2):
        for payload in payloads(batch):
            client.publish(f"own/{client_id}", payload, qos=1)
        got = [await asyncio.wait_for(received.get(), PATIENCE) for _ in range(COUNT)]
        assert got == payloads(batch), got
        await asyncio.sleep(PAUSE)
        assert not ends, "it was disconnected"
    await client.disconnect()


async def aiomqtt(port, client_id, level, ca):
    from aiomqtt import Client, ProtocolVersion

    options = {"protocol": ProtocolVersion.V5 if level == 5 else ProtocolVersion.V311}
    async with Client("127.0.0.1", port, identifier=client_id, keepalive=KEEP_ALIVE, tls_context=context(ca), **options) as client:
        topic = f"own/{client_id}"
        await client.subscribe(topic, qos=1)
        arriving = client.messages.__aiter__()
        for batch in range(2):
            for payload in payloads(batch):
                await client.publish(topic, payload, qos=1)
            got = [(await asyncio.wait_for(arriving.__anext__(), PATIENCE)).payload for _ in range(COUNT)]
            assert got == payloads(batch), got
            await asyncio.sleep(PAUSE)


async def paho1(port, client_id, level, ca):
    """paho-mqtt before 2.0, which most programs in the field were written for, in threads."""
    import paho.mqtt.client as paho

    assert paho.Client.__init__.__code__.co_varnames[1] == "client_id", "this is paho-mqtt 2"
    client = paho.Client(client_id, protocol=paho.MQTTv5 if level == 5 else paho.MQTTv311)
    subscribed, ends, received, all_received = threading.Event(), [], [], threading.Event()
    client.on_connect = lambda *_: client.subscribe(f"own/{client_id}", qos=1)
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_disconnect = lambda *_: ends.append("disconnected")

    def on_message(_client, _data, message):
        received.append(message.payload)
        if len(received) % COUNT == 0:
            all_received.set()

    client.on_message = on_message
    if ca:
        client.tls_set(ca)
    client.connect("127.0.0.1", port, keepalive=KEEP_ALIVE)
    client.loop_start()
    assert subscribed.wait(PATIENCE), "no SUBACK"
    for batch in range(2):
        for payload in payloads(batch):
            client.publish(f"own/{client_id}", payload, qos=1)
        assert all_received.wait(PATIENCE), f"{len(received)} messages came"
        assert received == payloads(batch), received
        all_received.clear()
        received.clear()
        time.sleep(PAUSE)
        assert not ends, "it was disconnected"
    client.disconnect()
    client.loop_stop()


def main():
    library, port, client_id, level, *ca = sys.argv[1:]
    client = {"gmqtt": gmqtt, "aiomqtt": aiomqtt, "paho1": paho1}[library]
    asyncio.run(client(int(port), client_id, int(level), ca[0] if ca else None))
    print("done")


main()
