"""One HTTP client for one peer: over any Twisted endpoint, with limits on head, body and time.

No redirects, cookies or decompression. Each peer has a client of its own, closed with it, so that no connection of one
can answer for another.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionLost
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseDone
from twisted.web.error import SchemeNotSupported
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IResponse
from typing_extensions import override
from zope.interface import implementer

from avinet.aio import CANCELLED, within
from avinet.bodies import WholeBody
from avinet.errors import AvinetError, PeerError, TooLarge, Unavailable
from avinet.rest.pieces import Pieces
from avinet.rest.problems import error_from
from avinet.rest.streaming import Lines
from avinet.wire.message import decode, encode

M = TypeVar("M")
HEAD_LIMIT_BYTES = 32 * 1024
ANSWER_LIMIT_BYTES = 1024 * 1024
CONNECTIONS = 4
_HEAD_END = re.compile(rb"\n\r?\n")

Sign = Callable[[str, str, dict[str, str], bytes], None]
"""Adds signature headers for (method, path, headers, body) to the headers."""


@dataclass(frozen=True)
class Answer:
    """A successful answer: status below 400, headers in lower case, the whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def decoded(self, into: type[M], limit_bytes: int = ANSWER_LIMIT_BYTES) -> M:
        """The body as a message of type `into`. Raises `PeerError`: the peer has sent what it should not."""
        try:
            return decode(self.body, into, limit_bytes=limit_bytes, what="answer")
        except AvinetError as error:
            raise PeerError(str(error)) from error


