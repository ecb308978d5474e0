"""The significant records that a node has seen last: a ring in memory, and those who follow it.

All of it has a bound. Where there is no room the oldest goes; that of a service engine which has more than its share,
before that of others. Who reads holds numbers only, so that no reader keeps more than the ring does.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import NamedTuple

from msgspec import Raw

from avinet.errors import TooMany
from avinet.feed import Bell
from avinet.wire.significant import SeenLeftOut

LIMIT_BYTES = 32 * 1024 * 1024
READERS = 32
READER_LIMIT = 10_000
"""How many events one that reads slowly may be behind."""
_ENTRY_BYTES = 300

Wanted = Callable[[str, str], bool]
"""Whether what came from a service engine, of a virtual service, is asked for."""


class Seen(NamedTuple):
    """An event of a service engine, of a virtual service, as JSON."""

    id: str
    service: str
    data: bytes


class Recent:
    """Up to `limit_bytes` of events, by all service engines together."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit = limit_bytes
        self._all: OrderedDict[int, Seen] = OrderedDict()
        self._own: dict[str, deque[int]] = {}
        self._held: dict[str, int] = {}
        self._next = 0
        self.size = 0
        """How many bytes it has, about."""
        self._readers: list[_Reader] = []

    def take(self, events: Iterable[Seen]) -> None:
        """More has come."""
        for each in events:
            number, self._next = self._next, self._next + 1
            self._all[number] = each
            self._own.setdefault(each.id, deque()).append(number)
            self._count(each, 1)
            self._make_room(each.id)
            for reader in self._readers:
                reader.offer(number, each)
        for reader in self._readers:
            reader.bell.ring()

    def _count(self, each: Seen, sign: int) -> None:
        size = sign * (len(each.data) + _ENTRY_BYTES)
        self.size += size
        self._held[each.id] = self._held.get(each.id, 0) + size

    def _make_room(self, id: str) -> None:
        """Let go of the oldest: of `id` if it has more than its share, else of all."""
        while self.size > self._limit and self._all:
            greedy = self._held.get(id, 0) > self._limit // len(self._own)
            self._remove(self._own[id][0] if greedy else next(iter(self._all)))

    def _remove(self, number: int) -> None:
        each = self._all.pop(number)
        own = self._own[each.id]
        own.popleft()  # numbers of one service engine go in their order
        self._count(each, -1)
        if not own:
            del self._own[each.id], self._held[each.id]

    def forget(self, id: str) -> None:
        """A service engine is no more."""
        for number in list(self._own.get(id, ())):
            self._remove(number)

    def at(self, number: int) -> Seen | None:
        """The event with a number, unless it had to go."""
        return self._all.get(number)

    def read(self, wanted: Wanted, last: int, *, follow: bool) -> AsyncGenerator[Raw | SeenLeftOut, None]:
        """The `last` events of those that are wanted, and with `follow` what comes, until this is closed.

        Raises `TooMany` when too many read.
        """
        if len(self._readers) >= READERS:
            raise TooMany(f"{READERS} follow significant records already", retry_after_s=5.0)
        return self._read(wanted, last, follow)

    async def _read(self, wanted: Wanted, last: int, follow: bool) -> AsyncGenerator[Raw | SeenLeftOut, None]:
        reader = _Reader(wanted, self._latest(wanted, last))
        if follow:
            self._readers.append(reader)
        try:
            while True:
                for event in reader.events(self):
                    yield event
                if not follow:
                    return
                await reader.bell.wait()
        finally:
            if follow:
                self._readers.remove(reader)

    def _latest(self, wanted: Wanted, last: int) -> list[int]:
        found: list[int] = []
        for number, each in reversed(self._all.items()):
            if len(found) >= last:
                break
            if wanted(each.id, each.service):
                found.append(number)
        return found[::-1]


class _Reader:
    """One that reads, and how far it is behind."""

    def __init__(self, wanted: Wanted, first: list[int]) -> None:
        self.bell = Bell()
        self._wanted = wanted
        self._coming = deque(first)
        self._missed = 0

    def offer(self, number: int, each: Seen) -> None:
        if self._wanted(each.id, each.service):
            if len(self._coming) >= READER_LIMIT:
                self._coming.popleft()
                self._missed += 1
            self._coming.append(number)

    def events(self, ring: Recent) -> Iterable[Raw | SeenLeftOut]:
        """What there is now; whoever takes one may wait before the next."""
        while self._coming or self._missed:
            while self._coming and (found := ring.at(self._coming[0])) is None:
                self._coming.popleft()
                self._missed += 1
            if self._missed:
                missed, self._missed = self._missed, 0
                yield SeenLeftOut(events=missed)
            elif self._coming:
                self._coming.popleft()
                assert found is not None
                yield Raw(found.data)
