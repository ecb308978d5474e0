"""Floor 0: Twisted's TCP with fewer copies and system calls: what is written is sent at once, what arrives is lent.

Memory that is lent is good only during the call; whoever wants it for longer copies it. `direct` gives a reactor whose
TCP connections work like this; in everything else they are Twisted's own, and any protocol works over them.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Protocol, TypeVar, runtime_checkable

from twisted.internet import main, tcp
from twisted.internet.interfaces import IConnector, IListeningPort
from twisted.internet.posixbase import PosixReactorBase
from twisted.python.failure import Failure
from typing_extensions import TypeIs, override
from zope.interface import directlyProvides, providedBy

T = TypeVar("T")

READ_BYTES = 1000 * 1024
"""What is read, passed on and written at once; a packet of 1 MiB has room for it."""
MOST_PIECES = 64
"""What is lent in one call at most."""
_ACCEPTS = 4
"""How many connections are accepted in a turn of the loop: those that came before are heard, or seen to be gone."""

_arrived = memoryview(bytearray(READ_BYTES))
"""Where reads go: one for the process, as control returns only when all in it has been taken or copied."""


def arrived() -> memoryview:
    """The memory that all reads share."""
    return _arrived


def has_all_of(thing: object, protocol: Callable[..., T]) -> TypeIs[T]:
    """Whether `thing` has the methods of `protocol`; they are looked up once a type, and by isinstance each time."""
    return issubclass(type(thing), protocol)  # type: ignore[arg-type]  # mypy takes no protocol for a type[T]


class Taker(Protocol):
    """Takes what is lent: what was read where it said to, or pieces of data that lie elsewhere."""

    def buffer(self) -> memoryview | None:
        """Where to read what comes next; without any room it is None, and the producer was paused until there is."""

    def lent(self, data: memoryview) -> None:
        """Take `data`, which was read to the start of the last `buffer`, be it nothing; good only during the call."""

    def lent_all(self, pieces: Sequence[memoryview]) -> None:
        """Take pieces of data in their order, which are good only during the call."""


@runtime_checkable
class Lender(Protocol):
    """A transport that lends what arrives, and takes what is lent."""

    def buffer(self) -> memoryview | None:
        """Where to read what is lent to it next, as much as it can send at once.

        When it can send nothing it is None: it has paused its producer, and will resume it.
        """

    def lend(self, data: memoryview) -> None:
        """Write `data`, which is good only during the call."""

    def lend_all(self, pieces: Sequence[memoryview]) -> None:
        """Write several pieces, at most `MOST_PIECES`, which are good only during the call."""

    def lend_to(self, taker: Taker) -> None:
        """Lend what arrives to `taker` from now on, instead of giving it to the protocol."""


@lru_cache(256)
def _is_here(host: str) -> bool:
    """Whether `host` is an address of this machine's loopback; a name may be anything."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _unpace(made: socket.socket, host: str) -> None:
    """Have `made`, which will be connected at `host` only, send as fast as it can when that is this machine.

    There is no congestion, and pacing as BBR does it costs a timer for each piece. Accepted sockets inherit it; it has
    to be set before there is a connection, as a kernel goes on pacing one that it has begun to pace.
    """
    option = getattr(socket, "TCP_CONGESTION", None)
    if option is not None and _is_here(host):
        with contextlib.suppress(OSError):  # a kernel that knows it by another name keeps its own
            made.setsockopt(socket.IPPROTO_TCP, option, b"reno")


