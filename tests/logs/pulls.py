"""A real spool behind its real door, in memory, as a node pulls from it into a real archive; and what it tells."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from avinet.aio import Tasks, as_deferred
from avinet.errors import Unavailable
from avinet.logs.archive.archive import Archive
from avinet.logs.pull.incoming import FOLDER, Incoming
from avinet.logs.pull.puller import Puller
from avinet.logs.pull.source import OutOfBudget
from avinet.logs.pull.turns import Turn, Turns
from avinet.logs.spool.settings import SpoolSettings
from avinet.rest.client import Client
from avinet.rest.door import Door
from avinet.rest.pieces import Pieces
from avinet.rest.route import Request
from avinet.rest.table import Table
from avinet.se.logs import LogService, log_routes
from avinet.wire.pull import PAGE_LIMIT_BYTES, Acknowledgement, SegmentPage
from avinet.wire.segment import Manifest
from tests.logs.spooling import Spooling, at_once, lines
from tests.rest.test_door import Endpoint, Network


class Believing:
    """Takes every request for that of a node."""

    def check(self, request: Request) -> str:
        return "node-1"


class Engine:
    """The service engine se-1, in its third generation; a `Source` that a test may have lie or break off."""

    engine, generation = "se-1", 3

    def __init__(self, folder: Path, clock: Clock, tasks: Tasks, *, rows: int = 100) -> None:
        self.clock = clock
        self.spooling = Spooling(folder, settings=SpoolSettings(segment_rows=rows), clock=clock)
        service = LogService(lambda: self.spooling.spool, Believing(), at_once)
        self.network = Network(clock, Door(clock, Table(log_routes(service)), tasks=tasks))
        self.client = Client(clock, Endpoint(self.network), authority="logs", where="service engine se-1")
        self.opened: list[tuple[int, int]] = []
        """Of which segment, by its first number, and from which byte on, a file was asked for."""
        self.breaks: list[int] = []
        """After how many bytes of them the next files are broken off."""
        self.page_of: Callable[[SegmentPage], SegmentPage] = lambda page: page
        self.pieces_of: Callable[[Pieces], Pieces] = lambda pieces: pieces
        self.acknowledging: list[Exception] = []

    def sealed(self, *counts: int) -> list[Manifest]:
        """Segments of so many records each."""
        begin = sum(each.rows for each in self.spooling.manifests)
        for count in counts:
            self.spooling.spool.append(lines(range(begin + 1, begin + count + 1)))
            begin += count
            self.spooling.seal_now()
        return self.spooling.manifests

    def file(self, manifest: Manifest) -> Path:
        return self.spooling.spool.parquet(manifest)

    async def _pumped(self, work: Any) -> Any:
        asked = as_deferred(work)
        self.network.pump()
        return await asked

    async def seal(self) -> None:
        await self._pumped(self.client.request("POST", "/v1/log-sealings"))

    async def page(self, after: int) -> tuple[SegmentPage, int]:
        path = f"/v1/log-segments?after={after}"
        answer = await self._pumped(self.client.request("GET", path, limit_bytes=PAGE_LIMIT_BYTES))
        return self.page_of(answer.decoded(SegmentPage, PAGE_LIMIT_BYTES)), len(answer.body)

    def wanted(self, manifest: Manifest) -> bool:
        return True

    async def open(self, manifest: Manifest, at: int) -> Pieces:
        self.opened.append((manifest.first, at))
        headers = {"range": f"bytes={at}-", "if-range": f'"{manifest.sha256}"'} if at else {}
        path = f"/v1/log-segments/{manifest.first}-{manifest.last}"
        pieces: Pieces = await self._pumped(self.client.body(path, headers=headers))
        if self.breaks:
            return _Cut(pieces, self.breaks.pop(0))  # type: ignore[return-value]
        return self.pieces_of(pieces)

    async def acknowledge(self, said: Acknowledgement) -> None:
        if self.acknowledging:
            raise self.acknowledging.pop(0)
        await self._pumped(self.client.request("POST", "/v1/log-acknowledgements", said))


class _Cut:
    """What is lost with its tunnel after some bytes."""

    def __init__(self, pieces: Pieces, after: int) -> None:
        self.status, self.headers, self.length = pieces.status, pieces.headers, pieces.length
        self._pieces, self._left = pieces, after

    async def take(self) -> list[bytes]:
        if not self._left:
            raise Unavailable("the tunnel is lost")
        taken = b"".join(await self._pieces.take())[: self._left]
        self._left -= len(taken)
        return [taken]

    def abort(self) -> None:
        self._pieces.abort()


class Told:
    """A `Course` that keeps what it is told."""

    def __init__(self, budget: int | None = None) -> None:
        self.segments = self.size = self.bytes = self.known = 0
        self.had = self.stored = self.was_here = 0
        self.missing: Sequence[tuple[int, int]] = ()
        self.no: list[str] = []
        self.problems: list[str] = []
        self.budget = budget
        self.turns = Turns(1, lambda: 0.0)

    def listed(self, segments: int, size: int, missing: Sequence[tuple[int, int]]) -> None:
        self.segments, self.size, self.missing, self.known, self.had = segments, size, missing, 0, 0

    def there(self, size: int) -> None:
        self.known += size

    def kept(self) -> None:
        self.had += 1

    def removed(self, size: int) -> None:
        self.was_here += 1

    def archived(self) -> None:
        self.stored += 1

    def arrived(self, count: int) -> None:
        self.bytes += count

    def refused(self, why: str) -> None:
        self.no.append(why)

    def problem(self, why: str) -> None:
        self.problems.append(why)

    def reserve(self, size: int) -> Callable[[int], None]:
        if self.budget is not None and size > self.budget:
            raise OutOfBudget(f"{size} bytes are more than are left of the budget")
        if self.budget is not None:
            self.budget -= size
        return self._spent(size)

    def _spent(self, size: int) -> Callable[[int], None]:
        def spent(came: int) -> None:
            if self.budget is not None:
                self.budget += size - came

        return spent

    def turn(self) -> Turn:
        return self.turns.one()


class Here:
    """The node's end: its archive in `folder`."""

    def __init__(self, folder: Path, *, spare_bytes: int = 0) -> None:
        os.makedirs(folder, exist_ok=True)
        self.archive = Archive(folder)
        self.incoming = Incoming(folder, spare_bytes)
        self.puller = Puller(self.archive, self.incoming, at_once)

    def pull(self, engine: Engine, course: Told, *, again: bool = False) -> Deferred[None]:
        return as_deferred(self.puller.pull(engine, course, again=again))

    def files(self) -> list[str]:
        """The segments that are in the archive, by their numbers."""
        return sorted(each.stem for each in self.archive.folder.glob("se-1/*/*/*.json"))

    def parts(self) -> list[Path]:
        """What has not all come yet."""
        return sorted((self.archive.folder / FOLDER).glob("*.part"))
