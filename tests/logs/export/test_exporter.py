"""An exporter sends as fast as its destination takes, loses nothing in silence, and never holds more than it may."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import Tasks, as_deferred
from avinet.errors import Invalid, PeerError, Unavailable
from avinet.logs.export.batch import Batch
from avinet.logs.export.exporter import GATHER_S, STOP_S, Exporter, Sent
from avinet.logs.export.settings import Export

START_S = 1_800_000_000.0
MIB = 1024 * 1024


class Collector:
    """A destination that does what the test says, and remembers what it was sent."""

    where = "the collector"

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.says: Sent | Exception = Sent()
        self.held: Deferred[None] | None = None
        self.under_way = self.most = 0
        self.closed = False
        self.again = False
        self.changed: Any = None

    async def send(self, batch: Batch) -> Sent:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            self.batches.append(batch)
            if self.held is not None:
                await self.held
            if isinstance(self.says, Exception):
                raise self.says
            return self.says
        finally:
            self.under_way -= 1

    async def close(self) -> None:
        self.closed = True

    @property
    def lines(self) -> list[list[bytes]]:
        return [list(each.lines) for each in self.batches]

    @property
    def notices(self) -> list[tuple[str, int | None]]:
        return [(each.reason, each.records) for batch in self.batches for each in batch.notices]


class ExporterTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock: Any = Clock()
        self.tasks = Tasks()
        self.addCleanup(self.tasks.stop)
        self.collector = Collector()
        self.make()

    def make(self, **settings: Any) -> None:
        self.exporter = Exporter(
            self.clock,
            Export(name="out", kind="otlp", url="http://127.0.0.1", **settings),
            self.collector,
            lambda: START_S + self.clock.seconds(),
            lambda: 0.999,
            self.tasks,
        )
        self.exporter.start()

    def later(self, seconds: float) -> None:
        for _ in range(int(seconds * 10)):
            self.clock.advance(0.1)

    def test_what_comes_together_goes_together_and_soon(self) -> None:
        self.exporter.take([b"1", b"2"])
        self.exporter.take([b"3"])
        self.clock.advance(GATHER_S)
        self.assertEqual(self.collector.lines, [[b"1", b"2", b"3"]])
        state = self.exporter.state
        self.assertEqual((state.sent, state.waiting_bytes, state.lost, state.problem), (3, 0, {}, ""))

    def test_one_batch_is_under_way_and_what_there_is_no_room_for_is_told_afterwards(self) -> None:
        self.make(buffer_mib=1, batch_kib=256, timeout_s=300)
        self.collector.held = Deferred()
        line = b"x" * 1024
        for _ in range(3000):
            self.exporter.take([line])
            self.clock.advance(0.01)
            self.assertLessEqual(self.exporter.state.waiting_bytes, MIB)
        self.assertEqual((self.collector.most, len(self.collector.batches)), (1, 1))
        self.assertEqual(self.exporter.state.lost, {"full": 3000 - 1024})
        held, self.collector.held = self.collector.held, None
        held.callback(None)
        self.later(5)
        self.assertEqual(sum(map(len, self.collector.lines)), 1024)
        self.assertEqual(self.collector.notices, [("full", 3000 - 1024)])
        self.assertEqual((self.exporter.state.sent, self.collector.most), (1024, 1))

    def test_it_is_tried_again_later_and_later_with_the_same_batch(self) -> None:
        self.collector.says = Unavailable("not now", retry_after_s=1.0)
        self.exporter.take([b"1"])
        self.later(3)
        tries = len(self.collector.batches)
        self.assertTrue(2 < tries < 6, tries)
        self.later(600)
        self.assertLess(len(self.collector.batches), tries + 25)
        self.assertEqual(self.exporter.state.problem, "not now")
        self.collector.says = Sent()
        self.later(60)
        self.assertEqual({tuple(each) for each in self.collector.lines}, {(b"1",)})
        self.assertEqual((self.exporter.state.sent, self.exporter.state.problem), (1, ""))

    def test_it_waits_as_long_as_the_collector_says(self) -> None:
        self.collector.says = Unavailable("busy", retry_after_s=120.0)
        self.exporter.take([b"1"])
        self.later(100)
        self.assertEqual(len(self.collector.batches), 1)
        self.later(40)
        self.assertEqual(len(self.collector.batches), 2)

    def test_one_that_gives_no_answer_is_given_up_and_asked_again(self) -> None:
        self.collector.held = Deferred()
        self.exporter.take([b"1"])
        self.later(10.5)
        self.assertIn("the collector gave no answer within 10 s", self.exporter.state.problem)
        self.collector.held = None
        self.later(5)
        self.assertEqual((self.exporter.state.sent, self.collector.most), (1, 1))

    def test_what_is_not_taken_at_all_is_lost_and_told_and_the_next_one_is_tried(self) -> None:
        self.collector.says = Invalid("the collector answered 400")
        self.exporter.take([b"1", b"2"])
        self.clock.advance(GATHER_S)
        self.assertEqual(len(self.collector.batches), 1)
        self.exporter.take([b"3"])
        self.collector.says = Sent()
        self.later(10)
        self.assertEqual(self.collector.lines, [[b"1", b"2"], [b"3"]])
        self.assertEqual(self.collector.notices, [("refused", 2)])
        self.assertEqual((self.exporter.state.sent, self.exporter.state.lost), (1, {"refused": 2}))

    def test_a_collector_that_takes_nothing_is_not_asked_without_end_even_about_what_is_missing(self) -> None:
        self.collector.says = Invalid("no")
        self.exporter.missing("crash", None)
        self.later(60)
        self.assertLess(len(self.collector.batches), 25)
        self.assertEqual(set(self.collector.notices), {("crash", None)})

    def test_a_part_that_is_not_taken_is_counted(self) -> None:
        self.collector.says = Sent(refused=2, why="2 of them are too old")
        self.exporter.take([b"1", b"2", b"3"])
        self.clock.advance(GATHER_S)
        self.assertEqual((self.exporter.state.sent, self.exporter.state.lost), (1, {"refused": 2}))
        self.assertEqual(self.exporter.state.problem, "2 of them are too old")
        self.collector.says = Sent(refused=99)
        self.exporter.take([b"4"])
        self.later(1)
        self.assertEqual(self.exporter.state.lost, {"refused": 3 + 0}, "no more than it was sent")

    def test_what_may_not_have_arrived_is_an_unknown_number(self) -> None:
        self.collector.says = Sent(unsure=True)
        self.exporter.take([b"1"])
        self.clock.advance(GATHER_S)
        self.collector.says = Sent()
        self.later(1)
        self.assertEqual((self.exporter.state.unknown, self.exporter.state.lost), (1, {}))
        self.assertEqual(self.collector.notices, [("connection", None)])

    def test_what_is_to_be_sent_again_is_without_waiting_for_more(self) -> None:
        self.collector.again = True
        self.collector.changed()
        self.clock.advance(GATHER_S)
        self.assertEqual(self.collector.lines, [[]])
        self.collector.again = False
        self.later(60)
        self.assertLessEqual(len(self.collector.batches), 2)

    def test_what_was_missing_before_it_came_here_is_told_and_not_counted_here(self) -> None:
        self.exporter.take([b"1"])
        self.exporter.missing("dropped", 4, 1000, 2000)
        self.clock.advance(GATHER_S)
        [notice] = self.collector.batches[0].notices
        self.assertEqual((notice.reason, notice.records, notice.from_ms, notice.to_ms), ("dropped", 4, 1000, 2000))
        self.assertEqual((self.exporter.state.lost, self.exporter.state.unknown), ({}, 0))

    def test_what_a_collector_says_is_a_line_of_a_report(self) -> None:
        self.collector.says = PeerError("a\x1b[2J\r\nb\u202e" + "x" * 9999)
        self.exporter.take([b"1"])
        self.clock.advance(GATHER_S)
        self.assertEqual(self.exporter.state.problem, ("a?[2J??b?" + "x" * 9999)[:500])

    def test_at_the_end_what_is_there_is_sent_as_far_as_that_is_quick(self) -> None:
        self.exporter.take([b"1"])
        ended = as_deferred(self.exporter.stop())
        self.clock.advance(GATHER_S)
        self.successResultOf(ended)
        self.assertEqual((self.collector.lines, self.collector.closed), ([[b"1"]], True))

    def test_the_end_does_not_wait_for_one_that_is_not_there(self) -> None:
        self.collector.says = Unavailable("gone")
        self.exporter.take([b"1"])
        self.later(1)
        ended = as_deferred(self.exporter.stop())
        self.later(STOP_S + 0.1)
        self.successResultOf(ended)
        self.assertTrue(self.collector.closed)
        with_nothing = Exporter(
            self.clock, self.exporter.settings, Collector(), lambda: START_S, lambda: 0.5, self.tasks
        )
        self.successResultOf(as_deferred(with_nothing.stop()))
