"""One exchange with one member of etcd over HTTP: an answer, or why there was none, within a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar
from weakref import WeakSet

import msgspec
from cryptography import x509
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectionLost
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool, ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IPolicyForHTTPS, IResponse
from typing_extensions import override
from zope.interface import implementer

from avinet.aio import CANCELLED, cancellable, within
from avinet.bodies import WholeBody
from avinet.errors import TimedOut, TooLarge, Unavailable
from avinet.store.etcd.messages import Request
from avinet.trust.tls import refusal, shown_chain

T = TypeVar("T")
IN_FLIGHT = 32
ANSWER_LIMIT_BYTES = 64 * 1024 * 1024
"""Of one answer, and of one line of a stream: what etcd sends at once of a history that is watched from the past."""

_JSON = Headers({b"Content-Type": [b"application/json"]})
_AUTHORITY = "the CA of etcd"


class Lost(Unavailable):
    """An attempt had no answer, or the member could give none: what was asked may or may not have happened."""


class Exchange:
    """Exchanges with members, over connections that are kept; each has `attempt_s` for its answer unless it is said."""

    def __init__(self, reactor: Any, policy: IPolicyForHTTPS, attempt_s: float) -> None:
        self._reactor = reactor
        self._attempt_s = attempt_s
        self._pool = HTTPConnectionPool(reactor)
        self._pool.maxPersistentPerHost = IN_FLIGHT
        self._pool.retryAutomatically = False
        self._endpoints = _Endpoints(reactor, policy, attempt_s)
        self._agent = Agent.usingEndpointFactory(reactor, self._endpoints, pool=self._pool)
        self._streams: set[Stream] = set()

    async def post(
        self, endpoint: str, path: str, request: Request, attempt_s: float | None = None
    ) -> tuple[int, bytes]:
        """Status and body of an answer. Raises `Lost`, and `TooLarge`."""
        return await self._bounded(endpoint, self._whole(endpoint, path, request), attempt_s)

    async def get(self, endpoint: str, path: str) -> tuple[int, bytes]:
        """Status and body of what a member shows at `path`. Raises as `post`."""
        return await self._bounded(endpoint, self._got(endpoint + path))

    async def _got(self, url: str) -> tuple[int, bytes]:
        response = await self._agent.request(b"GET", url.encode("ascii"))
        return response.code, await _received(response)

    async def chain(self, endpoint: str) -> list[x509.Certificate]:
        """The certificates that a member shows, its own first, whoever has signed them. Raises `Lost`."""
        uri = URI.fromBytes(endpoint.encode("ascii"))
        host = uri.host.strip(b"[]").decode("ascii")
        plain = HostnameEndpoint(self._reactor, host, uri.port, timeout=self._attempt_s)
        return await self._bounded(endpoint, shown_chain(self._reactor, plain, host, self._attempt_s, "it"))

    async def stream(
        self, endpoint: str, path: str, request: Request, line: Callable[[bytes], None]
    ) -> Stream | tuple[int, bytes]:
        """The lines of an answer that has no end; status and body of a refusal. Raises `Lost`."""
        response = await self._bounded(endpoint, self._posted(endpoint, path, request))
        if response.code != 200:
            return response.code, await self._bounded(endpoint, _received(response))
        stream = Stream(line, self._streams.discard)
        self._streams.add(stream)
        response.deliverBody(stream)
        return stream

    async def _whole(self, endpoint: str, path: str, request: Request) -> tuple[int, bytes]:
        response = await self._posted(endpoint, path, request)
        return response.code, await _received(response)

    def _posted(self, endpoint: str, path: str, request: Request) -> Deferred[IResponse]:
        body = WholeBody(msgspec.json.encode(request))
        return self._agent.request(b"POST", (endpoint + path).encode("ascii"), _JSON, body)

    async def _bounded(self, endpoint: str, awaitable: Awaitable[T], attempt_s: float | None = None) -> T:
        attempt_s = attempt_s or self._attempt_s
        try:
            return await within(self._reactor, attempt_s, cancellable(awaitable), "it")
        except (TooLarge, *CANCELLED):
            raise
        except TimedOut as error:
            raise Lost(f"etcd at {endpoint}: it gave no answer within {attempt_s:.2g} s") from error
        except Exception as error:
            if (why := _reason(error)) is None:
                raise
            raise Lost(f"etcd at {endpoint}: {why}") from error

    async def close(self) -> None:
        """Close the connections."""
        for stream in list(self._streams):
            stream.end()
        ended = [*(each.closed for each in self._streams), self._pool.closeCachedConnections()]
        self._endpoints.abort()
        with suppress(TimedOut):
            await within(self._reactor, self._attempt_s, DeferredList(ended, consumeErrors=True), "etcd")


def _reason(error: BaseException) -> str | None:
    """Why a connection gave no answer; None for what is no fault of it."""
    reasons: Sequence[Failure] = getattr(error, "reasons", ())  # of an exchange that broke off, in any phase
    if reasons:
        return refusal(reasons[0], _AUTHORITY) or str(reasons[0].value) or type(reasons[0].value).__name__
    if (said := refusal(Failure(error), _AUTHORITY)) is not None:
        return said
    if isinstance(error, (OSError, ConnectError, ConnectionLost, Unavailable)):
        return str(error) or type(error).__name__
    return None


@implementer(IAgentEndpointFactory)
class _Endpoints:
    """Where connections go, and the TLS on them."""

    def __init__(self, reactor: Any, policy: IPolicyForHTTPS, connect_s: float) -> None:
        self._reactor = reactor
        self._policy = policy
        self._connect_s = connect_s
        self._made: WeakSet[Any] = WeakSet()

    def abort(self) -> None:
        """Close all connections."""
        for protocol in list(self._made):
            _abort(protocol.transport)

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """See `IAgentEndpointFactory`."""
        plain = HostnameEndpoint(self._reactor, uri.host.strip(b"[]"), uri.port, timeout=self._connect_s)
        return _Quiet(self._made, wrapClientTLS(self._policy.creatorForNetloc(uri.host.strip(b"[]"), uri.port), plain))


@implementer(IStreamClientEndpoint)
class _Quiet:
    """An endpoint whose connections are not told of in the log, one by one, but kept in `made` while they last."""

    def __init__(self, made: WeakSet[Any], endpoint: IStreamClientEndpoint) -> None:
        self._made = made
        self._endpoint = endpoint

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:  # noqa: N803 (Twisted's name)
        """See `IStreamClientEndpoint`."""
        if isinstance(protocolFactory, Factory):
            protocolFactory.noisy = False

        def connected(protocol: Any) -> Any:
            self._made.add(protocol)
            return protocol

        return self._endpoint.connect(protocolFactory).addCallback(connected)


class Stream(Protocol):
    """The lines of an answer, until one side ends it; `ended` fires then, with why.

    `too_long` says that it was for a line of more than `LINE_LIMIT_BYTES`, which would come again.
    """

    LINE_LIMIT_BYTES = ANSWER_LIMIT_BYTES

    def __init__(self, line: Callable[[bytes], None], gone: Callable[[Stream], None]) -> None:
        self._line = line
        self._gone = gone
        self._parts: list[bytes] = []
        self._size = 0
        self.too_long = False
        self.ended: Deferred[str] = Deferred(self._cancel)
        self.closed: Deferred[None] = Deferred()

    @override
    def dataReceived(self, data: bytes) -> None:
        *ends, rest = data.split(b"\n")
        for end in ends:
            line = b"".join([*self._parts, end])
            self._parts.clear()
            self._size = 0
            if self.ended.called:
                return
            self._line(line)
        self._parts.append(rest)
        self._size += len(rest)
        if self._size > self.LINE_LIMIT_BYTES:
            self.too_long = True
            self.end(f"a line of more than {self.LINE_LIMIT_BYTES} bytes")

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.end(str(reason.value) or "its stream has ended")
        self._gone(self)
        self.closed.callback(None)

    def _cancel(self, ended: Deferred[str]) -> None:
        ended.errback(CancelledError())  # before the transport says that it has ended
        _abort(self.transport)

    def end(self, why: str = "") -> None:
        """End it from here."""
        if not self.ended.called:
            self.ended.callback(why)
            _abort(self.transport)


class _Body(Protocol):
    def __init__(self) -> None:
        self.whole: Deferred[bytes] = Deferred(lambda _: _abort(self.transport))
        self._parts: list[bytes] = []
        self._size = 0

    @override
    def dataReceived(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size > ANSWER_LIMIT_BYTES and not self.whole.called:
            self.whole.errback(TooLarge(f"etcd has answered with more than {ANSWER_LIMIT_BYTES} bytes"))
            _abort(self.transport)

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.whole.called:
            return
        if reason.check(ResponseDone):
            self.whole.callback(b"".join(self._parts))
        else:
            self.whole.errback(Unavailable(str(reason.value) or "its connection was lost"))


def _received(response: IResponse) -> Deferred[bytes]:
    body = _Body()
    response.deliverBody(body)
    return body.whole


def _abort(transport: Any) -> None:
    """Close a connection now: a farewell of TLS may never be answered."""
    if transport is not None:
        transport.stopProducing()
