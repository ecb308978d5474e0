"""What each service engine should run, as a version: compiled when a document or a label changes, kept in the store.

`config/desired/ID` holds the SHA-256 of the compiled configuration, and the revision of that entry is the version's. It
is written only when the result differs, so that a restart, or a change that makes no difference, pushes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.aio import Tasks, pause
from avinet.backoff import Backoff
from avinet.config.catalogue import Catalogue, Pick
from avinet.config.compile import Compiled
from avinet.config.documents import Documents, Fleet
from avinet.config.reach import BREATH
from avinet.config.versions import CHANGED
from avinet.errors import AvinetError, Invalid
from avinet.store.interface import OPERATIONS, Delete, Entry, Event, Put, Store, Transaction, Unchanged, Watch
from avinet.wire.config import ConfigPush, ConfigVersion
from avinet.wire.message import encode

DESIRED = b"config/desired/"
BATCH = (OPERATIONS - 1) // 2
"""Service engines in one transaction: each takes a condition and a change, and one condition is for the documents."""
RETRY = Backoff(first_s=0.5, cap_s=10)


class _Record(msgspec.Struct, frozen=True):
    """A value below `config/desired/`."""

    sha256: str


class Desired:
    """The desired versions by service engine.

    `changed(id)` is called when the version of a service engine may have changed, and when what could not be sent for a
    while can be.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        store: Store,
        documents: Documents,
        fleet: Fleet,
        changed: Callable[[str], None],
        random: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._store = store
        self._documents = documents
        self._fleet = fleet
        self._changed = changed
        self._random = random
        self._catalogue = Catalogue(0, {})
        self._versions: dict[str, ConfigVersion] = {}
        self._problems: dict[str, str] = {}
        self._stale: set[str] = set()
        self._all_stale = True
        self._compiling = False
        self._compiled_at = -1
        self._watches: list[Watch] = []
        self._idle: Deferred[None] | None = None
        self._tasks = Tasks()

    async def start(self) -> None:
        """Read what was desired, and bring it up to date from now on."""
        await self._load()
        self._catalogue = await self._documents.catalogue()
        self._tasks.spawn(self._keep_up(), "keeping configurations up to date")

    def stop(self) -> None:
        """Compile no more."""
        self._tasks.stop()
        self._unwatch()

    # what is known

    def version(self, id: str) -> ConfigVersion | None:
        """What a service engine should run; None while nothing was compiled for it."""
        return self._versions.get(id)

    def problem(self, id: str) -> str:
        """Why nothing newer can be compiled for a service engine; empty when it can."""
        return self._problems.get(id, "")

    def current(self, revision: int) -> bool:
        """Whether all that service engines should run was compiled from the documents as of `revision` or later."""
        return self._compiled_at >= revision and not (self._compiling or self._stale or self._all_stale)

    def compiled(self, id: str) -> Compiled | None:
        """The desired configuration of a service engine; None while that is about to change."""
        target, version = self._fleet.target(id), self._versions.get(id)
        if target is None or version is None:
            return None
        try:
            found = self._catalogue.compiled(self._catalogue.applying(target))
        except Invalid:
            return None
        return found if found.sha256 == version.sha256 else None

    def push(self, id: str) -> ConfigPush | None:
        """What to send to a service engine; None while that is about to change."""
        found, version = self.compiled(id), self._versions.get(id)
        return None if found is None or version is None else ConfigPush(version=version, config=found.text)

    # what changes

    def reconsider(self, id: str) -> None:
        """A service engine is new, has other labels, or is gone: the fleet shows it already."""
        self._stale.add(id)
        self._wake()

    def _wake(self) -> None:
        if self._idle is not None:
            idle, self._idle = self._idle, None
            idle.callback(None)

    def _learn(self, id: str, revision: int, sha256: str | None) -> None:
        """At `revision` the desired version became this, or was removed; what was overtaken is passed over."""
        known = self._versions.get(id)
        if known is not None and known.revision >= revision:
            return
        if sha256 is None:
            self._versions.pop(id, None)
        else:
            self._versions[id] = ConfigVersion(revision=revision, sha256=sha256)
            self._changed(id)

    async def _load(self) -> None:
        """Read all versions, and watch them and the documents from there."""
        self._unwatch()
        after, more, revision = b"", True, (await self._store.read([])).revision
        gone = set(self._versions)
        while more:
            page = await self._store.range(DESIRED, after=after)
            for entry in page.entries:
                after = entry.key
                gone.discard(_id(entry.key))
                self._seen([Event(entry.key, entry.revision, entry)])
            more = page.more
        for id in gone:
            self._learn(id, revision, None)
        self._watch(DESIRED, revision, self._seen)
        self._watch(CHANGED, revision, self._documents_changed)
        self._all_stale = True

    def _watch(self, prefix: bytes, revision: int, seen: Callable[[Sequence[Event]], None]) -> None:
        watch = self._store.watch(prefix, revision, seen)
        watch.failed.addErrback(self._lost)
        self._watches.append(watch)

    def _unwatch(self) -> None:
        for watch in self._watches:
            watch.stop()
        self._watches.clear()

    def _lost(self, failure: Failure) -> None:
        self.log.warn("the watch on configurations ended: {reason}", reason=str(failure.value))
        self._unwatch()
        self._wake()

    def _seen(self, events: Sequence[Event]) -> None:
        for event in events:
            self._learn(_id(event.key), event.revision, _sha256(event.entry))

    def _documents_changed(self, events: Sequence[Event]) -> None:
        self._all_stale = True
        self._wake()

    async def _keep_up(self) -> None:
        failures = 0
        while True:
            try:
                if not self._watches:
                    await self._load()
                await self._compile_stale()
                failures = 0
            except AvinetError as error:
                self.log.warn("configurations could not be brought up to date yet: {reason}", reason=str(error))
                await pause(self._clock, RETRY.delay_s(failures, self._random))
                failures += 1
                continue
            if self._watches and not self._stale and not self._all_stale:
                self._idle = Deferred()
                await self._idle

    async def _compile_stale(self) -> None:
        """Compile what is stale, and write what came out differently."""
        every, some = self._all_stale, self._stale
        self._all_stale, self._stale = False, set()
        self._compiling = True
        try:
            self._catalogue = await self._documents.catalogue()
            ids = {target.id for target in self._fleet.targets()} | some if every else some
            differing: list[tuple[str, str | None]] = []
            for index, id in enumerate(sorted(ids, key=self._group)):
                if index % BREATH == BREATH - 1:
                    await pause(self._clock, 0)
                differing += self._difference(id)
            for first in range(0, len(differing), BATCH):
                await self._write(differing[first : first + BATCH])
            if every:
                self._compiled_at = self._catalogue.revision
            for id in ids:
                self._changed(id)
        except BaseException:
            self._all_stale |= every
            self._stale |= some
            raise
        finally:
            self._compiling = False

    def _group(self, id: str) -> tuple[tuple[Pick, ...], str]:
        """Sorts those together that run the same, so that it is compiled once."""
        target = self._fleet.target(id)
        return (self._catalogue.applying(target) if target else (), id)

    def _difference(self, id: str) -> list[tuple[str, str | None]]:
        """The id with the SHA-256 that it should have now (None: nothing), when it has another one."""
        target, known = self._fleet.target(id), self._versions.get(id)
        if target is None:
            self._problems.pop(id, None)
            return [] if known is None else [(id, None)]
        try:
            wanted = self._catalogue.compiled(self._catalogue.applying(target)).sha256
        except Invalid as error:
            if self._problems.get(id) != str(error):
                self.log.warn("{id} keeps its configuration: {reason}", id=id, reason=str(error))
            self._problems[id] = str(error)
            return []
        self._problems.pop(id, None)
        return [] if known is not None and known.sha256 == wanted else [(id, wanted)]

    async def _write(self, differing: Sequence[tuple[str, str | None]]) -> None:
        """Write new versions, unless the documents or one of the versions have changed meanwhile: then look again."""
        conditions = [Unchanged(CHANGED, self._catalogue.revision)]
        changes: list[Put | Delete] = []
        for id, sha256 in differing:
            key, known = DESIRED + id.encode("ascii"), self._versions.get(id)
            conditions.append(Unchanged(key, known.revision if known else 0))
            changes.append(Delete(key) if sha256 is None else Put(key, encode(_Record(sha256))))
        outcome = await self._store.transact(Transaction(tuple(conditions), tuple(changes)))
        if outcome.succeeded:
            for id, sha256 in differing:
                self._learn(id, outcome.revision, sha256)
            return
        self._stale.update(id for id, _ in differing)
        found = await self._store.read([change.key for change in changes])
        for change in changes:
            entry = found.entries.get(change.key)
            self._learn(_id(change.key), entry.revision if entry else found.revision, _sha256(entry))


def _id(key: bytes) -> str:
    return key.removeprefix(DESIRED).decode("ascii")


def _sha256(entry: Entry | None) -> str | None:
    return None if entry is None else msgspec.json.decode(entry.value, type=_Record).sha256
