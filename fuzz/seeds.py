#!/usr/bin/env python3
"""Writes the hand-made part of the corpus, all of it but fuzz/corpus/config. What a fuzzer found beside it, and is worth
keeping, has its hash for a name."""

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

def head(first, *fields, end="\r\n"):
    return end.join((first, *fields, "", "")).encode("latin-1")


HOST, KEY = "Host: broker.example", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
ASKED = (HOST, "Upgrade: websocket", "Connection: Upgrade", KEY, "Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: mqtt")
GET = "GET /mqtt HTTP/1.1"
UPGRADES = {
    "right": head(GET, *ASKED),
    "query": head("GET /mqtt?token=a%20b&c HTTP/1.1", *ASKED),
    "passed_on": head(GET, *ASKED, "Origin: https://page.example", "Cookie: a=1; b=2", "User-Agent: probe/1", "Cookie: c=3"),
    "names_in_capitals": head(GET, *(field.upper() for field in ASKED[:3]), *ASKED[3:]),
    "connection_in_two_lines": head(GET, *ASKED, "Connection: keep-alive,\tfoo"),
    "protocols": head(GET, *ASKED[:5], "Sec-WebSocket-Protocol: wamp , mqttv3.1,mqtt"),
    "forwarded": head(GET, *ASKED, "X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https", "Forwarded: for=203.0.113.9"),
    "host_twice": head(GET, *ASKED, HOST),
    "host_of_two_lines": head(GET, "Host: a\rX: b", *ASKED[1:]),
    "host_folded": head(GET, "Host: a", "\tb", *ASKED[1:]),
    "host_with_spaces": head(GET, "Host: a b:c/d@e", *ASKED[1:]),
    "host_in_latin_1": head(GET, "Host: br\xf6ker", *ASKED[1:]),
    "cookie_of_all_bytes": head(GET, *ASKED, "Cookie: " + bytes(range(32, 256)).decode("latin-1")),
    "cookie_long": head(GET, *ASKED, "Cookie: " + "c" * 1500),
    "fields_many": head(GET, *ASKED, *(f"Cookie: {number}" for number in range(58))),
    "fields_too_many": head(GET, *ASKED, *(f"Cookie: {number}" for number in range(59))),
    "line_feeds_alone": head(GET, *ASKED, end="\n"),
    "line_feeds_within": head(GET + "\n" + HOST, *ASKED[1:]),
    "space_before_colon": head(GET, "Host : a", *ASKED[1:]),
    "body": head(GET, *ASKED, "Content-Length: 4"),
    "chunked": head(GET, *ASKED, "Transfer-Encoding: chunked"),
    "length_of_0": head(GET, *ASKED, "Content-Length: 0"),
    "whole_address": head("GET http://other.example/mqtt HTTP/1.1", *ASKED),
    "target_with_fragment": head("GET /mqtt#x HTTP/1.1", *ASKED),
    "target_with_quotes": head('GET /mqtt?"<>{}|^` HTTP/1.1', *ASKED),
    "method": head("POST /mqtt HTTP/1.1", *ASKED),
    "version_of_http": head("GET /mqtt HTTP/1.0", *ASKED),
    "version_of_websocket": head(GET, *ASKED[:4], "Sec-WebSocket-Version: 8", ASKED[5]),
    "key_short": head(GET, *ASKED[:3], "Sec-WebSocket-Key: c2hvcnQ=", *ASKED[4:]),
    "data_behind": head(GET, *ASKED) + frame(0x82, V311),
    "twice": head(GET, *ASKED) * 2,
    "nothing": head(""),
}

