"""The rollups of a node: what is reported is gathered in memory, and each slot is written in a thread when it is over.

A disk that is full or slow costs slots, and never the node: that is told once, and goes on with the next slot.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from avinet.aio import News, Slots, pause
from avinet.errors import Damaged, LocalError
from avinet.telemetry.rollups.file import ENGINES, FLEET, SeriesFile, set_aside
from avinet.telemetry.rollups.reading import Found, Wanted, read
from avinet.telemetry.rollups.settings import MIB, RollupSettings
from avinet.telemetry.rollups.slot import Slot, slot_at
from avinet.telemetry.rollups.sums import FINE_S, PARTS
from avinet.wire.report import Report

T = TypeVar("T")
WAITING = 3
"""The slots that wait for a slow disk; of more, the oldest is lost."""
REST_S = 0.05
"""Between two pieces of work in the thread, the node has its turn."""
READERS = 2
"""How many are answered at once; others wait."""


class Rollups:
    """See the module. `now` is the time of day, `in_thread` does what blocks; the file is in `folder`."""

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        folder: Path,
        settings: RollupSettings,
        in_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
        now: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._folder = folder
        self._settings = settings
        self._in_thread = in_thread
        self._now = now
        self._file: SeriesFile | None = None
        self._slot = Slot(slot_at(now()))
        self._waiting: deque[Slot] = deque()
        self._one = DeferredLock()
        self._readers = Slots(READERS)
        self._news = News()
        self._stopped = False

    @property
    def fine_age_s(self) -> float:
        """How long slots of 10 s are kept."""
        return self._settings.fine_age_s

    async def start(self) -> dict[str, tuple[str, int]]:
        """Open the file, or say why there is none yet; the last report of each service engine that was counted."""
        found: dict[str, tuple[str, int]] = {}

        def look() -> None:
            found.update(self._opened().recent())

        await self._try(look)
        return found

    def take(self, id: str, report: Report) -> None:
        """One more report of service engine `id`, which was not counted before."""
        self._turn()
        self._slot.take(id, report)

    def _turn(self) -> None:
        """Begin another slot, when it is time. A clock that was set back begins one, too."""
        at = slot_at(self._now())
        if at == self._slot.at:
            return
        over, self._slot = self._slot, Slot(at)
        if over.left_out:
            self.log.warn("reports are too large for the rollups: {count} were left out in 10 s", count=over.left_out)
        if over:
            self._waiting.append(over)
        if len(self._waiting) > WAITING:
            lost = self._waiting.popleft()
            self.log.warn("the disk is too slow for the rollups: the slot at {at} is lost", at=lost.at)

    async def keep(self) -> None:
        """Write each slot when it is over, make the coarse tier, and forget what is old; without end."""
        while True:
            now = self._now()
            await pause(self._clock, slot_at(now) + FINE_S - now)
            self._turn()
            await self.flush()
            await self._make_coarse()

    async def flush(self) -> None:
        """Write the slots that are over."""
        while self._waiting:
            slot = self._waiting.popleft()
            if await self._try(lambda slot=slot: self._opened().write(slot.at, slot.engines())):  # type: ignore[misc]
                self._news.fresh("")

    async def stop(self) -> None:
        """Write what there is of the slot of now, too, and close the file."""
        if self._slot:
            self._waiting.append(self._slot)
            self._slot = Slot(self._slot.at)
        await self.flush()
        await self._one.acquire()
        self._stopped = True
        file, self._file = self._file, None
        if file is not None:
            await self._in_thread(file.close)
        self._one.release()

    async def _make_coarse(self) -> None:
        """In pieces: each is one part of one slot."""
        now = slot_at(self._now())
        due = await self._try(lambda: self._opened().due(now))
        for at in due or ():
            if not await self._make_one(at):
                return  # another time
        if due:
            fine, coarse = int(now - self._settings.fine_age_s), int(now - self._settings.coarse_age_s)
            await self._try(lambda: self._opened().trim(fine, coarse))

    async def _make_one(self, at: int) -> bool:
        """Make one slot of the coarse tier. Whether that is done."""
        for kind in (ENGINES, FLEET):
            for part in range(PARTS):
                if not await self._try(lambda p=(at, kind, part): self._opened().make_coarse(*p)):  # type: ignore[misc]
                    return False
                await pause(self._clock, REST_S)
                self._turn()
            await self.flush()
        return bool(await self._try(lambda: self._opened().finish_coarse(at)))

    # In the thread, one thing at a time

    def _opened(self) -> SeriesFile:
        """The file, which is opened when it is not. For the thread."""
        if self._file is None:
            self._file = SeriesFile(self._folder, self._settings.cap_mib * MIB)
        return self._file

    async def _try(self, work: Callable[[], T]) -> T | None:
        """Do `work` in the thread; None when it could not be done, of which the operator is told once.

        A damaged file is moved out of the way first, and the work done with a new one.
        """
        await self._one.acquire()
        try:
            if self._stopped:
                return None
            try:
                done: T = await self._in_thread(work)
            except Damaged as error:
                await self._set_aside(error)
                done = await self._in_thread(work)
        except LocalError as error:
            if self._news.fresh(str(error)):
                self.log.error("rollups are not kept now: {why}", why=str(error))
            return None
        finally:
            self._one.release()
        return done

    async def _set_aside(self, error: Damaged) -> None:
        def move() -> Path:
            file, self._file = self._file, None
            if file is not None:
                file.close()
            return set_aside(self._folder)

        aside = await self._in_thread(move)
        self.log.error("{why}; they begin anew, and {aside} has what there was", why=str(error), aside=aside)

    # Read

    async def read(self, wanted: Wanted) -> Found:
        """What was asked for. Raises `TooLarge`, `TimedOut`, or `LocalError`; what is damaged is set aside."""
        async with self._readers:
            file = self._file
            try:
                found: Found = await self._in_thread(lambda: read(self._folder, wanted, self._clock_of_reading))
            except Damaged as error:
                await self._found_damaged(file, error)
                raise
            return found

    async def _found_damaged(self, file: SeriesFile | None, error: Damaged) -> None:
        """Set `file` aside, unless that was done already."""
        await self._one.acquire()
        try:
            if self._file is file and not self._stopped:
                await self._set_aside(error)
        except LocalError as failure:
            self.log.error("{why}", why=str(failure))
        finally:
            self._one.release()

    def _clock_of_reading(self) -> float:
        """For the thread: what is still read when the node stops is given up."""
        return math.inf if self._stopped else time.monotonic()
