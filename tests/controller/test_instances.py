"""Instances are made, ended, and kept to what the directory says, whoever died in between."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.aio import CANCELLED, Tasks, as_deferred
from avinet.cloud.driver import Instance, Order
from avinet.controller.instances import KEEP_S, Instances
from avinet.enrolment.decision import claim_digest
from avinet.enrolment.directory import Directory
from avinet.enrolment.engines import Engines
from avinet.errors import Conflict, LocalError, NotFound
from tests.store.memory import MemoryStore


class Cloud:
    """A cloud in memory; `broken` are ids that it cannot make, `slow` holds back the end of what is deleted."""

    name = "memory"

    def __init__(self) -> None:
        self.orders: dict[str, Order] = {}
        self.off: set[str] = set()
        self.broken: set[str] = set()
        self.slow: Deferred[None] | None = None

    async def create(self, order: Order) -> Instance:
        if order.id in self.broken:
            raise LocalError("the disk is full")
        self.orders[order.id] = order
        self.off.discard(order.id)
        return Instance(order.id, order.generation, running=True)

    async def instances(self) -> Sequence[Instance]:
        return [Instance(each.id, each.generation, each.id not in self.off) for each in self.orders.values()]

    async def power_on(self, id: str) -> None:
        if id not in self.orders:
            raise NotFound(id)
        self.off.remove(id)

    async def delete(self, id: str) -> None:
        self.off.add(id)
        if self.slow is not None:
            await self.slow
        self.orders.pop(id, None)


class InstancesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.tasks, self.cloud = Clock(), Tasks(), Cloud()
        self.store = MemoryStore(self.clock)
        self.engines = Engines(self.store, "node-1", self.clock.seconds)
        self.directory = Directory(self.store, self.clock, self.tasks, lambda id, record: None)
        self.successResultOf(ensureDeferred(self.directory.start()))
        self.instances = Instances(
            self.clock, {"memory": self.cloud}, self.directory, self.engines, self.bundle, claim_s=60.0
        )

    async def bundle(self, image: str | None, actor: str) -> bytes:
        return b"bundle"

    def now(self, doing: Awaitable[Any]) -> Any:
        result = self.successResultOf(as_deferred(doing))
        self.clock.advance(0)  # the directory sees what was written
        return result

    def create(self, *ids: str, driver: str = "memory") -> Any:
        return self.now(self.instances.create(ids, "root", labels={}, driver=driver, image=None))

    def keep(self) -> None:
        keeping = ensureDeferred(self.instances.keep())
        keeping.addErrback(lambda failure: failure.trap(*CANCELLED))
        self.addCleanup(keeping.cancel)

    def opens(self, id: str) -> bool:
        """Whether the claim that the instance was given is the one that is expected."""
        record = self.directory.get(id)
        return record is not None and claim_digest(self.cloud.orders[id].claim) == record.claim_sha256

    def test_the_claim_goes_to_the_instance_alone(self) -> None:
        (claimed,) = self.create("se-1")
        self.assertEqual(claimed.claim, "")
        self.assertTrue(self.opens("se-1"))
        (by_hand,) = self.create("se-2", driver="none")
        self.assertTrue(by_hand.claim)
        self.assertNotIn("se-2", self.cloud.orders)

    def test_what_was_expected_by_a_controller_that_died_is_made(self) -> None:
        self.now(self.engines.expect(["se-1"], "root", labels={}, driver="memory", claim_s=60.0))
        self.now(self.engines.expect(["se-2"], "root", labels={}, driver="none", claim_s=60.0))
        self.keep()
        self.clock.advance(0)
        self.assertEqual(list(self.cloud.orders), ["se-1"])
        self.assertTrue(self.opens("se-1"))

    def test_what_has_ended_is_started_again_unless_it_was_revoked(self) -> None:
        self.create("se-1", "se-2", "se-3")
        self.now(self.engines.revoke("se-2", "root"))
        self.keep()
        before = dict(self.cloud.orders)
        self.cloud.off = {"se-1", "se-2"}
        self.clock.advance(KEEP_S)
        self.assertEqual(self.cloud.off, {"se-2"})
        self.assertEqual(self.cloud.orders, before)

    def test_one_that_cannot_be_made_does_not_keep_the_others_from_it(self) -> None:
        self.now(self.engines.expect(["se-1", "se-2"], "root", labels={}, driver="memory", claim_s=60.0))
        self.cloud.broken = {"se-1"}
        self.keep()
        self.assertEqual(list(self.cloud.orders), ["se-2"])
        self.cloud.broken = set()
        self.clock.advance(KEEP_S)
        self.clock.advance(0)
        self.assertTrue(self.opens("se-1"))

    def test_what_is_being_deleted_is_left_to_its_end(self) -> None:
        self.create("se-1")
        self.keep()
        self.cloud.slow = Deferred()
        record = self.directory.get("se-1")
        assert record is not None

        async def drain() -> None:
            drained.append("se-1")

        drained: list[str] = []
        deleting = ensureDeferred(self.instances.delete(record, "root", drain))
        self.clock.advance(KEEP_S)
        self.assertEqual(self.cloud.off, {"se-1"})
        again = ensureDeferred(self.instances.delete(record, "root", drain))
        self.failureResultOf(again, Conflict)
        self.cloud.slow.callback(None)
        self.now(deleting)
        self.assertEqual((drained, self.cloud.orders, self.directory.get("se-1")), (["se-1"], {}, None))
        self.create("se-1")
