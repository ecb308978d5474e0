"""Clients that race one another on one store, and write down what they asked and were told.

They keep a few registers, and race for claims as service engines do that enrol: a claim is there once, and whoever
takes it removes it and says who has won, in one transaction.
"""

from __future__ import annotations

import time
from math import inf
from random import Random
from typing import Any

from avinet.aio import pause
from avinet.errors import Unavailable
from avinet.store.interface import Delete, Put, Snapshot, Store, Transaction, Uncertain, Unchanged
from tests.history.checker import Operation, Value

PLACE = b"history/"
REGISTERS = tuple(PLACE + b"register/%d" % number for number in range(5))
READ, WRITE, SWAP = 0.25, 0.2, 0.3
"""Parts of what a client does: the rest is the race for a claim."""
PAUSE_S = 0.05
"""The most that a client waits between two operations."""


class Record:
    """What all clients have asked, in no order, and the claim that they are racing for."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.claim = 0
        self.ending = False


class Client:
    """One of them, which asks `store`. What it does is drawn from `random`."""

    def __init__(self, clock: Any, name: str, store: Store, record: Record, random: Random) -> None:
        self._clock = clock
        self.name = name
        self._store = store
        self._record = record
        self._random = random
        self._count = 0

    async def work(self) -> None:
        """Go on until all shall end."""
        while not self._record.ending:
            drawn = self._random.random()
            if drawn < READ:
                await self._read(tuple(self._random.sample(REGISTERS, self._random.randint(1, 3))))
            elif drawn < READ + WRITE:
                await self._transact((), {self._random.choice(REGISTERS): self._value()})
            elif drawn < READ + WRITE + SWAP:
                await self._swap()
            else:
                await self._race()
            await pause(self._clock, self._random.random() * PAUSE_S)

    def _value(self) -> bytes:
        """Nobody writes it again."""
        self._count += 1
        return b"%s-%d" % (self.name.encode(), self._count)

    async def _swap(self) -> None:
        """Read one or two registers, and write both if neither has changed."""
        keys = tuple(self._random.sample(REGISTERS, self._random.randint(1, 2)))
        if (found := await self._read(keys)) is not None:
            await self._transact(_unchanged(found, keys), {key: self._value() for key in keys})

    async def _race(self) -> None:
        """Take the claim if it is there; issue it if it never was; go on to the next one if somebody has won."""
        number = self._record.claim
        claim, won = PLACE + b"claim/%d" % number, PLACE + b"won/%d" % number
        if (found := await self._read((claim, won))) is None:
            return
        conditions = _unchanged(found, (claim, won))
        if claim in found.entries:
            await self._transact(conditions, {claim: None, won: self._value()})
        elif won in found.entries:
            self._record.claim = max(self._record.claim, number + 1)
        else:
            await self._transact(conditions, {claim: self._value()})

    async def _read(self, keys: tuple[bytes, ...]) -> Snapshot | None:
        began = time.monotonic()
        try:
            found = await self._store.read(keys)
        except Unavailable:
            return None
        reads = tuple(
            (key, entry.value, entry.revision) if (entry := found.entries.get(key)) else (key, None, 0) for key in keys
        )
        self._record.operations.append(Operation(self.name, began, time.monotonic(), True, found.revision, reads=reads))
        return found

    async def _transact(self, conditions: tuple[Unchanged, ...], writes: dict[bytes, Value]) -> None:
        then = tuple(Delete(key) if value is None else Put(key, value) for key, value in writes.items())
        began, ended = time.monotonic(), inf
        succeeded: bool | None = None
        revision = 0
        try:
            outcome = await self._store.transact(Transaction(conditions, then))
        except Uncertain:
            pass
        except Unavailable:
            succeeded, ended = False, time.monotonic()
        else:
            succeeded, revision, ended = outcome.succeeded, outcome.revision, time.monotonic()
        asked = tuple((each.key, each.revision) for each in conditions)
        self._record.operations.append(
            Operation(self.name, began, ended, succeeded, revision, asked, tuple(writes.items()))
        )


def _unchanged(found: Snapshot, keys: tuple[bytes, ...]) -> tuple[Unchanged, ...]:
    return tuple(Unchanged(key, found.entries[key].revision if key in found.entries else 0) for key in keys)
