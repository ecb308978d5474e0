"""A node with documents, what is desired, and roll-outs in a store in memory."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.config import rollout as rules
from avinet.config.compile import compile_for
from avinet.config.desired import Desired
from avinet.config.documents import Documents
from avinet.config.rollout import RolloutRecord
from avinet.config.rollouts import Rollouts
from avinet.errors import AvinetError, Conflict
from avinet.wire.config import Document
from avinet.wire.rollout import RolloutPlan
from tests.config.making import Certificates, Fleet, audited, fired, web
from tests.store.memory import MemoryStore

PLAN = RolloutPlan(batches=("1",))


class RolloutCase(SynchronousTestCase):
    """Four service engines that all run document `web`, in its version 1."""

    engines = 4

    @override
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.store = MemoryStore(self.clock)
        self.fleet = Fleet(**{f"se_{each}": {} for each in range(self.engines)})
        self.start()
        self.apply(web("web", 80))

    def start(self) -> None:
        """A node, as its start makes it."""
        self.documents = Documents(self.clock, self.store, self.fleet, Certificates(), self.clock.seconds, audited)
        self.rollouts = Rollouts(self.store, self.documents.versions, self.clock.seconds, audited)
        self.desired = Desired(self.clock, self.store, self.documents, self.fleet, lambda id: None, lambda: 0.5)
        self.done(self.desired.start())
        self.addCleanup(self.desired.stop)
        self.settle()

    def settle(self) -> None:
        self.clock.pump([0] * 50)

    def done(self, coroutine: Any) -> Any:
        return self.successResultOf(fired(coroutine))

    def apply(self, made: Document, **fields: Any) -> Any:
        applying = fired(self.documents.apply(made, "ada", **fields))
        self.settle()
        return self.successResultOf(applying)

    def refused(self, coroutine: Any, kind: type[AvinetError] = Conflict) -> str:
        """Why it was refused; nothing was written."""
        before = self.store.revision
        failing = fired(coroutine)
        self.settle()
        self.assertEqual(self.store.revision, before)
        return str(self.failureResultOf(failing, kind).value)

    def open(self, name: str = "web") -> list[str]:
        """Open the next batch of a roll-out; who is in it."""
        ids: list[str] = []

        def make(record: RolloutRecord, now: float) -> RolloutRecord:
            batch = rules.next_batch(record, list(self.fleet.engines), lambda id: True)
            ids[:] = batch.ids
            return rules.opened(record, batch, "node-1", now)

        self.done(self.rollouts.step(name, "node-1", make, "rollout-batch"))
        self.settle()
        return ids

    def end(self, state: Any, name: str = "web") -> None:
        self.done(
            self.rollouts.step(
                name, "bob", lambda record, now: rules.ended(record, state, "so", "bob", now), f"rollout-{state}"
            )
        )
        self.settle()

    def running(self, *documents: Document) -> set[str]:
        """Who should run these documents."""
        expected = {id: compile_for(id, labels, documents) for id, labels in self.fleet.engines.items()}
        return {id for id in self.fleet.engines if self.config(id) == expected[id]}

    def config(self, id: str) -> Any:
        compiled = self.desired.compiled(id)
        return compiled.config if compiled else None

    def audit(self) -> list[str]:
        return [entry.value.decode() for entry in self.done(self.store.range(b"audit/")).entries]

    @property
    def everybody(self) -> set[str]:
        return set(self.fleet.engines)