# The word is replaced by what answers the key of this run.
ACCEPT = "Sec-WebSocket-Accept: ACCEPT"
SWITCHED = ("Upgrade: websocket", "Connection: Upgrade", ACCEPT, "Sec-WebSocket-Protocol: mqtt")
STATUS = "HTTP/1.1 101 Switching Protocols"
SWITCHINGS = {
    "right": head(STATUS, *SWITCHED),
    "right_and_more": head(STATUS, "server: Cowboy", "date: today", *SWITCHED) + frame(0x82, b"\x20\x02\x00\x00", b""),
    "names_in_capitals": head(STATUS, *(field.upper() for field in SWITCHED[:2]), *SWITCHED[2:]),
    "no_reason": head("HTTP/1.1 101", *SWITCHED),
    "version_of_http": head("HTTP/1.0 101 Switching Protocols", *SWITCHED),
    "ok": head("HTTP/1.1 200 OK", *SWITCHED),
    "refused": head("HTTP/1.1 403 Forbidden", "Content-Length: 0"),
    "unknown_status": head("HTTP/1.1 999 \x1b[2J", *SWITCHED),
    "continues": head("HTTP/1.1 100 Continue") + head(STATUS, *SWITCHED),
    "accept_missing": head(STATUS, *SWITCHED[:2], SWITCHED[3]),
    "accept_wrong": head(STATUS, *SWITCHED[:2], ACCEPT + "=", SWITCHED[3]),
    "accept_twice": head(STATUS, *SWITCHED, "Sec-WebSocket-Accept: other"),
    "protocol_missing": head(STATUS, *SWITCHED[:3]),
    "protocol_other": head(STATUS, *SWITCHED[:3], "Sec-WebSocket-Protocol: wamp"),
    "protocol_twice": head(STATUS, *SWITCHED, "Sec-WebSocket-Protocol: mqtt"),
    "protocol_twice_in_latin_1": head(STATUS, *SWITCHED, "Sec-WebSocket-Protocol: mqtt\xe9"),
    "protocol_older": head(STATUS, *SWITCHED[:3], "Sec-WebSocket-Protocol: mqttv3.1"),
    "extension": head(STATUS, *SWITCHED, "Sec-WebSocket-Extensions: permessage-deflate"),
    "line_feeds_alone": head(STATUS, *SWITCHED, end="\n"),
    "line_feeds_within": head(STATUS, *SWITCHED[:3], SWITCHED[3] + "\n\nlost"),
    "fields_many": head(STATUS, *SWITCHED, *(f"X: {number}" for number in range(120))),
    "mqtt": b"\x20\x02\x00\x00\r\n\r\n",
}


def vector(width, raw):
    return len(raw).to_bytes(width, "big") + raw


def extension(kind, raw):
    return struct.pack(">H", kind) + vector(2, raw)


def server_name(name, kind=0):
    return extension(0, vector(2, bytes([kind]) + vector(2, name)))


def record(raw, kind=22, version=b"\x03\x01"):
    return bytes([kind]) + version + vector(2, raw)


def handshake(extensions, version=b"\x03\x03", suites=b"\x13\x01\xc0\x2b", session=b"s" * 32, compressions=b"\0", kind=1):
    body = version + bytes(range(32)) + vector(1, session) + vector(2, suites) + vector(1, compressions)
    return bytes([kind]) + vector(3, body + vector(2, extensions))


