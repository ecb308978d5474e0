"""etcd's JSON gateway over HTTP: one member at a time, another one when that does not answer.

What is asked is sent again until it is answered or patience ends, so that whoever asks must be able to say it twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseDone, ResponseFailed
from twisted.web.http_headers import Headers
from twisted.web.iweb import IPolicyForHTTPS, IResponse
from typing_extensions import override

from avinet.aio import Slots, pause, within
from avinet.errors import Conflict, LocalError, NotFound, PeerError, TimedOut, TooLarge, Unavailable
from avinet.store.etcd.messages import Fault, Reply, Request, decoded
from avinet.store.interface import Compacted, Uncertain

try:
    from treq.client import HTTPClient
except ImportError as missing:  # the extra that only a cluster needs
    raise LocalError(
        "a store on etcd needs the package treq", hint="install avinet with it: pip install 'avinet[cluster]'"
    ) from missing

R = TypeVar("R", bound=Reply)
ATTEMPT_S = 1.0
PATIENCE_S = 5.0
IN_FLIGHT = 32
QUEUED = 10_000
ANSWER_LIMIT_BYTES = 64 * 1024 * 1024
"""Of one answer, and of one line of a stream: what etcd sends at once of a history that is watched from the past."""
_TURN_S = 0.05
_LATER = {1, 4, 14}
"""Statuses of gRPC (cancelled, deadline exceeded, unavailable) after which another member may know better."""


class Lost(Unavailable):
    """One attempt had no answer, or the member could give none: what was asked may or may not have happened."""


class Gateway:
    """The members at `endpoints`, which are URLs; `policy` makes the TLS to them.

    `moved` is called when another member is asked from now on.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        endpoints: Sequence[str],
        policy: IPolicyForHTTPS,
        *,
        attempt_s: float = ATTEMPT_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._reactor = reactor
        self._endpoints = list(endpoints)
        self._attempt_s = attempt_s
        self._patience_s = patience_s
        self._pool = HTTPConnectionPool(reactor)
        self._pool.maxPersistentPerHost = IN_FLIGHT
        self._pool.retryAutomatically = False
        self._http = HTTPClient(Agent(reactor, policy, connectTimeout=attempt_s, pool=self._pool))
        self._slots = Slots(IN_FLIGHT)
        self._streams: set[Stream] = set()
        self._queued = 0
        self._lost: dict[str, str] = {}
        self._silent_since: float | None = None
        self.moved: Callable[[], None] = lambda: None

    @property
    def endpoint(self) -> str:
        """The member that is asked now."""
        return self._endpoints[0]

    def leave(self, endpoint: str, why: str) -> None:
        """Ask another member than `endpoint` from now on: it gave no answer."""
        if self._silent_since is None:
            self._silent_since = self._reactor.seconds()
        if endpoint != self._endpoints[0]:
            return
        if len(self._endpoints) > 1:
            self._endpoints.append(self._endpoints.pop(0))
        if self._lost.get(endpoint) != why:
            self._lost[endpoint] = why
            self.log.warn("{why}; it is asked at {next} now", why=why, next=self.endpoint)
        self.moved()

    async def ask(self, path: str, request: Request, into: type[R]) -> R:
        """See `ask_again`, for what is the same when it is sent again."""
        return await self.ask_again(path, lambda attempt: request, into)

    async def ask_again(self, path: str, request: Callable[[int], Request], into: type[R]) -> R:
        """The answer to `request` of the number of the attempt, from 0.

        Raises `Uncertain` when there is none before patience ends, and what `refused` makes of a refusal.
        """
        if self._queued >= QUEUED:
            raise Unavailable("the store has too much to do")
        self._queued += 1
        try:
            async with self._slots:
                return await self._ask(path, request, into)
        finally:
            self._queued -= 1

    async def ask_at_once(self, path: str, request: Request, into: type[R]) -> R:
        """As `ask`, behind nobody."""
        return await self._ask(path, lambda attempt: request, into)

    async def _ask(self, path: str, request: Callable[[int], Request], into: type[R]) -> R:
        deadline, attempt = self._reactor.seconds() + self._patience_s, 0
        while True:
            endpoint, began = self.endpoint, self._reactor.seconds()
            try:
                answer = decoded(await self.once(endpoint, path, request(attempt)), into)
            except Lost as error:
                self.leave(endpoint, error.what)
                attempt += 1
                left = deadline - self._reactor.seconds()
                if left <= 0:
                    raise Uncertain(
                        f"the store gave no answer within {self._patience_s:g} s: {error.what}",
                        hint="is the majority of etcd's members up? see avictl store check",
                        retry_after_s=self._patience_s,
                    ) from error
                if self._reactor.seconds() - began < _TURN_S:
                    await pause(self._reactor, _TURN_S)
            else:
                return answer

    async def once(self, endpoint: str, path: str, request: Request, *, attempt_s: float | None = None) -> bytes:
        """The answer of one member to one attempt, in JSON. Raises `Lost`, and what `refused` makes of a refusal."""
        return await self._bounded(endpoint, self._once(endpoint, path, request), attempt_s or self._attempt_s)

    async def _once(self, endpoint: str, path: str, request: Request) -> bytes:
        response = await self._post(endpoint, path, request)
        body = await _received(response)
        if response.code != 200:
            raise refused(response.code, body)
        self._answered(endpoint)
        return body

    def _answered(self, endpoint: str) -> None:
        self._silent_since = None
        if self._lost:
            self._lost.clear()
            self.log.info("etcd at {endpoint} answers", endpoint=endpoint)

    def silent_s(self) -> float:
        """For how many seconds no member has answered; 0 while one does."""
        return 0.0 if self._silent_since is None else self._reactor.seconds() - self._silent_since

    async def _bounded(self, endpoint: str, awaitable: Any, seconds: float) -> Any:
        try:
            return await within(self._reactor, seconds, awaitable, "it")
        except (TooLarge, PeerError, LocalError, Compacted, NotFound, Conflict):
            raise
        except Unavailable as error:
            raise Lost(f"etcd at {endpoint}: {error.what}") from error
        except ResponseFailed as error:
            reason = error.reasons[0].value if error.reasons else error
            raise Lost(f"etcd at {endpoint}: {reason or type(reason).__name__}") from error
        except OSError as error:
            raise Lost(f"etcd at {endpoint}: {error}") from error
        except Exception as error:
            if type(error).__module__.startswith(("twisted.", "OpenSSL.", "service_identity")):
                raise Lost(f"etcd at {endpoint}: {error or type(error).__name__}") from error
            raise

    def _post(self, endpoint: str, path: str, request: Request) -> Deferred[IResponse]:
        headers = Headers({b"Content-Type": [b"application/json"]})
        posted: Any = self._http.post(
            endpoint + path, data=msgspec.json.encode(request), headers=headers, unbuffered=True
        )
        return posted

    async def stream(self, endpoint: str, path: str, request: Request, line: Callable[[bytes], None]) -> Stream:
        """The lines of an answer that has no end. Raises as `once`, when it does not begin."""
        response = await self._bounded(endpoint, self._post(endpoint, path, request), self._attempt_s)
        if response.code != 200:
            body = await self._bounded(endpoint, _received(response), self._attempt_s)
            raise refused(response.code, body)
        stream = Stream(line, self._streams.discard)
        self._streams.add(stream)
        response.deliverBody(stream)
        return stream

    async def close(self) -> None:
        """Close the connections."""
        for stream in list(self._streams):
            stream.end()
        with suppress(TimedOut):
            ended = DeferredList([each.closed for each in self._streams])
            await within(self._reactor, self._attempt_s, ended, "a stream of etcd's")
            await within(self._reactor, self._attempt_s, self._pool.closeCachedConnections(), "etcd")


