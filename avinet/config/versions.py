"""The versions of documents in the store, and the catalogue of those in use, which changes as one.

`config/doc/NAME` is the current version, `config/version/NAME/NUMBER` each of the last ones, `config/rollout/NAME` the
last roll-out. `config/changed` is written by every change: its revision names the state of all of them, and no change
can overlook another.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

import msgspec

from avinet.config.catalogue import Catalogue, Rolling
from avinet.config.rollout import RolloutRecord
from avinet.errors import LocalError, NotFound, Unavailable
from avinet.store.entries import entries
from avinet.store.interface import VALUE_LIMIT_BYTES, Delete, Entry, Put, Store, Transaction, Unchanged
from avinet.wire.config import DocumentVersion
from avinet.wire.message import decode, encode

CHANGED = b"config/changed"
CURRENT, VERSIONS, ROLLOUTS = b"config/doc/", b"config/version/", b"config/rollout/"
KEPT_VERSIONS = 100
TRIES = 10
T = TypeVar("T")


class Versions:
    """The versions in `store`, as this node knows them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._catalogue = Catalogue(0, {})

    async def catalogue(self) -> Catalogue:
        """All documents as they are now."""
        revision = await self._revision()
        for _ in range(TRIES):
            if self._catalogue.revision == revision:
                return self._catalogue
            versions = {each.name: each async for each in self._current()}
            rolling = {each.name: await self._rolling(each) async for each in self.rollouts() if each.under_way}
            read, revision = revision, await self._revision()
            if read == revision:
                self._catalogue = Catalogue(revision, versions, rolling)
        raise Unavailable("the configuration is being changed by others all the time", hint="try again")

    async def change(
        self,
        before: Catalogue,
        after: Catalogue,
        name: str,
        then: Sequence[Put | Delete],
        conditions: Sequence[Unchanged] = (),
    ) -> bool:
        """Do `then`, by which document `name` makes `after` of `before`, unless anything has changed since."""
        unchanged, changed = Unchanged(CHANGED, before.revision), Put(CHANGED, name.encode())
        outcome = await self._store.transact(Transaction((unchanged, *conditions), (changed, *then)))
        if outcome.succeeded:
            after.revision = outcome.revision
            self._catalogue = after
        return outcome.succeeded

    async def version(self, name: str, number: int) -> DocumentVersion:
        """One version of a document. Raises `NotFound`."""
        key = _version_key(name, number)
        entry = (await self._store.read([key])).entries.get(key)
        if entry is None:
            raise NotFound(f"there is no version {number} of document {name}", hint="see its history")
        return _decoded(entry, DocumentVersion)

    async def history(self, name: str) -> list[DocumentVersion]:
        """The versions of a document that are kept, the newest first; none when there never was one."""
        entries = (await self._store.range(VERSIONS + name.encode() + b"/", limit=KEPT_VERSIONS + 2)).entries
        return [_decoded(entry, DocumentVersion) for entry in reversed(entries)]

    async def rollouts(self) -> AsyncIterator[RolloutRecord]:
        """The last roll-out of each document, by name."""
        async for entry in self._all(ROLLOUTS):
            yield _decoded(entry, RolloutRecord)

    async def rollout(self, name: str) -> RolloutRecord:
        """The last roll-out of a document. Raises `NotFound`."""
        key = ROLLOUTS + name.encode("utf-8", "replace")
        entry = (await self._store.read([key])).entries.get(key)
        if entry is None:
            raise NotFound(f"document {name} was never rolled out", hint="see avictl config rollout list")
        return _decoded(entry, RolloutRecord)

    async def _rolling(self, record: RolloutRecord) -> Rolling:
        return Rolling(record, await self.version(record.name, record.former) if record.former else None)

    async def _revision(self) -> int:
        entry = (await self._store.read([CHANGED])).entries.get(CHANGED)
        return entry.revision if entry else 0

    async def _current(self) -> AsyncIterator[DocumentVersion]:
        async for entry in self._all(CURRENT):
            yield _decoded(entry, DocumentVersion)

    async def _all(self, prefix: bytes) -> AsyncIterator[Entry]:
        async for entry in entries(self._store, prefix, page=50):
            yield entry


def put_version(version: DocumentVersion, keep: int = 0) -> list[Put | Delete]:
    """Writes a version as the current one; the oldest goes, but for the version `keep`. Raises `Invalid`."""
    # What was built here, and not read, was never validated; and what is written must be readable.
    encoded = encode(version)
    decode(encoded, DocumentVersion, limit_bytes=VALUE_LIMIT_BYTES, what=f"document {version.name}")
    then: list[Put | Delete] = [
        Put(CURRENT + version.name.encode(), encoded),
        Put(_version_key(version.name, version.version), encoded),
    ]
    oldest = max(0, version.version - KEPT_VERSIONS)
    return then if keep and oldest == keep else [*then, Delete(_version_key(version.name, oldest))]


def put_rollout(record: RolloutRecord) -> Put:
    """Writes the roll-out of a document."""
    return Put(ROLLOUTS + record.name.encode(), msgspec.json.encode(record, order="deterministic"))


def _version_key(name: str, version: int) -> bytes:
    return VERSIONS + f"{name}/{version:08d}".encode()


def _decoded(entry: Entry, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(entry.value, type=kind)
    except msgspec.ValidationError as error:
        raise LocalError(
            f"{entry.key.decode()} in the store cannot be read: {error}", hint="was it written by a newer version?"
        ) from error
