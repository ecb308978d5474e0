"""One request at a door: read within the door's limits, answered by its route, a problem for every no."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Any, Protocol
from urllib.parse import parse_qsl

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web import http
from typing_extensions import override

from avinet.aio import CANCELLED, Tasks, as_deferred
from avinet.errors import AvinetError, PeerError, TooLarge
from avinet.rest.problems import problem, problem_of, rendered
from avinet.rest.route import Pipe, Reply, Request
from avinet.rest.streaming import NDJSON, Bulk, Pump, Streamed
from avinet.rest.table import Table
from avinet.wire.message import encode
from avinet.wire.problem import Problem

TARGET_LIMIT_BYTES = 2048
QUERY_FIELDS = 32
CHUNKS = 256
"""How many small chunks a body may come in; of 4 KiB and more there may be any number."""
SLICE_BYTES = 4096
"""What twisted.web is given at once: it copies the rest of that for every line."""
INERT = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}
"""Headers of every answer: whatever stands in it, a browser runs nothing of it, and shows it in no other page."""


_log = Logger()


@dataclass(frozen=True)
class DoorLimits:
    """`read_s` bounds the time from a request's first byte to its last; `idle_s` a connection between requests.

    `connections` bounds those that are open at once, `stalled_s` how long a streamed answer waits for its reader.
    """

    read_s: float = 30.0
    idle_s: int = 60
    connections: int = 1000
    stalled_s: float = 600.0


class Behind(Protocol):
    """What a request needs of its door."""

    clock: IReactorTime
    limits: DoorLimits
    table: Table
    tasks: Tasks


class Connection(Protocol):
    """What a request needs of its connection; see `avinet.rest.door.DoorChannel`."""

    @property
    def door(self) -> Behind: ...

    peer: str
    identity: Any

    def refuse(self, status: int) -> None: ...

    def become_pipe(self, pipe: Pipe) -> None: ...

    def break_off(self) -> None: ...


class DoorRequest(http.Request):
    """A request that is read within the door's limits and answered by its route."""

    channel: Connection  # type: ignore[assignment]  # which is all that is used of it
    content: BytesIO
    _received = 0
    _chunks = 0
    _droppable = False

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
        if self._received > limit_bytes or self._chunks > CHUNKS + limit_bytes // SLICE_BYTES:
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
        self.channel.door.tasks.spawn(self._answer(), "answering a request")

    def heard_out(self) -> None:
        """The peer sends no more. Only writing would show whether it still reads: what is droppable is given up."""
        if self._droppable:
            self.channel.break_off()

    async def _answer(self) -> None:
        peer = self.channel.peer  # which a request has no more when the peer has gone
        try:
            reply = await self._routed()
        except AvinetError as error:
            if isinstance(error, PeerError):
                _log.warn("{peer}: {reason}", peer=peer, reason=str(error))
            reply = _said(problem_of(error))
        except CancelledError:
            reply = _said(problem(503, "the door is closing"))
        except Exception:  # the edge: a fault of ours is an answer of 500, and a traceback in our log only
            _log.failure("{method} {path} failed", method=self.method, path=self.path)
            reply = _said(problem(500, "an unexpected fault, which the node has logged"))
        if self._disconnected or self.finished:
            if isinstance(reply, (Streamed, Bulk)):
                await (reply.messages if isinstance(reply, Streamed) else reply.pieces).aclose()
            return
        if isinstance(reply, Pipe):
            self.channel.become_pipe(reply)
            return
        if isinstance(reply, (Streamed, Bulk)):
            await self._stream(reply)
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

    async def _stream(self, reply: Streamed | Bulk) -> None:
        """Answer with messages or bytes as they come; where one cannot be had the answer is broken off."""
        channel, door = self.channel, self.channel.door
        pump = Pump(door.clock, self, door.limits.stalled_s)
        if isinstance(reply, Streamed):
            headers, written = {"content-type": NDJSON}, pump.run(reply.messages)
        else:
            self.setResponseCode(reply.status)
            headers, written = {"content-length": str(reply.length)}, pump.run_bulk(reply.pieces)
        for name, value in (INERT | headers | dict(reply.headers)).items():
            self.setHeader(name, value)
        work = as_deferred(written)
        self.notifyFinish().addErrback(lambda _: work.cancel())
        try:
            await work
        except CANCELLED:  # the peer has gone, or the door is closing
            channel.break_off()
        except AvinetError as error:
            _log.warn("{peer}: {path} is broken off: {why}", peer=channel.peer, path=self.path, why=str(error))
            channel.break_off()
        except Exception:  # the edge
            _log.failure("{method} {path} failed", method=self.method, path=self.path)
            channel.break_off()
        else:
            self.finish()

    async def _routed(self) -> Reply | Pipe | Streamed | Bulk:
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
        request = Request(
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
        answering = as_deferred(route.answer(request))
        if route.droppable:
            self._droppable = True
            self.notifyFinish().addErrback(lambda _: answering.cancel())
        return await answering


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
