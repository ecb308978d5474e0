"""A spool keeps within its room and its time: what is too much goes, the oldest first, and is told of as a gap."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from twisted.logger import Logger

from avinet.logs.spool.ages import Ages
from avinet.logs.spool.disk import Disk
from avinet.logs.spool.losses import Loss
from avinet.logs.spool.pending import Pending
from avinet.logs.spool.room import surplus
from avinet.logs.spool.sealing import Sealing
from avinet.logs.spool.settings import MIB, SpoolSettings
from avinet.wire.segment import Manifest


class Cap:
    """Removes from `disk` what there is no room for; what cannot be told of there waits in `pending`.

    `through` tells up to which number records are safe elsewhere, `now_ms` the time, and `machine` what the clock has
    by which files are dated. `lose` is told how many records are gone before they were safe.
    """

    log = Logger()

    def __init__(
        self,
        disk: Disk,
        settings: SpoolSettings,
        pending: Pending,
        sealing: Sealing,
        through: Callable[[], int],
        lose: Callable[[int], None],
        now_ms: Callable[[], int],
        machine: Callable[[], float],
    ) -> None:
        self._disk = disk
        self._settings = settings
        self._pending = pending
        self._sealing = sealing
        self._through = through
        self._lose = lose
        self._now_ms = now_ms
        self._machine = machine
        self._ages = Ages({}, machine())

    def start(self) -> None:
        """From now on those that were there at the start grow older."""
        self._ages = Ages(self._disk.folder.dated, self._machine())

    def came(self, manifest: Manifest) -> None:
        """A segment was sealed just now."""
        self._ages.came(manifest.first)

    async def keep(self) -> str | None:
        """Remove what is too much; why that could not be done."""
        folder, most = self._disk.folder, self._settings.cap_mib * MIB
        error = None
        if self._ages.look(now := self._machine()):
            dates = {each.first: now - self._ages.of(each.first) for each in folder.segments}
            await self._disk.attempt(lambda: folder.date(dates))
        for segment in folder.segments[: surplus(folder.segments, folder.size, most, self._old)]:
            through = self._through()
            error = await self.drop_oldest()
            if error is not None:  # and nothing is gone: it is counted when it is
                return error
            if segment.last > through:
                self._gone(segment.rows, f"{segment.first} to {segment.last}")
        while not error and not self._sealing.asking and not folder.segments and folder.waiting and folder.size > most:
            file = folder.waiting[0]
            error = await self._drop(lambda: folder.drop_waiting(self._now_ms()))
            if error is None:
                self._gone(file.lines, f"{file.first} to {file.first + file.lines - 1}")
            self._sealing.release()
        return error

    async def drop_oldest(self) -> str | None:
        """Remove the oldest segment; why that could not be done."""
        folder = self._disk.folder
        first = folder.segments[0].first
        error = await self._drop(partial(folder.drop_segment, self._through()))
        if error is None:
            self._ages.gone(first)
        return error

    async def _drop(self, drop: Callable[[], list[Loss]]) -> str | None:
        untold: list[Loss] = []
        error = await self._disk.attempt(lambda: untold.extend(drop()))
        for each in untold:
            self._pending.lose(each)
        return error

    def _old(self, segment: Manifest) -> bool:
        return self._ages.of(segment.first) > self._settings.cap_age_s

    def _gone(self, records: int, which: str) -> None:
        self._lose(records)
        self.log.warn("request logs {which} are removed before a node has them: there is no room", which=which)
