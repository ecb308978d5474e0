"""etcd's JSON gateway over HTTP: one member at a time, another one when that does not answer.

What is asked is sent again until it is answered or patience ends, so that whoever asks must be able to say it twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from twisted.logger import Logger
from twisted.web.iweb import IPolicyForHTTPS

from avinet.aio import Slots, pause, within
from avinet.errors import Conflict, LocalError, NotFound, PeerError, TimedOut, TooLarge, Unavailable
from avinet.store.etcd.elections import Elected, Elections
from avinet.store.etcd.exchange import IN_FLIGHT, Exchange, Lost, Stream
from avinet.store.etcd.messages import Empty, Fault, Header, Reply, Request, StatusReply, decoded
from avinet.store.interface import Compacted, Uncertain

R = TypeVar("R", bound=Reply)
ATTEMPT_S = 1.0
PATIENCE_S = 5.0
QUEUED = 10_000
_TURN_S = 0.05
_SLOWER = 1.5
_LATER = {1, 4, 14}
"""Statuses of gRPC (cancelled, deadline exceeded, unavailable) after which another member may know better."""


class Full(Unavailable):
    """etcd has no space left, and takes no more writes; the one that has filled it may have been done."""


class Line:
    """As `Slots`: `count` may be in here at once. Who waits has a bounded time, in a line of bounded length."""

    def __init__(self, clock: Any, count: int, patience_s: float) -> None:
        self._clock = clock
        self._slots = Slots(count)
        self._patience_s = patience_s
        self._waiting = 0

    async def __aenter__(self) -> None:
        if self._waiting >= QUEUED:
            raise self._busy()
        self._waiting += 1
        try:
            await within(self._clock, self._patience_s, self._slots.__aenter__(), "the store")
        except TimedOut as error:
            raise self._busy() from error
        finally:
            self._waiting -= 1

    async def __aexit__(self, *raised: object) -> None:
        await self._slots.__aexit__(*raised)

    def _busy(self) -> Unavailable:
        return Unavailable("the store does not come to what it is asked", retry_after_s=self._patience_s)


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
        self._exchange = Exchange(reactor, policy, attempt_s)
        self._elections = Elections(reactor, self._status)
        self.line = Line(reactor, IN_FLIGHT, patience_s)
        self._lost: set[str] = set()
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
        if endpoint not in self._lost:  # said once, until one of them answers
            self._lost.add(endpoint)
            self.log.warn("{why}; it is asked at {next} now", why=why, next=self.endpoint)
        self.moved()

    async def ask(self, path: str, request: Request, into: type[R]) -> R:
        """See `ask_again`, for what is the same when it is sent again; it stands in the `line`."""
        async with self.line:
            return await self.ask_at_once(path, request, into)

    async def ask_at_once(self, path: str, request: Request, into: type[R]) -> R:
        """As `ask`, for whoever is in the `line` already, or may not wait."""
        return await self.ask_again(path, lambda attempt: request, into)

    def deadline(self) -> float:
        """When the patience with what is asked from now on ends."""
        return float(self._reactor.seconds()) + self._patience_s

    async def ask_again(
        self, path: str, request: Callable[[int], Request], into: type[R], deadline: float | None = None
    ) -> R:
        """The answer to `request` of the number of the attempt, from 0; for whoever is in the `line`.

        Raises `Uncertain` when there is none before the `deadline`, and what `refused` makes of a refusal.
        """
        deadline = self.deadline() if deadline is None else deadline
        attempt, attempt_s = 0, self._attempt_s
        while True:
            endpoint, began = self.endpoint, self._reactor.seconds()
            try:
                body = await self._elections.watch(endpoint, self.once(endpoint, path, request(attempt), attempt_s))
                answer = _read(endpoint, body, into)
            except Elected as error:
                attempt += 1
                self._left_s(deadline, error)
            except Lost as error:
                self.leave(endpoint, error.what)
                attempt += 1
                left = self._left_s(deadline, error)
                took_s = self._reactor.seconds() - began
                if took_s < _TURN_S:
                    await pause(self._reactor, _TURN_S)
                elif took_s >= attempt_s:  # who is slow must not be asked more and more
                    attempt_s = min(attempt_s * _SLOWER, max(left, self._attempt_s))
            else:
                header: Header | None = getattr(answer, "header", None)
                if header is not None:
                    self._elections.seen(header.raft_term)
                return answer

    def _left_s(self, deadline: float, error: Exception) -> float:
        """How much of the patience is left. Raises `Uncertain` because of `error` when there is none."""
        left = deadline - self._reactor.seconds()
        if left <= 0:
            raise Uncertain(
                f"the store gave no answer within {self._patience_s:g} s",
                hint="is the majority of etcd's members up? see avictl store check",
                retry_after_s=self._patience_s,
            ) from error
        return left

    async def _status(self, endpoint: str) -> StatusReply:
        status, body = await self._exchange.post(endpoint, "/v3/maintenance/status", Empty())
        if status != 200:
            raise Lost(f"etcd at {endpoint}: it does not say which term it is in")
        return decoded(body, StatusReply)

    async def once(self, endpoint: str, path: str, request: Request, attempt_s: float | None = None) -> bytes:
        """The answer of one member to one attempt, in JSON. Raises `Lost`, and what `refused` makes of a refusal."""
        status, body = await self._exchange.post(endpoint, path, request, attempt_s)
        if status != 200:
            raise refused(endpoint, status, body)
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

    async def stream(self, endpoint: str, path: str, request: Request, line: Callable[[bytes], None]) -> Stream:
        """The lines of an answer that has no end. Raises as `once`, when it does not begin."""
        found = await self._exchange.stream(endpoint, path, request, line)
        if isinstance(found, Stream):
            return found
        raise refused(endpoint, *found)

    async def close(self) -> None:
        """Close the connections."""
        self._elections.stop()
        await self._exchange.close()


def _read(endpoint: str, body: bytes, into: type[R]) -> R:
    """What a member has answered. Raises `Lost`: it may have done what it says in a way that cannot be read."""
    try:
        return decoded(body, into)
    except PeerError as error:
        raise Lost(f"etcd at {endpoint}: {error.what}") from error


def refused(endpoint: str, status: int, body: bytes) -> Exception:
    """The error for a refusal of etcd's."""
    try:
        fault = decoded(body, Fault)
    except PeerError:
        why = "enable-grpc-gateway is not on there" if status == 404 else f"it has answered with status {status}"
        return Lost(f"etcd at {endpoint}: {why}")
    said = fault.error or fault.message or f"status {status}"
    if fault.code in _LATER or "too many requests" in said or "proposal dropped" in said:
        return Lost(f"etcd at {endpoint}: {said}")
    if "space exceeded" in said:
        return Full(f"etcd is full: {said}", hint="compact and defragment it, and lift its alarm: etcdctl alarm disarm")
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