class Client:
    """Asks the peer behind `endpoint`, whose HTTP name is `authority`; `where` names it in errors."""

    def __init__(
        self, clock: IReactorTime, endpoint: IStreamClientEndpoint, *, authority: str, where: str, idle_s: int = 50
    ) -> None:
        self._clock = clock
        self._authority = authority
        self.where = where
        self._pool = HTTPConnectionPool(clock, persistent=True)
        self._pool.maxPersistentPerHost = CONNECTIONS
        self._pool.cachedConnectionTimeout = idle_s
        self._pool.retryAutomatically = False
        self._agent = Agent.usingEndpointFactory(clock, _OneEndpoint(_Metered(endpoint)), pool=self._pool)

    async def request(
        self,
        method: str,
        path: str,
        body: Any = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 10.0,
        limit_bytes: int = ANSWER_LIMIT_BYTES,
        sign: Sign | None = None,
        any_status: bool = False,
    ) -> Answer:
        """The answer to one request; a body that is a message is sent as JSON. With `any_status` each is an answer.

        Raises the error that a problem body stands for; `Unavailable` when the peer cannot be reached or the
        connection is lost, `TimedOut` after `timeout_s`, `PeerError` for an answer that is no HTTP, `TooLarge` for one
        of more than `limit_bytes`.
        """
        said, body = self._said(headers or {}, body)
        if sign is not None:
            sign(method, path, said, body)
        return await within(
            self._clock,
            timeout_s,
            self._exchange(method, path, said, body, limit_bytes, any_status),
            f"{self.where} ({path})",
        )

    async def _exchange(
        self, method: str, path: str, headers: dict[str, str], body: bytes, limit_bytes: int, any_status: bool
    ) -> Answer:
        with self._reached():
            response = await self._head(method, path, headers, body)
            return await self._whole(response, limit_bytes, any_status=any_status)

    async def lines(
        self, method: str, path: str, body: Any, *, head_s: float = 10.0, sign: Sign | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The lines of a streamed answer, as they come; closing this closes the connection.

        Raises what `request` raises: `TimedOut` when the answer does not begin within `head_s`, or when there is no
        sign of life for `SILENT_S`.
        """
        said, body = self._said({}, body)
        if sign is not None:
            sign(method, path, said, body)
        reader: Lines | None = None
        try:
            with self._reached():
                where = f"{self.where} ({path})"
                response = await within(self._clock, head_s, self._head(method, path, said, body), where)
                if response.code >= 400:
                    await within(self._clock, head_s, self._whole(response, ANSWER_LIMIT_BYTES), where)
                reader = Lines(self._clock, self.where)
                response.deliverBody(reader)
            while (line := await reader.next()) is not None:
                yield line
        finally:
            if reader is not None:
                reader.abort()

    async def body(
        self, path: str, *, headers: Mapping[str, str] | None = None, head_s: float = 10.0, stalled_s: float = 30.0
    ) -> Pieces:
        """The answer to a GET, whose body is taken as it comes; whoever has it aborts it in the end.

        Raises what `request` raises, `TimedOut` when the answer does not begin within `head_s`.
        """
        said, _ = self._said(headers or {}, b"")
        where = f"{self.where} ({path})"
        with self._reached():
            response = await within(self._clock, head_s, self._head("GET", path, said, b""), where)
            if response.code >= 400:
                await within(self._clock, head_s, self._whole(response, ANSWER_LIMIT_BYTES), where)
        length = response.length if isinstance(response.length, int) else None
        pieces = Pieces(self._clock, self.where, response.code, _headers_of(response), length, stalled_s)
        response.deliverBody(pieces)
        return pieces

    def _said(self, headers: Mapping[str, str], body: Any) -> tuple[dict[str, str], bytes]:
        """Headers and body as they are sent."""
        said = dict(headers)
        if not isinstance(body, bytes):
            body = encode(body)
            said.setdefault("content-type", "application/json")
        said.setdefault("host", self._authority)
        return said, body

    async def _head(self, method: str, path: str, headers: dict[str, str], body: bytes) -> IResponse:
        raw = Headers({name: [value] for name, value in headers.items()})
        uri = f"http://{self._authority}{path}".encode("ascii")
        response: IResponse = await self._agent.request(
            method.encode("ascii"), uri, raw, WholeBody(body) if body else None
        )
        return response

    async def _whole(self, response: IResponse, limit_bytes: int, *, any_status: bool = False) -> Answer:
        data = await _collect(response, limit_bytes, self.where)
        found = _headers_of(response)
        if response.code >= 400 and not any_status:
            raise error_from(response.code, found, data, self.where)
        return Answer(response.code, found, data)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Say of each thing that can go wrong on the way what it means."""
        try:
            yield
        except (AvinetError, *CANCELLED):
            raise
        except (ConnectError, ConnectionLost) as error:
            raise Unavailable(f"{self.where} cannot be reached: {error}") from error
        except Exception as error:  # the edge: what a hostile answer makes of twisted.web's parser
            raise _broken(error, self.where) from error

    def drop(self) -> None:
        """Close the idle connections because what they went through is gone; nobody waits for it."""
        self._pool.closeCachedConnections()

    async def close(self) -> None:
        """Close the idle connections; requests under way end with theirs."""
        await self._pool.closeCachedConnections()


def _headers_of(response: IResponse) -> dict[str, str]:
    return {
        name.decode("latin-1").lower(): b", ".join(values).decode("latin-1")
        for name, values in response.headers.getAllRawHeaders()
    }


def _broken(error: BaseException, where: str) -> BaseException:
    inner = getattr(error, "reasons", None)
    cause = inner[0].value if inner else error
    if isinstance(cause, (AvinetError, *CANCELLED)):
        return cause
    if isinstance(cause, (ConnectionLost, ConnectError)) or type(cause).__name__ == "ConnectionDone":
        return Unavailable(f"{where} closed the connection before it answered")
    return PeerError(f"{where} did not answer in HTTP: {type(cause).__name__}: {str(cause)[:200]}")


async def _collect(response: IResponse, limit_bytes: int, where: str) -> bytes:
    if isinstance(response.length, int) and response.length > limit_bytes:
        refused = _Body(0, where)
        refused.whole.addErrback(lambda _: None)
        response.deliverBody(refused)
        refused.abort()
        raise TooLarge(f"the answer of {where} has {response.length} bytes, more than {limit_bytes}")
    body = _Body(limit_bytes, where)
    response.deliverBody(body)
    return await body.whole


class _Body(Protocol):
    """Collects a body, and closes the connection when it is longer than it may be."""

    def __init__(self, limit_bytes: int, where: str) -> None:
        self.whole: Deferred[bytes] = Deferred(lambda _: self.abort())
        self._chunks: list[bytes] = []
        self._left = limit_bytes
        self._where = where

    def abort(self) -> None:
        """Close the connection: the rest of the body is not wanted."""
        if self.transport is not None:
            self.transport.stopProducing()  # type: ignore[attr-defined]

    @override
    def dataReceived(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left >= 0:
            self._chunks.append(data)
        else:
            self._chunks.clear()
            self.abort()

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.whole.called:
            return
        if self._left < 0:
            self.whole.errback(TooLarge(f"the answer of {self._where} is too long"))
        elif reason.check(ResponseDone, PotentialDataLoss):
            self.whole.callback(b"".join(self._chunks))
        else:
            self.whole.errback(Unavailable(f"{self._where} broke off its answer"))


@implementer(IAgentEndpointFactory)
class _OneEndpoint:
    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def endpointForURI(self, uri: Any) -> IStreamClientEndpoint:
        if uri.scheme != b"http":
            raise SchemeNotSupported(uri.toBytes())
        return self._endpoint


class _MeteredProtocol(ProtocolWrapper):
    """Ends a connection whose peer sends a head without end: twisted.web bounds a header line, not their number."""

    transport: Any
    _head: bytearray | None = None
    """What there is of the head that is awaited; None behind it."""

    def _request_begins(self) -> None:
        self._head = bytearray()

    @override
    def connectionMade(self) -> None:
        self._request_begins()
        super().connectionMade()

    @override
    def write(self, data: bytes) -> None:
        self._request_begins()
        super().write(data)

    @override
    def writeSequence(self, data: Any) -> None:
        self._request_begins()
        super().writeSequence(data)

    @override
    def dataReceived(self, data: bytes) -> None:
        if not self._bounded(data):
            self.transport.abortConnection()
            return
        super().dataReceived(data)

    def _bounded(self, data: bytes) -> bool:
        """Whether the head, which goes on with `data`, may: interim answers, behind which more heads come, may not."""
        head = self._head
        if head is None:
            return True
        start = max(0, len(head) - 2)
        head += data
        if _HEAD_END.search(head, start) is None:
            return len(head) <= HEAD_LIMIT_BYTES
        self._head = None
        return not _is_interim(bytes(head.partition(b"\n")[0]))


def _is_interim(status_line: bytes) -> bool:
    """Whether twisted.web takes the answer for one of 1xx, which it skips; nothing that asks for one is ever sent."""
    try:
        return 100 <= int(status_line.split(b" ", 2)[1]) < 200
    except (IndexError, ValueError):
        return False


@implementer(IStreamClientEndpoint)
class _Metered:
    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        factory.noisy = False  # type: ignore[attr-defined]  # twisted.web's factories say when they start and stop
        wrapping = WrappingFactory(factory)
        wrapping.protocol = _MeteredProtocol
        wrapping.noisy = False
        connecting: Deferred[Any] = self._endpoint.connect(wrapping)
        return connecting.addCallback(lambda wrapper: wrapper.wrappedProtocol)
