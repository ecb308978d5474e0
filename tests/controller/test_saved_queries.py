"""Queries that are kept: by name and version, each change with its record, and none that could not be asked."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import as_deferred
from avinet.controller import saved_queries
from avinet.controller.saved_queries import SavedQueries
from avinet.enrolment.records import AUDIT, AuditRecord, put_audit
from avinet.errors import AvinetError, Damaged, Invalid, NotFound, Precondition, TooLarge, Unavailable
from avinet.store.interface import Delete, Outcome, Put, Transaction
from avinet.wire.message import convert, encode
from avinet.wire.query import Filter, Measure, Rows, Series, Top, Totals
from avinet.wire.saved_query import LogQuestion, SavedQuery, When
from tests.store.memory import MemoryStore

NOW = 1_800_000_000.0
DAY_MS = 86_400_000
COUNT = Totals(measures=[Measure(of="requests")])


def question(ago_ms: int = 60_000, **fields: Any) -> LogQuestion:
    return LogQuestion(since=When(ago_ms=ago_ms), **{"get": COUNT, **fields})


class SavedTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.store = MemoryStore(Clock())
        self.saved = SavedQueries(self.store, lambda: NOW, self.record)

    def record(self, kind: str, actor: str, name: str, outcome: str) -> Put:
        return put_audit(AuditRecord(time=NOW, node="n", kind=kind, source=actor, id=name, outcome=outcome))

    def result(self, awaitable: Any) -> Any:
        return self.successResultOf(as_deferred(awaitable))

    def refused(self, awaitable: Any, kind: type[AvinetError]) -> str:
        before = self.store.revision
        failure = self.failureResultOf(as_deferred(awaitable), kind)
        self.assertEqual(self.store.revision, before)
        self.assertNotIn("\n", str(failure.value))
        return str(failure.value)

    def names(self, **page: Any) -> list[str]:
        return [each.name for each in self.result(self.saved.list(**page)).items]

    def test_what_is_kept_comes_back_in_its_version(self) -> None:
        first = self.result(self.saved.put("slow", question(), "ann"))
        self.assertEqual(first, SavedQuery(name="slow", version=1, author="ann", time=NOW, question=question()))
        second = self.result(self.saved.put("slow", question(5), "bob"))
        self.assertEqual((second.version, second.author), (2, "bob"))
        self.assertEqual(self.result(self.saved.get("slow")), second)

    def test_each_change_is_recorded_with_it(self) -> None:
        self.result(self.saved.put("slow", question(), "ann"))
        self.result(self.saved.put("slow", question(5), "bob"))
        self.result(self.saved.delete("slow", "eve"))
        found = [msgspec.json.decode(each.value) for each in self.result(self.store.range(AUDIT)).entries]
        self.assertEqual(
            sorted((each["kind"], each["source"], each["id"], each["outcome"]) for each in found),
            [
                ("log-query-deleted", "eve", "slow", "version 2"),
                ("log-query-saved", "ann", "slow", "version 1"),
                ("log-query-saved", "bob", "slow", "version 2"),
            ],
        )
        self.refused(self.saved.get("slow"), NotFound)

    def test_another_version_than_was_seen_is_not_changed(self) -> None:
        self.refused(self.saved.put("slow", question(), "ann", expected=1), Precondition)
        self.result(self.saved.put("slow", question(), "ann", expected=0))
        self.assertIn("at version 1", self.refused(self.saved.put("slow", question(), "bob", expected=0), Precondition))
        self.refused(self.saved.delete("slow", "bob", expected=2), Precondition)
        self.result(self.saved.delete("slow", "bob", expected=1))
        self.assertIn("see avictl", self.refused(self.saved.delete("slow", "bob"), NotFound))

    def test_of_two_at_once_both_happen_one_after_the_other(self) -> None:
        transact = self.store.transact
        raced = []

        async def beaten(transaction: Transaction) -> Outcome:
            if not raced:
                raced.append(True)
                await self.saved.put("slow", question(7), "bob")
            return await transact(transaction)

        self.patch(self.store, "transact", beaten)
        done = self.result(self.saved.put("slow", question(), "ann"))
        self.assertEqual((done.version, done.author), (2, "ann"))

        async def never(transaction: Transaction) -> Outcome:
            return Outcome(False, self.store.revision)

        self.patch(self.store, "transact", never)
        self.refused(self.saved.put("slow", question(), "ann"), Unavailable)
        self.refused(self.saved.delete("slow", "ann"), Unavailable)

    def test_what_could_not_be_asked_is_not_kept(self) -> None:
        minute = Series(bucket_s=1, measures=[Measure(of="requests")])
        for bad, words in (
            (question(400 * DAY_MS + 1), "400 days"),
            (question(5, until=When(ago_ms=5)), "after since_ms"),
            (question(DAY_MS, get=minute), "buckets"),
            (question(selector="site==x"), "label expression"),
        ):
            self.assertIn(words, self.refused(self.saved.put("slow", bad, "ann"), Invalid))
        self.assertIn("name of a query", self.refused(self.saved.put("../x", question(), "ann"), Invalid))
        self.refused(self.saved.get("../x"), Invalid)

    def test_bytes_and_numbers_are_bounded(self) -> None:
        many = Filter(column="path", op="in", values=["x" * 8000] * 50)
        self.refused(self.saved.put("slow", question(filters=[many]), "ann"), TooLarge)
        self.patch(saved_queries, "MOST", 2)
        for name in ("a", "b"):
            self.result(self.saved.put(name, question(), "ann"))
        self.refused(self.saved.put("c", question(), "ann"), TooLarge)
        self.result(self.saved.put("b", question(), "ann"))

    def test_lists_are_in_pages_by_number_and_by_bytes(self) -> None:
        for name in ("c", "a", "b", "d"):
            self.result(self.saved.put(name, question(), "ann"))
        self.assertEqual(self.names(), ["a", "b", "c", "d"])
        page = self.result(self.saved.list(limit=3))
        self.assertEqual((page.next, self.names(after=page.next)), ("c", ["d"]))
        self.patch(saved_queries, "PAGE_LIMIT_BYTES", 200)
        seen, after = [], ""
        while True:
            page = self.result(self.saved.list(after=after))
            seen += [each.name for each in page.items]
            if not (after := page.next):
                break
        self.assertEqual(seen, ["a", "b", "c", "d"])

    def test_one_of_another_version_of_avinet_is_told_of_left_out_and_can_be_replaced(self) -> None:
        for name in ("a", "b"):
            self.result(self.saved.put(name, question(), "ann"))
        odd = (
            b'{"version": 8, "author": "x", "time": 1.0, "question": {"since": {"ago_ms": 5}, "get": {"shape": "new"}}}'
        )
        self.result(self.store.transact(Transaction((), (Put(b"log-query/a", odd),))))
        self.assertIn("save it again", self.refused(self.saved.get("a"), Damaged))
        self.assertEqual(self.names(), ["b"])
        self.assertEqual(self.result(self.saved.put("a", question(), "ann")).version, 9)
        self.result(self.store.transact(Transaction((), (Delete(b"log-query/a"),))))
        self.assertEqual(self.names(), ["b"])


class QuestionTests(SynchronousTestCase):
    @given(
        st.builds(When, ago_ms=st.integers(0, 400 * DAY_MS)) | st.builds(When, at_ms=st.integers(0, 2**52)),
        st.sampled_from([COUNT, Top(columns=["path"]), Rows(columns=["path"])]),
    )
    def test_it_is_the_same_after_the_wire_and_moves_with_the_clock(self, since: When, get: Any) -> None:
        asked = LogQuestion(since=since, get=get)
        self.assertEqual(convert(msgspec.json.decode(encode(asked)), LogQuestion, "it"), asked)
        now_ms = 2**52 + 1000
        moved = [since.of(each) - since.of(now_ms) for each in (now_ms + 1, now_ms + 5000)]
        self.assertEqual(moved, [1, 5000] if since.at_ms is None else [0, 0])

    def test_a_time_is_one_of_both(self) -> None:
        for plain in ({}, {"ago_ms": 1, "at_ms": 1}, {"ago_ms": -1}):
            self.assertRaises(Invalid, convert, plain, When, "it")
        self.assertEqual(When(ago_ms=5).of(3), 0)
