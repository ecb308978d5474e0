"""The `logs` service of a service engine: what a node, or curl through a stock tunnel, reads of its request logs.

Reading changes nothing, and is not signed. Sealing, and letting go of what is safe, are.
"""

from __future__ import annotations

import os
import re
import stat
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol

from twisted.internet.defer import Deferred

from avinet.aio import as_deferred
from avinet.errors import Damaged, Gone, Invalid, LocalError, NotFound
from avinet.files import cannot
from avinet.logs.pull.offering import Safe, page
from avinet.logs.spool.disk import InThread
from avinet.logs.spool.spool import Spool
from avinet.rest import ranges
from avinet.rest.answering import DoorLimits
from avinet.rest.problems import problem, rendered
from avinet.rest.route import Reply, Request, Route
from avinet.rest.streaming import Bulk
from avinet.wire.pull import Acknowledged, Acknowledgement, SealedThrough, SegmentPage
from avinet.wire.segment import NAME_LENGTH, Manifest

LIMITS = DoorLimits(connections=16, stalled_s=120.0)
READ_BYTES = 1024 * 1024
"""What is read of a file in one turn of a thread, the next of it while this one is sent."""
PIECE_BYTES = 256 * 1024
"""What is put into the tunnel at once: little enough for commands to overtake it."""
_NAME = re.compile(r"([0-9]{1,19})-([0-9]{1,19})\Z")
_LONGEST_MS = 2**53 - 1
_LONGEST_NUMBER = 10**18 - 1
PARQUET = "application/vnd.apache.parquet"


class Authority(Protocol):
    """Decides whether a request comes from a node that may ask for it now."""

    def check(self, request: Request) -> str:
        """The node's id. Raises `Unauthenticated` for a bad signature, `Conflict` for a fence that is too low."""


class LogService:
    """What is asked of `spool`, None where none is kept. `in_thread` runs what waits for the disk."""

    def __init__(self, spool: Callable[[], Spool | None], authority: Authority, in_thread: InThread) -> None:
        self._kept = spool
        self._authority = authority
        self._in_thread = in_thread
        self._safe = Safe()

    @property
    def _spool(self) -> Spool:
        spool = self._kept()
        if spool is None:
            raise NotFound(
                "this service engine keeps no request logs",
                hint="install avinet[analytics] there, and see the setting spool.keep",
            )
        return spool

    async def segments(self, request: Request) -> Reply:
        """The next of its segments."""
        spool = self._spool
        since, until = (
            request.number(name, 0, _LONGEST_MS) if name in request.query else None for name in ("since", "until")
        )
        service = request.query.get("service", "")
        if len(service) > NAME_LENGTH:
            raise Invalid(f"the query parameter service has more than {NAME_LENGTH} characters")
        found = page(
            spool.segments(),
            spool.acknowledged,
            after=request.number("after", 0, _LONGEST_NUMBER),
            since_ms=since,
            until_ms=until,
            service=service,
            gone=spool.gone,
        )
        return Reply(200, found)

    async def segment(self, request: Request) -> Reply | Bulk:
        """The file of one, or some of its bytes."""
        spool = self._spool
        manifest = _named(spool, request.arguments["name"])
        etag = f'"{manifest.sha256}"'
        headers = {"etag": etag, "accept-ranges": "bytes", "content-type": PARQUET}
        try:
            part = ranges.wanted(request.headers, manifest.bytes, etag)
        except ranges.Unsatisfiable:
            status, said, body = rendered(problem(416, f"the segment has {manifest.bytes} bytes"))
            return Reply(status, body, {**headers, **said, "content-range": f"bytes */{manifest.bytes}"})
        first, end = part or (0, manifest.bytes)
        path = spool.parquet(manifest)
        file = await self._in_thread(lambda: _File(path, manifest))
        if part is not None:
            headers["content-range"] = ranges.content_range(first, end, manifest.bytes)
        pieces = self._pieces(file, first, end)
        await anext(pieces)  # from now on it closes the file, also if nobody is there any more to take the rest
        return Bulk(pieces, end - first, 200 if part is None else 206, headers)

    async def _pieces(self, file: _File, at: int, end: int) -> AsyncGenerator[bytes, None]:
        """Nothing, then the bytes of an open file, which is closed in the end; some are read while others go."""

        def read(at: int) -> Deferred[bytes]:
            return as_deferred(self._in_thread(lambda: file.read(at, min(READ_BYTES, end - at))))

        reading: Deferred[bytes] | None = None
        try:
            yield b""
            reading = read(at)
            while reading is not None:
                data = await reading
                if not data:
                    raise Damaged("a segment is shorter than it was")
                at += len(data)
                reading = read(at) if at < end else None
                for place in range(0, len(data), PIECE_BYTES):
                    yield data[place : place + PIECE_BYTES]
        finally:
            if reading is not None:
                reading.addErrback(lambda _: None)
                reading.cancel()
            as_deferred(self._in_thread(file.close)).addErrback(lambda _: None)

    async def seal(self, request: Request) -> Reply:
        """Seal what was taken until now."""
        spool = self._spool
        await spool.seal_now()
        there = spool.segments()
        return Reply(200, SealedThrough(last=there[-1].last if there else 0))

    async def acknowledge(self, request: Request) -> Reply:
        """Segments are safe on a node: they may go first."""
        spool = self._spool
        said = request.decoded(Acknowledgement)
        spool.acknowledge(self._safe.through(spool.segments(), spool.acknowledged, said.segments))
        return Reply(200, Acknowledged(acknowledged=spool.acknowledged))

    def signed(self, answer: Callable[[Request], Awaitable[Reply]]) -> Callable[[Request], Awaitable[Reply]]:
        """`answer`, for those alone who may change something."""

        async def checked(request: Request) -> Reply:
            self._authority.check(request)
            return await answer(request)

        return checked


