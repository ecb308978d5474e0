"""Brings each roll-out forward: looks at those that have their turn, decides by the rules, and takes the step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from avinet.aio import BREATH, CANCELLED, News, Tasks, pause, within
from avinet.config import rollout as rules
from avinet.config.catalogue import Catalogue, Rolling
from avinet.config.compile import Target, applies
from avinet.config.health import Before, Tally, judge
from avinet.config.rollout import RolloutRecord
from avinet.config.rollouts import Rollouts
from avinet.controller.rollouts.course import Course, shown
from avinet.controller.rollouts.observed import Observed, concern
from avinet.errors import AvinetError, Precondition, TimedOut
from avinet.wire.rollout import Rollout, RolloutList

TICK_S = 1.0
SHARE = 20
"""To look at a large fleet takes at most one part in so many of the time."""


class Documents(Protocol):
    """See `avinet.config.documents.Documents`."""

    async def catalogue(self) -> Catalogue: ...


class Desired(Protocol):
    """See `avinet.config.desired.Desired`."""

    def current(self, revision: int) -> bool: ...


class RolloutDriver:
    """Drives the roll-outs of a domain on the node `node`. `enrolled` are service engines as targets of documents."""

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        tasks: Tasks,
        node: str,
        rollouts: Rollouts,
        documents: Documents,
        desired: Desired,
        observed: Observed,
        enrolled: Callable[[], Iterable[Target]],
    ) -> None:
        self._clock = clock
        self._tasks = tasks
        self._node = node
        self._rollouts = rollouts
        self._documents = documents
        self._desired = desired
        self._observed = observed
        self._enrolled = enrolled
        self._courses: dict[str, Course] = {}
        self._waiting: list[Deferred[None]] = []
        self._idle: Deferred[None] | None = None
        self._woken = False

    def start(self) -> None:
        """Go on with all that are under way."""
        self._tasks.spawn(self._keep_on(), "rolling documents out")

    async def _keep_on(self) -> None:
        swept: set[tuple[str, int]] | None = None
        news = News()
        while True:
            began = self._clock.seconds()
            try:
                records = await self._rollouts.under_way()
                known = {(each.name, each.version) for each in records.values()}
                if known != swept:
                    await self._rollouts.forget(records.values())
                    swept = known
                await self._look_at(records)
                news.fresh("")
            except AvinetError as error:
                if news.fresh(str(error)):
                    self.log.warn("roll-outs cannot go on yet: {why}", why=str(error))
            except CANCELLED:
                raise
            except Exception as fault:  # what goes wrong once may go right, and there is nobody else to go on
                if news.fresh(repr(fault)):
                    self.log.failure("a fault of ours keeps roll-outs from going on")
            self._tell()
            await self._rest(max(TICK_S, SHARE * (self._clock.seconds() - began)))

    async def _rest(self, seconds: float) -> None:
        """Until so much time has passed, or somebody has something to be done."""
        if not self._woken:
            self._idle = Deferred(lambda _: None)
            with contextlib.suppress(TimedOut):
                await within(self._clock, seconds, self._idle, "nobody")
            self._idle = None
        self._woken = False

    def wake(self) -> None:
        """Something is to be done."""
        self._woken = True
        if self._idle is not None and not self._idle.called:
            self._idle.callback(None)

    async def _look_at(self, records: dict[str, RolloutRecord]) -> None:
        catalogue = await self._documents.catalogue()
        for name in self._courses.keys() - records.keys():
            del self._courses[name]
        for name, record in records.items():
            course, document = self._courses.get(name), catalogue.documents.get(name)
            if document is None:  # it has ended meanwhile
                continue
            if course is None or course.record.version != record.version:
                of = concern(document, catalogue.in_use())
                course = self._courses[name] = Course(record, of, catalogue.revision)
            if course.revision != catalogue.revision:
                course.of, course.revision = concern(document, catalogue.in_use()), catalogue.revision
            course.record = record
        services = [course.of.services for course in self._courses.values()]
        self._observed.watch(frozenset().union(*services) if services else None)
        for course in list(self._courses.values()):
            await self._try(course)

    # one roll-out

    async def _try(self, course: Course) -> None:
        """Bring one forward; what keeps it from going on holds up no other."""
        name = course.record.name
        try:
            await self._advance(course)
            course.news.fresh("")
        except AvinetError as error:
            if course.news.fresh(str(error)):
                self.log.warn("the roll-out of document {name} cannot go on yet: {why}", name=name, why=str(error))
        except CANCELLED:
            raise
        except Exception as fault:
            if course.news.fresh(repr(fault)):
                self.log.failure("a fault of ours keeps the roll-out of document {name} from going on", name=name)

    async def _advance(self, course: Course) -> None:
        catalogue, record = await self._documents.catalogue(), course.record
        rolling = catalogue.rolling.get(record.name)
        if rolling is None or rolling.record != record or not self._desired.current(catalogue.revision):
            return
        if course.before is None:
            course.before = await self._rollouts.before(record)
        ids = await self._count(course, catalogue, rolling)
        tally = course.tally
        assert tally is not None
        if not self._desired.current(catalogue.revision):  # something has changed while they were counted
            return
        match rules.decide(record, tally, course.observed_s(self._clock.seconds())):
            case "open":
                await self._open(course, ids)
            case "pause":
                await self._step(
                    course, lambda now: rules.paused(course.counted(), self._node, now, passed=True), "paused"
                )
            case "stop":
                await self._stop(course)
            case "finish":
                await self._step(
                    course, lambda now: rules.ended(course.counted(), "finished", "", self._node, now), "finished"
                )
            case "hold":
                pass

    async def _count(self, course: Course, catalogue: Catalogue, rolling: Rolling) -> list[str]:
        """Look at all that have their turn; the ids of all that the roll-out concerns."""
        record, before, tally = course.record, course.before or {}, Tally(course.record.forgiven_ids)
        new, former = catalogue.documents[record.name], rolling.former.document if rolling.former else None
        ids: list[str] = []
        for index, target in enumerate(self._enrolled()):
            if index % BREATH == BREATH - 1:
                await pause(self._clock, 0)
            if not (applies(new, target) or (former is not None and applies(former, target))):
                continue
            ids.append(target.id)
            if record.turn(target.id):
                now = self._observed.now(target.id, course.of, record.plan.lost_s)
                tally.add(target.id, *judge(record.plan, before.get(target.id), now))
        course.tally, course.targets = tally, len(ids)
        return ids

    async def _open(self, course: Course, ids: list[str]) -> None:
        record, plan = course.record, course.record.plan
        batch = rules.next_batch(record, ids, self._observed.connected)
        held_s = course.held_s(self._clock.seconds())
        settling = any(self._observed.unsettled(id, plan.lost_s) for id in batch.ids)
        if settling and not record.promoted and held_s < plan.deadline_s:
            return
        found: dict[str, Before] = {}
        for index, id in enumerate(batch.ids):
            if index % BREATH == BREATH - 1:
                await pause(self._clock, 0)
            found[id] = self._observed.before(id, course.of, plan.least_requests)
        await self._rollouts.remember(record, found)
        if course.before is not None:
            course.before.update(found)
        await self._step(course, lambda now: rules.opened(course.counted(), batch, self._node, now), "batch")

    async def _stop(self, course: Course) -> None:
        tally, record = course.tally, course.record
        assert tally is not None
        first = tally.failures[0]
        others = tally.counts["failed"] - 1
        why = f"{first.id}: {first.why}" + (f", and {others} more are not well" if others else "")

        def make(now: float) -> RolloutRecord:
            made = rules.stopped(course.counted(), why, self._node, now)
            return rules.ended(made, "rolled-back", why, self._node, now) if record.plan.auto_rollback else made

        kinds = ("stopped", "rolled-back") if record.plan.auto_rollback else ("stopped",)
        self.log.warn("the roll-out of document {name} is stopped: {why}", name=record.name, why=why)
        await self._step(course, make, *kinds)

    async def _step(self, course: Course, make: Callable[[float], RolloutRecord], *kinds: str) -> None:
        """Take a step of what was looked at, unless it has changed meanwhile: then it is looked at anew."""

        def made(record: RolloutRecord, now: float) -> RolloutRecord:
            if record != course.record:
                raise Precondition(f"the roll-out of document {record.name} has changed")
            return make(now)

        recorded = [f"rollout-{kind}" for kind in kinds]
        try:
            course.stepped(await self._rollouts.step(course.record.name, self._node, made, *recorded))
        except Precondition:
            return
        self.wake()

    # what operators do

    async def pause(self, name: str, by: str) -> Rollout:
        """Open no more batches until it is resumed. Raises `NotFound`, `Conflict`."""
        return await self._do(name, by, "rollout-paused", lambda record, now: rules.paused(record, by, now))

    async def resume(self, name: str, by: str) -> Rollout:
        """Go on; who is not well by now is forgiven where it was stopped. Raises `NotFound`, `Conflict`."""
        return await self._do(name, by, "rollout-resumed", lambda record, now: rules.resumed(record, by, now))

    async def promote(self, name: str, by: str, *, all: bool) -> Rollout:
        """Open the next batch, or all, without waiting. Raises `NotFound`, `Conflict`."""
        return await self._do(
            name, by, "rollout-promoted", lambda record, now: rules.promoted(record, by, now, all=all)
        )

    async def abort(self, name: str, by: str) -> Rollout:
        """Take it back: all have the former version again. Raises `NotFound`, `Conflict`."""

        def make(record: RolloutRecord, now: float) -> RolloutRecord:
            return rules.ended(record, "rolled-back", f"by {by}", by, now)

        return await self._do(name, by, "rollout-rolled-back", make)

    async def _do(
        self, name: str, by: str, kind: str, make: Callable[[RolloutRecord, float], RolloutRecord]
    ) -> Rollout:
        def made(record: RolloutRecord, now: float) -> RolloutRecord:
            course = self._courses.get(name)
            if course is not None and course.record == record:
                record = course.counted()
            return make(record, now)

        record = await self._rollouts.step(name, by, made, kind)
        self.wake()
        self._tell()
        return self._shown(record)

    # what operators see

    async def show(self, name: str, seen: str = "", wait_s: float = 0.0) -> Rollout:
        """The last roll-out of a document; where its tag is `seen`, it waits so long for another. Raises `NotFound`."""
        until = self._clock.seconds() + wait_s
        while True:
            found = self._shown(await self._rollouts.get(name))
            left = until - self._clock.seconds()
            if found.tag != seen or left <= 0:
                return found
            waiter: Deferred[None] = Deferred(lambda _: None)
            self._waiting.append(waiter)
            with contextlib.suppress(TimedOut):
                await within(self._clock, left, waiter, "the roll-out")
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    async def latest(self) -> RolloutList:
        """The last roll-out of each document, those under way first."""
        return RolloutList(items=[self._shown(each) for each in await self._rollouts.all()])

    def known(self) -> list[Rollout]:
        """Those that are under way, as far as this node has looked at them."""
        return [self._shown(each.record) for each in self._courses.values()]

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.called:
                each.callback(None)

    def _shown(self, record: RolloutRecord) -> Rollout:
        return shown(record, self._courses.get(record.name), self._clock.seconds())
