"""What waits in a spool to be sealed is: one file after the other, again and again where it cannot be."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from avinet.aio import News, Tasks, within
from avinet.errors import AvinetError, TimedOut, Unavailable
from avinet.feed import Bell
from avinet.logs.spool.disk import Disk
from avinet.logs.spool.openfile import OpenFile
from avinet.logs.spool.orders import Order, Sealed
from avinet.logs.spool.sealer_client import Sealer

RETRY_FIRST_S, RETRY_CAP_S = 1.0, 60.0
"""How long sealing waits after it has failed: doubled each time."""


class Sealing:
    """Has `sealer` seal what waits on `disk`, for the service engine and the generation that `owner` tells.

    `sealed` is told of each file that is, or of which nothing was left. Stop it before `tasks` are.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        disk: Disk,
        sealer: Sealer,
        owner: Callable[[], tuple[str, int]],
        sealed: Callable[[Sealed], None],
        tasks: Tasks,
    ) -> None:
        self._clock = clock
        self._disk = disk
        self._sealer = sealer
        self._owner = owner
        self._sealed = sealed
        self._tasks = tasks
        self._news = News()
        self._bell = Bell()
        self._waiters: list[tuple[OpenFile, Deferred[None]]] = []
        self._runs = self._stopped = False
        self.asking = False
        """Whether the sealer is at the oldest of what waits, which may not go then."""

    def begin(self) -> None:
        """Seal what waits, if nobody is at it."""
        if self._disk.folder.waiting and not self._runs and not self._stopped:
            self._runs = True
            self._tasks.spawn(self._run(), "sealing request logs")

    async def through(self, file: OpenFile, deadline_s: float) -> None:
        """Done when `file`, which waits, is sealed. Raises `TimedOut`, and `Unavailable` at the end."""
        sealed: Deferred[None] = Deferred()
        entry = (file, sealed)
        self._waiters.append(entry)
        self.begin()
        self._bell.ring()
        try:
            await within(self._clock, deadline_s, sealed, "sealing")
        finally:
            with contextlib.suppress(ValueError):
                self._waiters.remove(entry)

    def release(self) -> None:
        """Tell those whose file does not wait any more."""
        for file, waiter in list(self._waiters):
            if file not in self._disk.folder.waiting and not waiter.called:
                waiter.callback(None)

    async def stop(self) -> None:
        """End what is under way; what is not sealed is, at the next start."""
        self._stopped = True
        self._bell.ring()
        await self._sealer.stop()

    def give_up(self) -> None:
        """It is stopped: who waits need not any more."""
        for _, waiter in list(self._waiters):
            waiter.errback(Unavailable("the spool of request logs was stopped"))

    async def _run(self) -> None:
        wait_s = RETRY_FIRST_S
        try:
            while self._disk.folder.waiting and not self._stopped:
                error = await self._next()
                if self._stopped:
                    return
                if self._news.fresh(error or ""):
                    self.log.warn("request logs are not sealed: {why}; it is tried again", why=error)
                if error is None:
                    wait_s = RETRY_FIRST_S
                    continue
                with contextlib.suppress(TimedOut):
                    await within(self._clock, wait_s, self._bell.wait(), "anybody")
                wait_s = min(2 * wait_s, RETRY_CAP_S)
        finally:
            self._runs = False

    async def _next(self) -> str | None:
        async with self._disk.turn:  # one that has to go for want of room is gone by then, and none goes from then on
            if not self._disk.folder.waiting or self._stopped:
                return None
            self.asking = True
        try:
            return await self._seal(self._disk.folder.waiting[0])
        finally:
            self.asking = False

    async def _seal(self, file: OpenFile) -> str | None:
        engine, generation = self._owner()
        order = Order(
            folder=str(self._disk.folder.path),
            first=file.first,
            lines=file.lines,
            size=file.size,
            engine=engine,
            generation=generation,
            losses=file.losses,
        )
        try:
            answer = await self._sealer.seal(order)
            async with self._disk.turn:
                if self._stopped:
                    return None
                error = await self._disk.attempt(lambda: self._disk.folder.sealed(file, answer.manifest, answer.gaps))
        except AvinetError as failed:
            return str(failed)
        if error is None:
            self._sealed(answer)
        self.release()
        return error
