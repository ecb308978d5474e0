"""What is known of jobs, under way or kept: their results as they come, and what they print."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import suppress

from twisted.internet.interfaces import IReactorTime

from avinet.aio import within
from avinet.controller.errands import Errand
from avinet.controller.job_followers import JobFollower, printed
from avinet.controller.job_records import JobRecords
from avinet.errors import TimedOut
from avinet.feed import Bell
from avinet.wire.jobs import Job, JobEvent, JobList, JobOrder, JobResult, JobResults, JobSeen, JobState


class Running:
    """A job under way: what it is now, who waits for its next result, and who follows what it prints."""

    def __init__(self, job: Job, order: JobOrder) -> None:
        self.job = job
        self.order = order
        self.stopped: JobState | None = None
        self.changed = Bell()
        self.counted = Bell()
        self.errands: dict[str, Errand] = {}
        self.followers: list[JobFollower] = []

    @property
    def too_many_failures(self) -> bool:
        """Whether no more of it is to begin."""
        return self.order.failures is not None and self.job.failed > self.order.failures


class JobReading:
    """The jobs in `records`, and those of them that run on this node."""

    def __init__(self, clock: IReactorTime, records: JobRecords) -> None:
        self._clock = clock
        self._records = records
        self._running: dict[str, Running] = {}

    async def results(self, id: str, after: int, wait_s: float) -> JobResults:
        """A job, and its results behind number `after`; without any it waits so long for one, while the job runs."""
        items = await self._records.results(id, after)
        running = self._running.get(id)
        if not items and running is not None and running.job.state == "running" and wait_s:
            with suppress(TimedOut):
                await within(self._clock, wait_s, running.counted.wait(), "the job")
            items = await self._records.results(id, after)
        return JobResults(job=await self._job(id), items=items)

    async def follow(self, id: str, *, from_now: bool = False) -> AsyncGenerator[JobEvent, None]:
        """All of a job, or what comes from now on: what ended before as it was kept. Raises `NotFound`."""
        job, running = await self._job(id), self._running.get(id)
        if running is None:
            return self._told_as_kept(job, from_now)
        follower, ended = JobFollower(self._clock), running.job.ended
        for errand in running.errands.values():
            follower.began(errand, errand.feed.transcript.size if from_now else 0)
        running.followers.append(follower)
        return self._told(running, follower, 0 if from_now else ended)

    async def _told(self, running: Running, follower: JobFollower, kept: int = 0) -> AsyncGenerator[JobEvent, None]:
        """What is told to a follower: the first `kept` results, and what it is told itself."""
        try:
            yield JobSeen(job=running.job)
            async for result in self._results(running.job.id, kept):
                for event in printed(result):
                    yield event
            while True:
                over, told = running.job.state != "running", False
                for event in follower.events():
                    told = True
                    yield event
                if not told:
                    if over:
                        break
                    await running.changed.wait()
            yield JobSeen(job=running.job)
        finally:
            running.followers.remove(follower)
            follower.leave()

    async def _told_as_kept(self, job: Job, from_now: bool) -> AsyncGenerator[JobEvent, None]:
        yield JobSeen(job=job)
        async for result in self._results(job.id, 0 if from_now else job.ended):
            for event in printed(result):
                yield event
        yield JobSeen(job=job)

    async def _results(self, id: str, count: int) -> AsyncGenerator[JobResult, None]:
        """The first `count` results of a job."""
        after = 0
        while after < count and (page := await self._records.results(id, after)):
            for result in page:
                after = result.number
                if after <= count:
                    yield result

    async def _job(self, id: str) -> Job:
        running = self._running.get(id)
        if running is not None:
            return running.job
        return await self._records.find(id)

    async def latest(self, *, limit: int, before: str) -> JobList:
        """Jobs before the one with the id `before`, the latest first."""
        found = await self._records.latest(limit=limit, before=before)
        items = [self._running[each.id].job if each.id in self._running else each for each in found.items]
        return JobList(items=items, next=found.next)
