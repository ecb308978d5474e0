"""Windows never let more through than they say, and never get stuck."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import PeerError
from avinet.flow.window import (
    CHAT_BYTES,
    GRANT_BYTES,
    GRANT_S,
    MOST_BYTES,
    PIECE_BYTES,
    PIECE_S,
    TAIL_PACKETS,
    ReceiveWindow,
    SendWindow,
)


class SendWindowTests(SynchronousTestCase):
    def test_room_is_the_smaller_of_window_and_packet(self) -> None:
        window = SendWindow(100, 60)
        self.assertEqual(window.room, 60)
        window.sent(60)
        self.assertEqual(window.room, 40)

    def test_opens_up_to_the_largest_number(self) -> None:
        window = SendWindow(1, 1)
        window.add(MOST_BYTES - 1, 0.0)
        self.assertEqual(window.left, MOST_BYTES)

    def test_refuses_a_sum_beyond_the_largest_number(self) -> None:
        """(S27)"""
        window = SendWindow(1, 1)
        self.assertRaises(PeerError, window.add, MOST_BYTES, 0.0)
        self.assertEqual(window.left, 1)

    def test_packets_are_as_large_as_what_is_given_back_in_a_short_time(self) -> None:
        window = SendWindow(1 << 20, 512 * 1024)
        self.assertEqual(window.room, PIECE_BYTES, "nothing is known yet")
        now = 0.0
        for rate, packet in ((2e6, PIECE_BYTES), (20e6, int(20e6 * PIECE_S)), (1e9, 512 * 1024), (2e6, PIECE_BYTES)):
            for _ in range(3):
                now += 0.0625
                window.add(int(rate * 0.0625), now)
            self.assertEqual(window.room, packet)

    def test_packets_are_never_larger_than_the_peer_takes(self) -> None:
        window = SendWindow(1 << 20, 1000)
        for tick in range(9):
            window.add(10_000_000, tick * 0.015625)
        self.assertEqual(window.room, 1000)


class ReceiveWindowTests(SynchronousTestCase):
    def test_refuses_more_than_it_has(self) -> None:
        window = ReceiveWindow(100, 200)
        self.assertRaises(PeerError, window.received, 101)
        window.received(100)
        self.assertRaises(PeerError, window.received, 1)

    def test_refuses_a_packet_that_is_too_large(self) -> None:
        self.assertRaises(PeerError, ReceiveWindow(100, 50).received, 51)

    def test_gives_nothing_back_before_it_is_consumed(self) -> None:
        """(S25)"""
        window = ReceiveWindow(100, 100)
        window.received(100)
        self.assertEqual(window.grant(), 0)
        window.consumed(100)
        self.assertEqual(window.grant(), 100)

    def test_waits_until_a_grant_is_worth_a_message(self) -> None:
        window = ReceiveWindow(100, 100)
        window.received(30)
        window.consumed(24)
        self.assertEqual(window.grant(), 0)
        window.consumed(1)
        self.assertEqual(window.grant(), 25)
        self.assertEqual(window.left, 95)

    def test_a_large_one_does_not_wait_for_long(self) -> None:
        window = ReceiveWindow(100 * GRANT_BYTES, GRANT_BYTES)
        window.received(GRANT_BYTES)
        window.consumed(GRANT_BYTES - 1)
        self.assertEqual(window.grant(), 0)
        window.consumed(1)
        self.assertEqual(window.grant(), GRANT_BYTES)

    def test_a_little_thing_is_one_unless_it_may_be_the_end_of_a_larger_one(self) -> None:
        send, receive = SendWindow(100 * 1024, 32 * 1024), ReceiveWindow(100 * 1024, 32 * 1024)
        for window, move in ((send, send.sent), (receive, receive.received)):
            self.assertTrue(window.chats(1))
            self.assertFalse(window.chats(CHAT_BYTES))
            move(CHAT_BYTES)
            for _ in range(TAIL_PACKETS):
                self.assertFalse(window.chats(1))
                move(1)
            self.assertTrue(window.chats(1))
            while window.left >= CHAT_BYTES:
                move(1000)
            self.assertFalse(window.chats(1), "the window had room for no more")

    def test_where_much_arrives_it_waits_for_more(self) -> None:
        window = ReceiveWindow(0, 4 * GRANT_BYTES)
        window.resize(100 * GRANT_BYTES, 2 * GRANT_BYTES / GRANT_S)
        self.assertEqual(window.grant(), 100 * GRANT_BYTES)
        window.received(2 * GRANT_BYTES)
        window.consumed(2 * GRANT_BYTES - 1)
        self.assertEqual(window.grant(), 0)
        window.consumed(1)
        self.assertEqual(window.grant(), 2 * GRANT_BYTES)

    def test_but_not_for_more_than_half_the_window(self) -> None:
        window = ReceiveWindow(0, 100 * GRANT_BYTES)
        window.resize(100 * GRANT_BYTES, 1000 * GRANT_BYTES / GRANT_S)
        self.assertEqual(window.grant(), 100 * GRANT_BYTES)
        window.received(50 * GRANT_BYTES)
        window.consumed(50 * GRANT_BYTES - 1)
        self.assertEqual(window.grant(), 0)
        window.consumed(1)
        self.assertEqual(window.grant(), 50 * GRANT_BYTES)

    @given(st.integers(1, 400), st.lists(st.tuples(st.booleans(), st.integers(0, 500)), max_size=60))
    def test_window_buffer_and_debt_are_always_the_whole(self, size: int, steps: list[tuple[bool, int]]) -> None:
        window = ReceiveWindow(size, size)
        buffered = owed = 0
        for arrives, count in steps:
            if arrives:
                count = min(count, window.left)
                window.received(count)
                buffered += count
            else:
                count = min(count, buffered)
                window.consumed(count)
                buffered, owed = buffered - count, owed + count
            granted = window.grant()
            self.assertIn(granted, (0, owed))
            owed -= granted
            self.assertEqual(window.left + buffered + owed, size)
        window.consumed(buffered)
        window.grant()
        self.assertGreater(window.left, 0, "a peer whose bytes were all taken may send")
