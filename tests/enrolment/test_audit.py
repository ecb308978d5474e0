"""The audit log: every record is sealed once, in order; whoever saw a head can tell whether the past is still the same."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import Tasks, as_deferred
from avinet.enrolment.audit import HEAD, LEASE_S, RETRY_S, SEALER, WAIT_S, AuditLog, leaf_key
from avinet.enrolment.records import AuditRecord, put_audit
from avinet.enrolment.verify import verify_log
from avinet.errors import Conflict, Invalid, Unavailable
from avinet.store.interface import Delete, Put, Transaction
from avinet.trust.document import sign_document
from avinet.trust.domain import found
from avinet.trust.merkle import EMPTY, is_consistent
from avinet.wire.audit import LogHead
from tests.enrolment.making import domain
from tests.store.memory import MemoryStore


class AuditTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        self.log = self.made()
        self.written = 0

    def made(self, node: str = "node-1") -> AuditLog:
        tasks = Tasks()
        self.addCleanup(tasks.stop)
        issuing = domain().issuing
        return AuditLog(
            self.store,
            self.clock,
            tasks,
            domain=domain().id,
            node=node,
            now=lambda: domain().created + 60,
            sign=lambda text: (sign_document(text, issuing), issuing.certificate_pem.decode()),
        )

    def result(self, awaitable: Any) -> Any:
        return self.successResultOf(as_deferred(awaitable))

    def write(self, count: int = 1, **fields: Any) -> None:
        """So many records, each earlier than the one before by its own clock."""
        for _ in range(count):
            self.written += 1
            record = AuditRecord(time=1e9 - self.written, node="n", kind="test", outcome=str(self.written), **fields)
            self.result(self.store.transact(Transaction((), (put_audit(record),))))

    def seal(self) -> LogHead:
        head: LogHead = self.result(self.log.seal()).head
        return head

    def records(self, log: AuditLog | None = None) -> list[str]:
        return [each.decode() for each in self.result((log or self.log).entries(0, 10**6))]

    def outcomes(self) -> list[str]:
        return [msgspec.json.decode(each)["outcome"] for each in self.records()]

    def test_records_are_sealed_in_the_order_of_their_revisions(self) -> None:
        self.write(100)
        head = self.seal()
        self.assertEqual(head.size, 100)
        self.assertEqual(self.outcomes(), [str(number) for number in range(1, 101)])
        self.assertEqual([msgspec.json.decode(each)["seq"] for each in self.records()], list(range(100)))
        self.assertEqual(self.result(self.store.range(b"audit/")).entries, [])

    def test_an_empty_log_has_a_signed_head_too(self) -> None:
        head = self.seal()
        self.assertEqual((head.size, head.root), (0, EMPTY.hex()))
        self.assertEqual(verify_log(head, [], [domain().root]), 0)

    def test_the_whole_of_it_verifies_at_every_size(self) -> None:
        for size in (*range(1, 40), 255, 256, 257, 511, 512, 513, 700):
            self.write(size - self.written)
            self.assertEqual(verify_log(self.seal(), self.records(), [domain().root]), size)

    def test_every_earlier_head_is_consistent_with_every_later_one(self) -> None:
        heads = []
        for size in (1, 2, 3, 7, 8, 25, 100, 255, 256, 257, 300, 512, 600):
            self.write(size - self.written)
            heads.append(self.seal())
        fresh = self.made()
        for old in heads:
            for new in heads:
                if old.size > new.size:
                    continue
                for log in (self.log, fresh):
                    proof = [base64.b64decode(each) for each in self.result(log.proof(old.size, new.size))]
                    roots = bytes.fromhex(old.root), bytes.fromhex(new.root)
                    self.assertTrue(is_consistent(old.size, new.size, *roots, proof), (old.size, new.size))

    def test_there_is_no_proof_of_what_is_not_there_yet(self) -> None:
        self.write(3)
        self.seal()
        self.failureResultOf(as_deferred(self.log.proof(4, 3)), Invalid)
        self.assertEqual(self.result(self.log.proof(0, 3)), [])

    def broken(self, head: LogHead, records: list[str], why: str) -> None:
        with self.assertRaises(Conflict) as caught:
            verify_log(head, records, [domain().root])
        self.assertIn(why, str(caught.exception))

    def test_what_was_changed_cut_or_forged_is_said(self) -> None:
        self.write(10)
        head, records = self.seal(), self.records()
        changed = [*records[:4], records[4].replace('"outcome":"5"', '"outcome":"6"'), *records[5:]]
        self.broken(head, changed, "was changed")
        self.broken(head, records[:9], "cut off: 9 of 10")
        self.broken(head, records[:3] + records[4:], "a gap: record 4 stands where 3 belongs")
        self.broken(head, ["no JSON", *records[1:]], "record 0 of the audit log cannot be read")
        replaced = msgspec.structs.replace
        for forged in (replaced(head, size=9), replaced(head, root="0" * 64), replaced(head, domain="other")):
            self.broken(forged, records[: forged.size], "not signed")
        stranger = found(Path(self.mktemp()) / "other", "node-1", datetime.now(UTC))
        with self.assertRaises(Conflict):
            verify_log(head, records, [stranger.root])

    def test_two_who_seal_at_once_seal_nothing_twice(self) -> None:
        other = self.made("node-2")
        for _ in range(5):
            self.write(30)
            both = [as_deferred(log.seal()) for log in (self.log, other)]
            for each in both:
                self.successResultOf(each)
        self.assertEqual(self.outcomes(), [str(number) for number in range(1, 151)])
        self.assertEqual(verify_log(self.seal(), self.records(), [domain().root]), 150)

    def test_who_loses_the_race_begins_anew(self) -> None:
        other, transact, raced = self.made("node-2"), self.store.transact, []

        async def racing(transaction: Transaction) -> Any:
            if not raced and any(isinstance(each, Put) and each.key == HEAD for each in transaction.then):
                raced.append(True)
                await other.seal()
            return await transact(transaction)

        self.write(60)
        self.store.transact = racing  # type: ignore[method-assign]
        self.assertEqual(self.seal().size, 60)
        self.assertEqual(self.outcomes(), [str(number) for number in range(1, 61)])

    def test_it_seals_by_itself_a_moment_after_a_record_was_written(self) -> None:
        self.write(3)
        self.log.start()
        self.clock.advance(0)
        self.assertEqual(self.result(self.log.head()).size, 3)
        self.write(2)
        self.assertEqual(self.result(self.log.head()).size, 3)
        self.clock.advance(WAIT_S)
        self.assertEqual(self.result(self.log.head()).size, 5)

    def test_of_two_nodes_one_seals_and_the_other_takes_over(self) -> None:
        self.log.start()
        self.clock.advance(0)
        other = self.made("node-2")
        other.start()
        holder = lambda: self.result(self.store.read([SEALER])).entries[SEALER].value  # noqa: E731
        self.assertEqual(holder(), b"node-1")
        for _ in range(20):
            self.clock.advance(LEASE_S / 4)
        self.assertEqual(holder(), b"node-1", "its lease was kept")
        self.log._tasks.stop()
        for _ in range(20):
            self.clock.advance(LEASE_S / 4)
        self.assertEqual(holder(), b"node-2")
        self.write(1)
        self.clock.advance(WAIT_S)
        self.assertEqual(self.result(self.log.head()).size, 1)

    def test_a_node_that_was_started_again_goes_on_at_once(self) -> None:
        self.log.start()
        self.clock.advance(0)
        self.log._tasks.stop()
        again = self.made()
        again.start()
        self.clock.advance(0)
        self.write(1)
        self.clock.advance(WAIT_S)
        self.assertEqual(self.result(self.log.head()).size, 1)

    def test_without_a_store_it_tries_again(self) -> None:
        self.store.unavailable = "no quorum"
        self.log.start()
        self.failureResultOf(as_deferred(self.log.seal()), Unavailable)
        self.store.unavailable = ""
        self.write(1)
        self.clock.advance(RETRY_S)
        self.assertEqual(self.result(self.log.head()).size, 1)

    def test_events_are_read_in_pages_and_by_what_is_wanted(self) -> None:
        self.write(600, id="se-1")
        self.write(1, id="se-2", alarm=True)
        self.write(600, id="se-1")
        self.seal()
        seen, after = [], ""
        while True:
            page = self.result(self.log.events(after, 250))
            seen += [each.outcome for each in page.items]
            after = page.next
            if not after:
                break
        self.assertEqual(seen, [str(number) for number in range(1, 1202)])
        [alarm] = self.result(self.log.events("", 10, lambda event: event.alarm)).items
        self.assertEqual((alarm.id, alarm.seq), ("se-2", 600))
        self.failureResultOf(as_deferred(self.log.events("audit/x", 1)), Invalid)

    def test_a_record_that_was_taken_out_of_the_store_is_missed(self) -> None:
        self.write(10)
        self.seal()
        self.result(self.store.transact(Transaction((), (Delete(leaf_key(4)),))))
        self.broken(self.seal(), self.records(), "a gap")
