#!/usr/bin/env python3
"""Writes the hand-made part of the corpus: fuzz/corpus/connect, fuzz/corpus/connack, fuzz/corpus/frames and
fuzz/corpus/proxy. What a fuzzer found beside it, and
is worth keeping, has its hash for a name."""

import struct
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def number(value):
    encoded = bytearray()
    while True:
        value, digit = divmod(value, 128)
        encoded.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(encoded)


def string(raw):
    return struct.pack(">H", len(raw)) + raw


def packet(first, body, length=None):
    return bytes([first]) + (number(len(body)) if length is None else length) + body


def connect(
    client_id, level=4, flags=0x02, keep_alive=60, properties=b"", rest=b"", name=None, length=None
):
    name = name or (b"MQIsdp" if level & 0x7F == 3 else b"MQTT")
    body = string(name) + bytes([level, flags]) + struct.pack(">H", keep_alive)
    if level & 0x7F == 5:
        body += number(len(properties)) + properties
    return packet(0x10, body + string(client_id) + rest, length)


def pair(key, value):
    return b"\x26" + string(key) + string(value)


EXPIRY = b"\x11" + struct.pack(">I", 3600)
WILL = string(b"gone") + string(b"\x00\xff" * 20)
LOGIN = string(b"user") + string(b"\x00\xff\xc3")
EVERY_PROPERTY = (
    EXPIRY
    + b"\x21\x00\x07"  # Receive Maximum
    + b"\x27\x00\x01\x00\x00"  # Maximum Packet Size
    + b"\x22\x00\x05"  # Topic Alias Maximum
    + b"\x19\x01\x17\x01"  # Request Response Information, Request Problem Information
    + pair(b"name", b"value")
    + b"\x15" + string(b"SCRAM") + b"\x16" + string(b"\x01\x02")
)
CONNECT_5 = connect(b"five", 5, 0xC6, properties=EVERY_PROPERTY, rest=b"\x05\x18" + struct.pack(">I", 9) + WILL + LOGIN)

CONNECTS = {
    "v31": connect(b"three-one", 3, 0xC2, rest=LOGIN),
    "v311": connect(b"three-one-one"),
    "v311_persistent": connect(b"sensor-17", flags=0x00),
    "v5": connect(b"five", 5),
    "v5_everything": CONNECT_5,
    "v5_truncated": CONNECT_5[:-30],
    "v6": connect(b"later", 6),
    "anonymous_v31": connect(b"", 3),
    "anonymous_v311": connect(b""),
    "anonymous_v5": connect(b"", 5),
    "bridge_v31": connect(b"bridge", 0x83),
    "bridge_v311": connect(b"bridge", 0x84),
    "bridge_v5": connect(b"bridge", 0x85, properties=EXPIRY),
    "will": connect(b"will", flags=0x06, rest=WILL),
    "will_and_login": connect(b"will", flags=0xC6, rest=WILL + LOGIN),
    "password_without_user": connect(b"id", flags=0x42, rest=string(b"secret")),
    "flags_reserved": connect(b"id", flags=0x03),
    "flags_of_will_without_will": connect(b"id", flags=0x3A),
    "id_not_utf8": connect(b"\xc3\x28\x00\"\x1b[2J"),
    "id_empty_string_then_end": connect(b"")[:-2] + b"\x00",
    "id_longer_than_packet": connect(b"id")[:-4] + b"\xff\xffid",
    "id_of_23_and_more": connect(b"x" * 200),
    "behind_it_a_publish": connect(b"id") + packet(0x30, string(b"t") + b"payload"),
    "twice": connect(b"first") + connect(b"second"),
    "name_unknown": connect(b"id", name=b"MQTX"),
    "name_of_the_other_version": connect(b"id", 4, name=b"MQIsdp"),
    "name_empty": packet(0x10, string(b"") + b"\x04\x02\x00\x3c" + string(b"id")),
    "name_endless": packet(0x10, b"\xff\xffMQTT\x04\x02\x00\x3c"),
    "low_nibble_set": b"\x1f" + connect(b"id")[1:],
    # CVE-2026-21888 of NanoMQ and its kin: a variable integer of five bytes, as length and in the properties.
    "length_of_five_bytes": connect(b"id", length=b"\xff\xff\xff\xff\x01"),
    "length_of_five_bytes_all_set": b"\x10" + b"\xff" * 12,
    "length_padded": connect(b"id", length=b"\x90\x80\x80\x00"),
    "properties_of_five_bytes": packet(
        0x10, string(b"MQTT") + b"\x05\x02\x00\x3c" + b"\x80\x80\x80\x80\x01" + string(b"id")
    ),
    # CVE-2017-7651, CVE-2021-22116, CVE-2021-33175: a length claimed, and nothing behind it.
    "length_of_256_mib": b"\x10\xff\xff\xff\x7f",
    "length_of_256_mib_with_start": connect(b"id", length=b"\xff\xff\xff\x7f"),
    "length_of_0": b"\x10\x00",
    "length_of_3": b"\x10\x03\x00\x04M",
    "length_too_small": connect(b"sensor-17", length=b"\x0c"),
    "length_one_too_large": connect(b"id", length=b"\x0f"),
    # CVE-2023-3592 and NanoMQ's over-reads: will properties that lie, that are no properties, that are there twice.
    "will_properties_lie": connect(b"id", 5, 0x06, rest=b"\x7f" + WILL),
    "will_properties_unknown": connect(b"id", 5, 0x86, rest=b"\x02\x7e\x00" + WILL + string(b"user")),
    "will_longer_than_packet": connect(b"id", 5, 0x86, rest=b"\x00\xff\xff" + string(b"user")),
    "properties_lie": packet(0x10, string(b"MQTT") + b"\x05\x02\x00\x3c\x7f" + EXPIRY + string(b"id")),
    "properties_end_within": connect(b"id", 5, properties=EXPIRY[:3]),
    "properties_twice": connect(b"id", 5, properties=EXPIRY + EXPIRY),
    "properties_unknown": connect(b"id", 5, properties=b"\x7f\x01" + EXPIRY),
    "properties_of_a_publish": connect(b"id", 5, properties=b"\x0b\xff\xff\xff\x7f\x23\x00\x01" + EXPIRY),
    "properties_many": connect(b"id", 5, properties=pair(b"", b"") * 60 + EXPIRY),
    "properties_id_padded": connect(b"id", 5, properties=b"\x91\x00\x00\x00\x0e\x10"),
    "stranger_tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "stranger_tls_like_mqtt": b"\x16\x03\x00",
    "stranger_proxy_1": b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 1883\r\n",
    "stranger_proxy_2": b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + b"\x7f\x00\x00\x01" * 2 + b"\x04\xd2\x07\x5b",
    "stranger_http": b"GET /mqtt HTTP/1.1\r\nHost: broker\r\nUpgrade: websocket\r\n\r\n",
    "stranger_http_connect": b"CONNECT broker:1883 HTTP/1.1\r\n\r\n",
    "stranger_http_2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "stranger_ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "stranger_nearly_http": b"PATC",
    "first_subscribe": packet(0x82, b"\x00\x01" + string(b"#") + b"\x00"),
    "first_publish": packet(0x30, string(b"t") + b"x"),
    "first_ping": b"\xc0\x00",
    "first_auth": packet(0xF0, b"\x18\x00"),
    "first_nothing": b"",
    "first_zeros": bytes(64),
}