class Stream(LineOnlyReceiver):
    """The lines of an answer, until one side ends it; `ended` fires then, with why."""

    delimiter = b"\n"
    MAX_LENGTH = ANSWER_LIMIT_BYTES

    def __init__(self, line: Callable[[bytes], None], gone: Callable[[Stream], None]) -> None:
        self._line = line
        self._gone = gone
        self.ended: Deferred[str] = Deferred(lambda _: _abort(self.transport))
        self.closed: Deferred[None] = Deferred()

    @override
    def lineReceived(self, line: bytes) -> None:
        self._line(line)

    @override
    def lineLengthExceeded(self, line: bytes) -> None:
        self.end(f"a line of more than {self.MAX_LENGTH} bytes")

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.end(str(reason.value) or "its stream has ended")
        self._gone(self)
        self.closed.callback(None)

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
            self.whole.errback(Unavailable(str(reason.value)))


def _received(response: IResponse) -> Deferred[bytes]:
    body = _Body()
    response.deliverBody(body)
    return body.whole


def _abort(transport: Any) -> None:
    """Close the connection under an answer that is not read to its end."""
    abort = getattr(transport, "abortConnection", None) or getattr(transport, "loseConnection", None)
    if abort is not None:
        abort()


def refused(status: int, body: bytes) -> Exception:
    """The error for a refusal of etcd's."""
    try:
        fault = decoded(body, Fault)
    except PeerError:
        return Lost(f"it has answered with status {status}")
    said = fault.error or fault.message or f"status {status}"
    if fault.code in _LATER or "too many requests" in said:
        return Lost(said)
    if "space exceeded" in said:
        return Unavailable(
            f"etcd is full: {said}", hint="compact and defragment it, and lift its alarm: etcdctl alarm disarm"
        )
    if "compacted" in said:
        return Compacted("the history that was asked for is gone")
    if "lease not found" in said:
        return NotFound("the lease has ended")
    if "lease already exists" in said:
        return Conflict("there is such a lease already")
    if "too large" in said:
        return TooLarge(f"etcd refuses it: {said}")
    if fault.code in (7, 16):
        return LocalError(f"etcd does not let this node in: {said}")
    return PeerError(f"etcd refuses what it was asked: {said}")
