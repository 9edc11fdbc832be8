"""What clients send, right and wrong: CONNECTs, WebSocket heads and frames, hellos and chains of TLS."""

import base64
import os
import random
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "interop"))

from packets import _length as variable_length, _string as string, connect, publish  # noqa: E402,F401

PING, PONG = b"\xc0\x00", b"\xd0\x00"
DISCONNECT = b"\xe0\x00"


def stalled_connect(client_id, here=0, missing=1):
    """A CONNECT whose id can be read, with `here` bytes of its will and `missing` ones that never come."""
    will = here + missing
    body = string("MQTT") + b"\x04\x06" + struct.pack(">H", 60) + string(client_id) + string("t") + struct.pack(">H", will)
    return b"\x10" + variable_length(len(body) + will) + body + b"w" * here


def malformed_connect(client_id):
    """A CONNECT that a node refuses by closing: its will's topic has a wildcard, which no reader before the node looks at."""
    return connect(client_id, will=("#", b"x"))


def upgrade_request(protocol="mqtt", *fields):
    """What a WebSocket client asks for."""
    key = base64.b64encode(random.randbytes(16)).decode()
    lines = [
        "GET /mqtt HTTP/1.1", "Host: broker.example", "Upgrade: websocket", "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Protocol: {protocol}", *fields,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def frame(payload, first=0x82, claimed=None, key=b"\x0a\x0b\x0c\x0d"):
    """A frame of a client; `claimed` is the length that it says, if that is not the payload's."""
    length = len(payload) if claimed is None else claimed
    if length < 126:
        header = bytes([first, 0x80 | length])
    elif length < 1 << 16:
        header = struct.pack(">BBH", first, 0xFE, length)
    else:
        header = struct.pack(">BBQ", first, 0xFF, length)
    masked = bytearray(payload)
    for place in range(4):
        masked[place::4] = bytes(byte ^ key[place] for byte in masked[place::4])
    return header + key + bytes(masked)


def vector(width, content):
    return len(content).to_bytes(width, "big") + content


def records(content, kind=22, size=16_384):
    pieces = [content[place : place + size] for place in range(0, len(content), size)]
    return b"".join(struct.pack(">BHH", kind, 0x0303, len(piece)) + piece for piece in pieces)


def client_hello(versions=(0x0303,), session=b""):
    """A ClientHello that any server can go on with: of TLS 1.2, or of 1.3 with a share of a key that is none."""

    def extension(kind, content):
        return struct.pack(">H", kind) + vector(2, content)

    extensions = extension(10, vector(2, struct.pack(">HH", 0x1D, 0x17)))
    extensions += extension(11, b"\x01\x00")
    extensions += extension(13, vector(2, struct.pack(">HHHHH", 0x0403, 0x0804, 0x0401, 0x0503, 0x0603)))
    extensions += extension(23, b"")
    if 0x0304 in versions:
        extensions += extension(43, vector(1, struct.pack(">H", 0x0304)))
        extensions += extension(51, vector(2, struct.pack(">H", 0x1D) + vector(2, b"\x09" + os.urandom(31))))
    suites = struct.pack(">HHH", 0x1301, 0xC02B, 0xC02F)
    body = b"\x03\x03" + os.urandom(32) + vector(1, session) + vector(2, suites) + b"\x01\x00" + vector(2, extensions)
    return b"\x01" + vector(3, body)


def der(tag, *contents):
    content = b"".join(contents)
    if len(content) < 128:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def certificate(subject, issuer, key, authority=True):
    """As small as a reader accepts: names and keys that are no names and no keys, and a signature of nothing."""
    algorithm, valid = der(0x30), der(0x30, der(0x17, b"250101000000Z"), der(0x17, b"450101000000Z"))
    basic = der(0x30, der(0x06, b"\x55\x1d\x13"), der(0x04, der(0x30, der(0x01, b"\xff"))))
    fields = [der(0xA0, der(0x02, b"\x02")), der(0x02, b"\x07"), algorithm, der(0x30, issuer), valid, der(0x30, subject)]
    fields += [der(0x30, key)] + ([der(0xA3, der(0x30, basic))] if authority else [])
    return der(0x30, der(0x30, *fields), algorithm, der(0x03, b"\x00"))


def labyrinth(levels, wide, more):
    """Certificates among which very many paths lead nowhere: each level was issued by all of the next."""
    chain = [certificate(b"leaf", b"level0", b"leaf", authority=False)]
    for level in range(levels):
        for way in range(wide):
            chain.append(certificate(b"level%d" % level, b"level%d" % (level + 1), b"key%d.%d" % (level, way)))
    chain += [certificate(b"aside", b"nobody", b"aside%d" % number) for number in range(more)]
    return chain


def of_one_name(count):
    """Certificates that all could have issued each other."""
    leaf = certificate(b"same", b"same", b"leaf", authority=False)
    return [leaf] + [certificate(b"same", b"same", b"key%d" % number) for number in range(count)]


def certificate_message(chain):
    """What a client of TLS 1.2 shows, in the clear."""
    return b"\x0b" + vector(3, vector(3, b"".join(vector(3, one) for one in chain)))
