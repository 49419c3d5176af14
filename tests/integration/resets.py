"""Connections that somebody cuts off in the middle: a forged RST, as a middlebox sends it. Needs root and no tool."""

from __future__ import annotations

import socket
import struct
import time

_ETH_P_ALL = 3
_ETHERNET_BYTES = 14
_RST, _ACK = 0x04, 0x10
#: Who sends segments of this size sends an object, not a heartbeat.
_BULK_BYTES_MIN = 1000


def _checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class _Segment:
    """What of an Ethernet frame with TCP in it matters here. Raises ValueError for other frames."""

    def __init__(self, frame: bytes) -> None:
        if frame[12:14] != b"\x08\x00" or len(frame) < 54 or frame[23] != socket.IPPROTO_TCP:
            raise ValueError("no TCP")
        self.ethernet = frame[:_ETHERNET_BYTES]
        header = _ETHERNET_BYTES + 4 * (frame[14] & 0xF)
        self.source, self.target = socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34])
        self.ports = struct.unpack("!HH", frame[header : header + 4])
        self.acknowledges = struct.unpack("!I", frame[header + 8 : header + 12])[0]
        self.flags = frame[header + 13]
        length = struct.unpack("!H", frame[16:18])[0]
        # A frame that the card would have cut up says 0.
        self.data_bytes = (
            (length or len(frame) - _ETHERNET_BYTES) - (header - _ETHERNET_BYTES) - 4 * (frame[header + 12] >> 4)
        )


def _rst(ethernet: bytes, source: str, target: str, ports: tuple[int, int], sequence: int) -> bytes:
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    tcp = struct.pack("!HHIIBBHHH", *ports, sequence, 0, 5 << 4, _RST, 0, 0, 0)
    pseudo = addresses + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(tcp))
    tcp = tcp[:16] + struct.pack("!H", _checksum(pseudo + tcp)) + tcp[18:]
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0x4000, 64, socket.IPPROTO_TCP, 0) + addresses
    ip = ip[:10] + struct.pack("!H", _checksum(ip)) + ip[12:]
    return ethernet + ip + tcp


class _Bulk:
    """A connection that carries much: how to reach its receiver, and what that acknowledged when it was first seen."""

    def __init__(self, ethernet: bytes) -> None:
        self.ethernet = ethernet
        self.first = -1

    def acknowledged(self, number: int) -> int:
        """How many bytes the receiver has acknowledged since."""
        if self.first < 0:
            self.first = number
        return (number - self.first) & 0xFFFFFFFF


def reset_transfer(interface: str, sender: str, receiver: str, after_bytes: int, seconds: float = 60.0) -> bool:
    """Cut off the connection over which ``sender`` sends much to ``receiver``, once so many more bytes have come by it.

    ``interface`` is a bridge's port to the receiver. What other connections carry does not count: one that took the
    place of a broken one is cut off as late as the first would have been.

    The receiver gets a RST with the number that it expects next; once it answers data with a RST of its own, its
    connection is gone. False if that did not happen in time.
    """
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    tap.bind((interface, 0))
    tap.settimeout(0.5)
    bulk: dict[tuple[int, int], _Bulk] = {}
    deadline = time.monotonic() + seconds
    with tap:
        while time.monotonic() < deadline:
            try:
                segment = _Segment(tap.recv(1 << 17))
            except (TimeoutError, ValueError):
                continue
            if (segment.source, segment.target) == (sender, receiver):
                if segment.data_bytes >= _BULK_BYTES_MIN:
                    bulk.setdefault(segment.ports, _Bulk(segment.ethernet))
                continue
            ports = segment.ports[1], segment.ports[0]
            if (segment.source, segment.target) != (receiver, sender) or ports not in bulk:
                continue
            if segment.flags & _RST:
                return True
            if segment.flags & _ACK and bulk[ports].acknowledged(segment.acknowledges) >= after_bytes:
                tap.send(_rst(bulk[ports].ethernet, sender, receiver, ports, segment.acknowledges))
    return False
