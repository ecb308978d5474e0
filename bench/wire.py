"""What TCP connections have carried, as the kernel counts it: read over sock_diag(7), without touching the connections.

Bytes are those of IP packets: the payload, and for every segment in either direction its IPv4 and TCP headers. Nothing
is captured, so that neither root nor a relay is needed.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from bench.measure import BenchError

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST_DUMP = 0x301
_DONE, _ERROR = 3, 2
_ESTABLISHED, _LISTENING = 1, 10
_INFO = 2
_HEADER = struct.Struct("=IHHII")
_QUERY = struct.Struct("=BBBBI48x")
_SOCKET = struct.Struct("!4x2H4s12x4s12x")
_SOCKET_LENGTH = 72
_OPTIONS = 5
_BYTES_ACKED = 120
"""Offset of `tcpi_bytes_acked` (u64) in `struct tcp_info`; `tcpi_bytes_received` and the two u32 of segments follow."""
_TIMESTAMPS = 1
_IP, _TCP, _TIMESTAMP_OPTION = 20, 20, 12


@dataclass(frozen=True)
class Carried:
    """What one connection has carried since it was made, in both directions."""

    segments: int
    payload_bytes: int
    header_bytes: int

    @property
    def bytes(self) -> int:
        """All of it, IP headers counted."""
        return self.payload_bytes + self.segments * self.header_bytes


def connections(port: int) -> dict[str, Carried]:
    """What each IPv4 connection that was accepted on `port` has carried, by the address:port that dialled."""
    found = {}
    for near, far, info in _sockets(_ESTABLISHED):
        if near[1] == port and len(info) >= _BYTES_ACKED + 24:
            acked, received, sent, heard = struct.unpack_from("=QQII", info, _BYTES_ACKED)
            options = _TIMESTAMP_OPTION if info[_OPTIONS] & _TIMESTAMPS else 0
            found[f"{far[0]}:{far[1]}"] = Carried(sent + heard, acked + received, _IP + _TCP + options)
    return found


def listening(port: int) -> bool:
    """Whether something listens on `port`; nothing is dialled for it."""
    return any(near[1] == port for near, _, _ in _sockets(_LISTENING))


_Address = tuple[str, int]


def _sockets(state: int) -> Iterator[tuple[_Address, _Address, bytes]]:
    """Near and far end of every TCP socket over IPv4 in `state`, and its `struct tcp_info`."""
    query = _QUERY.pack(socket.AF_INET, socket.IPPROTO_TCP, 1 << (_INFO - 1), 0, 1 << state)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as asked:
        asked.send(_HEADER.pack(_HEADER.size + len(query), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0) + query)
        while True:
            data = asked.recv(1024 * 1024)
            while data:
                length, kind, *_ = _HEADER.unpack_from(data)
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    code = -struct.unpack_from("=i", data, _HEADER.size)[0]
                    raise BenchError(f"the kernel does not count connections here: {os.strerror(code)}")
                yield _parsed(data[_HEADER.size : length])
                data = data[(length + 3) & ~3 :]


def _parsed(message: bytes) -> tuple[_Address, _Address, bytes]:
    near_port, far_port, near, far = _SOCKET.unpack_from(message)
    return (socket.inet_ntoa(near), near_port), (socket.inet_ntoa(far), far_port), _info(message[_SOCKET_LENGTH:])


def _info(attributes: bytes) -> bytes:
    while len(attributes) >= 4:
        length, kind = struct.unpack_from("=HH", attributes)
        if kind == _INFO:
            return attributes[4:length]
        attributes = attributes[max(4, (length + 3) & ~3) :]
    return b""
