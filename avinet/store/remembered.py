"""What is said often and lost without harm: in memory at once, in the store a moment later, many in one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import random
from typing import Generic, TypeVar

import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from avinet.aio import News, Tasks, pause
from avinet.backoff import Backoff
from avinet.errors import AvinetError, Unavailable
from avinet.store.entries import entries
from avinet.store.interface import OPERATIONS, Delete, Put, Store, Transaction, Unchanged

V = TypeVar("V")
BATCH = OPERATIONS - 2
"""How many values are written at once."""
_RACES = 20
_AFTER_RACE = Backoff(first_s=0.005, cap_s=0.5)
"""Several nodes write below one prefix: after a race they must not all come again at once."""


class Remembered(Generic[V]):
    """Values of type `kind` by id, below `prefix`, written every `batch_s` seconds where they have changed."""

    log = Logger()

    def __init__(self, clock: IReactorTime, store: Store, prefix: bytes, kind: type[V], *, batch_s: float) -> None:
        self._clock = clock
        self._random = random
        self._store = store
        self._prefix = prefix
        self._kind = kind
        self._batch_s = batch_s
        self._values: dict[str, V] = {}
        self._unsaved: set[str] = set()
        self._last = b"saved/" + prefix.rstrip(b"/")
        """A key that changes with each batch: one that is done late, after another one, is not done at all."""
        self._last_at = 0
        self._tasks = Tasks()

    async def start(self) -> None:
        """Read what was remembered, and begin to write what changes."""
        await self._look()
        async for entry in entries(self._store, self._prefix):
            try:
                value = msgspec.json.decode(entry.value, type=self._kind)
            except msgspec.ValidationError as error:
                key = entry.key.decode()
                self.log.warn("{key} in the store cannot be read: {reason}", key=key, reason=str(error))
            else:
                self._values[entry.key.removeprefix(self._prefix).decode()] = value
        self._tasks.spawn(self._write_now_and_then(), f"writing what changed below {self._prefix.decode()}")

    async def stop(self) -> None:
        """Write what is unsaved, if the store is there, and end."""
        self._tasks.stop()
        try:
            await self.save()
        except AvinetError as error:
            self.log.warn("what was said is lost: {reason}", reason=str(error))

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def get(self, id: str) -> V | None:
        """The value, if there is one."""
        return self._values.get(id)

    def set(self, id: str, value: V) -> None:
        """Remember `value`."""
        if self._values.get(id) != value:
            self._values[id] = value
            self._unsaved.add(id)

    def forget(self, id: str) -> None:
        """Remember nothing of it."""
        if self._values.pop(id, None) is not None:
            self._unsaved.add(id)

    async def save(self) -> None:
        """Write what has changed. What could not be written stays unsaved; raises as `Store.transact`."""
        while self._unsaved:
            ids = sorted(self._unsaved)[:BATCH]
            self._unsaved.difference_update(ids)
            try:
                await self._write(ids)
            except BaseException:
                self._unsaved.update(ids)
                raise

    async def _write(self, ids: Sequence[str]) -> None:
        for race in range(_RACES):
            changes = (*map(self._operation, ids), Put(self._last, b""))
            done = await self._store.transact(Transaction((Unchanged(self._last, self._last_at),), changes))
            if done.succeeded:
                self._last_at = done.revision
                return
            if race:  # the first one may be with what became of an answer that was lost
                await pause(self._clock, _AFTER_RACE.delay_s(race, self._random))
            await self._look()
        raise Unavailable(f"too many changes below {self._prefix.decode()} race with this one")

    async def _look(self) -> None:
        """See which batch was the last, which is one of ours whose answer was lost, or one of another process."""
        entry = (await self._store.read([self._last])).entries.get(self._last)
        self._last_at = entry.revision if entry else 0

    def _operation(self, id: str) -> Put | Delete:
        key, value = self._prefix + id.encode("ascii"), self._values.get(id)
        return Delete(key) if value is None else Put(key, msgspec.json.encode(value, order="deterministic"))

    async def _write_now_and_then(self) -> None:
        news = News()
        while True:
            await pause(self._clock, self._batch_s)
            reason = ""
            try:
                await self.save()
            except AvinetError as error:
                reason = str(error)
            if news.fresh(reason):
                self.log.warn("what was said could not be written yet: {reason}", reason=reason)