class _Direct(tcp.Connection):
    """What both sides of a connection share.

    The buffer of Twisted's transport holds only what the kernel has not taken, and anything in it pauses the producer.
    """

    bufferSize = 0  # noqa: N815
    SEND_LIMIT = READ_BYTES
    reactor: Any
    _taker: Taker | None = None
    _least = 1

    @override
    def doRead(self) -> Any:
        taker = self._taker
        buffer = _arrived if taker is None else taker.buffer()
        if buffer is None:
            return None
        count = 0
        why: Exception | None = None
        try:
            count = self.socket.recv_into(buffer)
            if not count:
                why = main.CONNECTION_DONE
        except BlockingIOError:
            pass
        except OSError:
            why = main.CONNECTION_LOST
        if taker is not None:
            taker.lent(buffer[:count])
        elif count:
            self.protocol.dataReceived(bytes(buffer[:count]))
        # A kernel says that it takes more only when a third of its buffer is free, which over a long link is late.
        if (self._tempDataLen or self.dataBuffer) and count and taker is not None and self._only_sends():
            return self.doWrite()
        return why

    @override
    def connectionLost(self, reason: Failure) -> None:
        self._taker = None  # what is gone goes at once, and not when the garbage collector finds it
        super().connectionLost(reason)

    @override
    def loseWriteConnection(self) -> None:
        if self._has_sent() and not self._writeDisconnected:
            self._writeDisconnecting = self._writeDisconnected = True
            self._closeWriteConnection()
        else:
            super().loseWriteConnection()

    @override
    def loseConnection(self) -> None:
        if self.connected and not self.disconnecting and not self._writeDisconnected and self._has_sent():
            self.disconnecting = True
            self.stopReading()
            self.reactor.callLater(0, self._end)
        else:
            super().loseConnection()

    def _end(self) -> None:
        """Close, unless something was written since that was to be done."""
        if self.connected and not self._aborting:
            if self._has_sent():
                self.connectionLost(Failure(main.CONNECTION_DONE))
            else:
                self.startWriting()

    def _has_sent(self) -> bool:
        """Whether nothing waits to be sent, and no producer for being asked for more."""
        if self._tempDataLen or self.dataBuffer:
            return False
        return self.producer is None or (bool(self.streamingProducer) and not self.producerPaused)

    def lend_to(self, taker: Taker) -> None:
        self._taker = taker

    def buffer(self) -> memoryview | None:
        return None if self._tempDataLen or self.dataBuffer else _arrived

    @override
    def write(self, data: bytes) -> None:
        sent = self._send(data)
        if sent < len(data):
            super().write(data[sent:] if sent else data)

    def lend(self, data: memoryview) -> None:
        sent = self._send(data)
        if sent < len(data):
            super().write(bytes(data[sent:]))

    def lend_all(self, pieces: Sequence[memoryview]) -> None:
        sent = self._send(pieces, together=True)
        for piece in pieces:
            if sent < len(piece):
                super().write(bytes(piece[sent:]))
            sent = max(0, sent - len(piece))

    def _send(self, data: Any, *, together: bool = False) -> int:
        """Send what the kernel takes at once of `data`, or of all its pieces `together`.

        That is nothing when anything waits, and when a producer is pulled, which the reactor asks when it has sent. An
        error is left to the reactor's next attempt.
        """
        if (
            self._tempDataLen
            or self.dataBuffer
            or not self.connected
            or self._writeDisconnected
            or (self.producer is not None and not self.streamingProducer)
        ):
            return 0
        try:
            return self.socket.sendmsg(data) if together else self.socket.send(data)
        except OSError:
            return 0

    def _only_sends(self) -> bool:
        """Whether nothing else has to be done about what waits to be sent."""
        return bool(self.connected) and not (self.disconnecting or self._writeDisconnecting)

    def read_least(self, size: int) -> None:
        """Do not read before at least about `size` bytes have arrived, or the end (SO_RCVLOWAT)."""
        size = min(size, READ_BYTES)
        if size != self._least and self.connected:
            self._least = size
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)

    def limit_unread(self, size: int) -> None:
        """Let about `size` bytes at most wait in the kernel to be read, if the peer is on this machine (SO_RCVBUF).

        More would only leave the processor's cache. From elsewhere data has to travel: there the kernel knows best.
        """
        if self.connected and _is_here(self.getPeer().host):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)

    def limit_unsent(self, size: int) -> None:
        """Let at most about `size` bytes that the network has not taken yet wait in the kernel (TCP_NOTSENT_LOWAT)."""
        option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
        if option is not None:
            self.socket.setsockopt(socket.IPPROTO_TCP, option, size)


class _Server(_Direct, tcp.Server):
    """A connection that was accepted."""

    def __init__(self, *args: Any) -> None:
        tcp.Server.__init__(self, *args)
        self.setTcpNoDelay(True)


class _Client(_Direct, tcp.Client):
    """A connection that was dialled; to this machine it is there at once, and needs no turn of the reactor."""

    _dialled = False

    @override
    def doConnect(self) -> None:
        if not self._dialled and hasattr(self, "connector"):
            self._dialled = True
            _unpace(self.socket, self.realAddress[0])
            self.socket.connect_ex(self.realAddress)
        super().doConnect()

    @override
    def _connectDone(self) -> None:
        self.setTcpNoDelay(True)
        super()._connectDone()


class _Port(tcp.Port):
    transport: Any = _Server

    @override
    def createInternetSocket(self) -> socket.socket:
        made = super().createInternetSocket()
        _unpace(made, self.interface)
        return made

    @override
    def doRead(self) -> None:
        self.numberAccepts = _ACCEPTS
        super().doRead()


class _Connector(tcp.Connector):
    @override
    def _makeTransport(self) -> tcp.Client:
        return _Client(self.host, self.port, self.bindAddress, self, self.reactor)


class _DirectReactor:
    """A reactor in all, but for the TCP connections that it makes."""

    def __init__(self, reactor: PosixReactorBase) -> None:
        self._reactor = reactor
        self.seconds = reactor.seconds
        directlyProvides(self, providedBy(reactor))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(  # noqa: N802
        self, port: int, factory: Any, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        listening = _Port(port, factory, backlog, interface, self._reactor)
        listening.startListening()
        return listening

    def connectTCP(  # noqa: N802
        self,
        host: str,
        port: int,
        factory: Any,
        timeout: float = 30,
        bindAddress: Any = None,  # noqa: N803
    ) -> IConnector:
        connector = _Connector(host, port, factory, timeout, bindAddress, self._reactor)
        connector.connect()
        return connector


def direct(reactor: Any) -> Any:
    """`reactor`, whose TCP connections send at once and lend; itself, when its sockets are not the system's."""
    return _DirectReactor(reactor) if isinstance(reactor, PosixReactorBase) else reactor
