"""What retention has removed from an archive: which numbers were there, so that a pull does not fetch them again.

`FOLDER/ENGINE/removed.json` has them as spans. It is written before they go, and again before one of them comes back:
whatever a crash leaves, a segment that is neither here nor in a span is fetched. There are so many spans at most; what
is forgotten of them is fetched again if the service engine still has it. All of it blocks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from avinet.errors import Damaged, Invalid, TooLarge
from avinet.files import read_limited, write_atomic
from avinet.logs.archive.hours import size_of
from avinet.wire.message import Message, decode, encode
from avinet.wire.segment import Manifest, Removed

NAME = "removed.json"
SPANS = 1000
"""How many spans are kept of a service engine: the last ones."""
LIMIT_BYTES = 512 * 1024


class _File(Message, frozen=True, kw_only=True):
    spans: Annotated[list[Removed], Meta(max_length=SPANS)] = []


class Removals:
    """What was removed from the archive in `folder`; threads may use it at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writing = threading.Lock()

    def of(self, engine: str) -> list[Removed]:
        """What was removed of a service engine, in order. Raises `LocalError`; a damaged file is as good as none."""
        path = self._folder / engine / NAME
        if size_of(path) is None:
            return []
        try:
            return decode(read_limited(path, LIMIT_BYTES), _File, limit_bytes=LIMIT_BYTES).spans
        except (Invalid, TooLarge, Damaged):
            return []

    def have(self, said: Manifest) -> bool:
        """Whether all of a segment was here and was removed. Raises `LocalError`."""
        return covered(self.of(said.engine), said)

    def note(self, engine: str, gone: Iterable[Manifest]) -> None:
        """These are about to go. Raises `LocalError`."""
        with self._writing:
            self._write(engine, noted(self.of(engine), gone))

    def forget(self, said: Manifest) -> None:
        """A segment is about to come. Raises `LocalError`."""
        with self._writing:
            spans = self.of(said.engine)
            left = list(without(spans, said))
            if left != spans:
                self._write(said.engine, left)

    def _write(self, engine: str, spans: list[Removed]) -> None:
        write_atomic(self._folder / engine / NAME, encode(_File(spans=spans[-SPANS:])))


def noted(spans: Iterable[Removed], gone: Iterable[Manifest]) -> list[Removed]:
    """`spans` and what is `gone`, in order, those that touch as one."""
    more = [
        Removed(generation=each.generation, first=each.first, last=each.last, from_ms=each.from_ms, to_ms=each.to_ms)
        for each in gone
    ]
    result: list[Removed] = []
    for each in sorted([*spans, *more], key=lambda each: (each.generation, each.first)):
        before = result[-1] if result else None
        if before is None or before.generation != each.generation or each.first > before.last + 1:
            result.append(each)
        else:
            result[-1] = msgspec.structs.replace(
                before,
                last=max(before.last, each.last),
                from_ms=min(before.from_ms, each.from_ms),
                to_ms=max(before.to_ms, each.to_ms),
            )
    return result


def covered(spans: Iterable[Removed], said: Manifest) -> bool:
    """Whether all numbers of a segment are in one of `spans`."""
    return any(
        each.generation == said.generation and each.first <= said.first and said.last <= each.last for each in spans
    )


def without(spans: Iterable[Removed], said: Manifest) -> Iterator[Removed]:
    """What `spans` have beside the numbers of a segment."""
    for each in spans:
        if each.generation != said.generation or each.last < said.first or said.last < each.first:
            yield each
            continue
        if each.first < said.first:
            yield msgspec.structs.replace(each, last=said.first - 1)
        if each.last > said.last:
            yield msgspec.structs.replace(each, first=said.last + 1)
