"""Elections: whoever waits for a member that had no leader is told as soon as there is another one.

What comes to a member while it has no leader is answered by nobody, also once there is one: it has to be sent again. So
while an attempt has no answer for a while its member is asked which term it is in, by one question for all that wait.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from avinet.aio import CANCELLED, Tasks, cancellable, pause
from avinet.errors import AvinetError
from avinet.store.etcd.messages import StatusReply

T = TypeVar("T")
LOOK_AFTER_S = 0.2
"""How long an attempt has no answer before its member is asked,"""
LOOK_EVERY_S = 0.1
"""and how often."""


class Elected(Exception):
    """There is another leader than when it was asked."""


class _Attempt:
    """What was sent in `term`."""

    def __init__(self, term: int, work: Deferred[object]) -> None:
        self.term = term
        self.work = work
        self.passed = False


class Elections:
    """The terms of a cluster as they are seen; `status` asks a member for its own."""

    def __init__(self, clock: IReactorTime, status: Callable[[str], Awaitable[StatusReply]]) -> None:
        self.term = 0
        """The latest that was seen; 0 before the first."""
        self._clock = clock
        self._status = status
        self._waiting: dict[str, set[_Attempt]] = defaultdict(set)
        self._looking: set[str] = set()
        self._tasks = Tasks()

    def seen(self, term: int) -> None:
        """A member is in `term`."""
        self.term = max(self.term, term)

    async def watch(self, endpoint: str, asked: Awaitable[T]) -> T:
        """What `asked` comes to, sent to `endpoint` now. Raises `Elected` once that has a leader of a later term."""
        work = cancellable(asked)
        attempt = _Attempt(self.term, work)  # type: ignore[arg-type]  # it is only cancelled
        timer = self._clock.callLater(LOOK_AFTER_S, self._look, endpoint, attempt)
        try:
            return await work
        except CANCELLED:
            if attempt.passed:
                raise Elected from None
            raise
        finally:
            if timer.active():
                timer.cancel()
            self._waiting[endpoint].discard(attempt)

    def _look(self, endpoint: str, attempt: _Attempt) -> None:
        self._waiting[endpoint].add(attempt)
        if endpoint not in self._looking:
            self._looking.add(endpoint)
            self._tasks.spawn(self._keep_looking(endpoint), f"looking for a leader at {endpoint}")

    async def _keep_looking(self, endpoint: str) -> None:
        try:
            while waiting := self._waiting[endpoint]:
                with suppress(AvinetError):  # a silent one has its time, as what waits for it has
                    self._tell(await self._status(endpoint), waiting)
                await pause(self._clock, LOOK_EVERY_S)
        finally:
            self._looking.discard(endpoint)

    def _tell(self, found: StatusReply, waiting: set[_Attempt]) -> None:
        if not found.leader:
            return
        self.seen(found.raft_term)
        for each in [each for each in waiting if 0 < each.term < found.raft_term]:
            each.passed = True
            each.work.cancel()

    def stop(self) -> None:
        """Look no more."""
        self._tasks.stop()
