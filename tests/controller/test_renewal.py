"""The node's certificate while the node runs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import Tasks
from avinet.controller.renewal import CHECK_S, Renewal
from avinet.controller.standing import Standing
from avinet.trust.domain import found, load
from avinet.trust.path import verify_node
from tests.store.memory import MemoryStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = 24


class RenewalTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock, self.tasks = Clock(), Tasks()
        self.addCleanup(self.tasks.stop)
        domain = found(Path(self.mktemp()) / "trust", "node-1", NOW)
        self.served: list[x509.Certificate] = []
        self.standing = Standing(
            MemoryStore(self.clock),
            domain,
            (["127.0.0.1:8443"], ["127.0.0.1:22"]),
            self.now,
            replaced=lambda domain: self.served.append(domain.server.certificate),
        )
        self.tasks.spawn(Renewal(self.clock, self.standing, self.now).keep(), "renewing")

    def now(self) -> float:
        return NOW.timestamp() + self.clock.seconds()

    def hours(self, count: int) -> None:
        for _ in range(count):
            self.clock.advance(CHECK_S)
            at = datetime.fromtimestamp(self.now(), UTC)
            verify_node(self.standing.domain.server_chain, self.standing.domain.name, [self.standing.domain.root], at)

    def test_it_is_renewed_at_a_third_of_its_life_without_a_restart_and_never_expires(self) -> None:
        self.hours(2 * DAY)
        self.assertEqual(self.served, [])
        self.hours(30 * DAY)
        self.assertEqual(len(self.served), 13)
        self.assertEqual(load(self.standing.domain.folder).server.certificate, self.served[-1])

    def test_a_disk_that_cannot_be_written_delays_it(self) -> None:
        folder = self.standing.domain.folder
        aside = folder.rename(folder.with_name("aside"))
        self.hours(3 * DAY)
        self.assertEqual(self.served, [])
        aside.rename(folder)
        self.hours(1)
        self.assertEqual(len(self.served), 1)
