"""Service engines that run jobs as a test says, and somebody who follows a job."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import CANCELLED, Tasks, as_deferred
from avinet.controller.jobs import Jobs
from avinet.errors import Unavailable
from avinet.feed import Bell
from avinet.wire.command import CommandEvent, CommandOutput, CommandRequest, CommandStarted, Ended
from avinet.wire.jobs import (
    Job,
    JobEnded,
    JobEvent,
    JobLeftOut,
    JobOrder,
    JobOutput,
    JobResult,
    JobSeen,
    JobStarted,
)
from tests.store.memory import MemoryStore


class Told:
    """What one service engine tells of a job, as a test says it."""

    def __init__(self) -> None:
        self._events: list[CommandEvent | Exception] = []
        self._more = Bell()
        self.taken = 0

    def say(self, *events: CommandEvent | Exception) -> None:
        self._events += events
        self._more.ring()

    async def __call__(self) -> AsyncGenerator[CommandEvent, None]:
        while True:
            while self._events:
                event = self._events.pop(0)
                if isinstance(event, Exception):
                    raise event
                self.taken += 1
                yield event
            await self._more.wait()


class Fleet:
    """Service engines whose answers a test gives."""

    def __init__(self) -> None:
        self.asked: dict[str, Told] = {}
        self.requests: list[CommandRequest] = []
        self.places: list[int] = []
        self.ended: list[str] = []
        self.gone: set[str] = set()
        self.deaf: list[Exception | Deferred[None]] = []
        """What the next requests to end come to."""

    def run(self, engine_id: str, request: CommandRequest) -> AsyncGenerator[CommandEvent, None]:
        self.requests.append(request)
        self.asked[engine_id] = Told()
        return self.asked[engine_id]()

    def output(self, engine_id: str, job: str, after: int) -> AsyncGenerator[CommandEvent, None]:
        self.places.append(after)
        self.asked[engine_id] = Told()
        return self.asked[engine_id]()

    async def end(self, engine_id: str, job: str) -> None:
        if engine_id in self.gone:
            raise Unavailable("it is not connected")
        if self.deaf:
            answer = self.deaf.pop(0)
            if isinstance(answer, Exception):
                raise answer
            await answer
        self.ended.append(engine_id)

    def print(self, id: str, text: str, stream: Any = "out") -> None:
        self.asked[id].say(CommandOutput(text=text, stream=stream))

    def answer(self, id: str, status: int = 0, output: str = "", signal: str = "") -> None:
        printed = [CommandOutput(text=output[at : at + 4096]) for at in range(0, len(output), 4096)]
        self.asked.pop(id).say(CommandStarted(), *printed, Ended(exit_status=status, signal=signal))

    def fail(self, id: str, error: Exception) -> None:
        self.asked.pop(id).say(error)


class JobCase(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock, self.fleet, self.tasks = Clock(), Fleet(), Tasks()
        self.store = MemoryStore(self.clock)
        self.addCleanup(self.tasks.stop)
        self.time = 1e9
        self.jobs = self.made()

    def made(self) -> Jobs:
        return Jobs(
            self.clock,
            self.store,
            self.tasks,
            self.fleet,
            lambda id: id not in self.fleet.gone,
            self.now,
            lambda count: bytes(range(count)),
        )

    def now(self) -> float:
        self.time += 0.001
        return self.time

    def result(self, awaitable: Any) -> Any:
        return self.successResultOf(as_deferred(awaitable))

    def begin(self, *targets: str, **order: Any) -> Job:
        job: Job = self.result(self.jobs.begin(JobOrder(command="ping", ids=list(targets), **order), targets, "ann"))
        return job

    def results(self, job: Job, after: int = 0) -> list[JobResult]:
        return list(self.result(self.jobs.results(job.id, after, 0)).items)

    def state(self, job: Job) -> Job:
        found: Job = self.result(self.jobs.results(job.id, 0, 0)).job
        return found


class Reading:
    """Somebody who follows a job, and reads as far as the test says."""

    def __init__(self, events: AsyncGenerator[JobEvent, None]) -> None:
        self._events = events
        self._reading: Deferred[Any] | None = None
        self.told: list[str] = []
        self.bytes = 0
        self.over = False

    def go(self, count: int = 1 << 30) -> None:
        """Read so many events."""
        self._reading = as_deferred(self._read(count))
        self._reading.addErrback(lambda failure: failure.trap(*CANCELLED))

    async def _read(self, count: int) -> None:
        for _ in range(count):
            try:
                event = await self._events.__anext__()
            except StopAsyncIteration:
                self.over = True
                return
            match event:
                case JobSeen(job=job):
                    self.told.append(f"job {job.state}")
                case JobStarted(id=id):
                    self.told.append(f"started {id}")
                case JobOutput(id=id, stream=stream, text=text):
                    self.bytes += len(text)
                    self.told.append(f"{id} {stream} {text[:20]}")
                case JobLeftOut(id=id, bytes=count):
                    self.told.append(f"{id} left {count}")
                case JobEnded(id=id, outcome=outcome, exit_status=status, error=error):
                    self.told.append(f"ended {id} {outcome} {error if status is None else status}")

    def leave(self) -> None:
        assert self._reading is not None
        self._reading.cancel()
