"""Jobs under way on a service engine, and those that have ended: what they print, and how they end.

A run belongs to nobody: whoever asked for it may go away, and ask again by the job's id for what came since. What a run
has printed is a transcript, whose beginning and end are on the disk once it has ended.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.aio import Tasks, as_deferred
from avinet.errors import AvinetError, Conflict, Invalid, NotFound, Unavailable
from avinet.feed import Bell, Feed
from avinet.files import private_folder, read_limited, write_atomic
from avinet.se.commands import Console
from avinet.se.jobs import Journal
from avinet.transcript import Piece, Text
from avinet.wire.command import CommandEvent, CommandLeftOut, CommandOutput, CommandStarted, Ended

KEPT, KEPT_BYTES = 100, 32 * 1024 * 1024
"""How many of those that have ended are kept on the disk, and how large they may be in all."""
_FILE_BYTES = 8 * 1024 * 1024
_FAULT = Ended(exit_status=125)
_CANCELLED = Ended(exit_status=143, signal="TERM")

Execute = Callable[[Console], Awaitable[Ended]]
InThread = Callable[[Callable[[], Any]], Awaitable[Any]]


class Kept(msgspec.Struct, frozen=True):
    """A run that has ended, as it is on the disk: pieces of `[place, on standard error, text]`, `size` bytes in all."""

    ended: Ended
    size: int
    pieces: list[tuple[int, bool, str]]


class Run:
    """One job: the console that it prints on, and what follows of that."""

    def __init__(self, clock: IReactorTime) -> None:
        self.feed = Feed(clock)
        self.ended: Ended | None = None
        self._texts = Text(), Text()
        self._producer: Any = None
        self._paused = False

    # the console; see `avinet.se.commands.Console`

    def write(self, data: bytes) -> None:
        """Standard output."""
        self._print(False, data)

    def write_error(self, data: bytes) -> None:
        """Standard error."""
        self._print(True, data)

    def _print(self, error: bool, data: bytes) -> None:
        self.feed.write(error, self._texts[error].of(data))
        self._hold()

    def _hold(self) -> None:
        """Have the producer wait while those who follow are behind."""
        if self._producer is not None and not self._paused and (room := self.feed.room()) is not None:
            self._paused = True
            self._producer.pauseProducing()
            room.addCallback(self._go_on)

    def _go_on(self, _: object) -> None:
        self._paused = False
        if self._producer is not None:
            self._producer.resumeProducing()
            self._hold()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """What prints, and can be paused."""
        self._producer = producer

    def unregisterProducer(self) -> None:
        """It prints no more."""
        self._producer = None

    def end(self, ended: Ended) -> None:
        """The job has ended, and nothing more will be printed."""
        for error, text in enumerate(self._texts):
            self.feed.write(bool(error), text.of(b"", final=True))
        self.ended = ended
        self.feed.end()

    # on the disk

    def kept(self) -> Kept:
        """As it is kept."""
        assert self.ended is not None
        found = [each for each in self.feed.transcript.after(0) if isinstance(each, Piece)]
        pieces = [(each.at, each.error, each.data.decode("utf-8", "replace")) for each in found]
        return Kept(self.ended, self.feed.transcript.size, pieces)

    @classmethod
    def restored(cls, clock: IReactorTime, kept: Kept) -> Run:
        """The run that was kept."""
        run = cls(clock)
        for at, error, text in kept.pieces:
            run.feed.transcript.skip(at - run.feed.transcript.size)
            run.feed.transcript.append(error, text.encode())
        run.feed.transcript.skip(kept.size - run.feed.transcript.size)
        run.end(kept.ended)
        return run


async def told(run: Run, after: int) -> AsyncGenerator[CommandEvent, None]:
    """What a run prints behind the place `after`, and how it ends; whoever reads this slowly slows it down."""
    follower = run.feed.follow(after)
    try:
        yield CommandStarted()
        async for each in follower.pieces():
            if isinstance(each, Piece):
                yield CommandOutput(stream="err" if each.error else "out", text=each.data.decode("utf-8", "replace"))
            else:
                yield CommandLeftOut(bytes=each)
    finally:
        follower.leave()
    assert run.ended is not None
    yield run.ended


async def _never_begun(console: Console) -> Ended:
    console.write_error(b"cancelled before it began\n")
    return _CANCELLED


class _Beginning:
    """A job that is being made durable, and may be cancelled meanwhile."""

    def __init__(self) -> None:
        self.cancelled = False
        self.failed = ""
        self.over = Bell()


class Runs:
    """The runs of this service engine. Those that have ended are in `folder`, by their jobs' ids."""

    log = Logger()

    def __init__(self, clock: IReactorTime, journal: Journal, folder: Path, in_thread: InThread, tasks: Tasks) -> None:
        self._clock = clock
        self._journal = journal
        self._folder = private_folder(folder)
        self._in_thread = in_thread
        self._tasks = tasks
        self._forgetting = threading.Lock()
        self._live: dict[str, tuple[Run, Deferred[Ended]]] = {}
        self._beginning: dict[str, _Beginning] = {}

    async def start(self, job: str, execute: Execute) -> Run:
        """The run of `job`, which is begun if it never was.

        Raises `Conflict` when it was begun before and nothing is known of it: the service engine has ended since.
        """
        found = await self._found(job)
        if found is not None:
            return found
        if job in self._beginning:
            raise Conflict(f"job {job} is being started already")
        beginning = self._beginning[job] = _Beginning()
        try:
            await self._journal.begin(job)
            run = Run(self._clock)
            executing = as_deferred((_never_begun if beginning.cancelled else execute)(run))
            self._live[job] = run, executing
        except BaseException as error:
            beginning.failed = str(error) or "who asked for it has gone"
            raise
        finally:
            del self._beginning[job]
            beginning.over.ring()
        self._tasks.spawn(self._see_to_its_end(job, run, executing), f"job {job}")
        return run

    async def find(self, job: str, after: int = 0) -> Run:
        """The run of a job. When it was never begun it never will be, and this raises `NotFound`; see `start`.

        Raises `Invalid` when it has printed less than `after` bytes: nobody can have read as far as that.
        """
        found = await self._found(job)
        if found is not None:
            if after > (size := found.feed.transcript.size):
                raise Invalid(f"job {job} has printed {size} bytes, not {after}", hint="ask from 0 for all of it")
            return found
        await self._journal.begin(job)
        raise NotFound(f"job {job} was not started here")

    def cancel(self, job: str) -> None:
        """Have a job end, or never begin. Raises `NotFound` when it does not run."""
        if job in self._beginning:
            self._beginning[job].cancelled = True
            return
        if job not in self._live:
            raise NotFound(f"job {job} does not run here")
        self._live[job][1].cancel()

    async def _found(self, job: str) -> Run | None:
        while (beginning := self._beginning.get(job)) is not None:
            await beginning.over.wait()  # who asks again soon is not told that nothing is known of it
            if beginning.failed:  # it may have been cancelled: whoever asks once more begins it
                raise Unavailable(f"job {job} could not be begun: {beginning.failed}")
        if job in self._live:
            return self._live[job][0]
        return await self._in_thread(lambda: self._read(job)) if job in self._journal else None

    async def _see_to_its_end(self, job: str, run: Run, executing: Deferred[Ended]) -> None:
        try:
            ended = await executing
        except CancelledError:
            ended = _CANCELLED
        except Exception:  # the edge: a fault of ours is how it ended, and a traceback in our log only
            self.log.failure("job {job} failed", Failure(), job=job)
            ended = _FAULT
        run.end(ended)
        try:
            await self._in_thread(lambda: self._write(job, run.kept()))
        except AvinetError as error:
            self.log.warn("the output of job {job} is not kept: {why}", job=job, why=str(error))
        finally:
            del self._live[job]

    def _write(self, job: str, kept: Kept) -> None:
        """Keep a run, and forget the oldest: ids begin with their time."""
        write_atomic(self._folder / job, msgspec.json.encode(kept))
        total = 0
        with self._forgetting:  # calls come from several threads
            for number, path in enumerate(sorted(self._folder.glob("[!.]*"), reverse=True)):
                total += path.stat().st_size
                if number >= KEPT or (number and total > KEPT_BYTES):
                    path.unlink()

    def _read(self, job: str) -> Run | None:
        path = self._folder / job
        if not path.exists():
            return None
        try:
            return Run.restored(self._clock, msgspec.json.decode(read_limited(path, _FILE_BYTES), type=Kept))
        except (AvinetError, msgspec.DecodeError) as error:
            self.log.warn("what was kept of job {job} cannot be read: {why}", job=job, why=str(error))
            return None
