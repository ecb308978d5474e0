"""What an archive keeps: by bytes and by age, looked after by a thread, so that it stays within its settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from avinet.aio import News, pause
from avinet.errors import AvinetError
from avinet.logs.archive.archive import Archive
from avinet.logs.pull.incoming import Incoming
from avinet.units import format_bytes

EVERY_S = 60.0


class Retention:
    """Keeps `archive` within `limit_bytes` and `age_s`, and `incoming` without what nobody goes on with."""

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        archive: Archive,
        incoming: Incoming,
        in_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
        now: Callable[[], float],
        limit_bytes: int,
        age_s: float,
    ) -> None:
        self._clock = clock
        self._archive = archive
        self._incoming = incoming
        self._in_thread = in_thread
        self._now = now
        self._limit_bytes = limit_bytes
        self._age_s = age_s
        self._news = News()

    async def keep(self) -> None:
        """Look after it, for ever."""
        while True:
            await self.look()
            await pause(self._clock, EVERY_S)

    async def look(self) -> None:
        """Remove what is too old or too much. What goes wrong is logged."""
        now = self._now()

        def work() -> tuple[int, int]:
            self._incoming.sweep(now)
            removed = self._archive.retain(self._limit_bytes, int((now - self._age_s) * 1000))
            return len(removed), sum(each.bytes for each in removed)

        try:
            count, size = await self._in_thread(work)
        except (AvinetError, OSError) as error:
            if self._news.fresh(str(error)):
                self.log.warn("the archive of request logs is not kept within its limits: {why}", why=str(error))
            return
        self._news.fresh("")
        if count:
            self.log.info(
                "{count} segments of request logs ({size}) were removed from the archive: too old, or too many",
                count=count,
                size=format_bytes(size),
            )
