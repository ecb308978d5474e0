"""What is kept of pulls: `pulls/ID` is how far one is, `pull-order/ID` what was ordered and which service engines it is
of, `pull-engine/ID/ENGINE` what is known of one of these.

Only the second may be long, and never changes. Of a service engine without a record nothing is known yet. The oldest
pulls are forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec
from twisted.logger import Logger

from avinet.errors import NotFound
from avinet.store.entries import entries
from avinet.store.interface import OPERATIONS, Delete, Entry, Put, Store, Transaction
from avinet.wire.log_pulls import LogPull, LogPullOrder, PulledEngine
from avinet.wire.message import encode

PULLS, ORDERS, ENGINES = b"pulls/", b"pull-order/", b"pull-engine/"
KEPT = 100
"""How many pulls that have ended are kept."""


K = TypeVar("K")


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A pull, and which service engines it is of."""

    pull: LogPull
    targets: list[str]


class _Going(msgspec.Struct, frozen=True, kw_only=True):
    """How far a pull is; its order has no ids. An older version had all of `Kept` here."""

    pull: LogPull
    targets: list[str] | None = None


class _Ordered(msgspec.Struct, frozen=True, kw_only=True):
    """What never changes of a pull."""

    order: LogPullOrder
    targets: list[str]


class PullRecords:
    """The pulls in `store`."""

    log = Logger()

    def __init__(self, store: Store) -> None:
        self._store = store

    async def begin(self, kept: Kept, *puts: Put) -> None:
        """Write a pull that begins."""
        ordered = _Ordered(order=kept.pull.order, targets=kept.targets)
        put = Put(_key(ORDERS, kept.pull.id), msgspec.json.encode(ordered))
        await self._store.transact(Transaction((), (put, _put(kept.pull), *puts)))

    async def keep(self, pull: LogPull, engines: Sequence[PulledEngine] = (), *puts: Put) -> None:
        """Write how far a pull is, and what is known of `engines`, of which a crash may leave some to be written."""
        changes = [Put(_engine_key(pull.id, each.id), encode(each)) for each in engines]
        some = OPERATIONS // 2
        for at in range(0, len(changes), some):
            await self._store.transact(Transaction((), tuple(changes[at : at + some])))
        await self._store.transact(Transaction((), (_put(pull), *puts)))

    async def find(self, id: str) -> Kept:
        """A pull. Raises `NotFound`, also where it is of a version that cannot be read here."""
        entries = (await self._store.read([_key(PULLS, id), _key(ORDERS, id)])).entries
        going = self._read(entries.get(_key(PULLS, id)), _Going)
        ordered = self._read(entries.get(_key(ORDERS, id)), _Ordered)
        if going is not None and ordered is not None:
            return Kept(pull=msgspec.structs.replace(going.pull, order=ordered.order), targets=ordered.targets)
        if going is not None and going.targets is not None:
            return Kept(pull=going.pull, targets=going.targets)
        raise NotFound(f"there is no pull {id}", hint=f"see avictl logs pulls; the last {KEPT} are kept")

    async def engines(self, kept: Kept) -> list[PulledEngine]:
        """What is known of each of its service engines, in their order."""
        found = {id: PulledEngine(id=id) for id in kept.targets}
        async for entry in entries(self._store, _engine_key(kept.pull.id, "")):
            each = self._read(entry, PulledEngine)
            if each is not None and each.id in found:
                found[each.id] = each
        return list(found.values())

    async def all(self) -> list[LogPull]:
        """All pulls, the oldest first. Their orders may have no ids."""
        found = [self._read(entry, _Going) async for entry in entries(self._store, PULLS)]
        return [each.pull for each in found if each is not None]

    def _read(self, entry: Entry | None, into: type[K]) -> K | None:
        if entry is None:
            return None
        try:
            return msgspec.json.decode(entry.value, type=into)
        except msgspec.ValidationError as error:  # of a newer version: it is nobody's business here
            self.log.warn("{key} in the store cannot be read: {why}", key=entry.key.decode(), why=str(error))
            return None

    async def sweep(self) -> None:
        """Forget the oldest that have ended."""
        ended = [each for each in await self.all() if each.state != "running"]
        for each in ended[: max(0, len(ended) - KEPT)]:
            prefix = _engine_key(each.id, "")
            while page := (await self._store.range(prefix, limit=OPERATIONS)).entries:
                await self._store.transact(Transaction((), tuple(Delete(entry.key) for entry in page)))
            await self._store.transact(Transaction((), tuple(Delete(_key(kind, each.id)) for kind in (ORDERS, PULLS))))


def _put(pull: LogPull) -> Put:
    short = msgspec.structs.replace(pull, order=msgspec.structs.replace(pull.order, ids=[]))
    return Put(_key(PULLS, pull.id), msgspec.json.encode(_Going(pull=short)))


def _key(kind: bytes, id: str) -> bytes:
    return kind + id.encode("ascii", "replace")


def _engine_key(id: str, engine: str) -> bytes:
    return ENGINES + id.encode("ascii", "replace") + b"/" + engine.encode("ascii", "replace")
