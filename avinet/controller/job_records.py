"""What is kept of jobs: `job/ID` is a job, `job-result/ID/NUMBER` what became of it on one service engine,
`job-size/ID` how many bytes its results have.

Results are numbered in the order in which they ended. The oldest jobs are forgotten with their results.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from twisted.logger import Logger

from avinet.errors import NotFound
from avinet.store.entries import entries
from avinet.store.interface import OPERATIONS, Delete, Put, Store, Transaction
from avinet.wire.jobs import Job, JobList, JobResult
from avinet.wire.message import encode

JOBS, RESULTS, SIZES = b"job/", b"job-result/", b"job-size/"
KEPT = 500
"""How many jobs are kept; some more, between two sweeps."""
KEPT_RESULTS = 50_000
"""How many results they may have in all, but for the last job."""
KEPT_BYTES = 256 * 1024 * 1024
"""How many bytes these may have in all, but for those of the last job."""
_SWEEP_JOBS, _SWEEP_RESULTS, _SWEEP_BYTES = 50, 5_000, 32 * 1024 * 1024
"""After how much there is a sweep."""
_PAGE, _PAGE_BYTES, _AT_ONCE = 100, 1024 * 1024, 8
"""How many results are handed out at a time, about how many bytes of them, and how many are read at a time."""


class JobRecords:
    """The jobs in `store`; those that are `under_way` are not forgotten."""

    log = Logger()

    def __init__(self, store: Store, under_way: Callable[[str], bool]) -> None:
        self._store = store
        self._under_way = under_way
        self._sizes: dict[str, int] = {}
        """Of the results of the jobs under way."""
        self._ended = self._results = self._bytes = 0
        """Since the last sweep."""

    async def keep(self, job: Job, *results: JobResult) -> None:
        """Write a job as it is now, and results of it, together."""
        puts = [Put(_job_key(job.id), encode(job))]
        puts += [Put(_result_key(job.id, each.number), encode(each)) for each in results]
        added = sum(len(each.value) for each in puts[1:])
        if results:
            self._sizes[job.id] = self._sizes.get(job.id, 0) + added
        if job.id in self._sizes:
            puts.append(Put(_size_key(job.id), b"%d" % self._sizes[job.id]))
        if job.state != "running":
            self._sizes.pop(job.id, None)
        await self._store.transact(Transaction((), tuple(puts)))
        self._results += len(results)
        self._bytes += added

    async def find(self, id: str) -> Job:
        """A job. Raises `NotFound`."""
        entry = (await self._store.read([_job_key(id)])).entries.get(_job_key(id))
        if entry is None:
            raise NotFound(f"there is no job {id}", hint=f"see avictl jobs; the last {KEPT} are kept")
        return msgspec.json.decode(entry.value, type=Job)

    async def results(self, id: str, after: int) -> list[JobResult]:
        """The next results of a job behind number `after`, in their order; none only when there are no more."""
        found: list[JobResult] = []
        size, more = 0, True
        place = _result_key(id, after) if after else b""
        while more and size < _PAGE_BYTES and len(found) < _PAGE:
            page = await self._store.range(_result_key(id, None), limit=min(_AT_ONCE, _PAGE - len(found)), after=place)
            for entry in page.entries:
                found.append(msgspec.json.decode(entry.value, type=JobResult))
                size, place = size + len(entry.value), entry.key
            more = page.more and bool(page.entries)
        return found

    async def latest(self, *, limit: int, before: str) -> JobList:
        """Jobs before the one with the id `before`, the latest first."""
        found = [each for each in await self.all() if not before or each.id < before]
        items = found[::-1][:limit]
        return JobList(items=items, next=items[-1].id if len(found) > limit else "")

    async def all(self) -> list[Job]:
        """All jobs, the oldest first."""
        found: list[Job] = []
        async for entry in entries(self._store, JOBS):
            try:
                found.append(msgspec.json.decode(entry.value, type=Job))
            except msgspec.ValidationError as error:  # of a newer version: it is nobody's business here
                self.log.warn("{key} in the store cannot be read: {why}", key=entry.key.decode(), why=str(error))
        return found

    async def sweep_now_and_then(self) -> None:
        """Forget the oldest jobs and their results, once in a while."""
        self._ended += 1
        if self._ended >= _SWEEP_JOBS or self._results >= _SWEEP_RESULTS or self._bytes >= _SWEEP_BYTES:
            await self.sweep()

    async def sweep(self) -> None:
        """Forget the oldest jobs, and more of them while they have too many results in all, or too long ones."""
        self._ended = self._results = self._bytes = 0
        sizes = await self._kept_sizes()
        results = size = 0
        for number, job in enumerate(reversed(await self.all())):
            results += job.targets
            size += sizes.get(_size_key(job.id), 0)  # one of an older version is counted by its results alone
            too_many = number >= KEPT or results > KEPT_RESULTS or size > KEPT_BYTES
            if number and too_many and not self._under_way(job.id):
                await self._forget(job.id)

    async def _kept_sizes(self) -> dict[bytes, int]:
        return {entry.key: int(entry.value) async for entry in entries(self._store, SIZES)}

    async def _forget(self, id: str) -> None:
        while entries := (await self._store.range(_result_key(id, None), limit=OPERATIONS)).entries:
            await self._store.transact(Transaction((), tuple(Delete(entry.key) for entry in entries)))
        await self._store.transact(Transaction((), (Delete(_size_key(id)), Delete(_job_key(id)))))


def _job_key(id: str) -> bytes:
    return JOBS + id.encode("ascii", "replace")


def _size_key(id: str) -> bytes:
    return SIZES + id.encode("ascii", "replace")


def _result_key(id: str, number: int | None) -> bytes:
    place = RESULTS + id.encode("ascii", "replace") + b"/"
    return place if number is None else place + b"%06d" % number
