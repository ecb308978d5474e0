"""The spool of a service engine: takes lines of request logs, makes them durable, has them sealed, keeps segments.

Whatever is taken is on the disk within `sync_s`, or counted as a gap. No disk is touched in the reactor's thread.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from avinet.aio import News, Slots, Tasks, within
from avinet.errors import AvinetError, Unavailable
from avinet.files import cannot
from avinet.logs.ages import Ages
from avinet.logs.folder import SpoolFolder
from avinet.logs.losses import Loss
from avinet.logs.openfile import OpenFile
from avinet.logs.orders import Order
from avinet.logs.pending import Pending
from avinet.logs.room import chosen, surplus
from avinet.logs.sealer_client import Sealer
from avinet.logs.settings import MIB, SpoolSettings
from avinet.wire.segment import Manifest, Reason

InThread = Callable[[Callable[[], Any]], Awaitable[Any]]
RETRY_FIRST_S, RETRY_CAP_S = 1.0, 60.0
"""How long sealing waits after it has failed: doubled each time."""
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
        self._sealer = sealer
        self._in_thread = in_thread
        self._wall = wall
        self._machine = machine
        self._ages = Ages({}, machine())
        self._tasks = tasks
        self._folder = SpoolFolder(folder)
        self._pending = Pending(settings.buffer_mib * MIB)
        self._files = Slots(1)
        """Whoever has the files at work."""
        self._news, self._sealing_news = News(), News()
        self._ready = self._stopped = self._sealing = self._asking = False
        self._well = True
        self._since: float | None = None
        """When the open file got its first line."""
        self._resting: dict[str, Deferred[None]] = {}
        self._waiters: list[tuple[OpenFile, Deferred[None]]] = []
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
            self._hurry("writing")

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
        async with self._files:
            error = await self._write() or await self._rotate(force=True)
            last = self._folder.waiting[-1] if self._folder.waiting else None
        if error is not None:
            raise Unavailable(f"request logs cannot be sealed now: {error}")
        if last is None:
            return
        sealed: Deferred[None] = Deferred()
        entry = (last, sealed)
        self._waiters.append(entry)
        deadline_s = self._settings.seal_s * len(self._folder.waiting)
        self._seal()
        self._hurry("sealing")
        try:
            await within(self._clock, deadline_s, sealed, "sealing")
        finally:
            with contextlib.suppress(ValueError):
                self._waiters.remove(entry)

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
        for what in ("writing", "sealing"):
            self._hurry(what)
        await self._sealer.stop()
        async with self._files:
            if self._ready and await self._write() is None:
                await self._attempt(self._folder.close)
        for _, waiter in list(self._waiters):
            waiter.errback(Unavailable("the spool of request logs was stopped"))

    async def _run(self) -> None:
        while not self._stopped and not self._ready:
            async with self._files:
                error = await self._attempt(lambda: self._folder.start(self._now_ms()))
                self._ready = error is None
            self._tell(error)
            if error is not None:
                await self._rest("writing", RETRY_FIRST_S)
        self._ages = Ages(self._folder.dated, self._machine())
        self._through = max(self._through, self._folder.acknowledged)
        self._seal()
        while not self._stopped:
            await self._turn()
            await self._rest("writing", self._settings.sync_s)

    async def _turn(self) -> None:
        """Write what was taken, have it sealed when it is time, and keep the cap."""
        async with self._files:
            if self._stopped:
                return
            error = await self._write() or await self._rotate() or await self._acknowledge()
            if error is not None and self._folder.segments and self._folder.segments[0].last <= self._through:
                await self._drop_segment()  # a node has it, and what comes now nobody has
            error = await self._keep_cap() or error
        self._well = error is None
        self._tell(error)
        self._seal()

    async def _write(self) -> str | None:
        if not self._pending:
            return None
        batch = self._pending.take()
        count = len(batch.lines)
        size = sum(map(len, batch.lines)) + count
        before = self._folder.file.lines
        error = await self._attempt(lambda: self._folder.write(batch))
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
            error = await self._attempt(self._folder.rotate)
            if error is None:
                self._since = None
            return error
        return None

    async def _acknowledge(self) -> str | None:
        if self._through <= self._folder.acknowledged:
            return None
        return await self._attempt(lambda: self._folder.acknowledge(self._through))

    async def _keep_cap(self) -> str | None:
        """Remove what there is no room for."""
        folder, cap = self._folder, self._settings.cap_mib * MIB
        error = None
        if self._ages.look(now := self._machine()):
            dates = {each.first: now - self._ages.of(each.first) for each in folder.segments}
            await self._attempt(lambda: folder.date(dates))
        for segment in folder.segments[: surplus(folder.segments, folder.size, cap, self._old)]:
            through = self._through
            error = await self._drop_segment()
            if error is not None:  # and nothing is gone: it is counted when it is
                return error
            if segment.last > through:
                self._lose_for_room(segment.rows, f"{segment.first} to {segment.last}")
        while not error and not self._asking and not folder.segments and folder.waiting and folder.size > cap:
            file = folder.waiting[0]
            error = await self._drop(lambda: folder.drop_waiting(self._now_ms()))
            if error is None:
                self._lose_for_room(file.lines, f"{file.first} to {file.first + file.lines - 1}")
            self._release()
        return error

    def _old(self, segment: Manifest) -> bool:
        return self._ages.of(segment.first) > self._settings.cap_age_s

    async def _drop_segment(self) -> str | None:
        first = self._folder.segments[0].first
        error = await self._drop(partial(self._folder.drop_segment, self._through))
        if error is None:
            self._ages.gone(first)
        return error

    async def _drop(self, drop: Callable[[], list[Loss]]) -> str | None:
        untold: list[Loss] = []
        error = await self._attempt(lambda: untold.extend(drop()))
        for each in untold:
            self._pending.lose(each)
        return error

    def _lose(self, reason: Reason, records: int) -> None:
        self.lost[reason] += records
        self.lost_here += records

    def _lose_for_room(self, records: int, which: str) -> None:
        self._lose("cap", records)
        self.log.warn("request logs {which} are removed before a node has them: there is no room", which=which)

    # sealing

    def _seal(self) -> None:
        if self._ready and self._folder.waiting and not self._sealing and not self._stopped:
            self._sealing = True
            self._tasks.spawn(self._seal_all(), "sealing request logs")

    async def _seal_all(self) -> None:
        wait_s = RETRY_FIRST_S
        try:
            while self._folder.waiting and not self._stopped:
                error = await self._seal_next()
                if self._stopped:
                    return
                if self._sealing_news.fresh(error or ""):
                    self.log.warn("request logs are not sealed: {why}; it is tried again", why=error)
                if error is None:
                    wait_s = RETRY_FIRST_S
                    continue
                await self._rest("sealing", wait_s)
                wait_s = min(2 * wait_s, RETRY_CAP_S)
        finally:
            self._sealing = False

    async def _seal_next(self) -> str | None:
        async with self._files:  # one that has to go for want of room is gone by then, and none goes from then on
            if not self._folder.waiting or self._stopped:
                return None
            self._asking = True
        try:
            return await self._seal_one(self._folder.waiting[0])
        finally:
            self._asking = False

    async def _seal_one(self, file: OpenFile) -> str | None:
        order = Order(
            folder=str(self._folder.path),
            first=file.first,
            lines=file.lines,
            size=file.size,
            engine=self._engine,
            generation=self._generation,
            losses=file.losses,
        )
        try:
            answer = await self._sealer.seal(order)
            async with self._files:
                if self._stopped:
                    return None
                error = await self._attempt(lambda: self._folder.sealed(file, answer.manifest, answer.gaps))
        except AvinetError as failed:
            return str(failed)
        if error is None and answer.manifest is not None:
            self._ages.came(answer.manifest.first)
        if error is None and answer.unfit:
            self._lose("parse", answer.unfit)
            self.log.warn("{count} lines of request logs were no records", count=answer.unfit)
        self._release()
        return error

    def _release(self) -> None:
        for file, waiter in list(self._waiters):
            if file not in self._folder.waiting and not waiter.called:
                waiter.callback(None)

    # the rest

    async def _attempt(self, work: Callable[[], Any]) -> str | None:
        """Run `work` off the reactor's thread; why it could not be done."""
        try:
            await self._in_thread(work)
        except OSError as error:
            return str(cannot("write the request logs in", self._folder.path, error))
        except AvinetError as error:
            return str(error)
        return None

    def _tell(self, error: str | None) -> None:
        if self._news.fresh(error or ""):
            self.log.warn("{why}; what there is no room for is counted as a gap", why=error)

    async def _rest(self, what: str, seconds: float) -> None:
        """Wait, unless somebody is in a hurry."""
        if self._stopped:
            return
        resting = self._resting[what] = Deferred()
        timer = self._clock.callLater(seconds, self._hurry, what)
        try:
            await resting
        finally:
            if timer.active():
                timer.cancel()

    def _hurry(self, what: str) -> None:
        resting = self._resting.pop(what, None)
        if resting is not None and not resting.called:
            resting.callback(None)

    def _now_ms(self) -> int:
        return int(self._wall() * 1000)