def connack(code, properties=None, present=0, first=0x20):
    body = bytes([present, code])
    if properties is not None:
        body += number(len(properties)) + properties
    return packet(first, body)


ASSIGNED = b"\x12" + string(b"auto-7f3a9c")
EVERY_PROPERTY_OF_CONNACK = (
    EXPIRY
    + ASSIGNED
    + b"\x13\x00\x3c"  # Server Keep Alive
    + b"\x21\x00\x20\x24\x01\x25\x01\x27\x00\x10\x00\x00\x22\xff\xff"
    + b"\x28\x01\x29\x01\x2a\x01"
    + b"\x1f" + string(b"welcome") + b"\x1a" + string(b"reply") + b"\x1c" + string(b"other:1883")
    + b"\x15" + string(b"SCRAM") + b"\x16" + string(b"\x01")
    + pair(b"k", b"v")
)

CONNACKS = {
    "v311_accepted": connack(0),
    "v311_present": connack(0, present=1),
    **{f"v311_refused_{code}": connack(code) for code in range(1, 6)},
    "v5_accepted": connack(0, b""),
    "v5_everything": connack(0, EVERY_PROPERTY_OF_CONNACK, present=1),
    "v5_truncated": connack(0, EVERY_PROPERTY_OF_CONNACK)[:-20],
    **{
        f"v5_refused_{code:02x}": connack(code, b"\x1f" + string(b"why"))
        for code in (0x84, 0x88, 0x89, 0x97, 0x9C, 0x9D, 0x9F)
    },
    "v5_refused_as_in_v311": connack(1),
    "assigned_empty": connack(0, b"\x12\x00\x00"),
    "assigned_longer_than_packet": connack(0, b"\x12\xff\xffx"),
    "assigned_twice": connack(0, ASSIGNED + b"\x12" + string(b"again")),
    "properties_lie": packet(0x20, b"\x00\x00\x7f" + EXPIRY),
    "properties_of_five_bytes": packet(0x20, b"\x00\x00\xff\xff\xff\xff\x01"),
    # The one that made HAProxy wait for ever: a property that it did not know.
    "properties_unknown": connack(0, b"\x7e\x01" + EXPIRY),
    "properties_of_a_publish": connack(0, b"\x01\x01" + ASSIGNED),
    "length_of_0": b"\x20\x00",
    "length_of_1": b"\x20\x01\x00",
    "length_of_256_mib": b"\x20\xff\xff\xff\x7f\x00\x00",
    "length_of_five_bytes": b"\x20\xff\xff\xff\xff\x01\x00\x00",
    "low_nibble_set": connack(0, first=0x2F),
    "behind_it_a_publish": connack(0, ASSIGNED) + packet(0x30, string(b"t") + b"x"),
    "auth": packet(0xF0, b"\x18" + number(9) + b"\x15" + string(b"SCRAM!")),
    "disconnect": b"\xe0\x02\x8b\x00",
    "publish_first": packet(0x30, string(b"t") + b"x"),
    "http": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "nothing": b"",
}

