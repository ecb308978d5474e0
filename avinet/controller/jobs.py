"""Jobs: commands on many service engines, some at a time; each result is kept as it comes, and shown to who waits.

A job has the same id on each service engine, which makes it durable before it starts: none runs it twice.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import msgspec
from twisted.internet.defer import DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.aio import CANCELLED, Slots, Tasks, as_deferred, pause
from avinet.controller.errands import Asking, Errand
from avinet.controller.job_followers import JobFollower, seen
from avinet.controller.job_reading import JobReading, Running
from avinet.controller.job_records import JobRecords
from avinet.errors import AvinetError, Conflict, Unavailable
from avinet.feed import Feed
from avinet.ids import random_name
from avinet.store.interface import Store
from avinet.wire.command import OUTPUT_LIMIT_BYTES, CommandRequest, CommandResult
from avinet.wire.jobs import Job, JobEvent, JobOrder, JobResult

RETRY_S = 5.0
UNKEPT = 100
"""How many jobs that have ended may wait for the store to be back; of more it is not kept how they ended."""


class Jobs(JobReading):
    """Runs jobs by `asking`; `connected` tells whether a service engine can be asked. `now` is the time of day.

    What can be read of them is `JobReading`.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        store: Store,
        tasks: Tasks,
        asking: Asking,
        connected: Callable[[str], bool],
        now: Callable[[], float],
        random: Callable[[int], bytes],
    ) -> None:
        super().__init__(clock, JobRecords(store, lambda id: id in self._running))
        self._silent_s = store.silent_s
        self._tasks = tasks
        self._asking = asking
        self._connected = connected
        self._now = now
        self._random = random
        self._unkept: set[str] = set()

    async def start(self) -> None:
        """What was under way when the node ended has no end of its own; the oldest are forgotten."""
        await self._records.sweep()
        for job in await self._records.all():
            if job.state == "running":
                await self._records.keep(msgspec.structs.replace(job, state="interrupted", finished=self._now()))

    async def begin(self, order: JobOrder, targets: Sequence[str], operator: str) -> Job:
        """Begin a job on `targets`; its results come one by one."""
        return (await self._begun(order, targets, operator)).job

    async def begin_followed(
        self, order: JobOrder, targets: Sequence[str], operator: str
    ) -> AsyncGenerator[JobEvent, None]:
        """Begin a job on `targets`, and tell all of it; whoever reads this slowly slows it down."""
        follower = JobFollower(self._clock)
        return self._told(await self._begun(order, targets, operator, follower), follower)

    async def _begun(self, order: JobOrder, targets: Sequence[str], operator: str, *followers: JobFollower) -> Running:
        running = await self._recorded(order, len(targets), operator, *followers, only_recorded=not followers)
        self._tasks.spawn(self._run(running, targets), f"job {running.job.id}")
        return running

    async def _recorded(
        self, order: JobOrder, targets: int, operator: str, *followers: JobFollower, only_recorded: bool
    ) -> Running:
        """A job that is kept before anything of it runs; one whose outcome somebody waits for may do without."""
        running = Running(self._made_job(order, targets, operator), order)
        running.followers += followers
        try:
            if not only_recorded and self._silent_s():
                raise Unavailable("the store does not answer")
            await self._records.keep(running.job)
        except AvinetError as error:
            if only_recorded:
                raise
            self.log.warn(
                "job {job} of {operator} is not kept: {why}", job=running.job.id, operator=operator, why=str(error)
            )
        self._running[running.job.id] = running
        self.log.info(
            "job {job}: {command} on {count} service engines, for {operator}",
            job=running.job.id,
            command=order.command,
            count=targets,
            operator=operator,
        )
        return running

    async def one(self, order: JobOrder, target: str, operator: str) -> CommandResult:
        """Run a job on one service engine, whose whole answer is wanted. Raises why there is none."""
        running = await self._recorded(order, 1, operator, only_recorded=False)
        feed = Feed(self._clock, OUTPUT_LIMIT_BYTES // 3, OUTPUT_LIMIT_BYTES // 3, running.changed)
        errand = self._errand(target, running, feed)
        self._tasks.spawn(self._alone(running, errand), f"job {running.job.id}")
        while not feed.ended:  # and not longer: who follows it, and how it is kept, is not its caller's business
            await running.changed.wait()
        if errand.ended is None:
            raise errand.error or Unavailable("this node ends", hint="avictl jobs, on the next one, tells of it")
        output, error = errand.feed.transcript.texts()
        return CommandResult(job=running.job.id, exit_status=errand.ended.exit_status, output=output, error=error)

    async def _alone(self, running: Running, errand: Errand) -> None:
        try:
            await self._seen_through(running, errand)
        finally:
            self._end(running)
        await self._close(running)

    def _errand(self, id: str, running: Running, feed: Feed) -> Errand:
        job, order = running.job, running.order
        request = CommandRequest(
            job=job.id,
            command=order.command,
            arguments=order.arguments,
            operator=job.operator,
            timeout_s=order.timeout_s,
        )
        return Errand(self._clock, self._tasks, self._asking, self._connected, id, request, feed)

    def _made_job(self, order: JobOrder, targets: int, operator: str) -> Job:
        now = self._now()
        return Job(
            id=f"{int(now * 1000):013d}-{random_name(self._random, 10)}",
            command=order.command,
            arguments=order.arguments,
            operator=operator,
            created=now,
            targets=targets,
        )

    async def _run(self, running: Running, targets: Sequence[str]) -> None:
        order = running.order
        slots = Slots(order.at_once)
        size = order.batch or max(1, len(targets))
        try:
            for at in range(0, len(targets), size):
                batch = [as_deferred(self._in_turn(slots, running, id)) for id in targets[at : at + size]]
                results: Any = await DeferredList(batch, consumeErrors=True)
                faults: list[Failure] = [found for good, found in results if not good]
                for fault in faults:
                    if not fault.check(*CANCELLED):  # which is the end of the node
                        self.log.failure("a fault of ours in job {job}", fault, job=running.job.id)
                if faults:
                    break
        finally:
            self._end(running)
        await self._close(running)

    def _end(self, running: Running) -> None:
        """Nothing more of it runs."""
        state = running.stopped or ("stopped" if running.too_many_failures else "done")
        if running.job.ended < running.job.targets:
            state = "interrupted"
        running.job = msgspec.structs.replace(running.job, state=state, finished=self._now())
        running.counted.ring()
        running.changed.ring()

    async def _close(self, running: Running) -> None:
        """Write how a job ended, at once or when the store is back: until then it is known here."""
        if await self._kept(running):
            return
        if len(self._unkept) < UNKEPT:
            self._unkept.add(running.job.id)
            self._tasks.spawn(self._keep_later(running), f"the end of job {running.job.id}")
        else:
            del self._running[running.job.id]

    async def _keep_later(self, running: Running) -> None:
        while True:
            await pause(self._clock, RETRY_S)
            if await self._kept(running):
                self._unkept.discard(running.job.id)
                return

    async def _kept(self, running: Running) -> bool:
        try:
            await self._records.keep(running.job)
        except AvinetError as error:
            self.log.warn("the end of job {job} is not kept yet: {why}", job=running.job.id, why=str(error))
            return False
        del self._running[running.job.id]
        try:
            await self._records.sweep_now_and_then()
        except AvinetError as error:
            self.log.info("the oldest jobs are forgotten later: {why}", why=str(error))
        return True

    async def _in_turn(self, slots: Slots, running: Running, id: str) -> None:
        async with slots:
            await self._on(running, id)

    async def _on(self, running: Running, id: str) -> None:
        """Run a job on one service engine, and keep what became of it."""
        if running.stopped or running.too_many_failures:
            await self._keep(running, lambda number: JobResult(number=number, id=id, outcome="skipped"))
            return
        await self._seen_through(running, self._errand(id, running, Feed(self._clock, changed=running.changed)))

    async def _seen_through(self, running: Running, errand: Errand) -> None:
        running.errands[errand.id] = errand
        for follower in running.followers:
            follower.began(errand)
        try:
            await errand.run()
            await self._keep(running, errand.result, errand.why)
            if (room := errand.feed.room(0)) is not None:
                await room
        finally:
            del running.errands[errand.id]

    async def _keep(self, running: Running, made: Callable[[int], JobResult], why: str = "") -> None:
        """Count one result more, keep it, and tell it."""
        number = running.job.ended + 1
        result = made(number)
        failed = result.outcome != "skipped" and (result.outcome != "done" or result.exit_status != 0)
        running.job = msgspec.structs.replace(running.job, ended=number, failed=running.job.failed + int(failed))
        try:
            await self._records.keep(running.job, result)
        except AvinetError as error:  # what runs goes on: its end is not worth less for being told nobody
            self.log.warn("a result of job {job} is not kept: {why}", job=running.job.id, why=str(error))
        for follower in running.followers:
            follower.ended(seen(result, why))
        running.counted.ring()
        running.changed.ring()

    def cancel(self, id: str) -> None:
        """Begin no more of a job, and end what runs. Raises `Conflict` when it has ended."""
        running = self._running.get(id)
        if running is None or running.job.state != "running":
            raise Conflict(f"job {id} does not run", hint="see avictl jobs")
        running.stopped = "cancelled"
        for errand in running.errands.values():
            errand.cancel()
