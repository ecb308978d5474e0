"""Pulls under way: each sees its service engines through, whatever comes between, until its deadline.

A pull is kept as it goes, so that it goes on when the node has been started again. One segment of a service engine is
fetched at a time, and so many of all pulls as there are slots, in the order in which they were wanted: nobody waits
for all of another's log.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence

import msgspec
from twisted.internet.defer import DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from avinet.aio import News, Tasks, as_deferred, pause, within
from avinet.controller.log_pulls.course import UnderWay
from avinet.controller.log_pulls.errands import Errands
from avinet.controller.log_pulls.records import Kept, PullRecords
from avinet.errors import AvinetError, Conflict, NotFound, TimedOut, TooLarge, TooMany
from avinet.ids import random_name
from avinet.logs.pull.turns import Turns
from avinet.store.interface import Put
from avinet.wire.log_pulls import TARGETS, LogPull, LogPullList, LogPullOrder, LogPullSeen, LogPullState, PulledEngine

RUNNING = 20
"""How many pulls may run at once."""
KEEP_S = 1.0
"""How often what has changed is written, at most."""
TELL_S = 0.5
"""How often it is told."""
SEEN = 200
"""How many service engines are told in one line."""


Recorded = Callable[[str, str, str, str], Put]
"""The audit record of (kind, actor, id, outcome)."""


class LogPulls:
    """Pulls, each of several `errands`, as the node `node`. `now` is the time of day in seconds since 1970."""

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        tasks: Tasks,
        node: str,
        records: PullRecords,
        errands: Errands,
        recorded: Recorded,
        now: Callable[[], float],
        random: Callable[[int], bytes],
        at_once: int,
    ) -> None:
        self._clock = clock
        self._tasks = tasks
        self._node = node
        self._records = records
        self._errands = errands
        self._recorded = recorded
        self._now = now
        self._random = random
        self._turns = Turns(at_once, clock.seconds)
        self._running: dict[str, UnderWay] = {}
        self._news = News()

    # what operators ask for

    async def begin(self, order: LogPullOrder, targets: Sequence[str], operator: str) -> LogPull:
        """Begin a pull of `targets`. Raises `TooMany`, `TooLarge`, and what the store raises."""
        if len(self._running) >= RUNNING:
            raise TooMany(f"{RUNNING} pulls run already", hint="see avictl logs pulls")
        if len(targets) > TARGETS:
            raise TooLarge(f"a pull may be of {TARGETS} service engines, and this one is of {len(targets)}")
        now = self._now()
        pull = LogPull(
            id=f"{int(now * 1000):013d}-{random_name(self._random, 10)}",
            operator=operator,
            node=self._node,
            order=order,
            created=now,
            targets=len(targets),
        )
        kept = Kept(pull=pull, targets=list(targets))
        audit = self._recorded("log-pull", operator, pull.id, f"of {len(targets)} service engines")
        under_way = self._made(kept, [PulledEngine(id=id) for id in targets])
        try:
            await self._records.begin(kept, audit)
        except BaseException:
            del self._running[pull.id]
            raise
        self._begin(under_way)
        return under_way.pull

    async def cancel(self, id: str, operator: str) -> None:
        """End a pull; what was fetched stays. Raises `NotFound`, and `Conflict` when it does not run here."""
        under_way = self._running.get(id)
        if under_way is None or under_way.ending is not None:
            kept = await self._records.find(id)
            where = f"on node {kept.pull.node}" if kept.pull.state == "running" else "any more"
            raise Conflict(f"pull {id} does not run {where}", hint="see avictl logs pulls")
        audit = self._recorded("log-pull-cancelled", operator, id, "")
        await self._records.keep(under_way.kept.pull, [], audit)
        under_way.end("cancelled")

    async def show(self, id: str) -> LogPullSeen:
        """A pull, and how far it is on each service engine. Raises `NotFound`."""
        under_way = self._running.get(id)
        if under_way is not None:
            return LogPullSeen(pull=under_way.pull, engines=[each.seen for each in under_way.courses.values()])
        kept = await self._records.find(id)
        return LogPullSeen(pull=kept.pull, engines=await self._records.engines(kept))

    async def latest(self, *, limit: int, before: str) -> LogPullList:
        """Pulls before the one with the id `before`, the latest first."""
        found = [each for each in await self._records.all() if not before or each.id < before]
        items = [self._running[each.id].pull if each.id in self._running else each for each in found[::-1][:limit]]
        short = [msgspec.structs.replace(each, order=msgspec.structs.replace(each.order, ids=[])) for each in items]
        return LogPullList(items=short, next=items[-1].id if len(found) > limit else "")

    async def follow(self, id: str) -> AsyncGenerator[LogPullSeen, None]:
        """A pull and all of its service engines, and what changes of them until its end. Raises `NotFound`."""
        under_way = self._running.get(id)
        return self._told(await self.show(id), under_way)

    async def _told(self, first: LogPullSeen, under_way: UnderWay | None) -> AsyncGenerator[LogPullSeen, None]:
        for each in _lines(first.pull, first.engines):
            yield each
        told = {each.id: each for each in first.engines}
        while under_way is not None and first.pull.state == "running":
            over = under_way.kept.pull.state != "running"
            news = [each.seen for each in under_way.courses.values() if told[each.seen.id] != each.seen]
            told |= {each.id: each for each in news}
            if news or over:
                for line_ in _lines(under_way.pull, news):
                    yield line_
            if over:
                return
            if not news:
                await under_way.changed.wait()
            if under_way.kept.pull.state == "running":  # its end is told at once
                with contextlib.suppress(TimedOut):
                    await within(self._clock, TELL_S, under_way.over.wait(), "the end of the pull")

    # its life

    async def start(self) -> None:
        """Go on with what this node had under way when it ended."""
        await self._records.sweep()
        for pull in await self._records.all():
            if pull.state == "running" and pull.node == self._node:
                with contextlib.suppress(NotFound):  # the rest of it is of a newer version
                    kept = await self._records.find(pull.id)
                    await self._records.begin(kept)  # an older version had written it in another form
                    self._begin(self._made(kept, await self._records.engines(kept)))

    async def stop(self) -> None:
        """Keep how far each pull is: it goes on when this node does."""
        for under_way in list(self._running.values()):  # some may end meanwhile
            await self._keep(under_way)

    def _made(self, kept: Kept, engines: Sequence[PulledEngine]) -> UnderWay:
        under_way = UnderWay(kept, engines, self._turns, self._clock.seconds)
        self._running[kept.pull.id] = under_way
        return under_way

    def _begin(self, under_way: UnderWay) -> None:
        pull = under_way.kept.pull
        self.log.info(
            "pull {pull}: request logs of {count} service engines, for {operator}",
            pull=pull.id,
            count=pull.targets,
            operator=pull.operator,
        )
        self._tasks.spawn(self._run(under_way), f"pull {pull.id}")

    async def _run(self, under_way: UnderWay) -> None:
        pull = under_way.kept.pull
        left_s = max(0.0, pull.created + pull.order.deadline_s - self._now())
        deadline = self._clock.callLater(left_s, under_way.end, "unreachable")
        keeping = self._tasks.spawn(self._keep_now_and_then(under_way), f"keeping how far pull {pull.id} is")
        try:
            left = [each for each in under_way.courses.values() if not each.seen.ended]
            under_way.working = [as_deferred(self._errands.see_through(under_way, each)) for each in left]
            await DeferredList(under_way.working, consumeErrors=True)
        finally:
            if deadline.active():
                deadline.cancel()
        if all(each.seen.ended for each in under_way.courses.values()):
            state: LogPullState = "cancelled" if under_way.ending == "cancelled" else "done"
            ended = msgspec.structs.replace(under_way.pull, state=state, finished=self._now(), left_s=None)
            under_way.kept = Kept(pull=ended, targets=under_way.kept.targets)
            under_way.changed.ring()
            under_way.over.ring()
            await keeping

    # how far it is

    async def _keep_now_and_then(self, under_way: UnderWay) -> None:
        """Write what changes, and the end of it: that is tried until the store takes it."""
        while True:
            over = under_way.kept.pull.state != "running"
            if await self._keep(under_way) and over:
                break
            if not over and not under_way.dirty:
                await under_way.changed.wait()
            await pause(self._clock, KEEP_S)
        del self._running[under_way.kept.pull.id]
        try:
            await self._records.sweep()
        except AvinetError as error:
            self.log.info("the oldest pulls are forgotten later: {why}", why=str(error))

    async def _keep(self, under_way: UnderWay) -> bool:
        dirty = set(under_way.dirty)
        engines = [under_way.courses[id].seen for id in dirty]
        now = msgspec.structs.replace(under_way.pull, left_s=None, bytes_per_s=0.0)
        try:
            await self._records.keep(now, engines)
        except AvinetError as error:
            if self._news.fresh(str(error)):
                self.log.warn("how far pull {pull} is, is not kept: {why}", pull=now.id, why=str(error))
            return False
        self._news.fresh("")
        under_way.dirty -= {each.id for each in engines if under_way.courses[each.id].seen == each}
        return True


def _lines(pull: LogPull, engines: Sequence[PulledEngine]) -> list[LogPullSeen]:
    """What is told, in lines that are not too long."""
    parts = [engines[at : at + SEEN] for at in range(0, len(engines), SEEN)] or [[]]
    return [LogPullSeen(pull=pull, engines=list(part)) for part in parts]
