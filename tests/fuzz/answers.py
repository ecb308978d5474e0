"""HTTP answers of a hostile server: the client has an answer within its limits or one error, and the connection ends."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from avinet.aio import as_deferred
from avinet.errors import AvinetError
from avinet.rest.client import HEAD_LIMIT_BYTES, Answer, Client
from tests.fuzz.watch import check, watched

LIMIT_BYTES = 200


class _Transport(StringTransport):
    """A connection that has ended when it is closed, as soon as anything else happens."""

    protocol: Any = None
    over = False

    def abortConnection(self) -> None:
        self.disconnecting = True

    def lose(self, reason: Exception) -> None:
        if not self.over:
            self.over = True
            self.protocol.connectionLost(Failure(reason))


class _Endpoint:
    """Connects to nobody."""

    def __init__(self) -> None:
        self.made: list[_Transport] = []

    def connect(self, factory: Any) -> Deferred[Any]:
        transport = _Transport()
        transport.protocol = factory.buildProtocol(None)
        transport.protocol.makeConnection(transport)
        self.made.append(transport)
        return succeed(transport.protocol)


def run(data: bytes) -> None:
    """Answer with what follows the first two bytes, in pieces, to one request or two; then break off, or do nothing."""
    size, flags, answer = 1 + (data[0] if data else 0), data[1] if len(data) > 1 else 0, data[2:]
    with watched():
        clock, endpoint = Clock(), _Endpoint()
        client = Client(clock, endpoint, authority="control", where="the peer")  # type: ignore[arg-type]
        for _ in range(1 + (flags & 1)):
            results: list[Any] = []
            asked = client.request("HEAD" if flags & 2 else "GET", "/v1/x", b"body", limit_bytes=LIMIT_BYTES)
            as_deferred(asked).addBoth(results.append)
            clock.advance(0)
            _say(endpoint.made[-1], answer, size)
            clock.advance(0)
            if flags & 4:
                endpoint.made[-1].lose(ConnectionDone() if flags & 8 else ConnectionLost())
            clock.advance(11)
            check(len(results) == 1, f"the request has {len(results)} results")
            _judge(results[0])
            for transport in endpoint.made:
                if transport.disconnecting:
                    transport.lose(ConnectionDone())
        as_deferred(client.close())
        clock.advance(60)
        for transport in endpoint.made:
            transport.lose(ConnectionDone())
        clock.advance(60)
        check(not clock.getDelayedCalls(), f"calls are left: {clock.getDelayedCalls()}")


def _say(transport: _Transport, answer: bytes, size: int) -> None:
    for at in range(0, len(answer), size):
        if not transport.over and not transport.disconnecting:
            transport.protocol.dataReceived(answer[at : at + size])


def _judge(result: Any) -> None:
    if isinstance(result, Failure):
        check(result.check(AvinetError), f"it failed with {result.getTraceback()}")
        check(len(str(result.value)) < 2000, "an error is too long")
    else:
        assert isinstance(result, Answer)
        check(len(result.body) <= LIMIT_BYTES, "an answer is longer than it may be")
        check(result.status < 400, f"{result.status} is an answer")
        check(sum(map(len, (*result.headers, *result.headers.values()))) <= 2 * HEAD_LIMIT_BYTES, "a head is too long")


_OK = b"HTTP/1.1 200 OK\r\n"
_PROBLEM = b'{"type": "about:blank", "title": "no", "status": 503}'
_HEADS = (
    _OK + b"Content-Length: 5\r\n\r\nhello",
    _OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    _OK + b"\r\nuntil the end",
    _OK + b"Content-Length: 201\r\n\r\n" + b"x" * 201,
    _OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    b"HTTP/1.1 100 Continue\r\n\r\n" + _OK + b"Content-Length: 0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 301 Moved\r\nLocation: http://x/\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 503 No\r\nRetry-After: 7\r\nContent-Type: application/problem+json\r\nContent-Length: 53\r\n\r\n"
    + _PROBLEM,
    b"HTTP/1.1 429 No\r\nRetry-After: x\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 abc\r\n\r\n",
    b"SSH-2.0-x\r\n",
)
SEEDS = [bytes((size, flags)) + head for size in (0, 255) for flags in (0, 1, 4, 14) for head in _HEADS]
