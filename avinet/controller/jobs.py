"""Jobs: commands on many service engines, some at a time; each result is kept as it comes, and shown to who waits.

A job has the same id on each service engine, which makes it durable before it starts: none runs it twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.aio import CANCELLED, Slots, Tasks, as_deferred, pause, within
from avinet.controller.job_records import JobRecords
from avinet.controller.reverse import SignatureRefused
from avinet.errors import AvinetError, Conflict, Forbidden, Invalid, NotFound, TimedOut
from avinet.ids import random_name
from avinet.store.interface import Store
from avinet.wire.command import CommandRequest, CommandResult
from avinet.wire.jobs import KEPT_OUTPUT_BYTES, Job, JobList, JobOrder, JobOutcome, JobResult, JobResults, JobState
from avinet.wire.message import encode

RETRY_S = 5.0


class Asking(Protocol):
    """Runs a command on one service engine; see `avinet.controller.reverse.Reverse`."""

    async def command(self, engine_id: str, request: CommandRequest, timeout_s: float) -> CommandResult: ...


class _Running:
    """A job under way: what it is now, and who waits for its next result."""

    def __init__(self, job: Job, order: JobOrder) -> None:
        self.job = job
        self.order = order
        self.stopped: JobState | None = None
        self.waiting: list[Deferred[None]] = []

    @property
    def too_many_failures(self) -> bool:
        return self.order.failures is not None and self.job.failed > self.order.failures


class Jobs:
    """Runs jobs by `asking`; `connected` tells whether a service engine can be asked. `now` is the time of day."""

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
        self._clock = clock
        self._records = JobRecords(store, lambda id: id in self._running)
        self._tasks = tasks
        self._asking = asking
        self._connected = connected
        self._now = now
        self._random = random
        self._running: dict[str, _Running] = {}

    async def start(self) -> None:
        """What was under way when the node ended has no end of its own; the oldest are forgotten."""
        await self._records.sweep()
        for job in await self._records.all():
            if job.state == "running":
                await self._records.keep(msgspec.structs.replace(job, state="interrupted", finished=self._now()))

    # running

    async def begin(self, order: JobOrder, targets: Sequence[str], operator: str) -> Job:
        """Begin a job on `targets`; its results come one by one."""
        running = _Running(self._made_job(order, len(targets), operator), order)
        await self._records.keep(running.job)
        self._running[running.job.id] = running
        self.log.info(
            "job {job}: {command} on {count} service engines, for {operator}",
            job=running.job.id,
            command=order.command,
            count=len(targets),
            operator=operator,
        )
        self._tasks.spawn(self._run(running, targets), f"job {running.job.id}")
        return running.job

    async def one(self, order: JobOrder, target: str, operator: str) -> CommandResult:
        """Run a job on one service engine, whose whole answer is wanted. Raises what asking it raises."""
        job = self._made_job(order, 1, operator)
        began, connected = self._clock.seconds(), self._connected(target)
        try:
            result = await self._asking.command(target, self._request(job, order), order.timeout_s)
        except AvinetError as error:
            outcome = _outcome_of(error) if connected else "unreachable"
            kept = JobResult(number=1, id=target, outcome=outcome, error=str(error))
            await self._keep_one(job, kept)
            raise
        kept = self._kept(1, target, result, self._clock.seconds() - began)
        await self._keep_one(job, kept)
        return result

    async def _keep_one(self, job: Job, result: JobResult) -> None:
        """Keep a job that has ended; without a store its answer is worth more than its record."""
        ended = msgspec.structs.replace(
            job, state="done", finished=self._now(), ended=1, failed=int(result.exit_status != 0)
        )
        try:
            await self._records.keep(ended, result)
            await self._records.sweep_now_and_then()
        except AvinetError as error:
            self.log.warn(
                "job {job} of {operator} is not kept: {why}", job=job.id, operator=job.operator, why=str(error)
            )

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

    def _request(self, job: Job, order: JobOrder) -> CommandRequest:
        return CommandRequest(job=job.id, command=order.command, arguments=order.arguments, operator=job.operator)

    async def _run(self, running: _Running, targets: Sequence[str]) -> None:
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
            state = running.stopped or ("stopped" if running.too_many_failures else "done")
            if running.job.ended < running.job.targets:
                state = "interrupted"
            running.job = msgspec.structs.replace(running.job, state=state, finished=self._now())
            self._tell(running)
        await self._keep_end(running)
        del self._running[running.job.id]
        await self._records.sweep_now_and_then()

    async def _keep_end(self, running: _Running) -> None:
        """Write how a job ended, however long the store is away: until then it is known here."""
        while True:
            try:
                await self._records.keep(running.job)
                return
            except AvinetError as error:
                self.log.warn("the end of job {job} is not kept yet: {why}", job=running.job.id, why=str(error))
                await pause(self._clock, RETRY_S)

    async def _in_turn(self, slots: Slots, running: _Running, id: str) -> None:
        async with slots:
            await self._on(running, id)

    async def _on(self, running: _Running, id: str) -> None:
        """Run a job on one service engine, and keep what became of it."""
        order, began = running.order, self._clock.seconds()
        result: JobResult | CommandResult
        if running.stopped or running.too_many_failures:
            result = JobResult(number=0, id=id, outcome="skipped")
        elif not self._connected(id):
            result = JobResult(number=0, id=id, outcome="unreachable", error=f"service engine {id} is not connected")
        else:
            try:
                result = await self._asking.command(id, self._request(running.job, order), order.timeout_s)
            except AvinetError as error:
                result = JobResult(number=0, id=id, outcome=_outcome_of(error), error=str(error))
        took_s = self._clock.seconds() - began
        number = running.job.ended + 1
        if isinstance(result, CommandResult):
            kept = self._kept(number, id, result, took_s)
        else:
            kept = msgspec.structs.replace(result, number=number, took_s=round(took_s, 3))
        failed = kept.outcome != "done" or kept.exit_status != 0
        running.job = msgspec.structs.replace(
            running.job, ended=number, failed=running.job.failed + int(failed and kept.outcome != "skipped")
        )
        try:
            await self._records.keep(running.job, kept)
        except AvinetError as error:  # what runs goes on: its end is not worth less for being told nobody
            self.log.warn("a result of job {job} is not kept: {why}", job=running.job.id, why=str(error))
        self._tell(running)

    def _kept(self, number: int, id: str, result: CommandResult, took_s: float) -> JobResult:
        return JobResult(
            number=number,
            id=id,
            outcome="done",
            exit_status=result.exit_status,
            output=_cut(result.output),
            error=_cut(result.error),
            took_s=round(took_s, 3),
        )

    def _tell(self, running: _Running) -> None:
        waiting, running.waiting = running.waiting, []
        for each in waiting:
            if not each.called:
                each.callback(None)

    def cancel(self, id: str) -> None:
        """Begin no more of a job; what runs ends as it does. Raises `Conflict` when it has ended."""
        running = self._running.get(id)
        if running is None or running.job.state != "running":
            raise Conflict(f"job {id} does not run", hint="see avictl jobs")
        running.stopped = "cancelled"

    # reading

    async def results(self, id: str, after: int, wait_s: float) -> JobResults:
        """A job, and its results behind number `after`; without any it waits so long for one, while the job runs."""
        items = await self._records.results(id, after)
        running = self._running.get(id)
        if not items and running is not None and running.job.state == "running" and wait_s:
            waiter: Deferred[None] = Deferred(lambda _: None)
            running.waiting.append(waiter)
            try:
                await within(self._clock, wait_s, waiter, "the job")
            except TimedOut:
                running.waiting.remove(waiter)
            items = await self._records.results(id, after)
        return JobResults(job=await self._job(id), items=items)

    async def _job(self, id: str) -> Job:
        running = self._running.get(id)
        if running is not None:
            return running.job
        return await self._records.find(id)

    async def latest(self, *, limit: int, before: str) -> JobList:
        """Jobs before the one with the id `before`, the latest first."""
        return await self._records.latest(limit=limit, before=before)


def _outcome_of(error: AvinetError) -> JobOutcome:
    """What is known of a command that was sent when `error` came back: only a refusal says that it did not run."""
    return "refused" if isinstance(error, (Invalid, NotFound, Forbidden, SignatureRefused)) else "unknown"


def _cut(text: str, limit: int = KEPT_OUTPUT_BYTES) -> str:
    """The beginning of a text, as much as is kept, by what it takes as JSON: a control character takes six bytes."""
    if len(text) * 6 <= limit or len(encode(text)) <= limit:
        return text
    return text[: max(0, limit // 6 - 16)] + "\n... (cut)\n"
