"""What stands below a prefix of the store, followed as it changes: for views that are kept in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from avinet.aio import Tasks, pause
from avinet.errors import AvinetError
from avinet.store.interface import Entry, Event, Store, Watch

Take = Callable[[str, Entry | None], None]
RETRY_S = 1.0


class Mirror:
    """Calls `take` with each entry below `prefix` by the rest of its key, and again when it changes; None: it is gone.

    An entry may come more than once as it is. `what` names all of it in the log.
    """

    log = Logger()

    def __init__(self, store: Store, clock: IReactorTime, tasks: Tasks, prefix: bytes, take: Take, what: str) -> None:
        self._store = store
        self._clock = clock
        self._tasks = tasks
        self._prefix = prefix
        self._take = take
        self._what = what
        self._known: set[str] = set()
        self._ahead: dict[str, int] = {}
        self._watch: Watch | None = None
        self.revision = 0

    async def start(self) -> None:
        """Read all of it, and follow its changes from there."""
        gone = set(self._known)
        revision, after, more = 0, b"", True
        while more:
            page = await self._store.range(self._prefix, after=after)
            revision, more = revision or page.revision, page.more
            for entry in page.entries:
                after = entry.key
                gone.discard(self._id(after))
                self._learn(self._id(after), entry)
        for id in gone:
            self._learn(id, None)
        self._ahead.clear()
        self.revision = revision
        self._watch = self._store.watch(self._prefix, revision, self._seen)
        self._watch.failed.addErrback(lambda failure: self._tasks.spawn(self._again(), f"reading {self._what} again"))

    async def _again(self) -> None:
        """The watch has ended (compacted, or the store was away): list, and watch from there."""
        while True:
            try:
                await self.start()
                return
            except AvinetError as error:
                self.log.warn("{what} may be stale: {why}", what=self._what, why=str(error))
                await pause(self._clock, RETRY_S)

    def stop(self) -> None:
        """Follow no more changes."""
        if self._watch is not None:
            self._watch.stop()

    def wrote(self, id: str, entry: Entry | None, revision: int) -> None:
        """A change of our own, at `revision`, is known before it is seen."""
        self._ahead[id] = revision
        self._learn(id, entry)

    def _seen(self, events: Sequence[Event]) -> None:
        for event in events:
            id = self._id(event.key)
            if event.revision >= self._ahead.get(id, 0):
                self._ahead.pop(id, None)
                self._learn(id, event.entry)
            self.revision = max(self.revision, event.revision)

    def _learn(self, id: str, entry: Entry | None) -> None:
        if entry is None:
            self._known.discard(id)
        else:
            self._known.add(id)
        self._take(id, entry)

    def _id(self, key: bytes) -> str:
        return key[len(self._prefix) :].decode("ascii")
