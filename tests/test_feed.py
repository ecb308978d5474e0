"""Those who follow go at their own pace; whoever writes waits for them, but not for one that is asleep."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import as_deferred
from avinet.feed import HIGH_BYTES, HOLD_S, Feed, Pace
from avinet.transcript import Piece

PIECE = b"x" * 8192


class FeedTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock = Clock()
        self.feed = Feed(self.clock)

    def fill(self) -> int:
        """Write until there is no room; how much that was."""
        written = 0
        while self.feed.room() is None:
            self.assertLess(written, 1 << 20)
            self.feed.write(False, PIECE)
            written += len(PIECE)
        return written

    def test_nobody_is_waited_for_where_nobody_reads(self) -> None:
        for _ in range(1000):
            self.feed.write(False, PIECE)
            self.assertIsNone(self.feed.room())
        self.assertGreater(self.feed.transcript.left_out, 0)

    def test_whoever_writes_waits_for_a_reader_that_is_behind(self) -> None:
        follower = self.feed.follow()
        self.assertLessEqual(self.fill(), HIGH_BYTES + len(PIECE))
        room = self.feed.room()
        assert room is not None
        while not room.called:
            self.assertTrue(follower.take())
        self.assertLessEqual(follower.behind, HIGH_BYTES)
        follower.leave()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_reader_that_sleeps_is_waited_for_so_long_and_hears_what_it_has_missed(self) -> None:
        asleep = self.feed.follow()
        self.fill()
        room = self.feed.room()
        assert room is not None
        self.clock.advance(HOLD_S - 0.1)
        self.assertFalse(room.called)
        self.clock.advance(0.1)
        self.assertTrue(room.called)
        for _ in range(100):
            self.assertIsNone(self.feed.room())
            self.feed.write(False, PIECE)
        taken = asleep.take(1 << 30)
        self.assertEqual(
            sum(each if isinstance(each, int) else len(each.data) for each in taken), self.feed.transcript.size
        )
        self.assertTrue(any(isinstance(each, int) for each in taken))
        self.assertGreater(self.fill(), 0, "it is awake, and is waited for again")

    def test_one_that_sleeps_holds_no_feed_that_it_follows(self) -> None:
        other, pace = Feed(self.clock), Pace(self.clock)
        for feed in (self.feed, other):
            feed.follow(0, pace)
        self.fill()
        self.clock.advance(HOLD_S)
        for _ in range(100):
            other.write(True, PIECE)
            self.assertIsNone(other.room())

    def test_one_that_moves_somewhere_is_waited_for_everywhere(self) -> None:
        other, pace = Feed(self.clock), Pace(self.clock)
        here, there = self.feed.follow(0, pace), other.follow(0, pace)
        self.fill()
        room = self.feed.room()
        assert room is not None
        for _ in range(10):
            self.clock.advance(HOLD_S - 1)
            other.write(False, b"more")
            there.take()
        self.assertFalse(room.called)
        self.clock.advance(HOLD_S)
        self.assertTrue(room.called, "it has not moved at all since")
        here.leave()
        there.leave()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_that_leaves_is_not_waited_for(self) -> None:
        follower = self.feed.follow()
        self.fill()
        room = self.feed.room()
        assert room is not None
        follower.leave()
        self.assertTrue(room.called)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_its_pieces_come_until_the_end(self) -> None:
        self.feed.write(False, b"one")
        pieces = self.feed.follow().pieces()

        async def following() -> Piece | int:
            return await pieces.__anext__()

        self.assertEqual(self.successResultOf(as_deferred(following())), Piece(0, False, b"one"))
        waiting = as_deferred(following())
        self.assertNoResult(waiting)
        self.feed.write(True, b"two")
        self.assertEqual(self.successResultOf(waiting), Piece(3, True, b"two"))
        waiting = as_deferred(following())
        self.feed.end()
        self.failureResultOf(waiting, StopAsyncIteration)

    def test_one_that_is_ahead_waits_for_what_is_printed_there(self) -> None:
        self.feed.write(False, b"one")
        pieces = self.feed.follow(5).pieces()

        async def following() -> Piece | int:
            return await pieces.__anext__()

        waiting = as_deferred(following())
        self.assertNoResult(waiting)
        self.feed.write(False, b"two")
        self.assertEqual(self.successResultOf(waiting), Piece(5, False, b"o"))
