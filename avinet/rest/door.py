"""A door: its routes behind twisted.web's HTTP/1.1, with limits on head, body and time, and a problem for every no."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IReactorTime,
)
from twisted.internet.protocol import Factory, connectionDone
from twisted.python.failure import Failure
from twisted.web import http
from typing_extensions import override
from zope.interface import implementer

from avinet.aio import Tasks
from avinet.relay import Relay
from avinet.rest.answering import INERT, SLICE_BYTES, DoorLimits, DoorRequest
from avinet.rest.problems import problem, rendered
from avinet.rest.route import Pipe
from avinet.rest.table import Table

HEAD_LIMIT_BYTES = 16 * 1024
PIPE_PROTOCOL = "avinet-pipe"


@implementer(IHalfCloseableProtocol)
class DoorChannel(http.HTTPChannel):
    """One connection to a door."""

    __slots__ = (
        "_answering",
        "_closing",
        "_deadline",
        "_early",
        "_pipe",
        "_refused",
        "_waited",
        "door",
        "identity",
        "peer",
    )

    transport: Any
    totalHeadersSize = HEAD_LIMIT_BYTES
    maxHeaders = 64
    abortTimeout = 5

    def __init__(self, door: Door, peer: str) -> None:
        super().__init__()
        self.door = door
        self.peer = peer
        self.identity: Any = None
        self.requestFactory = DoorRequest
        self.site = self.factory = door
        self.timeOut = door.limits.idle_s
        self._deadline: IDelayedCall | None = None
        self._pipe: Relay | None = None
        self._refused = False
        self._answering = False
        self._early = False
        self._waited = False
        self._closing = False

    @override
    def callLater(self, period: float, func: Callable[[], None]) -> IDelayedCall:
        return self.door.clock.callLater(period, func)

    @override
    def connectionMade(self) -> None:
        self.identity = self.door.identify(self.transport)
        super().connectionMade()

    @override
    def dataReceived(self, data: bytes) -> None:
        self._waited = True
        for at in range(0, len(data), SLICE_BYTES):
            if self._pipe is not None:
                self._pipe.dataReceived(data[at:])
                return
            self._take(data[at : at + SLICE_BYTES])

    def _take(self, data: bytes) -> None:
        if self._refused or self._closing:
            return
        if not self._answering and self._deadline is None:
            self._deadline = self.callLater(self.door.limits.read_s, partial(self.refuse, 408))
        super().dataReceived(data)

    @override
    def lineReceived(self, line: bytes) -> None:
        if self._refused or self._closing:
            return
        if line[:1] in (b" ", b"\t"):  # a folded line (RFC 9112, section 5.2)
            self.refuse(400)
        else:
            super().lineReceived(line)

    @override
    def rawDataReceived(self, data: bytes) -> None:
        if self._pipe is not None:
            self._pipe.dataReceived(data)
        elif self._answering:
            self._early = True  # and dropped, as it is never used: only whoever is read on is seen to go
        elif not self._refused:
            super().rawDataReceived(data)

    @override
    def allContentReceived(self) -> None:
        if self._refused:
            return
        self._end_deadline()
        if not self._waited:
            self._refused = True
            self.loseConnection()
            return
        self._answering, self._early, self._waited = True, False, False
        super().allContentReceived()

    @override
    def requestDone(self, request: http.Request) -> None:
        self._answering = False
        # Requests that do not wait for their turn need not be answered (RFC 9112, section 9.3.2).
        self.persistent = self.persistent and not self._early
        super().requestDone(request)

    @override
    def loseConnection(self) -> None:
        """Close when the peer has taken its answers; it has as long for that as a connection may be idle."""
        if not self._closing:
            self._closing = True
            self._end_deadline()
            self._deadline = self.callLater(self.door.limits.idle_s, self.transport.abortConnection)
            super().loseConnection()

    @override
    def timeoutConnection(self) -> None:
        self.loseConnection()

    def refuse(self, status: int) -> None:
        """Answer with `status` before the request is whole, and take no more from this peer."""
        if self._refused:
            return
        self._refused = True
        code, headers, body = rendered(problem(status))
        head = (
            f"HTTP/1.1 {code} {http.RESPONSES[code].decode()}\r\nconnection: close\r\ncontent-length: {len(body)}\r\n"
        )
        fields = "".join(f"{name}: {value}\r\n" for name, value in (INERT | headers).items())
        self.transport.write((head + fields + "\r\n").encode() + body)
        self.loseConnection()

    @override
    def _respondToBadRequestAndDisconnect(self) -> None:
        self.refuse(400)

    def become_pipe(self, pipe: Pipe) -> None:
        """Answer 101; from here on the bytes belong to `pipe`. The peer sends none of them before it has the answer."""
        if self._early:
            pipe.far.transport.abortConnection()
            self.refuse(400)
            return
        transport = self.transport
        transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: "
            + PIPE_PROTOCOL.encode()
            + b"\r\n\r\n"
        )
        transport.unregisterProducer()
        self.setTimeout(None)
        near = self._pipe = Relay()
        near.makeConnection(transport)
        near.join(pipe.far)

    def break_off(self) -> None:
        """End the connection in the middle of an answer."""
        self.transport.abortConnection()

    def _end_deadline(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None

    def readConnectionLost(self) -> None:
        """The peer will send no more: a pipe goes on, and a request that is being answered gets its answer."""
        if self._pipe is not None:
            self._pipe.readConnectionLost()
        elif self._answering:
            self.persistent = False
            for each in self.requests:
                each.heard_out()
        else:
            self.loseConnection()

    def writeConnectionLost(self) -> None:
        """The transport tells of the loss when that is all."""

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end_deadline()
        self.door.open_connections -= 1
        if self._pipe is not None:
            self._pipe.connectionLost(reason)
        else:
            super().connectionLost(reason)


class Door(Factory):
    """A protocol factory for the connections to one door.

    `identify` tells from a connection's transport who the peer is: the user behind a UNIX socket, the session of a
    tunnel; None where only a signature can tell.
    """

    __slots__ = ("clock", "identify", "limits", "open_connections", "table", "tasks")

    noisy = False

    def __init__(
        self,
        clock: IReactorTime,
        table: Table,
        *,
        tasks: Tasks,
        identify: Callable[[Any], Any] = lambda transport: None,
        limits: DoorLimits | None = None,
    ) -> None:
        self.clock = clock
        self.table = table
        self.tasks = tasks
        self.identify = identify
        self.limits = limits or DoorLimits()
        self.open_connections = 0

    def log(self, request: http.Request) -> None:
        """What is asked of a door is counted by its routes; nothing is written for each request."""

    @override
    def buildProtocol(self, addr: IAddress | None) -> DoorChannel | None:
        if self.open_connections >= self.limits.connections:
            return None
        self.open_connections += 1
        return DoorChannel(self, _shown(addr))


def _shown(address: Any) -> str:
    host = getattr(address, "host", None)
    return str(host) if host is not None else "local"