USUAL = (
    extension(43, b"\x04\x03\x04\x03\x03")
    + extension(10, b"\x00\x04\x00\x1d\x00\x17")
    + extension(13, b"\x00\x04\x04\x03\x08\x04")
    + extension(51, vector(2, b"\x00\x1d" + vector(2, bytes(32))))
    + extension(11, b"\x01\x00")
    + extension(23, b"")
)
NAMED = handshake(server_name(b"mqtt.example") + USUAL)
HELLOS = {
    "named": record(NAMED),
    "nameless": record(handshake(USUAL)),
    "name_in_capitals": record(handshake(server_name(b"MQTT.Example") + USUAL)),
    "name_of_an_address": record(handshake(server_name(b"192.0.2.7") + USUAL)),
    "name_with_a_dot": record(handshake(server_name(b"mqtt.example.") + USUAL)),
    "name_empty": record(handshake(server_name(b"") + USUAL)),
    "name_of_another_kind": record(handshake(server_name(b"mqtt.example", 7) + USUAL)),
    "name_with_newline": record(handshake(server_name(b"a\nb") + USUAL)),
    "name_long": record(handshake(server_name(b"a." * 126 + b"a") + USUAL)),
    "name_twice": record(handshake(server_name(b"a.example") + server_name(b"b.example") + USUAL)),
    "records_of_one_byte": b"".join(record(NAMED[place : place + 1]) for place in range(len(NAMED))),
    "records_cut_in_the_name": record(NAMED[:90]) + record(NAMED[90:]),
    "records_empty": record(b"") * 20 + record(NAMED),
    "mqtt_behind": record(NAMED) + V311,
    "message_behind_in_the_record": record(NAMED + b"\x14\x00\x00\x0c" + bytes(12)),
    "message_behind_begun": record(NAMED + b"\x14\x00"),
    "alert_before": record(b"\x01\x00", 21) + record(NAMED),
    "change_cipher_spec_before": record(b"\x01", 20) + record(NAMED),
    "tls_1_0": record(handshake(b"", b"\x03\x01", b"\x00\x2f")),
    "ssl_3": record(handshake(b"", b"\x03\x00", b"\x00\x0a"), version=b"\x03\x00"),
    "ssl_2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + bytes(37),
    "extensions_lie": record(NAMED[:-4] + b"\xff\xff\xff\xff"),
    "length_of_16_mib": record(b"\x01\xff\xff\xff" + NAMED[4:]),
    "length_of_record_lies": record(NAMED)[:3] + b"\x40\x01" + NAMED,
    "server_hello": record(handshake(USUAL, kind=2)),
    "suites_many": record(handshake(server_name(b"mqtt.example") + USUAL, suites=b"\x13\x01" * 700)),
    "mqtt": V311,
}

FRAMINGS = {f"{name}_{cut[0]}_{cut[1]}": bytes(cut) + raw for name, raw in FRAMES.items() for cut in ((1, 128), (64, 0), (255, 255))}


def order(kind, holder, amount, scale=0):
    return bytes([kind * 8 + holder]) + struct.pack("<H", amount) + bytes([scale])


GROW, GROW_MUCH, GROW_FIXED, COVER, HEAR, GIVE_BACK, LIMIT, WAIT, AWAIT, SHAKE, PASS_TIME = 0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
# 64 KiB, and a share of 40 %.
LITTLE = order(LIMIT, 0, 512, 39)
HELD = {
    "small": order(LIMIT, 0, 60, 39) + b"".join(order(GROW, holder, 1_000) for holder in range(8)) + order(GROW, 1, 6_000),
    "oldest_goes": LITTLE + b"".join(order(GROW, holder, 8_000 + holder) + order(WAIT, holder, 0) for holder in range(8))
    + order(GROW, 0, 9_000) + order(GIVE_BACK, 7, 0) + order(GROW, 1, 60_000),
    "oldest_is_itself": LITTLE + order(GROW, 3, 65_000) + order(WAIT, 3, 0) + order(GROW, 3, 65_000) + order(GROW, 3, 1),
    "small_beside_large": LITTLE + b"".join(order(GROW, holder, 14_000) for holder in range(4)) + order(GROW_FIXED, 5, 4_608)
    + order(GROW, 5, 1_000) + order(GROW, 6, 1_000) * 2,
    "sealed": LITTLE + order(COVER, 0, 16_000) + order(HEAR, 0, 16_000) + order(COVER, 0, 12_000) + order(HEAR, 0, 100, 100)
    + order(GROW, 1, 60_000) + order(COVER, 0, 0) + order(GROW, 1, 60_000) + order(COVER, 1, 5_000),
    "limit_lowered": order(GROW, 0, 40_000) + order(GROW, 1, 20_000) + order(LIMIT, 0, 1) + order(GROW, 2, 1) * 3,
    "grows_after_it_was_evicted": LITTLE + order(GROW, 0, 50_000) + order(GROW, 1, 20_000) + order(GROW, 0, 60_000) * 2
    + order(GIVE_BACK, 0, 0) + order(GROW, 1, 10_000),
    "share_of_bytes": order(LIMIT, 0, 32_768, 39) + b"".join(order(AWAIT, holder, 4_608, holder % 2) for holder in range(5))
    + b"".join(order(GROW_MUCH, holder, 30_000) + order(WAIT, holder, 0) for holder in range(5)) + order(PASS_TIME, 1, 1),
    "share_of_places": b"".join(order(AWAIT, holder, 4_608, 1) + order(SHAKE, holder, 16_896) for holder in range(4))
    + order(AWAIT, 5, 4_608, 2) + order(SHAKE, 5, 16_896) + order(PASS_TIME, 0, 2_000)
    + order(AWAIT, 6, 0, 1) + order(AWAIT, 7, 0, 1) + order(PASS_TIME, 5, 1) + order(AWAIT, 5, 0, 3),
}

