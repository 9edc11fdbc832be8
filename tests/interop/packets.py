"""MQTT packets by hand, for what no client library does: odd splits, connections held open by the dozen, pure junk."""

import socket
import struct
import time

# Name and level of the protocol, as CONNECT says them.
VERSIONS = {"3.1": (b"MQIsdp", 3), "3.1.1": (b"MQTT", 4), "5": (b"MQTT", 5)}

CONNACK, PUBLISH, SUBACK = 2, 3, 9


def _length(number):
    encoded = bytearray()
    while True:
        number, digit = divmod(number, 128)
        encoded.append(digit | (0x80 if number else 0))
        if not number:
            return bytes(encoded)


def _string(text):
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack(">H", len(raw)) + raw


def packet(first_byte, body):
    return bytes([first_byte]) + _length(len(body)) + body


def connect(client_id, version="3.1.1", keep_alive=60, will=None, user_properties=(), login=None):
    """A CONNECT with a clean session; `will` is a pair of topic and payload, `login` one of user name and password."""
    name, level = VERSIONS[version]
    flags = 0x02 | (0x04 if will else 0) | (0xC0 if login else 0)
    body = _string(name) + bytes([level, flags]) + struct.pack(">H", keep_alive)
    if version == "5":
        properties = b"".join(b"\x26" + _string(key) + _string(value) for key, value in user_properties)
        body += _length(len(properties)) + properties
    body += _string(client_id)
    if will:
        topic, payload = will
        body += (b"\x00" if version == "5" else b"") + _string(topic) + _string(payload)
    if login:
        user_name, password = login
        body += _string(user_name) + _string(password)
    return packet(0x10, body)


def subscribe(topic, version="3.1.1"):
    return packet(0x82, b"\x00\x01" + _no_properties(version) + _string(topic) + b"\x00")


def publish(topic, payload, version="3.1.1"):
    return packet(0x30, _string(topic) + _no_properties(version) + payload)


def _no_properties(version):
    return b"\x00" if version == "5" else b""


class Socket:
    """A TCP connection that sends exactly the segments it is told to, and reads packets."""

    def __init__(self, port, seconds=10, source=None):
        """Connects from the address `source`, or from one of the system's choice."""
        source = source and (source, 0)
        self.stream = socket.create_connection(("127.0.0.1", port), timeout=seconds, source_address=source)
        self.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, *segments, pause=0.0):
        """Sends each piece as a segment of its own; `pause` lets the other end read one before the next is there."""
        for number, segment in enumerate(segments):
            if number and pause:
                time.sleep(pause)
            self.stream.sendall(segment)

    def read_exactly(self, count):
        data = b""
        while len(data) < count:
            more = self.stream.recv(count - len(data))
            assert more, "the connection was closed where a packet was expected"
            data += more
        return data

    def read_packet(self):
        """Type and body of the next packet."""
        first = self.read_exactly(1)[0]
        length, shift = 0, 0
        while True:
            digit = self.read_exactly(1)[0]
            length |= (digit & 0x7F) << shift
            shift += 7
            if digit < 0x80:
                return first >> 4, self.read_exactly(length)

    def accepted(self):
        """Reads the CONNACK, which must be an accepting one."""
        kind, body = self.read_packet()
        assert kind == CONNACK, f"packet type {kind} where a CONNACK was expected"
        assert body[1] == 0, f"refused with code {body[1]:#x}"
        return self

    def closed_within(self, seconds):
        """Whether the other end closes or resets in time without having sent anything."""
        self.stream.settimeout(seconds)
        try:
            return self.stream.recv(1) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False

    def close(self):
        self.stream.close()
