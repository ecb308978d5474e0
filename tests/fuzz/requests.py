"""HTTP requests to a door, in any pieces: what reaches a route is the same as when all comes at once.

It may be fewer of them: requests that do not wait for their turn need not be answered.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from avinet.aio import Tasks
from avinet.errors import Conflict
from avinet.rest.door import HEAD_LIMIT_BYTES, Door
from avinet.rest.route import Reply, Request, Route
from avinet.rest.table import Table
from tests.fuzz.watch import check, watched

LIMIT_BYTES = 300
Seen = tuple[str, str, bytes, dict[str, str]]


async def _echo(request: Request) -> Reply:
    request.identity.append((request.method, request.target, request.body, dict(request.headers)))
    return Reply(200, request.body, {"content-type": "application/octet-stream"})


async def _refuse(request: Request) -> Reply:
    raise Conflict("it is there already")


_TABLE = Table(
    [
        Route("PUT", "/v1/echo", _echo, "Echo", bytes, bytes, limit_bytes=LIMIT_BYTES),
        Route("GET", "/v1/names/<name>", _echo, "Name"),
        Route("POST", "/v1/no", _refuse, "No"),
    ]
)


class _Visit:
    """One connection to a door; `seen` are the requests that reached a route."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.clock = Clock()
        self.tasks = Tasks()
        self.door = Door(self.clock, _TABLE, tasks=self.tasks, identify=lambda transport: self.seen)
        self.channel: Any = self.door.buildProtocol(IPv4Address("TCP", "192.0.2.7", 4000))
        self.transport = StringTransport()
        self.channel.makeConnection(self.transport)

    def receive(self, data: bytes) -> None:
        if not self.transport.disconnecting:
            self.channel.dataReceived(data)
            self.clock.advance(0)

    def end(self) -> None:
        """The peer goes; nothing is left."""
        self.channel.connectionLost(Failure(ConnectionDone()))
        self.tasks.stop()
        check(self.door.open_connections == 0, "a connection that is gone counts")
        check(not self.clock.getDelayedCalls(), f"calls are left: {self.clock.getDelayedCalls()}")


def visited(pieces: list[bytes]) -> list[Seen]:
    """The requests that reach a route, when these pieces arrive one after the other."""
    visit = _Visit()
    for piece in pieces:
        visit.receive(piece)
    answers = visit.transport.value().count(b"HTTP/1.1 ")
    check(len(visit.seen) <= answers, f"{len(visit.seen)} requests have {answers} answers")
    check(all(len(body) <= LIMIT_BYTES for _, _, body, _ in visit.seen), "a body is longer than it may be")
    check(all(sum(map(len, (*h, *h.values()))) <= HEAD_LIMIT_BYTES for *_, h in visit.seen), "a head is too long")
    visit.end()
    return visit.seen


def run(data: bytes) -> None:
    """Send what follows the first byte, at once, then in pieces of the size that it says."""
    size, sent = 1 + (data[0] if data else 0), data[1:]
    with watched():
        whole = visited([sent])
        split = visited([sent[at : at + size] for at in range(0, len(sent), size)])
        both = min(len(whole), len(split))
        check(whole[:both] == split[:both], f"at once {whole}, in pieces {split}")


_PUT = b"PUT /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
_CHUNKED = b"PUT /v1/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
_GET = b"GET /v1/names/x?a=b HTTP/1.1\r\nHost: a\r\nX: 1\r\nX: 2\r\n\r\n"
SEEDS = [
    bytes((size,)) + text
    for size in (0, 6, 255)
    for text in (
        *(
            _PUT,
            _CHUNKED,
            _GET,
            _GET + _PUT + _CHUNKED,
            _PUT.replace(b"5", b"301"),
            _PUT.replace(b"5", b"5\r\nContent-Length: 6"),
        ),
        *(_GET.replace(b"1.1", b"1.0"), _GET.replace(b"GET", b"POST"), b"POST /v1/no HTTP/1.1\r\nHost: a\r\n\r\n"),
        *(
            _CHUNKED.replace(b"Host: a", b"Content-Length: 3"),
            _CHUNKED.replace(b"5\r", b"5;x=y\r"),
            _GET.replace(b"\r\nX", b"\r\n X"),
        ),
        *(_PUT.replace(b"Host: a", b"Expect: 100-continue"), _PUT.replace(b"Host: a", b"Connection: close")),
        *(
            _GET.replace(b"/v1", b"http://x/v1"),
            _GET.replace(b"a=b", b"\xff"),
            b"\r\n\r\n" + _GET,
            b"GET\r\n\r\n",
            b"\x16\x03\x01",
        ),
    )
]