def field(number_of_field, value):
    """A field of Protocol Buffers: a number, bytes, or another message as a list of fields."""
    if isinstance(value, int):
        return number(number_of_field << 3) + number(value)
    raw = b"".join(value) if isinstance(value, list) else value
    return number(number_of_field << 3 | 2) + number(len(raw)) + raw


def fixed(number_of_field, value):
    return number(number_of_field << 3 | 5) + struct.pack("<I", value)


def message(kind, fields, descriptors=0, behind=b"", length=None):
    raw = field(kind, fields) + behind
    return struct.pack(">II", len(raw) if length is None else length, descriptors) + raw


ADDRESS = b"192.0.2.7:51000"
CONNECTED = [field(1, b"sensor-17"), field(3, 5), field(4, 60), field(6, b"k" * 16), field(7, 1 << 63), field(8, 3600)]
RELAY = [
    *(field(1, 300), field(2, 1), field(4, 2), field(5, ADDRESS), field(6, 1 << 40), field(7, CONNECTED), field(8, b"home")),
    *(field(10, 0), field(11, b"\x01\x02\xac\x02\x04"), field(12, 90)),
    field(13, [field(1, b"mqtt.example"), field(2, [field(1, b"TLSv1.3"), field(3, 1), field(4, b"gauge"), field(5, b"a"), field(5, b"b")])]),
]
LONG_ID = [field(1, 7), field(7, [field(1, b"long" * 16), field(2, [field(1, 9_000), field(2, 1 << 62)])])]
SIDE = [field(1, b"\x30\x05\0\1amm"), field(2, 1 << 33), field(3, 7), field(4, 1), field(5, 7)]
FRAME = [field(1, 1), field(2, b"\x82\xfe"), field(3, 70_000), fixed(4, 0x01020304), field(5, 3), field(6, 9), field(7, b"ping")]
STATE = [field(1, 300), field(2, SIDE), field(3, SIDE), field(4, b"\x01\x02\x03"), field(5, FRAME), field(6, 1)]
PLACEMENT = [field(1, b"k" * 16), field(2, 1), field(3, 300), field(4, 60_000), field(5, 1), field(6, 9)]
CLOSING = [field(1, b"rebalance"), field(2, b"emqx1"), field(3, 50), field(4, b"\x07\x08"), field(5, 300), field(6, 20), field(7, 1)]
COUNTER = [field(1, b"connections"), field(2, b"emqx1"), field(3, b"client_closed"), field(4, 1 << 50)]
MANIFEST = [
    *(field(1, 1), field(2, b"relays"), field(2, b"frames"), field(3, b"0.1.0"), field(4, 1 << 35), field(5, b"\x07\x08")),
    *(field(6, b"emqx1"), field(6, b"emqx2"), field(8, 9_000), field(9, 4)),
    field(7, [field(1, b"mqtt"), field(2, b"[::]:1883"), field(3, b"[::]:1883"), field(4, 1)]),
    field(10, [field(1, b"emqx1"), field(2, 0), field(3, 1)]),
    field(11, [field(1, b"emqx2"), field(2, b"ws")]),
]
ROUND = (
    message(5, [field(1, RELAY)], 2)
    + message(7, [field(1, PLACEMENT)])
    + message(9, [field(1, STATE)])
    + message(10, [field(1, COUNTER)])
    + message(11, [field(1, 1), field(2, b"\x07")])
    + message(13, [])
    + message(15, [])
)
HANDOVERS = {
    "hello": message(1, [field(1, 1), field(2, 1), field(3, b"0.1.0"), field(4, 4711), field(5, 1 << 20)]),
    "manifest": message(2, MANIFEST),
    "refused": message(3, [field(1, b"no common version")]),
    "sockets": message(4, [field(1, [field(1, 0), field(3, b"[::]:1883")]), field(1, [field(2, b"admin")])], 2),
    "relay": message(5, [field(1, RELAY)], 2),
    "relays": message(5, [field(1, RELAY), field(1, LONG_ID), field(1, [])], 6),
    "received": message(6, [field(1, 4)]),
    "placements": message(7, [field(1, PLACEMENT), field(1, [])]),
    "prepared": message(16, []) + message(8, []),
    "states": message(9, [field(1, STATE), field(1, [])]),
    "knowledge": message(10, [field(1, COUNTER), field(2, [field(1, RELAY), field(2, b"idle"), field(3, 9)])]),
    "complete": message(11, [field(1, 2), field(2, b"\x07\xac\x02")]),
    "closings": message(11, [field(1, 2), field(20, CLOSING), field(20, [])]),
    "adopted": message(12, [field(1, b"\x01\xac\x02")]),
    "adopted_unpacked": message(12, [field(1, 1), field(1, 300)]),
    "go": message(13, []),
    "running": message(14, [field(1, 9_000)]),
    "round": ROUND,
    "unknown_kind": message(99, [field(1, b"new")]) + message(13, []),
    "unknown_kind_with_descriptors": message(99, [field(1, b"new")], 3) + message(13, []),
    "unknown_field": message(14, [field(1, 1), field(77, b"new"), fixed(78, 1)]),
    "nothing": bytes(8) + message(13, []),
    "two_bodies": message(13, [], behind=field(14, [field(1, 2)])),
    "the_same_body_twice": message(4, [field(1, [])], 2, behind=field(4, [field(1, [])])),
    "descriptor_missing": message(5, [field(1, RELAY)], 1),
    "descriptor_too_many": message(13, [], 1),
    "descriptors_too_many": message(5, [field(1, [])] * 127, 254),
    "descriptors_most": message(5, [field(1, [])] * 126, 252),
    "half": message(9, [field(1, STATE)])[:40],
    "too_long": message(13, [], length=(4 << 20) + 1),
    "longest": message(13, [], length=4 << 20),
    "length_wrong": message(14, [field(1, 9_000)], length=3),
    "group": message(1, [b"\x0b\x0c"]),
    "varint_endless": message(14, [b"\x08" + b"\xff" * 11]),
    "not_utf8": message(3, [field(1, b"\xff\xfe")]),
    "no_message": b"GET / HTTP/1.1\r\n\r\n",
}

