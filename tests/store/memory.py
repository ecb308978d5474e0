"""A store in memory that answers at once: for the tests of what stands on a store. It keeps the store's contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from avinet.errors import NotFound, TooLarge, Unavailable
from avinet.store.interface import (
    OPERATIONS,
    Compacted,
    Delete,
    Entry,
    Event,
    Outcome,
    Page,
    Put,
    Seen,
    Snapshot,
    Transaction,
    check,
)


class MemoryWatch:
    def __init__(self, prefix: bytes, revision: int, seen: Seen, watches: list[MemoryWatch]) -> None:
        self.failed: Deferred[None] = Deferred()
        self.live = False
        self._prefix = prefix
        self._revision = revision
        self._seen = seen
        self._watches = watches

    def deliver(self, events: Sequence[Event]) -> None:
        mine = [each for each in events if each.revision > self._revision and each.key.startswith(self._prefix)]
        if mine:
            self._revision = mine[-1].revision
            try:
                self._seen(mine)
            except Exception as error:
                self.fail(error)

    def fail(self, error: Exception) -> None:
        self.stop()
        self.failed.errback(error)

    def stop(self) -> None:
        if self in self._watches:
            self._watches.remove(self)


class MemoryStore:
    """`unavailable` makes every method fail with that reason, as a store without a quorum does."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.revision = 0
        self.unavailable = ""
        self.written: list[Transaction] = []
        self._compacted = 0
        self._entries: dict[bytes, Entry] = {}
        self._leased: dict[bytes, int] = {}
        self._history: list[Event] = []
        self._leases: dict[int, Any] = {}
        self._watches: list[MemoryWatch] = []
        self._granted = 0

    def _ready(self) -> None:
        if self.unavailable:
            raise Unavailable(self.unavailable)

    async def open(self) -> None:
        self._ready()

    def silent_s(self) -> float:
        return 1.0 if self.unavailable else 0.0

    async def read(self, keys: Sequence[bytes]) -> Snapshot:
        self._ready()
        if len(keys) > OPERATIONS:
            raise TooLarge("too many keys")
        return Snapshot(self.revision, {key: self._entries[key] for key in keys if key in self._entries})

    async def range(self, prefix: bytes, *, limit: int = 1000, after: bytes = b"") -> Page:
        self._ready()
        keys = sorted(key for key in self._entries if key.startswith(prefix) and key > after)
        return Page(self.revision, [self._entries[key] for key in keys[:limit]], len(keys) > limit)

    async def transact(self, transaction: Transaction) -> Outcome:
        self._ready()
        check(transaction)
        for condition in transaction.conditions:
            entry = self._entries.get(condition.key)
            if (entry.revision if entry else 0) != condition.revision:
                return Outcome(False, self.revision)
        for operation in transaction.then:
            if isinstance(operation, Put) and operation.lease and operation.lease not in self._leases:
                raise NotFound("the lease has ended")
        self.written.append(transaction)
        self._write(transaction.then)
        return Outcome(True, self.revision)

    def _write(self, operations: Sequence[Put | Delete]) -> None:
        revision, events = self.revision + 1, []
        for operation in operations:
            old = self._entries.pop(operation.key, None)
            self._leased.pop(operation.key, None)
            if isinstance(operation, Put):
                created = old.created if old else revision
                entry = Entry(operation.key, operation.value, revision, created, operation.lease)
                self._entries[operation.key] = entry
                if operation.lease:
                    self._leased[operation.key] = operation.lease
                events.append(Event(operation.key, revision, entry))
            elif old:
                events.append(Event(operation.key, revision, None))
        if events:
            self.revision = revision
            self._history += events
            for watch in [each for each in self._watches if each.live]:
                watch.deliver(events)

    def watch(self, prefix: bytes, revision: int, seen: Seen) -> MemoryWatch:
        watch = MemoryWatch(prefix, revision, seen, self._watches)
        self._watches.append(watch)
        self.clock.callLater(0, self._begin, watch, revision)
        return watch

    def _begin(self, watch: MemoryWatch, revision: int) -> None:
        if watch not in self._watches:
            return
        if revision < self._compacted:
            watch.fail(Compacted("the history is gone"))
        else:
            watch.live = True
            watch.deliver(self._history)

    def break_watches(self, error: Callable[[], Exception]) -> None:
        """All watches end, as when the node they were on dies."""
        for watch in list(self._watches):
            watch.fail(error())

    async def grant(self, ttl_s: float) -> int:
        self._ready()
        self._granted += 1
        self._leases[self._granted] = ttl_s, self.clock.callLater(ttl_s, self._revoke, self._granted)
        return self._granted

    async def keep_alive(self, lease: int) -> None:
        self._ready()
        if lease not in self._leases:
            raise NotFound("the lease has ended")
        ttl_s, timer = self._leases[lease]
        timer.reset(ttl_s)

    async def revoke(self, lease: int) -> None:
        self._ready()
        self._revoke(lease)

    def _revoke(self, lease: int) -> None:
        _, timer = self._leases.pop(lease, (0, None))
        if timer is not None and timer.active():
            timer.cancel()
        self._write([Delete(key) for key, held in list(self._leased.items()) if held == lease])

    async def compact(self, revision: int) -> None:
        self._ready()
        self._compacted = max(self._compacted, min(revision, self.revision))
        self._history = [event for event in self._history if event.revision > self._compacted]

    async def close(self) -> None:
        self.unavailable = self.unavailable or "the store is closed"
        self._watches.clear()
        for _, timer in self._leases.values():
            timer.cancel()
        self._leases.clear()
