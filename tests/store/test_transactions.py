"""Transactions on etcd whose answers are lost: done once at most, and what is said of them stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import as_deferred
from avinet.errors import NotFound, Unavailable
from avinet.store.etcd.exchange import IN_FLIGHT
from avinet.store.etcd.gateway import Full
from avinet.store.etcd.origin import Origin
from avinet.store.etcd.transactions import Transactions
from avinet.store.interface import Delete, Outcome, Put, Transaction, Uncertain, Unchanged
from tests.store.contract import put
from tests.store.etcd_model import LosingGateway, Model

FATES = st.lists(st.sampled_from(("answer", "lose", "drop", "late", "wake", "fill", "refuse")), max_size=12)


class TransactionTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.model = Model()
        self.numbers = 0
        self.gateway = LosingGateway(self.model)
        self.transactions = self.made()

    def made(self) -> Transactions:
        return Transactions(self.gateway, b"data/", b"marker/", Origin(format=1, revision=0), self.random)  # type: ignore[arg-type]

    def random(self, length: int) -> bytes:
        self.numbers += 1
        return self.numbers.to_bytes(length, "big")

    def transact(self, transaction: Transaction, *fates: str | Callable[[], None]) -> Any:
        """Its outcome, or the error."""
        self.gateway.fates = list(fates)
        results: list[Any] = []
        as_deferred(self.transactions.transact(transaction)).addBoth(results.append)
        [result] = results
        if hasattr(result, "value"):
            result.trap(Unavailable, NotFound)
            return result.value
        return result

    def value(self, key: bytes) -> bytes | None:
        found = self.model.keys.get(b"data/" + key)
        return found.value if found else None

    def test_an_answer_that_was_lost_is_found_again(self) -> None:
        first = self.transact(put(b"a", b"1", Unchanged(b"a", 0)), "lose")
        self.assertEqual(first, Outcome(True, 2))
        self.assertEqual(self.model.keys[b"data/a"].mod_revision, 2)
        again = self.transact(put(b"a", b"2", Unchanged(b"a", 2)), "lose", "lose", "drop", "lose")
        self.assertEqual((again, self.value(b"a")), (Outcome(True, 3), b"2"))

    def test_what_was_not_done_is_done_when_it_is_sent_again(self) -> None:
        self.assertTrue(self.transact(put(b"a", b"1"), "drop", "drop").succeeded)
        self.assertEqual(self.value(b"a"), b"1")

    def test_a_false_condition_that_was_said_stands(self) -> None:
        """What slept in a member meanwhile is not done any more, though its conditions may hold again."""
        self.transact(put(b"a", b"1"))
        create = put(b"a", b"2", Unchanged(b"a", 0))
        self.assertFalse(self.transact(create, "late").succeeded)
        self.transact(Transaction((), (Delete(b"a"),)))
        self.gateway.wake()
        self.assertIsNone(self.value(b"a"))

    def test_what_was_done_is_not_done_again_by_what_comes_late(self) -> None:
        self.transact(put(b"a", b"1"), "late", "late")
        self.transact(put(b"a", b"2"))
        self.gateway.wake()
        self.assertEqual(self.value(b"a"), b"2")

    def test_what_nobody_knows_of_is_no_more_done_once_its_marker_was_used_again(self) -> None:
        self.assertIsInstance(self.transact(put(b"a", b"1"), *["late"] * 6), Uncertain)
        for number in range(100):
            self.transact(put(b"n", b"%d" % number))
        self.gateway.wake()
        self.assertIsNone(self.value(b"a"))

    def test_markers_of_a_process_that_is_gone_are_taken_on(self) -> None:
        self.transact(put(b"a", b"1"))
        self.transact(put(b"a", b"1"), *["late"] * 6)
        self.transactions = self.made()
        self.successResultOf(as_deferred(self.transactions.open()))
        before = self.model.revision
        self.assertEqual(self.transact(put(b"a", b"3"), "answer", "drop"), Outcome(True, before + 1))
        self.assertIsInstance(self.transact(put(b"a", b"4"), "wake", "lose"), Uncertain)
        self.assertEqual(self.value(b"a"), b"1")
        self.assertTrue(self.transact(put(b"a", b"5"), "lose", "lose").succeeded)

    def test_a_lease_that_ends_after_it_was_used_was_used(self) -> None:
        self.model.leases = {7}
        self.assertTrue(self.transact(put(b"a", b"1", lease=7)).succeeded)
        self.model.leases.clear()
        self.assertIsInstance(self.transact(put(b"a", b"2", lease=7)), NotFound)
        self.assertEqual(self.value(b"a"), b"1")
        self.model.leases = {8}
        reply = self.model.txn

        def ends(request: Any) -> Any:
            found = reply(request)
            self.model.leases.clear()
            return found

        self.patch(self.model, "txn", ends)
        self.assertTrue(self.transact(put(b"b", b"1", lease=8), "lose").succeeded)

    def test_what_has_filled_etcd_was_done_though_it_says_that_there_is_no_space(self) -> None:
        self.assertEqual(self.transact(put(b"a", b"1"), "fill"), Outcome(True, 2))
        self.assertEqual(self.transact(put(b"a", b"2"), "drop", "fill"), Outcome(True, 3))
        refused = self.transact(put(b"a", b"3"), "refuse")
        self.assertEqual((type(refused), self.value(b"a")), (Full, b"2"))
        self.assertTrue(self.transact(put(b"a", b"4")).succeeded)

    def test_what_was_refused_for_space_may_be_done_by_an_attempt_before(self) -> None:
        self.assertIsInstance(self.transact(put(b"a", b"1"), "late", "refuse"), Uncertain)
        self.gateway.wake()
        self.assertEqual(self.value(b"a"), b"1")

    def test_nobody_knows_what_became_of_it_where_another_process_uses_its_name(self) -> None:
        self.transact(put(b"a", b"1"))
        other = self.made()
        self.successResultOf(as_deferred(other.open()))

        def interfere() -> None:
            self.successResultOf(as_deferred(other.transact(put(b"b", b"1"))))

        for _ in range(IN_FLIGHT - 1):
            self.transact(put(b"c", b""))
        self.assertIsInstance(self.transact(put(b"a", b"2"), "lose", interfere, "answer"), Uncertain)
        self.assertEqual([value for _, value in self.model.history].count(b"2"), 1)

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.sampled_from(("add", "create", "remove")), FATES), max_size=20))
    def test_each_is_done_once_whatever_becomes_of_its_answers(self, story: list[tuple[str, list[str]]]) -> None:
        """A log to which every transaction appends itself under a condition on its end, as the audit log does."""
        self.begin()
        known: list[bytes] = []
        maybe: set[bytes] = set()
        for number, (kind, fates) in enumerate(story):
            end = self.model.keys.get(b"data/end")
            name = b"%s-%d" % (kind.encode(), number)
            operations: tuple[Put | Delete, ...] = (Put(b"end", name), Put(b"log/%d" % number, name))
            if kind == "remove":
                operations = (Put(b"end", name), Delete(b"log/%d" % max(0, number - 1)))
            conditions = (Unchanged(b"end", end.mod_revision if end else 0),) if kind != "add" else ()
            before = self.model.revision
            outcome = self.transact(Transaction(conditions, operations), *fates)
            if isinstance(outcome, Uncertain):
                maybe.add(name)
            elif isinstance(outcome, Full):
                self.assertNotIn(name, self.ends())
            elif outcome.succeeded:
                known.append(name)
                self.assertGreater(outcome.revision, before)
            else:
                self.assertNotEqual(conditions, ())
            ends = self.ends()
            self.assertEqual([each for each in ends if each in known], known)
            self.assertEqual(len(ends), len(set(ends)))
            self.assertLessEqual(set(ends), {*known, *maybe})

    def ends(self) -> list[bytes]:
        """The values that `end` has had, in order."""
        return [value for key, value in self.model.history if key == b"data/end"]
