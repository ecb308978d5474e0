"""Fetches the segments of one service engine into the archive: checked, whole, each once, and said to be safe then.

Nobody holds more of a segment in memory than what has arrived while the last of it was written. While one is made
durable, which is a matter of the disk, the next one comes already.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from avinet.aio import CANCELLED, as_deferred, to_the_end
from avinet.errors import AvinetError, LocalError, PeerError, Unavailable
from avinet.logs.archive.archive import Archive
from avinet.logs.pull.incoming import Incoming, Part
from avinet.logs.pull.listing import Listing
from avinet.logs.pull.source import Course, OutOfBudget, Source
from avinet.logs.pull.turns import Turn
from avinet.rest.pieces import Pieces
from avinet.rest.ranges import read_content_range
from avinet.wire.pull import VOUCHED, Acknowledgement, Vouched
from avinet.wire.segment import Manifest, manifest_bytes

InThread = Callable[[Callable[[], Any]], Awaitable[Any]]


class Puller:
    """Pulls into `archive`, by way of `incoming`. `in_thread` runs what waits for the disk."""

    log = Logger()

    def __init__(self, archive: Archive, incoming: Incoming, in_thread: InThread) -> None:
        self._archive = archive
        self._incoming = incoming
        self._thread = in_thread

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        """What `work` returns. A thread that is at a file stays at it, whoever is cancelled meanwhile."""
        return await to_the_end(self._thread(work))

    async def pull(self, source: Source, course: Course, *, again: bool = False) -> None:
        """Fetch all segments that `source` lists. What is in the archive already is not fetched, and what has been
        there and was removed only if it is wanted `again`.

        Raises what `source` raises, `OutOfBudget`, and `LocalError` for the disk; what was fetched stays.
        """
        await self._in_thread(lambda: self._incoming.tidy(source.engine))
        before = await self._look_through(source, course)
        listing = Listing(source.engine, source.generation, source.wanted, before)
        storing = _Storing(self, course)
        try:
            while not listing.over:
                for manifest in listing.take(*await source.page(listing.after)):
                    await self._one(source, manifest, course, storing, again)
                await storing.settled()
                await self._acknowledge(source, storing.safe, listing.acknowledged, course)
        finally:
            await storing.settled()

    async def _look_through(self, source: Source, course: Course) -> Listing:
        """Read the list, and keep of it what it comes to."""
        listing = Listing(source.engine, source.generation, source.wanted)
        while not listing.over:
            listing.take(*await source.page(listing.after))
        course.listed(listing.segments, listing.bytes, listing.missing)
        return listing

    async def _one(self, source: Source, manifest: Manifest, course: Course, storing: _Storing, again: bool) -> None:
        """Have one segment in the archive: it may be stored while the next one comes."""
        try:
            if await self._in_thread(lambda: self._archive.has(manifest)):
                course.there(manifest.bytes)
                course.kept()
                storing.safe.append(vouched(manifest))
                return
            if not again and await self._in_thread(lambda: self._archive.had(manifest)):
                course.removed(manifest.bytes)
                storing.safe.append(vouched(manifest))
                return
            async with course.turn() as turn:
                part = await self._fetched(source, manifest, course, turn)
        except (LocalError, Unavailable, OutOfBudget):  # of which the last but one is to be tried again
            raise
        except AvinetError as error:
            course.refused(str(error))
            return
        await storing.store(part)

    async def _begun(self, manifest: Manifest) -> Part:
        """The part of a segment, with what there is of it; nobody has it open who was cancelled meanwhile."""
        parts: list[Part] = []
        try:
            await self._in_thread(lambda: parts.append(self._incoming.part(manifest)))
        except BaseException:
            for each in parts:
                each.close()
            raise
        return parts[0]

    async def _fetched(self, source: Source, manifest: Manifest, course: Course, turn: Turn) -> Part:
        """The whole part of a segment, which is what its manifest says.

        What was begun before may have been lost half by a power cut: then all of it is fetched once more.
        """
        part = await self._begun(manifest)
        begun = part.size
        course.there(begun)
        try:
            await self._fill(source, part, course, turn)
            if not part.right and begun:
                course.there(-part.size)
                await self._in_thread(part.begin_anew)
                await self._fill(source, part, course, turn)
            if not part.right:
                raise PeerError(
                    f"the segment {manifest.first}-{manifest.last} of {manifest.engine} is not what its manifest says:"
                    " its SHA-256 is another"
                )
            await self._in_thread(part.check_rows)
        except (Unavailable, OutOfBudget, LocalError, *CANCELLED):
            part.close()
            raise
        except BaseException:
            await self._in_thread(part.remove)
            raise
        return part

    async def _fill(self, source: Source, part: Part, course: Course, turn: Turn) -> None:
        """Have all of it, in as many turns as that takes."""
        while not part.whole:
            await self._fill_some(source, part, course, turn)
            if not part.whole:
                await turn.anew()

    async def _fill_some(self, source: Source, part: Part, course: Course, turn: Turn) -> None:
        manifest = part.manifest
        spent = course.reserve(manifest.bytes - part.size)
        came = 0
        try:
            pieces = await source.open(manifest, part.size)
            try:
                await self._begin(pieces, part, course)
                while taken := await pieces.take():
                    count = sum(map(len, taken))
                    await self._in_thread(partial(part.write, taken))
                    came += count
                    course.arrived(count)
                    if turn.over and not part.whole:
                        return
            finally:
                pieces.abort()
        finally:
            spent(came)
        if not part.whole:
            raise PeerError(
                f"the segment {manifest.first}-{manifest.last} of {manifest.engine} is shorter than it says"
            )

    async def _begin(self, pieces: Pieces, part: Part, course: Course) -> None:
        """Check that what comes is what was asked for."""
        manifest = part.manifest
        name = f"the segment {manifest.first}-{manifest.last} of {manifest.engine}"
        if pieces.headers.get("etag") != f'"{manifest.sha256}"':
            raise PeerError(f"{name} is not the one of its manifest: its ETag is another")
        if pieces.status == 200 and part.size:
            course.there(-part.size)
            await self._in_thread(part.begin_anew)
        expected = manifest.bytes - part.size
        if pieces.status == 206:
            if read_content_range(pieces.headers.get("content-range", "")) != (
                part.size,
                manifest.bytes,
                manifest.bytes,
            ):
                raise PeerError(f"{name} is answered with bytes that were not asked for")
        elif pieces.status != 200:
            raise PeerError(f"{name} is answered with {pieces.status}")
        if pieces.length != expected:
            raise PeerError(f"{name} is answered with {pieces.length} bytes in place of {expected}")

    async def _acknowledge(self, source: Source, safe: list[Vouched], before: int, course: Course) -> None:
        """Say what is safe now, but for what was known to be `before`."""
        news = [each for each in safe if each.last > before]
        safe.clear()
        for at in range(0, len(news), VOUCHED):
            said = Acknowledgement(segments=news[at : at + VOUCHED])
            try:
                await source.acknowledge(said)
            except Unavailable:
                raise
            except AvinetError as error:
                course.problem(f"what is archived is not acknowledged: {error}")

    async def keep(self, part: Part) -> None:
        """Have a whole part in the archive. Raises what `Archive.add` raises."""

        def keep() -> None:
            part.close()
            self._archive.add(part.path, manifest_bytes(part.manifest))

        await self._in_thread(keep)

    async def drop(self, part: Part) -> None:
        """Have a part nowhere."""
        await self._in_thread(part.remove)


class _Storing:
    """What is made durable while the next one comes: one at a time. A disk that fails is told at the next one."""

    def __init__(self, puller: Puller, course: Course) -> None:
        self.safe: list[Vouched] = []
        """What is in the archive, and was not said to be."""
        self._puller = puller
        self._course = course
        self._under_way: Deferred[None] | None = None
        self._fault: BaseException | None = None

    async def store(self, part: Part) -> None:
        """Have `part` stored, once the one before is."""
        try:
            await self.settled()
        except BaseException:
            part.close()
            raise
        self._under_way = as_deferred(self._store(part))

    async def _store(self, part: Part) -> None:
        try:
            await self._puller.keep(part)
        except LocalError as error:
            self._fault = error
        except AvinetError as error:
            await self._puller.drop(part)
            self._course.refused(str(error))
        else:
            self.safe.append(vouched(part.manifest))
            self._course.archived()

    async def settled(self) -> None:
        """All is stored. Raises why it is not."""
        if self._under_way is not None:
            await to_the_end(self._under_way)
            self._under_way = None
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault


def vouched(manifest: Manifest) -> Vouched:
    """What is said of a segment that is safe."""
    return Vouched(first=manifest.first, last=manifest.last, sha256=manifest.sha256)
