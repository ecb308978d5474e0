"""TCP in memory: Twisted's own connections, on sockets that are buffers, driven until nothing moves any more."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

from twisted.internet import tcp
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol, IReactorFDSet
from twisted.internet.posixbase import _DisconnectSelectableMixin
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

CAPACITY = 4096
"""How many bytes a socket takes before it is read."""


class Socket:
    """One end of a stream: full above `CAPACITY`; a close that leaves bytes unread, or does not linger, is a reset.

    The end is told once, unlike by a kernel's socket: so do the other streams that a connection stands for here.
    """

    peer: Socket

    def __init__(self) -> None:
        self.inbox = bytearray()
        self.ended = self.was_reset = self.closed = self._abrupt = False

    def fileno(self) -> int:
        return -1 if self.closed else 0

    def setblocking(self, flag: bool) -> None: ...

    def readable(self) -> bool:
        return bool(self.inbox) or self.ended or self.was_reset

    def recv(self, count: int) -> bytes:
        if self.inbox:
            taken = bytes(self.inbox[:count])
            del self.inbox[:count]
            return taken
        if self.was_reset:
            raise OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        if self.ended:
            self.ended = False
            return b""
        raise OSError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))

    def recv_into(self, buffer: memoryview) -> int:
        taken = self.recv(len(buffer))
        buffer[: len(taken)] = taken
        return len(taken)

    def writable(self) -> bool:
        return self.peer.closed or self.was_reset or len(self.peer.inbox) < CAPACITY

    def send(self, data: Any) -> int:
        if self.peer.closed or self.was_reset:
            raise OSError(errno.EPIPE, os.strerror(errno.EPIPE))
        taken = bytes(data[: CAPACITY - len(self.peer.inbox)])
        self.peer.inbox += taken
        return len(taken)

    def sendmsg(self, pieces: Sequence[Any]) -> int:
        return self.send(b"".join(pieces))

    def shutdown(self, how: int) -> None:
        if how != socket.SHUT_RD:
            self.peer.ended = True

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        self._abrupt = self._abrupt or (option == socket.SO_LINGER and value == struct.pack("ii", 1, 0))

    def close(self) -> None:
        self.closed = self.peer.ended = True
        self.peer.was_reset = self.peer.was_reset or self._abrupt or bool(self.inbox)


def socket_pair() -> tuple[Socket, Socket]:
    one, other = Socket(), Socket()
    one.peer, other.peer = other, one
    return one, other


@implementer(IReactorFDSet)
class Net(Clock, _DisconnectSelectableMixin):
    """The reactor of connections in memory."""

    def __init__(self) -> None:
        super().__init__()
        self._readers: dict[tcp.Connection, None] = {}
        self._writers: dict[tcp.Connection, None] = {}

    def addReader(self, reader: Any) -> None:
        self._readers[reader] = None

    def removeReader(self, reader: Any) -> None:
        self._readers.pop(reader, None)

    def addWriter(self, writer: Any) -> None:
        self._writers[writer] = None

    def removeWriter(self, writer: Any) -> None:
        self._writers.pop(writer, None)

    def removeAll(self) -> list[Any]:
        raise NotImplementedError

    def getReaders(self) -> list[Any]:
        return list(self._readers)

    def getWriters(self) -> list[Any]:
        return list(self._writers)

    def connect(self, near: IProtocol, far: IProtocol, kind: type[tcp.Connection] = tcp.Connection) -> None:
        """Connect two protocols, the far one over a connection of this kind."""
        for end, protocol, make in zip(socket_pair(), (near, far), (tcp.Connection, kind), strict=True):
            connection: Any = make(end, protocol, self)  # type: ignore[arg-type]
            connection.connected = 1
            connection.getPeer = lambda: IPv4Address("TCP", "127.0.0.1", 1)
            connection.startReading()
            protocol.makeConnection(connection)

    def run(self) -> None:
        """Move all that can move."""
        for _ in range(100_000):
            if not self.turn():
                return
        raise AssertionError("it does not come to rest")

    def turn(self) -> bool:
        """Let each connection do one thing that it can do; whether anything moved."""
        moved = any(call.getTime() <= self.seconds() for call in self.calls)
        self.advance(0)
        for each in list(self._readers):
            if each in self._readers and each.socket.readable():
                moved = True
                self._done(each, each.doRead(), True)
        for each in list(self._writers):
            if each in self._writers and each.socket.writable():
                moved = True
                self._done(each, each.doWrite(), False)
        return moved

    def _done(self, connection: tcp.Connection, why: Any, reading: bool) -> None:
        if why:
            self._disconnectSelectable(connection, why, reading)


@implementer(IHalfCloseableProtocol)
class Person(Protocol):
    """Whoever sits at an outer end: what was heard, whether that was all, and how the connection was lost."""

    transport: Any

    def __init__(self) -> None:
        self.heard = b""
        self.heard_all = False
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def readConnectionLost(self) -> None:
        self.heard_all = True

    def writeConnectionLost(self) -> None: ...

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason
