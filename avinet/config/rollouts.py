"""The roll-outs in the store: each step one transaction with its audit record, and with the version that it makes.

`config/rollout-before/NAME/VERSION/ID` is how a service engine was before it had its turn, until the roll-out ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec
from twisted.logger import Logger

from avinet.config import rollout as rules
from avinet.config.catalogue import Catalogue, Rolling
from avinet.config.health import Before
from avinet.config.rollout import RolloutRecord
from avinet.config.versions import TRIES, Versions, put_rollout, put_version
from avinet.errors import Conflict, Unavailable
from avinet.store.entries import entries
from avinet.store.interface import OPERATIONS, Delete, Put, Store, Transaction
from avinet.wire.config import DocumentVersion

BEFORE = b"config/rollout-before/"
ROLLOUTS = 100
"""So many may be under way at once."""

Audit = Callable[[str, str, str, str], Put]
"""Writes the record of a change: its kind, who made it, the document, and what became of it."""


def begun(
    before: Catalogue, version: DocumentVersion, record: RolloutRecord, audit: Audit
) -> tuple[Catalogue, list[Put | Delete]]:
    """What the catalogue and the store are when `version` begins to roll out. Raises `Conflict`, `Invalid`."""
    if len(before.rolling) >= ROLLOUTS:
        raise Conflict(f"{ROLLOUTS} documents are being rolled out already", hint="wait until one has come everywhere")
    former = former_of(before, version.name)
    then = [*put_version(version, record.former), put_rollout(record)]
    then.append(audit("rollout-started", version.author, version.name, f"version {version.version}"))
    return before.with_version(version, Rolling(record, former)), then


def superseded(rolling: Rolling, version: DocumentVersion, audit: Audit, *, kept: bool) -> list[Put | Delete]:
    """What is written where `version` takes the place of one that was rolling; its own record is `kept`, or not."""
    record = rules.ended(rolling.record, "superseded", f"by version {version.version}", version.author, version.time)
    outcome = f"version {record.version}, batch {record.batch}: {record.why}"
    then: list[Put | Delete] = [audit("rollout-superseded", version.author, version.name, outcome)]
    return [*then, put_rollout(record)] if kept else then


def former_of(catalogue: Catalogue, name: str) -> DocumentVersion | None:
    """The version that a document has wherever no roll-out of it has come; None for nothing."""
    rolling = catalogue.rolling.get(name)
    found = rolling.former if rolling is not None else catalogue.versions.get(name)
    return found if found is not None and found.document is not None else None


class Rollouts:
    """The roll-outs of a domain. `now` is the time of day in seconds since 1970."""

    log = Logger()

    def __init__(self, store: Store, versions: Versions, now: Callable[[], float], audit: Audit) -> None:
        self._store = store
        self._versions = versions
        self._now = now
        self._audit = audit

    async def under_way(self) -> dict[str, RolloutRecord]:
        """Those that are not over, by document."""
        return {name: each.record for name, each in (await self._versions.catalogue()).rolling.items()}

    async def get(self, name: str) -> RolloutRecord:
        """The last one of a document. Raises `NotFound`."""
        return await self._versions.rollout(name)

    async def all(self) -> list[RolloutRecord]:
        """The last one of each document; those under way first, then the latest."""
        found = [each async for each in self._versions.rollouts()]
        return sorted(found, key=lambda each: (not each.under_way, -each.changed, each.name))

    async def step(
        self, name: str, by: str, make: Callable[[RolloutRecord, float], RolloutRecord], *kinds: str
    ) -> RolloutRecord:
        """Take a step of the roll-out of document `name`, which is recorded as `kinds`.

        `make` is given what it is, and the time; it may be asked again. Raises what `make` does, `NotFound`.
        """
        for _ in range(TRIES):
            before = await self._versions.catalogue()
            rolling = before.rolling.get(name)
            if rolling is None:
                make(await self._versions.rollout(name), self._now())
                raise Unavailable(f"the roll-out of document {name} has just begun or ended", hint="try again")
            record = make(rolling.record, self._now())
            after, then = self._made(before, rolling, record, by)
            outcome = f"version {record.version}, batch {record.batch}, {record.opened} of {record.targets}"
            outcome += f": {record.why}" if record.why else ""
            then += [self._audit(kind, by, name, outcome) for kind in kinds]
            if await self._versions.change(before, after, name, then):
                return record
        raise Unavailable("the configuration is being changed by others all the time", hint="try again")

    def _made(
        self, before: Catalogue, rolling: Rolling, record: RolloutRecord, by: str
    ) -> tuple[Catalogue, list[Put | Delete]]:
        if record.under_way:
            return before.with_rolling(record.name, Rolling(record, rolling.former)), [put_rollout(record)]
        if record.state == "finished":
            return before.with_rolling(record.name, None), [put_rollout(record)]
        version = DocumentVersion(
            name=record.name,
            version=before.versions[record.name].version + 1,
            author=by,
            time=self._now(),
            document=rolling.former.document if rolling.former else None,
        )
        return before.with_version(version), [*put_version(version), put_rollout(record)]

    # how they were before

    async def remember(self, record: RolloutRecord, found: Mapping[str, Before]) -> None:
        """Write how service engines are that will have their turn."""
        puts = [Put(_before_key(record, id), msgspec.json.encode(each)) for id, each in found.items()]
        await self._write(puts)

    async def before(self, record: RolloutRecord) -> dict[str, Before]:
        """How service engines were before they had their turn, of those that have."""
        found: dict[str, Before] = {}
        prefix = _before_key(record, "")
        async for entry in entries(self._store, prefix):
            id = entry.key.removeprefix(prefix).decode("ascii")
            if record.turn(id):
                try:
                    found[id] = msgspec.json.decode(entry.value, type=Before)
                except msgspec.ValidationError as error:  # of a newer version: nothing is known of it then
                    self.log.warn("{key} in the store cannot be read: {why}", key=entry.key.decode(), why=str(error))
        return found

    async def forget(self, under_way: Iterable[RolloutRecord]) -> None:
        """Remove what was remembered of those that are over: all but these."""
        kept = tuple(_before_key(each, "") for each in under_way)
        after, more = b"", True
        while more:
            page = await self._store.range(BEFORE, after=after)
            keys = [entry.key for entry in page.entries]
            await self._write([Delete(key) for key in keys if not key.startswith(kept)])
            after, more = keys[-1] if keys else b"", page.more

    async def _write(self, changes: list[Put] | list[Delete]) -> None:
        for first in range(0, len(changes), OPERATIONS):
            await self._store.transact(Transaction((), tuple(changes[first : first + OPERATIONS])))


def _before_key(record: RolloutRecord, id: str) -> bytes:
    return BEFORE + f"{record.name}/{record.version:08d}/{id}".encode("ascii")
