"""The store in one SQLite file: one thread owns it, and what is queued while a commit runs shares the next one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.errors import AvinetError, NotFound, TooLarge, Unavailable
from avinet.store.interface import OPERATIONS, Event, Outcome, Page, Seen, Snapshot, Transaction, check
from avinet.store.tables import Tables

T = TypeVar("T")
BATCH = 256
"""The most jobs that share a commit."""
QUEUED = 10_000
RETRY_S = 1.0
"""When to try again to end a lease that could not be ended."""
_Job = tuple[Callable[[], Any], "Deferred[Any]"]


class SQLiteWatch:
    """A watch; see `avinet.store.interface.Watch`."""

    def __init__(self, prefix: bytes, revision: int, seen: Seen, stopped: Callable[[SQLiteWatch], None]) -> None:
        self.prefix = prefix
        self.revision = revision
        self.failed: Deferred[None] = Deferred()
        self.live = False
        self._seen = seen
        self._stopped = stopped

    def deliver(self, events: Sequence[Event]) -> None:
        """Pass on those of `events` that are below the prefix and new; a `seen` that raises ends the watch."""
        mine = [event for event in events if event.revision > self.revision and event.key.startswith(self.prefix)]
        if events:
            self.revision = max(self.revision, events[-1].revision)
        if mine:
            try:
                self._seen(mine)
            except Exception:  # the edge: one watcher's fault must not keep the events from the others
                self.fail(Failure())

    def fail(self, failure: Failure) -> None:
        """End with `failure`."""
        self.stop()
        self.failed.errback(failure)

    def stop(self) -> None:
        """See no more events."""
        self.live = False
        self._stopped(self)


class SQLiteStore:
    """See `avinet.store.interface.Store`. Opening it raises `LocalError`, for a newer format among others."""

    log = Logger()

    def __init__(self, reactor: Any, path: Path) -> None:
        self._reactor = reactor
        self._tables = Tables(path)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._watches: list[SQLiteWatch] = []
        self._expiries: dict[int, tuple[float, IDelayedCall]] = {}
        self._closed: Deferred[None] | None = None
        self._thread = threading.Thread(target=self._work, name="store", daemon=True)
        self._thread.start()
        for lease, ttl_s in self._tables.leases().items():
            self._arm(lease, ttl_s, ttl_s)

    # The reactor's side

    def _ask(self, job: Callable[[], T]) -> Deferred[T]:
        deferred: Deferred[T] = Deferred(lambda _: None)
        if self._closed is not None:
            deferred.errback(Unavailable("the store is closed"))
        elif self._jobs.qsize() >= QUEUED:
            deferred.errback(Unavailable("the store has too much to do"))
        else:
            self._jobs.put((job, deferred))
        return deferred

    async def open(self) -> None:
        """See `Store.open`."""

    def silent_s(self) -> float:
        """See `Store.silent_s`: a file is always there."""
        return 0.0

    async def read(self, keys: Sequence[bytes]) -> Snapshot:
        """See `Store.read`."""
        if len(keys) > OPERATIONS:
            raise TooLarge(f"more than {OPERATIONS} keys were asked for at once")
        return await self._ask(lambda: self._tables.read(keys))

    async def range(self, prefix: bytes, *, limit: int = 1000, after: bytes = b"") -> Page:
        """See `Store.range`."""
        return await self._ask(lambda: self._tables.range(prefix, limit, after))

    async def transact(self, transaction: Transaction) -> Outcome:
        """See `Store.transact`."""
        check(transaction)
        return await self._ask(lambda: self._tables.transact(transaction))

    async def compact(self, revision: int) -> None:
        """See `Store.compact`."""
        await self._ask(lambda: self._tables.compact(revision))

    async def grant(self, ttl_s: float) -> int:
        """See `Store.grant`."""
        lease = await self._ask(lambda: self._tables.grant(ttl_s))
        self._arm(lease, ttl_s, ttl_s)
        return lease

    async def keep_alive(self, lease: int) -> None:
        """See `Store.keep_alive`."""
        if lease not in self._expiries:
            raise NotFound(f"lease {lease} has ended")
        ttl_s, timer = self._expiries[lease]
        timer.reset(ttl_s)

    async def revoke(self, lease: int) -> None:
        """See `Store.revoke`."""
        await self._ask(lambda: self._tables.revoke(lease))
        expiry = self._expiries.pop(lease, None)
        if expiry is not None:
            expiry[1].cancel()

    def _arm(self, lease: int, ttl_s: float, after_s: float) -> None:
        if self._closed is None:
            self._expiries[lease] = (ttl_s, self._reactor.callLater(after_s, self._expire, lease, ttl_s))

    def _expire(self, lease: int, ttl_s: float) -> None:
        del self._expiries[lease]

        def again(failure: Failure) -> None:
            self.log.warn("lease {lease} could not be ended: {reason}", lease=lease, reason=str(failure.value))
            self._arm(lease, ttl_s, RETRY_S)

        self._ask(lambda: self._tables.revoke(lease)).addErrback(again)

    def watch(self, prefix: bytes, revision: int, seen: Seen) -> SQLiteWatch:
        """See `Store.watch`."""
        watch = SQLiteWatch(prefix, revision, seen, self._forget)
        self._watches.append(watch)

        def caught_up(found: tuple[int, list[Event]]) -> None:
            if watch in self._watches:
                watch.live = True
                watch.deliver(found[1])
                watch.revision = max(watch.revision, found[0])

        def failed(failure: Failure) -> None:
            if watch in self._watches:
                watch.fail(failure)

        self._ask(lambda: self._tables.history(prefix, revision)).addCallbacks(caught_up, failed)
        return watch

    def _forget(self, watch: SQLiteWatch) -> None:
        if watch in self._watches:
            self._watches.remove(watch)

    async def close(self) -> None:
        """See `Store.close`."""
        if self._closed is not None:
            return
        self._closed = Deferred()
        self._watches.clear()
        for _, timer in self._expiries.values():
            timer.cancel()
        self._expiries.clear()
        self._jobs.put(None)
        await self._closed

    def _settle(self, results: Sequence[tuple[Deferred[Any], Any]], events: Sequence[Event]) -> None:
        for deferred, result in results:
            if not deferred.called:
                deferred.callback(result)
        if events:
            for watch in list(self._watches):
                if watch.live:
                    watch.deliver(events)

    # The thread's side

    def _work(self) -> None:
        """Take what is queued, do it in one commit, tell the reactor's thread; until None is taken."""
        while (job := self._jobs.get()) is not None:
            batch, last = [job], False
            while len(batch) < BATCH and not self._jobs.empty():
                following = self._jobs.get()
                if following is None:
                    last = True
                    break
                batch.append(following)
            self._reactor.callFromThread(self._settle, *self._commit(batch))
            if last:
                break
        try:
            self._tables.close()
        finally:
            assert self._closed is not None
            self._reactor.callFromThread(self._closed.callback, None)

    def _commit(self, batch: Sequence[_Job]) -> tuple[list[tuple[Deferred[Any], Any]], list[Event]]:
        results: list[tuple[Deferred[Any], Any]] = []
        try:
            with self._tables.committed() as events:
                for job, deferred in batch:
                    try:
                        results.append((deferred, job()))
                    except AvinetError:
                        results.append((deferred, Failure()))
            return results, events
        except Exception:  # the edge of the thread: whatever it was, each waiting caller is told
            # What was done is undone, so that each job can be done again, alone.
            if len(batch) > 1:
                return self._one_by_one(batch)
            return [(batch[0][1], Failure())], []

    def _one_by_one(self, batch: Sequence[_Job]) -> tuple[list[tuple[Deferred[Any], Any]], list[Event]]:
        """A batch that failed as a whole: each job for itself, so that one cannot fail the others."""
        results: list[tuple[Deferred[Any], Any]] = []
        events: list[Event] = []
        for job in batch:
            result, seen = self._commit([job])
            results += result
            events += seen
        return results, events
