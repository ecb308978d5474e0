"""A spool on real files, with a clock of the test's, whose sealer works in the test's own process."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock

from avinet.aio import Tasks, as_deferred
from avinet.errors import LocalError
from avinet.logs.spool.orders import Order, Sealed
from avinet.logs.spool.sealer import answered
from avinet.logs.spool.settings import SpoolSettings
from avinet.logs.spool.spool import Spool
from avinet.wire.segment import Gap, Manifest

START_S = 1_795_000_000.0
T = int(START_S * 1000)


def line(number: int, **more: object) -> bytes:
    """A record whose path is its `number`."""
    return json.dumps({"t": T + number, "s": "shop", "u": f"/{number}", "st": 200, **more}).encode()


def lines(numbers: Iterable[int]) -> list[bytes]:
    """One record for each of `numbers`."""
    return [line(number) for number in numbers]


class Here:
    """A sealer without a process of its own; `held` has it wait, `broken` has it fail."""

    def __init__(self) -> None:
        self.broken = ""
        self.held: Deferred[None] | None = None
        self.orders: list[Order] = []

    async def seal(self, order: Order) -> Sealed:
        self.orders.append(order)
        if self.held is not None:
            await self.held
        if self.broken:
            raise LocalError(self.broken)
        answer = answered(order)
        if answer.error:
            raise LocalError(answer.error)
        return answer

    async def stop(self) -> None:
        if self.held is not None and not self.held.called:
            self.held.errback(LocalError("stopped"))


def at_once(work: Callable[[], Any]) -> Awaitable[Any]:
    """Run `work` where it is called from."""
    return maybeDeferred(work)


class Spooling:
    """A spool at work in `folder`."""

    def __init__(
        self,
        folder: Path,
        *,
        settings: SpoolSettings | None = None,
        clock: Clock | None = None,
        start: bool = True,
        set_s: float = 0.0,
    ) -> None:
        self.folder = folder
        self.clock = clock or Clock()
        self.sealer = Here()
        self.tasks = Tasks()
        self.set_s = set_s
        """By how much the clock of the machine was set since."""
        self.spool = Spool(
            self.clock,
            folder,
            settings or SpoolSettings(),
            self.sealer,
            at_once,
            self.now,
            self.now,
            self.tasks,
        )
        if start:
            self.start()

    def now(self) -> float:
        return START_S + self.set_s + self.clock.seconds()

    def start(self) -> None:
        """Have the spool begin."""
        self.spool.start("se-1", 3)

    def later(self, seconds: float = 1.0) -> None:
        """Let time pass, in steps of a quarter of a second."""
        for _ in range(int(seconds * 4)):
            self.clock.advance(0.25)

    def seal_now(self) -> Deferred[None]:
        return as_deferred(self.spool.seal_now())

    def stop(self) -> None:
        """End in order."""
        stopped: list[object] = []
        as_deferred(self.spool.stop()).addBoth(stopped.append)
        assert stopped == [None], stopped
        self.tasks.stop()

    def kill(self) -> None:
        """End as if killed: nothing more is written."""
        self.tasks.stop()
        if hasattr(self.spool._folder, "file"):
            self.spool._folder.file.close()

    @property
    def manifests(self) -> list[Manifest]:
        return self.spool.segments()

    @property
    def gaps(self) -> list[Gap]:
        """All that is told of in segments."""
        return [gap for manifest in self.manifests for gap in manifest.gaps]

    def rows(self, *columns: str) -> list[tuple[Any, ...]]:
        """What is in all segments, in their order."""
        import duckdb

        chosen = ", ".join(columns or ("seq", "path"))
        result: list[tuple[Any, ...]] = []
        for manifest in self.manifests:
            result += duckdb.sql(f"SELECT {chosen} FROM '{self.spool.parquet(manifest)}'").fetchall()
        return result
