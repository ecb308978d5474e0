"""One service engine of a pull, seen through: past lost tunnels and ends of its process, as long as something comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from avinet.aio import CANCELLED, Slots, pause
from avinet.backoff import Backoff
from avinet.controller.log_pulls.course import EngineCourse, UnderWay
from avinet.errors import AvinetError, NotFound, Unavailable
from avinet.logs.pull.puller import Puller
from avinet.logs.pull.source import OutOfBudget, Source
from avinet.wire.log_pulls import LogPullOrder

LOOK_S = 1.0
"""How often is looked whether a service engine is connected."""
TRIES = 6
"""After so many tries of which nothing came, of a service engine that is connected, it is given up."""
AGAIN = Backoff(first_s=0.5, cap_s=10.0)
_LATE = "the deadline of the pull has passed"


class Engines(Protocol):
    """The service engines of this node."""

    def known(self, id: str) -> bool:
        """Whether there is such a one."""

    def connected(self, id: str) -> bool:
        """Whether it can be asked for its request logs."""

    def source(self, id: str, order: LogPullOrder) -> Source:
        """What is pulled from. Raises `Unavailable`."""


class Errands:
    """Pulls by `puller` from single service engines, one at a time from each. `chance` is in [0, 1)."""

    log = Logger()

    def __init__(self, clock: IReactorTime, puller: Puller, engines: Engines, chance: Callable[[], float]) -> None:
        self._clock = clock
        self._puller = puller
        self._engines = engines
        self._chance = chance
        self._alone: dict[str, Slots] = {}
        """Of each service engine: one pull of it at a time."""

    async def see_through(self, under_way: UnderWay, course: EngineCourse) -> None:
        """Pull from one service engine: how that ends is its state; raises nothing but the end of this node."""
        try:
            await self._pull(under_way, course)
        except CANCELLED:
            if under_way.ending is None:
                raise
            self._cut_short(under_way.ending == "cancelled", course)
        except OutOfBudget as error:
            course.now("out-of-budget", str(error))
        except AvinetError as error:
            course.now("failed", str(error))
        except Exception:  # the edge: a fault of ours is one of this service engine alone
            self.log.failure("a fault of ours in pull {id}", id=under_way.kept.pull.id)
            course.now("failed", "an unexpected fault, which the node has logged")
        else:
            course.now("done" if course.well else "failed")

    def _cut_short(self, cancelled: bool, course: EngineCourse) -> None:
        if cancelled:
            course.now("cancelled")
        elif self._engines.connected(course.seen.id):
            course.now("failed", f"{_LATE}; {course.seen.why}" if course.seen.why else _LATE)
        else:
            course.now("unreachable", "it is not connected, or does not offer its request logs")

    async def _pull(self, under_way: UnderWay, course: EngineCourse) -> None:
        id, failures, sealed = course.seen.id, 0, False
        course.now("waiting")
        async with self._alone.setdefault(id, Slots(1)):
            while True:
                await self._connection(id)
                before = course.gone_on
                try:
                    source = self._engines.source(id, under_way.kept.pull.order)
                    if not sealed:
                        await self._seal(source, course)
                        sealed = True
                    course.now("pulling")
                    await self._puller.pull(source, course, again=under_way.kept.pull.order.again)
                    return
                except Unavailable as error:
                    if under_way.ending is not None:  # which broke off what it waited for
                        raise CancelledError from error
                    failures = 0 if course.gone_on > before or not self._engines.connected(id) else failures + 1
                    if failures >= TRIES:
                        raise
                    course.now("waiting", str(error))
                    await pause(self._clock, AGAIN.delay_s(failures, self._chance))

    async def _connection(self, id: str) -> None:
        while not self._engines.connected(id):
            if not self._engines.known(id):
                raise NotFound(f"there is no service engine {id}")
            await pause(self._clock, LOOK_S)

    async def _seal(self, source: Source, course: EngineCourse) -> None:
        """Have it seal what is open. What is sealed already is worth pulling when it cannot."""
        course.now("sealing")
        try:
            await source.seal()
        except NotFound:
            raise
        except AvinetError as error:
            if not self._engines.connected(source.engine):
                raise
            course.unsealed(f"its last records are not sealed: {error}")
