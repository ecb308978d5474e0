"""The directory follows the store: who may log in, at once and after the watch was lost."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.aio import Tasks, as_deferred
from avinet.enrolment.directory import Directory, Login
from avinet.errors import Unavailable
from avinet.store.interface import Compacted
from avinet.trust import keys
from tests.enrolment.making import Newborn, Office
from tests.store.memory import MemoryStore


class DirectoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        self.office = Office(self.store)
        self.result(self.office.admit_image())
        self.tasks = Tasks()
        self.changes: list[tuple[str, str | None]] = []
        self.directory = Directory(
            self.store,
            self.clock,
            self.tasks,
            lambda id, record: self.changes.append((id, record.state if record else None)),
        )
        self.start()

    def start(self) -> None:
        self.result(self.directory.start())
        self.clock.advance(0)

    def result(self, awaitable: Any) -> Any:
        return self.successResultOf(as_deferred(awaitable))

    def enrolled(self, id: str) -> str:
        """The public key of a new service engine."""
        se = Newborn(id, self.result(self.office.expect(id)))
        self.result(self.office.registrar.enrol(se.signed(self.office.time)))
        return keys.public_line(se.key)

    def test_a_key_logs_in_as_soon_as_it_is_enrolled(self) -> None:
        line = self.enrolled("se-1")
        self.assertEqual(self.directory.login(line), Login("se-1", 1, keys.fingerprint(line)))
        self.assertEqual(self.changes, [("se-1", "expected"), ("se-1", "enrolled")])

    def test_a_revoked_or_forgotten_key_does_not(self) -> None:
        one, two = self.enrolled("se-1"), self.enrolled("se-2")
        self.result(self.office.engines.revoke("se-1", "operator"))
        self.result(self.office.engines.forget("se-2", "operator"))
        self.assertEqual((self.directory.login(one), self.directory.login(two)), (None, None))
        self.assertEqual(self.changes[-2:], [("se-1", "revoked"), ("se-2", None)])

    def test_a_stranger_does_not(self) -> None:
        for line in (keys.public_line(keys.generate()), "ssh-ed25519 AAAA", "", "ssh-rsa AAAA"):
            self.assertIsNone(self.directory.login(line))

    def test_it_holds_no_receipts(self) -> None:
        self.enrolled("se-1")
        self.assertEqual([each.receipt for each in self.directory], [""])

    def test_it_reads_more_than_a_page(self) -> None:
        for number in range(1005):
            self.result(self.office.expect(f"se-{number}"))
        again = Directory(self.store, self.clock, self.tasks, lambda id, record: None)
        self.result(again.start())
        self.assertEqual(len(again), 1005)
        again.stop()

    def test_what_was_missed_is_read_when_the_history_is_gone(self) -> None:
        """(E11)"""
        one = self.enrolled("se-1")
        self.store.unavailable = "the disk is full"
        self.store.break_watches(lambda: Compacted("the history is gone"))
        self.store.unavailable = ""
        self.result(self.office.engines.revoke("se-1", "operator"))
        self.clock.advance(1)
        self.clock.advance(0)
        self.assertIsNone(self.directory.login(one))
        self.assertIsNotNone(self.directory.login(self.enrolled("se-2")))

    def test_what_was_missed_is_read_when_the_watch_was_lost(self) -> None:
        """(E11)"""
        one, two = self.enrolled("se-1"), self.enrolled("se-2")
        self.store.unavailable = "no quorum"
        self.store.break_watches(lambda: Unavailable("no quorum"))
        self.clock.advance(1)
        self.assertIsNotNone(self.directory.login(one))
        self.store.unavailable = ""
        self.result(self.office.engines.forget("se-1", "operator"))
        self.result(self.office.engines.revoke("se-2", "operator"))
        self.clock.advance(1)
        self.clock.advance(0)
        self.assertEqual((self.directory.login(one), self.directory.login(two)), (None, None))
        self.assertIsNotNone(self.directory.login(self.enrolled("se-3")))

    def test_nothing_is_seen_after_it_stopped(self) -> None:
        self.directory.stop()
        self.enrolled("se-1")
        self.assertEqual(self.changes, [])

    def test_the_keys_as_openssh_reads_them(self) -> None:
        line = self.enrolled("se-1")
        self.result(self.office.expect("se-2"))
        self.assertEqual(
            self.directory.authorized_keys(["control:80", "api:80"], ["ssh:22"]),
            f'restrict,port-forwarding,permitopen="control:80",permitopen="api:80",permitlisten="ssh:22" {line} se-1.1\n',
        )