NODES = "upstream e { server 10.0.0.11:1883; server 10.0.0.12:1883 weight=2; }"
IMPORTS_OF_NGINX = {
    "tcp": f"stream {{ {NODES} server {{ listen 1883; proxy_pass e; }} }}",
    "fragment": f"{NODES} server {{ listen [::]:1883; proxy_pass e; proxy_protocol on; }}",
    "websocket": "http { server { listen 80; location /mqtt { proxy_pass http://10.0.0.11:8083/ws; proxy_set_header Upgrade $http_upgrade; } } }",
    "tls": "stream { server { listen 8883 ssl; ssl_certificate a.pem; ssl_certificate_key a.key; ssl_verify_client on; "
    "ssl_client_certificate ca.pem; proxy_ssl on; proxy_pass n:8883; } }",
    "passed": "stream { server { listen 8883; proxy_pass n:8883; } server { listen 8084; proxy_pass n:8084; } }",
    "maps": "stream { map $ssl_server_name $x { default e; a.b f; } js_set $c m.f; upstream e { hash $c; server n:1; } server { listen 2; proxy_pass $x; } }",
    "includes": "stream { include 1; include *; }\n===\nserver { listen 1883; proxy_pass n:1883; }\n===\nupstream n { server m:1; }",
    "circle": "include 1;\n===\ninclude 1;",
    "rules": "stream { server { listen 1883; proxy_pass n:1; allow 10.0.0.0/8; deny 10.1.0.0/16; allow all; deny all; } }",
    "services": "stream { upstream e { resolver 10.0.0.53 valid=5s; server n.example service=_m._tcp resolve; server o.example service=m resolve; } "
    "server { listen 1883; proxy_pass e; } }",
    "quotes": "a \"b\\\"c\" 'd' e\\;f ${g} { h; } # i",
    "lua": "http { a_by_lua_block { x = '}' -- } \n } }",
}
IMPORTS_OF_HAPROXY = {
    "tcp": "listen a\n mode tcp\n bind :1883\n server e1 10.0.0.11:1883 check send-proxy-v2\n server e2 10.0.0.12:1883 weight 2",
    "defaults": "defaults a\n mode tcp\ndefaults b from a\n timeout client 1h\nfrontend f from b\n bind :1\n default_backend g\nbackend g from b\n server h i:1",
    "websocket": "frontend f\n mode http\n bind :80\n acl p path_beg /mqtt\n use_backend g if p { hdr(upgrade) websocket }\nbackend g\n server h i:8083",
    "tls": "listen a\n mode tcp\n bind :8883 ssl crt folder verify required ca-file ca.pem\n server e n:8883 ssl verify none sni str(n)",
    "tables": "listen a\n mode tcp\n bind :1\n stick-table type ip store conn_rate(10s)\n tcp-request connection track-sc0 src\n"
    " tcp-request connection reject if { sc_conn_rate(0) gt 5 }\n server e n:1",
    "rules": "listen a\n mode tcp\n bind :1\n acl b src 10.0.0.0/8\n tcp-request connection reject unless b\n tcp-request connection accept if { src ::1 }\n server e n:1",
    "template": "resolvers r\n nameserver d 10.0.0.53:53\nlisten a\n mode tcp\n bind :1\n server-template e 3 _m._tcp.n.example check",
    "crt_list": "listen a\n mode tcp\n bind :8883 ssl crt-list 1\n server e n:1\n===\n# a\na.pem [alpn m verify none] b *.c !d\nfolder\n@e [f",
    "conditions": "global\n setenv A b\n.if defined(A) && !streq(\"$A\",b) || 0\n nbthread 2\n.elif version_atleast(3)\n.else\n nbthread 3\n.endif",
    "quotes": "global\n setenv A \"b ${C-d} $E \\x41\" 'f\"' g\\ h # i",
}

for target, seeds in (("import_nginx", IMPORTS_OF_NGINX), ("import_haproxy", IMPORTS_OF_HAPROXY)):
    (CORPUS / target).mkdir(parents=True, exist_ok=True)
    for name, text in seeds.items():
        (CORPUS / target / name).write_text(text)

for target, seeds in (("connect", CONNECTS), ("connack", CONNACKS), ("frames", FRAMES), ("proxy", PROXIES),
                      ("upgrade", UPGRADES), ("switching", SWITCHINGS), ("hello", HELLOS), ("framing", FRAMINGS),
                      ("held", HELD), ("handover", HANDOVERS)):
    (CORPUS / target).mkdir(parents=True, exist_ok=True)
    for name, raw in seeds.items():
        (CORPUS / target / name).write_bytes(raw)