def _named(spool: Spool, name: str) -> Manifest:
    found = _NAME.match(name)
    if found is None:
        raise NotFound("there is no such segment", hint="its name is FIRST-LAST")
    first, last = int(found[1]), int(found[2])
    for each in spool.segments(first - 1):
        if (each.first, each.last) == (first, last):
            return each
        if each.first > first:
            break
    raise NotFound(f"there is no segment {first}-{last}", hint="it may have had to go: there was no room for it")


class _File:
    """An open file; it is closed when no thread reads it any more."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._reading = threading.Lock()
        self._closed = False
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise Gone(f"the segment {manifest.first}-{manifest.last} had to go: there was no room for it") from error
        except OSError as error:
            raise cannot("read", path, error) from error
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size != manifest.bytes:
            self.close()
            raise Damaged(f"the segment {manifest.first}-{manifest.last} is not as long as its manifest says")

    def read(self, at: int, size: int) -> bytes:
        """Up to `size` bytes from `at` on. Raises `LocalError`."""
        with self._reading:
            try:
                return b"" if self._closed else os.pread(self._descriptor, size, at)
            except OSError as error:
                raise LocalError(f"a segment cannot be read: {error.strerror}") from error

    def close(self) -> None:
        """Read no more."""
        with self._reading:
            if not self._closed:
                self._closed = True
                os.close(self._descriptor)


def log_routes(service: LogService) -> Sequence[Route]:
    """The routes of the `logs` service."""
    return [
        Route(
            "GET",
            "/v1/log-segments",
            service.segments,
            "The next segments of request logs",
            gives=SegmentPage,
            query=("after", "since", "until", "service"),
        ),
        Route("GET", "/v1/log-segments/<name>", service.segment, "The Parquet file of a segment", gives=bytes),
        Route("POST", "/v1/log-sealings", service.signed(service.seal), "Seal what there is now", gives=SealedThrough),
        Route(
            "POST",
            "/v1/log-acknowledgements",
            service.signed(service.acknowledge),
            "Segments are safe on a node",
            Acknowledgement,
            Acknowledged,
            limit_bytes=256 * 1024,
        ),
    ]
