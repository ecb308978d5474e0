"""A door: its routes behind twisted.web's HTTP/1.1, with limits on head, body and time, and a problem for every no."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any
from urllib.parse import parse_qsl

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IReactorTime,
)
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http
from typing_extensions import override
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import Map, Rule
from zope.interface import implementer

from avinet.aio import Tasks
from avinet.errors import AvinetError, PeerError, TooLarge
from avinet.relay import Relay
from avinet.rest.problems import problem, problem_of, rendered
from avinet.rest.route import Pipe, Reply, Request, Route
from avinet.wire.message import encode
from avinet.wire.problem import Problem

HEAD_LIMIT_BYTES = 16 * 1024
TARGET_LIMIT_BYTES = 2048
QUERY_FIELDS = 32
CHUNKS = 256
"""How many small chunks a body may come in; of 4 KiB and more there may be any number."""
_SLICE_BYTES = 4096
"""What twisted.web is given at once: it copies the rest of that for every line."""
PIPE_PROTOCOL = "avinet-pipe"
_NOTHING_HERE = problem(404, "there is nothing at this path", "see /v1/openapi.json")
INERT = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}
"""Headers of every answer: whatever stands in it, a browser runs nothing of it, and shows it in no other page."""


@dataclass(frozen=True)
class DoorLimits:
    """`read_s` bounds the time from a request's first byte to its last; `idle_s` a connection between requests.

    `connections` bounds those that are open at once, `queued` the requests that wait for one answer.
    """

    read_s: float = 30.0
    idle_s: int = 60
    connections: int = 1000


class Table:
    """The routes of a door, matched by method and path."""

    def __init__(self, routes: Sequence[Route]) -> None:
        rules = [
            Rule(route.path, methods=[route.method], endpoint=route, merge_slashes=False, strict_slashes=True)
            for route in routes
        ]
        self._adapter = Map(rules, redirect_defaults=False).bind("door")
        self.limit_bytes = max((route.limit_bytes for route in routes if route.takes is not None), default=0)

    def match(self, method: str, path: str) -> tuple[Route, Mapping[str, str]] | Problem:
        """The route and the arguments in its path, or why there is none (404, 405)."""
        if (
            path[:1] != "/" or path[1:2] == "/" or not method.isupper()
        ):  # the adapter takes these for what they are like
            return _NOTHING_HERE
        try:
            route, arguments = self._adapter.match(path, method=method)
        except MethodNotAllowed as refusal:
            allowed = ", ".join(sorted(refusal.valid_methods or ()))
            return problem(405, f"{method} is not possible here", f"use {allowed}" if allowed else "")
        except HTTPException:
            return _NOTHING_HERE
        return route, arguments


class DoorRequest(http.Request):
    """A request that is read within the door's limits and answered by its route."""

    channel: DoorChannel
    content: BytesIO
    _received = 0
    _chunks = 0

    @override
    def gotLength(self, length: int | None) -> None:
        self.content = BytesIO()
        if length is not None and length > self.channel.door.table.limit_bytes:
            self.channel.refuse(413)

    @override
    def handleContentChunk(self, data: bytes) -> None:
        self._received += len(data)
        self._chunks += 1
        limit_bytes = self.channel.door.table.limit_bytes
        if self._received > limit_bytes or self._chunks > CHUNKS + limit_bytes // _SLICE_BYTES:
            self.channel.refuse(413)
        else:
            self.content.write(data)

    @override
    def parseCookies(self) -> None:
        """Cookies mean nothing at any door."""

    @override
    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        self.method, self.uri, self.clientproto = command, path, version
        self.path = path.partition(b"?")[0]
        self.process()

    @override
    def process(self) -> None:
        # What was asked for is done even if the peer goes away: cancelling it half-way would help nobody.
        self.channel.door.tasks.spawn(self._answer(), "answering a request")

    async def _answer(self) -> None:
        door = self.channel.door
        try:
            reply = await self._routed()
        except AvinetError as error:
            if isinstance(error, PeerError):
                door._log.warn("{peer}: {reason}", peer=self.channel.peer, reason=str(error))
            reply = _said(problem_of(error))
        except CancelledError:
            reply = _said(problem(503, "the door is closing"))
        except Exception:  # the edge: a fault of ours is an answer of 500, and a traceback in our log only
            door._log.failure("{method} {path} failed", method=self.method, path=self.path)
            reply = _said(problem(500, "an unexpected fault, which the node has logged"))
        if self._disconnected or self.finished:
            return
        if isinstance(reply, Pipe):
            self.channel.become_pipe(reply)
            return
        self.setResponseCode(reply.status)
        body, kind = b"" if reply.body is None else reply.body, "application/octet-stream"
        if not isinstance(body, bytes):
            body, kind = encode(body), "application/json"
        headers = INERT | ({"content-type": kind} if body else {}) | dict(reply.headers)
        for name, value in headers.items():
            self.setHeader(name, value)
        self.setHeader("content-length", str(len(body)))
        if body:
            self.write(body)
        self.finish()

    async def _routed(self) -> Reply | Pipe:
        try:
            target = self.uri.decode("ascii")
            headers, repeated = _headers(self.requestHeaders.getAllRawHeaders())
        except UnicodeDecodeError:
            return _said(problem(400, "the request's head is not ASCII"))
        if self.clientproto != b"HTTP/1.1":
            return _said(problem(505, "this door speaks HTTP/1.1"))
        if len(target) > TARGET_LIMIT_BYTES:
            return _said(problem(414))
        path, _, query = target.partition("?")
        if query.count("&") >= QUERY_FIELDS:
            return _said(problem(400, f"the query has more than {QUERY_FIELDS} fields"))
        found = self.channel.door.table.match(self.method.decode("ascii", "replace"), path)
        if isinstance(found, Problem):
            return _said(found)
        route, arguments = found
        body = self.content.getvalue()
        if len(body) > route.limit_bytes:
            raise TooLarge(f"the request body has more than {route.limit_bytes} bytes")
        return await route.answer(
            Request(
                method=route.method,
                path=path,
                target=target,
                authority=headers.get("host", ""),
                arguments=arguments,
                query=dict(parse_qsl(query, keep_blank_values=True)),
                headers=headers,
                repeated=repeated,
                body=body,
                peer=self.channel.peer,
                identity=self.channel.identity,
                limit_bytes=route.limit_bytes,
            )
        )


def _said(no: Problem) -> Reply:
    status, headers, body = rendered(no)
    return Reply(status, body, headers)


def _headers(raw: Any) -> tuple[dict[str, str], frozenset[str]]:
    headers: dict[str, str] = {}
    repeated = set()
    for name, values in raw:
        key = name.decode("ascii").lower()
        headers[key] = b", ".join(values).decode("latin-1")
        if len(values) > 1:
            repeated.add(key)
    return headers, frozenset(repeated)


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
        for at in range(0, len(data), _SLICE_BYTES):
            if self._pipe is not None:
                self._pipe.dataReceived(data[at:])
                return
            self._take(data[at : at + _SLICE_BYTES])

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
        elif not self._refused:
            self._early = self._early or self._answering
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

    def _end_deadline(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None

    def readConnectionLost(self) -> None:
        """The peer will send no more: a pipe goes on, a request that is being answered still gets its answer."""
        if self._pipe is not None:
            self._pipe.readConnectionLost()
        elif self._answering:
            self.persistent = False
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
    _log = Logger()

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
