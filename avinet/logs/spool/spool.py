"""The spool of a service engine: takes lines of request logs, makes them durable, and has them sealed and kept.

Whatever is taken is on the disk within `sync_s`, or counted as a gap. No disk is touched in the reactor's thread.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from avinet.aio import News, Tasks, within
from avinet.errors import TimedOut, Unavailable
from avinet.feed import Bell
from avinet.logs.spool.cap import Cap
from avinet.logs.spool.disk import Disk, InThread
from avinet.logs.spool.losses import Loss
from avinet.logs.spool.orders import Sealed
from avinet.logs.spool.pending import Pending
from avinet.logs.spool.room import chosen
from avinet.logs.spool.sealer_client import Sealer
from avinet.logs.spool.sealing import RETRY_FIRST_S, Sealing
from avinet.logs.spool.settings import MIB, SpoolSettings
from avinet.wire.segment import Manifest, Reason

EARLY_BYTES = 4 * MIB
"""With so much of it the spool does not wait for the next time to write."""


class Spool:
    """The request log of a service engine in `folder`, which is this process's alone.

    `append` and `gap` may be called at any time, also before `start`, and never wait. `wall` is the time in seconds
    since 1970, as far as it is known, and `machine` what the clock has by which files are dated. `in_thread` runs a
    function off the reactor's thread. Stop it before `tasks` are.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        folder: Path,
        settings: SpoolSettings,
        sealer: Sealer,
        in_thread: InThread,
        wall: Callable[[], float],
        machine: Callable[[], float],
        tasks: Tasks,
    ) -> None:
        self._clock = clock
        self._engine, self._generation = "", 0
        self._settings = settings
        self._wall = wall
        self._tasks = tasks
        self._disk = Disk(folder, in_thread)
        self._folder = self._disk.folder
        self._pending = Pending(settings.buffer_mib * MIB)
        self._sealing = Sealing(
            clock, self._disk, sealer, lambda: (self._engine, self._generation), self._sealed, tasks
        )
        self._cap = Cap(
            self._disk,
            settings,
            self._pending,
            self._sealing,
            lambda: self._through,
            partial(self._lose, "cap"),
            self._now_ms,
            machine,
        )
        self._news = News()
        self._bell = Bell()
        self._ready = self._stopped = False
        self._well = True
        self._since: float | None = None
        """When the open file got its first line."""
        self._through = 0
        self.lost: Counter[str] = Counter()
        """How many records this process has counted as lost, by reason."""
        self.lost_here = 0
        """How many of them came here first."""
        self.written = 0
        """How many lines this process has made durable."""

    # what the data plane's intake calls

    def append(self, lines: Sequence[bytes]) -> None:
        """Take `lines`, one record each, without its end. Those that there is no room for are a gap `full`."""
        if left := self._pending.append(lines, self._now_ms()):
            self._lose("full", left)
        if self._well and self._pending.held >= EARLY_BYTES:
            self._bell.ring()

    def gap(self, reason: Reason, records: int | None, from_ms: int | None = None, to_ms: int | None = None) -> None:
        """Tell that behind what was taken so far `records` are missing, of between these times (at first: now)."""
        now = self._now_ms()
        begin, end = now if from_ms is None else from_ms, now if to_ms is None else to_ms
        self._pending.lose(Loss(records=records, reason=reason, from_ms=min(begin, end), to_ms=max(begin, end)))
        self.lost[reason] += records or 0

    # what nodes ask for

    def segments(self, after: int = 0, since_ms: int | None = None, until_ms: int | None = None) -> list[Manifest]:
        """The manifests of segments with records behind the number `after`, of that time, in their order."""
        return chosen(self._folder.segments, after, since_ms, until_ms)

    @property
    def gone(self) -> list[tuple[int, int]]:
        """The numbers that had to go, and of which no segment tells yet: the next one will."""
        files = [*self._folder.waiting, self._folder.file] if self._ready else []
        caps = [each for file in files for each in file.losses if each.reason == "cap"]
        return [(each.after + 1, each.after + each.records) for each in caps if each.after is not None and each.records]

    @property
    def acknowledged(self) -> int:
        """Up to which number records are safe elsewhere."""
        return self._through

    def parquet(self, manifest: Manifest) -> Path:
        """The file of a segment. It may be gone when it is opened: the cap is kept meanwhile."""
        return self._folder.parquet(manifest)

    def acknowledge(self, through: int) -> None:
        """Records up to the number `through` are safe elsewhere: these may go first, and are no gap then."""
        if through > self._through:
            self._through = min(through, self._folder.segments[-1].last if self._folder.segments else 0)

    async def seal_now(self) -> None:
        """Done when all that was taken before is sealed. Raises `Unavailable` when it cannot be, or not in time."""
        if not self._ready or self._stopped:
            raise Unavailable("the spool of request logs is not at work")
        async with self._disk.turn:
            error = await self._write() or await self._rotate(force=True)
            last = self._folder.waiting[-1] if self._folder.waiting else None
        if error is not None:
            raise Unavailable(f"request logs cannot be sealed now: {error}")
        if last is not None:
            await self._sealing.through(last, self._settings.seal_s * len(self._folder.waiting))

    # what is known of it

    @property
    def started(self) -> bool:
        """Whether it was told to start."""
        return bool(self._engine)

    @property
    def durable(self) -> int:
        """The number of the last line that is on the disk, if all before it are records."""
        return self._folder.file.first + self._folder.file.lines - 1 if self._ready else 0

    @property
    def size(self) -> int:
        """How many bytes all of it has on the disk."""
        return self._folder.size if self._ready else 0

    @property
    def buffered(self) -> int:
        """How many bytes are not on the disk yet."""
        return self._pending.held

    # its life

    def start(self, engine: str, generation: int) -> None:
        """Take up what the last process has left, and go on behind it, as the service engine `engine`."""
        self._engine, self._generation = engine, generation
        self._tasks.spawn(self._run(), "the spool of request logs")

    async def stop(self) -> None:
        """Write all that was taken; what is not sealed is, at the next start."""
        if self._stopped:
            return
        self._stopped = True
        self._bell.ring()
        await self._sealing.stop()
        async with self._disk.turn:
            if self._ready and await self._write() is None:
                await self._disk.attempt(self._folder.close)
        self._sealing.give_up()

    async def _run(self) -> None:
        while not self._stopped and not self._ready:
            async with self._disk.turn:
                error = await self._disk.attempt(lambda: self._folder.start(self._now_ms()))
                self._ready = error is None
            self._tell(error)
            if error is not None:
                await self._rest(RETRY_FIRST_S)
        self._cap.start()
        self._through = max(self._through, self._folder.acknowledged)
        self._sealing.begin()
        while not self._stopped:
            await self._turn()
            await self._rest(self._settings.sync_s)

    async def _turn(self) -> None:
        """Write what was taken, have it sealed when it is time, and keep the cap."""
        async with self._disk.turn:
            if self._stopped:
                return
            error = self._no_room() or await self._write() or await self._rotate() or await self._acknowledge()
            if error is not None and self._folder.segments and self._folder.segments[0].last <= self._through:
                await self._cap.drop_oldest()  # a node has it, and what comes now nobody has
            error = await self._cap.keep() or error
        self._well = error is None
        self._tell(error)
        self._sealing.begin()

    def _no_room(self) -> str | None:
        """Why nothing more may be written for now: what would have to go is just being sealed."""
        if not self._sealing.asking or self._folder.size <= self._settings.cap_mib * MIB:
            return None
        return f"the request logs in {self._folder.path} take more than spool.cap_mib until the oldest are sealed"

    async def _write(self) -> str | None:
        if not self._pending:
            return None
        batch = self._pending.take()
        count = len(batch.lines)
        size = sum(map(len, batch.lines)) + count
        before = self._folder.file.lines
        error = await self._disk.attempt(lambda: self._folder.write(batch))
        if not batch.lines:
            self._pending.written(size)
            self.written += count
        if error is not None:
            self._pending.put_back(batch)
        if self._since is None and self._folder.file.lines > before:
            self._since = self._clock.seconds()
        return error

    async def _rotate(self, *, force: bool = False) -> str | None:
        file, settings = self._folder.file, self._settings
        if not file.lines:
            return None
        old = self._since is not None and self._clock.seconds() - self._since >= settings.segment_age_s
        if force or old or file.lines >= settings.segment_rows or file.size >= settings.segment_mib * MIB:
            error = await self._disk.attempt(self._folder.rotate)
            if error is None:
                self._since = None
            return error
        return None

    async def _acknowledge(self) -> str | None:
        if self._through <= self._folder.acknowledged:
            return None
        return await self._disk.attempt(lambda: self._folder.acknowledge(self._through))

    def _lose(self, reason: Reason, records: int) -> None:
        self.lost[reason] += records
        self.lost_here += records

    def _sealed(self, answer: Sealed) -> None:
        if answer.manifest is not None:
            self._cap.came(answer.manifest)
        if answer.unfit:
            self._lose("parse", answer.unfit)
            self.log.warn("{count} lines of request logs were no records", count=answer.unfit)

    def _tell(self, error: str | None) -> None:
        if self._news.fresh(error or ""):
            self.log.warn("{why}; what there is no room for is counted as a gap", why=error)

    async def _rest(self, seconds: float) -> None:
        """Wait, unless somebody is in a hurry."""
        if not self._stopped:
            with contextlib.suppress(TimedOut):
                await within(self._clock, seconds, self._bell.wait(), "anybody")

    def _now_ms(self) -> int:
        return int(self._wall() * 1000)