def frame(first, payload, key=b"\x01\x02\x03\x04", length=None):
    """A frame, masked unless there is no key."""
    mask = 0x80 if key else 0
    if length is None:
        length = bytes([mask | len(payload)]) if len(payload) < 126 else bytes([mask | 126]) + struct.pack(">H", len(payload))
    masked = bytes(byte ^ key[place % 4] for place, byte in enumerate(payload)) if key else payload
    return bytes([first]) + length + key + masked


V311 = CONNECTS["v311"]
FRAMES = {
    "connect": frame(0x82, V311),
    "connect_bytewise": b"".join(frame(0x82, V311[place : place + 1]) for place in range(len(V311))),
    "fragments": frame(0x02, V311[:5]) + frame(0x89, b"?") + frame(0x00, b"") + frame(0x80, V311[5:]),
    "length_of_two_bytes": frame(0x82, b"x" * 300),
    "length_of_eight_bytes": frame(0x82, b"x", length=b"\xff" + struct.pack(">Q", 1)),
    "length_too_long": frame(0x82, b"x", length=b"\xff\x80" + bytes(7)),
    "controls": frame(0x89, b"") + frame(0x8A, b"x" * 125) + frame(0x88, b"\x03\xe8bye") + b"behind",
    "control_too_long": frame(0x89, b"x" * 126),
    "node": frame(0x89, b"?", b"") + frame(0x82, b"\x20\x02\x00\x00", b"") + frame(0x88, b"\x03\xf5", b""),
    "text": frame(0x81, b"words"),
    "reserved": frame(0xC2, b"compressed"),
    "continues_nothing": frame(0x80, b"end"),
}


def header(command, family, block, length=None):
    length = struct.pack(">H", len(block) if length is None else length)
    return b"\r\n\r\n\0\r\nQUIT\n" + bytes([command, family]) + length + block


def tlv(kind, value):
    return bytes([kind]) + struct.pack(">H", len(value)) + value


INET = bytes([192, 0, 2, 7, 198, 51, 100, 9]) + struct.pack(">HH", 51000, 1883)
INET6 = bytes.fromhex("20010db8000000000000000000000007") * 2 + struct.pack(">HH", 51000, 1883)
TLS = tlv(0x21, b"TLSv1.3") + tlv(0x22, b"gauge-7") + tlv(0x23, b"TLS_AES_128_GCM_SHA256")
PROXIES = {
    "line4": b"PROXY TCP4 192.0.2.7 198.51.100.9 51000 1883\r\n" + V311,
    "line6": b"PROXY TCP6 2001:db8::7 ::ffff:198.51.100.9 0 65535\r\n",
    "line_unknown": b"PROXY UNKNOWN 192.0.2.7\r\n",
    "line_without_return": b"PROXY TCP4 192.0.2.7 198.51.100.9 51000 1883\n",
    "line_too_long": b"PROXY UNKNOWN " + b"x" * 94,
    "local": header(0x20, 0x00, b""),
    "local_with_addresses": header(0x20, 0x11, INET),
    "inet": header(0x21, 0x11, INET) + V311,
    "inet6": header(0x21, 0x21, INET6),
    "unspecified": header(0x21, 0x00, b"anything"),
    "unix": header(0x21, 0x31, b"/" * 216),
    "empty": header(0x21, 0x11, b""),
    "tls": header(0x21, 0x11, INET + tlv(0x02, b"mqtt.example") + tlv(0x20, b"\x07\0\0\0\0" + TLS)),
    "tls_unverified": header(0x21, 0x11, INET + tlv(0x20, b"\x03\0\0\0\x12" + TLS)),
    "tls_name_of_two_lines": header(0x21, 0x11, INET + tlv(0x20, b"\x07\0\0\0\0" + tlv(0x22, b"a\nb"))),
    "past_the_end": header(0x21, 0x11, INET + b"\x04\xff\xff"),
    "unique_id": header(0x21, 0x11, INET + tlv(0x05, b"i" * 128) + tlv(0x04, b"\0" * 7)),
    "checksum_wrong": header(0x21, 0x11, INET + tlv(0x03, b"\0\0\0\0")),
    "too_long": header(0x21, 0x11, INET, length=4081),
}

for target, seeds in (("connect", CONNECTS), ("connack", CONNACKS), ("frames", FRAMES), ("proxy", PROXIES)):
    (CORPUS / target).mkdir(parents=True, exist_ok=True)
    for name, raw in seeds.items():
        (CORPUS / target / name).write_bytes(raw)
