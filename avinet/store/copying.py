"""The contents of one store written into another, and both compared: whatever engines they are on."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Protocol

import msgspec
from twisted.internet.defer import DeferredList
from twisted.python.failure import Failure

from avinet.aio import as_deferred
from avinet.store.entries import Source, entries
from avinet.store.interface import OPERATIONS, Outcome, Page, Put, Transaction
from avinet.store.tables import Tables

PAGE = 2000
"""How many keys are read at once: with each page etcd counts all that follow."""
TRANSACTION_BYTES = 512 * 1024
"""What one transaction writes at most, but for a single key that is larger: half of what any store takes."""
AT_ONCE = 8


class Target(Source, Protocol):
    """What they are written to."""

    async def transact(self, transaction: Transaction) -> Outcome:
        """See `Store.transact`."""


class Content(msgspec.Struct, frozen=True):
    """What a store holds, but for `leased` keys under a lease: its keys, its bytes, and a SHA-256 over all in order."""

    keys: int
    size: int
    sha256: str
    leased: int = 0

    def same(self, other: Content) -> bool:
        """Whether both hold the same, but for keys under a lease."""
        return (self.keys, self.size, self.sha256) == (other.keys, other.size, other.sha256)


class TablesAtRest:
    """The tables of a store in a file that nobody else uses, as a source and as a target; each call is done at once."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def range(self, prefix: bytes, *, limit: int = 1000, after: bytes = b"") -> Page:
        """See `Store.range`."""
        return self._tables.range(prefix, limit, after)

    async def transact(self, transaction: Transaction) -> Outcome:
        """See `Store.transact`."""
        with self._tables.committed():
            return self._tables.transact(transaction)


async def content_of(source: Source) -> Content:
    """What `source` holds."""
    keys, size, leased, digest = 0, 0, 0, hashlib.sha256()
    async for entry in entries(source, page=PAGE):
        if entry.lease:
            leased += 1
            continue
        keys, size = keys + 1, size + len(entry.key) + len(entry.value)
        for part in (entry.key, entry.value):
            digest.update(b"%d:" % len(part) + part)
    return Content(keys, size, digest.hexdigest(), leased)


async def copy(source: Source, target: Target, told: Callable[[int], None] = lambda keys: None) -> None:
    """Put all that `source` holds, but for keys under a lease, into `target`; `told` is called with how many are there.

    What is under way when one transaction fails is waited for. Raises what that one has raised.
    """
    done, group = 0, list[tuple[Put, ...]]()
    async for transaction in _parts(source):
        group.append(transaction)
        if len(group) == AT_ONCE:
            done += await _write(target, group)
            told(done)
            group.clear()
    told(done + await _write(target, group))


async def _parts(source: Source) -> AsyncIterator[tuple[Put, ...]]:
    part, size = list[Put](), 0
    async for entry in entries(source, page=PAGE):
        if entry.lease:
            continue
        length = len(entry.key) + len(entry.value)
        if part and (len(part) == OPERATIONS or size + length > TRANSACTION_BYTES):
            yield tuple(part)
            part, size = [], 0
        part.append(Put(entry.key, entry.value))
        size += length
    if part:
        yield tuple(part)


async def _write(target: Target, group: Iterable[tuple[Put, ...]]) -> int:
    parts = list(group)
    work = [as_deferred(target.transact(Transaction((), part))) for part in parts]
    for _, result in await DeferredList(work, consumeErrors=True):
        if isinstance(result, Failure):
            result.raiseException()
    return sum(map(len, parts))
