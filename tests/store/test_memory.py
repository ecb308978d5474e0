"""The store in memory that other tests stand on: it keeps the contract."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from tests.store.contract import StoreContract
from tests.store.memory import MemoryStore


class TurningClock(Clock):
    """A clock that the test moves; what is due at once comes with the reactor's next turn."""

    def callLater(self, when: float, *args: Any, **kwargs: Any) -> Any:
        if when == 0:
            reactor.callLater(0, self.advance, 0)
        return super().callLater(when, *args, **kwargs)


class MemoryStoreTests(StoreContract, TestCase):
    def setUp(self) -> None:
        self.clock = TurningClock()
        self.store = MemoryStore(self.clock)

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
