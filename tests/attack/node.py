"""A node for attacks: `node.py NAME PORT WS_PORT [closes|leaves]`. One that closes says nothing to anyone, one that leaves refuses
everyone with "server unavailable". What another does with a client is in the client's id:

    mute-…     its CONNECT is never answered
    refuse-…   refused with "server unavailable"
    flood-…    accepted, and then sent bytes without end
    anything   accepted, pings answered

On WebSocket it hands on whole messages alone, as brokers do; it closes without a word when the head is larger than 2,000
bytes or the subprotocol is not `mqtt`, and answers 403 to pages of https://forbidden.example. A CONNECT whose will has a
wildcard is closed without a word. Each connection writes a line.
"""

import asyncio
import base64
import contextlib
import hashlib
import struct
import sys

ACCEPTED, UNAVAILABLE = b"\x20\x02\x00\x00", b"\x20\x02\x00\x03"
BULK = (b"\x30\xfe\x7f\x00\x04bulk" + b"x" * 16_376) * 4


class Broker:
    """What one connection has said, and what is answered."""

    def __init__(self, leaves):
        self.leaves = leaves
        self.unread = b""
        self.floods = False

    def packets(self):
        unread, begin = self.unread, 0
        # What is cut off only once costs the same for each packet, however many arrive together.
        try:
            while len(unread) >= begin + 2:
                length = shift = 0
                for place in range(begin + 1, min(begin + 5, len(unread))):
                    length |= (unread[place] & 0x7F) << shift
                    shift += 7
                    if unread[place] < 0x80:
                        break
                else:
                    return
                end = place + 1 + length
                if len(unread) < end:
                    return
                packet, begin = (unread[begin] >> 4, unread[place + 1 : end]), end
                yield packet
        finally:
            self.unread = unread[begin:]

    def answers(self, data):
        """The answers to whole packets; none at the end of the connection."""
        self.unread += data
        answered = b""
        for kind, body in self.packets():
            if kind == 1:
                name = struct.unpack_from(">H", body)[0]
                place = 2 + name + 4
                if body[2 + name] == 5:
                    place += 1 + body[place]
                length = struct.unpack_from(">H", body, place)[0]
                client_id = body[place + 2 : place + 2 + length]
                if body[3 + name] & 0x04 and body[place + 2 + length :][2:3] == b"#":
                    return None
                if self.leaves or client_id.startswith(b"refuse-"):
                    answered += UNAVAILABLE
                elif not client_id.startswith(b"mute-"):
                    answered += ACCEPTED
                    self.floods = client_id.startswith(b"flood-")
            elif kind == 12:
                answered += b"\xd0\x00"
            elif kind == 14:
                return None
        return answered


async def serve(reader, writer, messages, wrap):
    broker = Broker("leaves" in sys.argv)
    async for data in messages(reader):
        answered = broker.answers(data)
        if answered is None:
            break
        if answered:
            writer.write(wrap(answered))
            await writer.drain()
        while broker.floods:
            writer.write(wrap(BULK))
            await writer.drain()


async def chunks(reader):
    while data := await reader.read(65_536):
        yield data


async def messages(reader):
    message = b""
    while True:
        first, second = await reader.readexactly(2)
        length = second & 0x7F
        if length >= 126:
            length = int.from_bytes(await reader.readexactly(2 if length == 126 else 8), "big")
        key = await reader.readexactly(4)
        payload = bytearray(await reader.readexactly(length))
        for place in range(4):
            payload[place::4] = bytes(byte ^ key[place] for byte in payload[place::4])
        if first & 0x08:
            if first & 0x0F == 8:
                return
            continue
        message += payload
        if first & 0x80:
            yield message
            message = b""


def framed(data):
    head = bytes([0x82, len(data)]) if len(data) < 126 else struct.pack(">BBQ", 0x82, 127, len(data))
    return head + data


async def plain(reader, writer):
    print("dialled", flush=True)
    await ended(writer, serve(reader, writer, chunks, bytes))


async def websocket(reader, writer):
    print("dialled ws", flush=True)
    await ended(writer, upgraded(reader, writer))


async def upgraded(reader, writer):
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    if len(head) > 2_000 or fields[b"sec-websocket-protocol"] != b"mqtt":
        return
    if fields.get(b"origin") == b"https://forbidden.example":
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        return
    key = next(line.split(b": ")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
    await serve(reader, writer, messages, framed)


async def ended(writer, work):
    with contextlib.suppress(OSError, EOFError, IndexError, struct.error):
        await work
    writer.close()


async def closes(_, writer):
    print("dialled", flush=True)
    writer.close()


async def main(_, port, ws_port, *how):
    handler = closes if "closes" in how else plain
    await asyncio.start_server(handler, "127.0.0.1", int(port), backlog=1024)
    await asyncio.start_server(websocket, "127.0.0.1", int(ws_port), backlog=1024)
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
