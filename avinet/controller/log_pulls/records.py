"""What is kept of pulls: `pulls/ID` is one with its targets, `pull-engine/ID/ENGINE` what is known of one of them.

Of a service engine without a record nothing is known yet. The oldest pulls are forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec
from twisted.logger import Logger

from avinet.errors import NotFound
from avinet.store.entries import entries
from avinet.store.interface import OPERATIONS, Delete, Entry, Put, Store, Transaction
from avinet.wire.log_pulls import LogPull, PulledEngine
from avinet.wire.message import encode

PULLS, ENGINES = b"pulls/", b"pull-engine/"
KEPT = 100
"""How many pulls that have ended are kept."""


K = TypeVar("K")


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A pull, and which service engines it is of."""

    pull: LogPull
    targets: list[str]


class PullRecords:
    """The pulls in `store`."""

    log = Logger()

    def __init__(self, store: Store) -> None:
        self._store = store

    async def keep(self, kept: Kept, engines: Sequence[PulledEngine] = (), *puts: Put) -> None:
        """Write a pull, and what is known of `engines`, of which a crash may leave some to be written."""
        key = kept.pull.id
        changes = [Put(_engine_key(key, each.id), encode(each)) for each in engines]
        some = OPERATIONS // 2
        for at in range(0, len(changes), some):
            await self._store.transact(Transaction((), tuple(changes[at : at + some])))
        await self._store.transact(Transaction((), (Put(_key(key), msgspec.json.encode(kept)), *puts)))

    async def find(self, id: str) -> Kept:
        """A pull. Raises `NotFound`."""
        entry = (await self._store.read([_key(id)])).entries.get(_key(id))
        if entry is None:
            raise NotFound(f"there is no pull {id}", hint=f"see avictl logs pulls; the last {KEPT} are kept")
        return msgspec.json.decode(entry.value, type=Kept)

    async def engines(self, kept: Kept) -> list[PulledEngine]:
        """What is known of each of its service engines, in their order."""
        found = {id: PulledEngine(id=id) for id in kept.targets}
        async for entry in entries(self._store, _engine_key(kept.pull.id, "")):
            each = self._read(entry, PulledEngine)
            if each is not None and each.id in found:
                found[each.id] = each
        return list(found.values())

    async def all(self) -> list[Kept]:
        """All pulls, the oldest first."""
        return [kept async for entry in entries(self._store, PULLS) if (kept := self._read(entry, Kept)) is not None]

    def _read(self, entry: Entry, into: type[K]) -> K | None:
        try:
            return msgspec.json.decode(entry.value, type=into)
        except msgspec.ValidationError as error:  # of a newer version: it is nobody's business here
            self.log.warn("{key} in the store cannot be read: {why}", key=entry.key.decode(), why=str(error))
            return None

    async def sweep(self) -> None:
        """Forget the oldest that have ended."""
        ended = [each for each in await self.all() if each.pull.state != "running"]
        for each in ended[: max(0, len(ended) - KEPT)]:
            prefix = _engine_key(each.pull.id, "")
            while page := (await self._store.range(prefix, limit=OPERATIONS)).entries:
                await self._store.transact(Transaction((), tuple(Delete(entry.key) for entry in page)))
            await self._store.transact(Transaction((), (Delete(_key(each.pull.id)),)))


def _key(id: str) -> bytes:
    return PULLS + id.encode("ascii", "replace")


def _engine_key(id: str, engine: str) -> bytes:
    return ENGINES + id.encode("ascii", "replace") + b"/" + engine.encode("ascii", "replace")
