"""What is kept of jobs: `job/ID` is a job, `job-result/ID/NUMBER` what became of it on one service engine.

Results are numbered in the order in which they ended. The oldest jobs are forgotten with their results.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from twisted.logger import Logger

from avinet.errors import NotFound
from avinet.store.interface import OPERATIONS, Delete, Put, Store, Transaction
from avinet.wire.jobs import Job, JobList, JobResult
from avinet.wire.message import encode

JOBS, RESULTS = b"job/", b"job-result/"
KEPT = 500
"""How many jobs are kept; some more, between two sweeps."""
KEPT_RESULTS = 50_000
"""How many results they may have in all, but for the last job."""
_SWEEP_EACH = 50
_PAGE = 100


class JobRecords:
    """The jobs in `store`; those that are `under_way` are not forgotten."""

    log = Logger()

    def __init__(self, store: Store, under_way: Callable[[str], bool]) -> None:
        self._store = store
        self._under_way = under_way
        self._ended = 0

    async def keep(self, job: Job, *results: JobResult) -> None:
        """Write a job as it is now, and results of it, together."""
        puts = [Put(_job_key(job.id), encode(job))]
        puts += [Put(_result_key(job.id, each.number), encode(each)) for each in results]
        await self._store.transact(Transaction((), tuple(puts)))

    async def find(self, id: str) -> Job:
        """A job. Raises `NotFound`."""
        entry = (await self._store.read([_job_key(id)])).entries.get(_job_key(id))
        if entry is None:
            raise NotFound(f"there is no job {id}", hint=f"see avictl jobs; the last {KEPT} are kept")
        return msgspec.json.decode(entry.value, type=Job)

    async def results(self, id: str, after: int) -> list[JobResult]:
        """The next results of a job behind number `after`, in their order."""
        page = await self._store.range(
            _result_key(id, None), limit=_PAGE, after=_result_key(id, after) if after else b""
        )
        return [msgspec.json.decode(entry.value, type=JobResult) for entry in page.entries]

    async def latest(self, *, limit: int, before: str) -> JobList:
        """Jobs before the one with the id `before`, the latest first."""
        found = [each for each in await self.all() if not before or each.id < before]
        items = found[::-1][:limit]
        return JobList(items=items, next=items[-1].id if len(found) > limit else "")

    async def all(self) -> list[Job]:
        """All jobs, the oldest first."""
        found: list[Job] = []
        after, more = b"", True
        while more:
            page = await self._store.range(JOBS, after=after)
            for entry in page.entries:
                try:
                    found.append(msgspec.json.decode(entry.value, type=Job))
                except msgspec.ValidationError as error:  # of a newer version: it is nobody's business here
                    self.log.warn("{key} in the store cannot be read: {why}", key=entry.key.decode(), why=str(error))
            after, more = page.entries[-1].key if page.entries else b"", page.more
        return found

    async def sweep_now_and_then(self) -> None:
        """Forget the oldest jobs and their results, once in a while."""
        self._ended += 1
        if not self._ended % _SWEEP_EACH:
            await self.sweep()

    async def sweep(self) -> None:
        """Forget the oldest jobs, and more of them while they have too many results in all."""
        results = 0
        for number, job in enumerate(reversed(await self.all())):
            results += job.targets
            if number and (number >= KEPT or results > KEPT_RESULTS) and not self._under_way(job.id):
                await self._forget(job.id)

    async def _forget(self, id: str) -> None:
        while entries := (await self._store.range(_result_key(id, None), limit=OPERATIONS)).entries:
            await self._store.transact(Transaction((), tuple(Delete(entry.key) for entry in entries)))
        await self._store.transact(Transaction((), (Delete(_job_key(id)),)))


def _job_key(id: str) -> bytes:
    return JOBS + id.encode("ascii", "replace")


def _result_key(id: str, number: int | None) -> bytes:
    place = RESULTS + id.encode("ascii", "replace") + b"/"
    return place if number is None else place + b"%06d" % number
