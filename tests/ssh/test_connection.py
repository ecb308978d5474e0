"""The table of channels and requests: what a peer may say, what it may not, and how much of it."""

from __future__ import annotations

from itertools import product
from typing import Any, ClassVar

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost, NoProtocol
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import as_deferred
from avinet.errors import PeerError, TimedOut, TooMany, Unavailable
from avinet.ssh.connection import Connection
from avinet.ssh.messages import (
    CHANNEL_CLOSE,
    CHANNEL_DATA,
    CHANNEL_EOF,
    CHANNEL_EXTENDED_DATA,
    CHANNEL_FAILURE,
    CHANNEL_OPEN,
    CHANNEL_OPEN_CONFIRMATION,
    CHANNEL_OPEN_FAILURE,
    CHANNEL_REQUEST,
    CHANNEL_SUCCESS,
    CHANNEL_WINDOW_ADJUST,
    CONNECT_FAILED,
    DRAIN,
    GLOBAL_REQUEST,
    KEEPALIVE,
    PROHIBITED,
    REQUEST_FAILURE,
    REQUEST_SUCCESS,
    SHORTAGE,
)
from avinet.ssh.opening import Accepted, ChannelLimits, OpenRefused, RequestRefused
from avinet.ssh.strings import string, uint32
from tests.ssh.joined import ADDRESS, KIND, Below, Joined, Open, Talker, connect, deliver, factory_of

MOST = (1 << 32) - 1


def open_message(id: int, window: int = 1000, packet: int = 1000, kind: bytes = KIND) -> bytes:
    return string(kind) + uint32(id) + uint32(window) + uint32(packet)


class Lone:
    """One connection whose peer is the test itself."""

    def __init__(self, connection: Connection | None = None, **limits: Any) -> None:
        self.clock = Clock()
        self.connection: Any = connection or Open(self.clock, ChannelLimits(**limits))
        self.below = self.connection.transport = Below()
        self.connection.serviceStarted()

    def say(self, number: int, payload: bytes = b"") -> list[tuple[int, bytes]]:
        """What it answers to a message."""
        deliver(self.connection, number, payload)
        self.clock.advance(0)
        said = list(self.below.out)
        self.below.out.clear()
        return said

    def open(self) -> tuple[int, Talker]:
        """A channel of ours: its number at the connection, and who talks there."""
        ((number, payload),) = self.say(CHANNEL_OPEN, open_message(7))
        assert number == CHANNEL_OPEN_CONFIRMATION
        return int.from_bytes(payload[4:8], "big"), self.connection.talkers[-1]


class Slow(Connection):
    """Its targets take their time."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.asked: list[Deferred[Talker]] = []
        self.cancelled = 0

    @override
    async def accept(self, kind: bytes, body: bytes) -> Accepted:
        waiting: Deferred[Talker] = Deferred()
        self.asked.append(waiting)
        try:
            return Accepted(await waiting, ADDRESS)
        except CancelledError:
            self.cancelled += 1
            raise


class StrayTests(SynchronousTestCase):
    """Messages for channels that are not there."""

    def messages(self, id: int) -> list[tuple[int, bytes]]:
        return [
            (CHANNEL_OPEN_CONFIRMATION, uint32(id) + uint32(3) + uint32(1000) + uint32(1000)),
            (CHANNEL_OPEN_FAILURE, uint32(id) + uint32(1) + string(b"why") + string(b"")),
            (CHANNEL_WINDOW_ADJUST, uint32(id) + uint32(1000)),
            (CHANNEL_DATA, uint32(id) + string(b"data")),
            (CHANNEL_EXTENDED_DATA, uint32(id) + uint32(1) + string(b"data")),
            (CHANNEL_EOF, uint32(id)),
            (CHANNEL_CLOSE, uint32(id)),
            (CHANNEL_REQUEST, uint32(id) + string(b"exec") + b"\1" + string(b"ls")),
            (CHANNEL_SUCCESS, uint32(id)),
            (CHANNEL_FAILURE, uint32(id)),
        ]

    def assert_alive(self, lone: Lone) -> None:
        _, talker = lone.open()
        self.assertEqual(talker.events, ["made"])
        self.assertIsNone(lone.below.failed)

    def test_for_a_channel_that_was_never_opened(self) -> None:
        """(S28)"""
        for id in (0, 5, MOST):
            for number, payload in self.messages(id):
                lone = Lone()
                self.assertEqual(lone.say(number, payload), [])
                self.assertEqual(lone.connection.strays, 1)
                self.assert_alive(lone)

    def test_for_a_channel_that_we_are_opening(self) -> None:
        """(S28)"""
        for number, payload in self.messages(0)[2:]:
            lone = Lone()
            opened = connect(lone.connection, Talker())
            lone.below.out.clear()
            self.assertEqual(lone.say(number, payload), [])
            self.assertEqual(lone.connection.strays, 1)
            self.assertNoResult(opened)
            lone.connection.serviceStopped()
            self.failureResultOf(opened, Unavailable)

    def test_for_a_channel_whose_target_is_not_there_yet(self) -> None:
        """(S28)"""
        for number, payload in self.messages(0):
            clock = Clock()
            lone = Lone(Slow(clock))
            self.assertEqual(lone.say(CHANNEL_OPEN, open_message(7)), [])
            self.assertEqual(lone.say(number, payload), [])
            self.assertEqual(lone.connection.strays, 1)
            lone.connection.asked[0].callback(Talker())
            self.assertEqual(lone.below.out[0][0], CHANNEL_OPEN_CONFIRMATION)

    def test_for_a_channel_that_is_open_and_needs_no_answer(self) -> None:
        """(S28)"""
        for number in (CHANNEL_OPEN_CONFIRMATION, CHANNEL_OPEN_FAILURE, CHANNEL_SUCCESS, CHANNEL_FAILURE):
            lone = Lone()
            id, talker = lone.open()
            self.assertEqual(lone.say(number, dict(self.messages(id))[number]), [])
            self.assertEqual((lone.connection.strays, talker.lost), (1, []))
            self.assert_alive(lone)

    def test_for_a_channel_whose_peer_has_sent_eof(self) -> None:
        """(S28)"""
        for number in (CHANNEL_DATA, CHANNEL_EOF):
            lone = Lone()
            id, talker = lone.open()
            lone.say(CHANNEL_EOF, uint32(id))
            self.assertEqual(lone.say(number, dict(self.messages(id))[number]), [])
            self.assertEqual((lone.connection.strays, talker.received, talker.lost), (1, b"", []))

    def test_for_a_channel_that_was_closed(self) -> None:
        """(S28)"""
        for number, payload in self.messages(0):
            lone = Lone()
            id, talker = lone.open()
            self.assertEqual(lone.say(CHANNEL_CLOSE, uint32(id)), [(CHANNEL_CLOSE, uint32(7))])
            self.assertEqual(lone.say(number, payload), [])
            self.assertEqual((lone.connection.strays, len(talker.lost)), (1, 1))
            self.assert_alive(lone)

    def test_data_that_crosses_our_close_is_not_a_stray(self) -> None:
        lone = Lone()
        id, talker = lone.open()
        talker.transport.abortConnection()
        lone.clock.advance(0)
        lone.below.out.clear()
        self.assertEqual(lone.say(CHANNEL_DATA, uint32(id) + string(b"crossing")), [])
        self.assertEqual(lone.say(CHANNEL_WINDOW_ADJUST, uint32(id) + uint32(5)), [])
        self.assertEqual(lone.say(CHANNEL_EOF, uint32(id)), [])
        self.assertEqual(lone.say(CHANNEL_CLOSE, uint32(id)), [])
        self.assertEqual((lone.connection.strays, lone.connection.channels), (0, 0))

    def test_numbers_are_not_used_again_at_once(self) -> None:
        lone = Lone()
        first, _ = lone.open()
        lone.say(CHANNEL_CLOSE, uint32(first))
        second, _ = lone.open()
        self.assertNotEqual(first, second)

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.integers(80, 127), st.binary(max_size=40)), max_size=30))
    def test_any_messages_cost_at_most_the_connection(self, messages: list[tuple[int, bytes]]) -> None:
        """(S33)"""
        lone = Lone()
        lone.open()
        for number, payload in messages:
            try:
                lone.say(number, payload)
            except PeerError:
                break
        lone.connection.serviceStopped()
        self.assertEqual(lone.connection.channels, 0)

    def test_every_message_cut_short_is_an_error_of_the_peer(self) -> None:
        """(S33)"""
        needed = {CHANNEL_OPEN_FAILURE: 15, CHANNEL_REQUEST: 13}
        whole = [*self.messages(0)[:8], (CHANNEL_OPEN, open_message(1)), (GLOBAL_REQUEST, string(b"name") + b"\0")]
        for number, payload in whole:
            for length in range(needed.get(number, len(payload))):
                self.assertRaises(PeerError, Lone().say, number, payload[:length])

    def test_an_unknown_message_is_said_to_be_unknown(self) -> None:
        lone = Lone()
        lone.say(101)
        self.assertEqual(lone.below.unknown, 1)


WINDOW, DATA, EXTENDED, EOF, CLOSE, REQUEST = (
    CHANNEL_WINDOW_ADJUST,
    CHANNEL_DATA,
    CHANNEL_EXTENDED_DATA,
    CHANNEL_EOF,
    CHANNEL_CLOSE,
    CHANNEL_REQUEST,
)


class MatrixTests(SynchronousTestCase):
    """Every message of a channel, in every state that the channel can be in (S28)."""

    USED = frozenset({WINDOW, DATA, EXTENDED, EOF, CLOSE, REQUEST})
    LEGAL: ClassVar[dict[str, frozenset[int]]] = {
        "never opened": frozenset(),
        "that we open": frozenset({CHANNEL_OPEN_CONFIRMATION, CHANNEL_OPEN_FAILURE}),
        "that we wanted": frozenset({CHANNEL_OPEN_CONFIRMATION, CHANNEL_OPEN_FAILURE}),
        "that we wanted, and that came": frozenset({CLOSE}),
        "that we were refused": frozenset(),
        "that the peer opens": frozenset(),
        "open": USED,
        "ended by the peer": frozenset({WINDOW, CLOSE, REQUEST}),
        "ended by us": USED,
        "closed by us": USED,
        "closed by the peer": frozenset(),
        "closed by both": frozenset(),
    }
    """The messages that make sense, or may have been sent before the peer knew; all others are strays."""

    def state(self, name: str) -> tuple[Lone, int]:
        """A connection, and the number of the channel in this state."""
        if name == "that the peer opens":
            lone = Lone(Slow(Clock()))
            lone.say(CHANNEL_OPEN, open_message(7))
            return lone, 0
        lone = Lone()
        if name.startswith("that we"):
            opened = connect(lone.connection, Talker())
            opened.addErrback(lambda failure: None)
            lone.below.out.clear()
            if name.startswith("that we wanted"):
                opened.cancel()
            if name.endswith("that came"):
                lone.say(CHANNEL_OPEN_CONFIRMATION, uint32(0) + uint32(7) + uint32(1000) + uint32(1000))
            if name == "that we were refused":
                lone.say(CHANNEL_OPEN_FAILURE, uint32(0) + uint32(1) + string(b"no") + string(b""))
            return lone, 0
        if name == "never opened":
            return lone, 5
        id, talker = lone.open()
        match name:
            case "ended by the peer":
                lone.say(EOF, uint32(id))
            case "ended by us":
                talker.transport.loseWriteConnection()
            case "closed by us":
                talker.transport.abortConnection()
            case "closed by the peer":
                lone.say(CLOSE, uint32(id))
            case "closed by both":
                talker.transport.abortConnection()
                lone.say(CLOSE, uint32(id))
        lone.clock.advance(0)
        lone.below.out.clear()
        return lone, id

    def test_each_is_taken_or_counted_and_the_tunnel_lives(self) -> None:
        for name, legal in self.LEGAL.items():
            for number, payload in StrayTests().messages(0):
                lone, id = self.state(name)
                case = (name, number)
                lone.say(number, uint32(id) + payload[4:])
                self.assertEqual(lone.connection.strays, int(number not in legal), case)
                self.assertEqual((lone.below.failed, lone.below.unknown, lone.below.closed), (None, 0, ""), case)
                before = lone.connection.channels
                lone.say(CHANNEL_OPEN, open_message(8))
                self.assertEqual(lone.connection.channels, before + 1, case)
                lone.connection.serviceStopped()
                self.assertEqual((lone.connection.channels, lone.clock.getDelayedCalls()), (0, []), case)

    def test_each_twice_is_no_worse(self) -> None:
        for name in self.LEGAL:
            for (number, payload), (other, more) in product(StrayTests().messages(0), repeat=2):
                lone, id = self.state(name)
                lone.say(number, uint32(id) + payload[4:])
                lone.say(other, uint32(id) + more[4:])
                self.assertIsNone(lone.below.failed, (name, number, other))
                lone.connection.serviceStopped()
                self.assertEqual(
                    (lone.connection.channels, lone.clock.getDelayedCalls()), (0, []), (name, number, other)
                )


class LimitTests(SynchronousTestCase):
    def refusal(self, said: list[tuple[int, bytes]]) -> int:
        ((number, payload),) = said
        self.assertEqual((number, payload[:4]), (CHANNEL_OPEN_FAILURE, uint32(7)))
        return int.from_bytes(payload[4:8], "big")

    def test_windows_and_packets_must_be_sane(self) -> None:
        """(S27)"""
        for window, packet in [(1000, 0), (1000, 1), (1000, MOST), (0, 1000), (MOST, 1000), (0, 0), (MOST, MOST)]:
            lone = Lone()
            self.assertEqual(self.refusal(lone.say(CHANNEL_OPEN, open_message(7, window, packet))), PROHIBITED)
            self.assertEqual((lone.connection.channels, lone.connection.refused), (0, 1))

    def test_a_confirmation_with_insane_windows_fails_the_channel(self) -> None:
        """(S27)"""
        for window, packet in [(1000, 0), (1000, 1), (1000, MOST), (0, 1000), (MOST, 1000)]:
            lone = Lone()
            opened = connect(lone.connection, Talker())
            lone.below.out.clear()
            terms = uint32(0) + uint32(7) + uint32(window) + uint32(packet)
            self.assertEqual(lone.say(CHANNEL_OPEN_CONFIRMATION, terms), [(CHANNEL_CLOSE, uint32(7))])
            self.failureResultOf(opened, OpenRefused)
            lone.say(CHANNEL_CLOSE, uint32(0))
            self.assertEqual((lone.connection.channels, lone.connection.strays), (0, 0))

    def test_the_limits_are_exact(self) -> None:
        """(S27)"""
        limits = ChannelLimits()
        least, most = limits.least_packet_bytes, limits.most_bytes
        for window, packet, well in [
            (1, least, True),
            (0, least, False),
            (1, least - 1, False),
            (most, most, True),
            (most + 1, most, False),
            (most, most + 1, False),
        ]:
            ((number, _),) = Lone().say(CHANNEL_OPEN, open_message(7, window, packet))
            self.assertEqual(number == CHANNEL_OPEN_CONFIRMATION, well, (window, packet))

    def test_a_window_may_add_up_to_the_largest_number_and_no_further(self) -> None:
        """(S27)"""
        for steps, well in (
            ([MOST - 1000], True),
            ([MOST - 1000, 1], False),
            ([0] * 100, True),
            ([1 << 31] * 2, False),
        ):
            lone = Lone()
            id, talker = lone.open()
            said = [each for step in steps for each in lone.say(CHANNEL_WINDOW_ADJUST, uint32(id) + uint32(step))]
            self.assertEqual((said, len(talker.lost)), ([], 0) if well else ([(CHANNEL_CLOSE, uint32(7))], 1), steps)
            lone.open()

    def test_a_window_beyond_the_largest_number_costs_the_channel(self) -> None:
        """(S27)"""
        lone = Lone()
        id, talker = lone.open()
        self.assertEqual(lone.say(CHANNEL_WINDOW_ADJUST, uint32(id) + uint32(MOST)), [(CHANNEL_CLOSE, uint32(7))])
        self.assertIsInstance(talker.lost[0], ConnectionLost)
        lone.open()

    def test_data_beyond_the_window_costs_the_channel(self) -> None:
        lone = Lone(window_bytes=10, packet_bytes=10)
        id, talker = lone.open()
        talker.transport.pauseProducing()
        lone.say(CHANNEL_DATA, uint32(id) + string(bytes(10)))
        self.assertEqual(lone.say(CHANNEL_DATA, uint32(id) + string(b"1")), [(CHANNEL_CLOSE, uint32(7))])
        self.assertEqual(len(talker.lost), 1)

    def test_a_packet_beyond_its_size_costs_the_channel(self) -> None:
        lone = Lone(window_bytes=100, packet_bytes=10)
        id, _ = lone.open()
        self.assertEqual(lone.say(CHANNEL_DATA, uint32(id) + string(bytes(11))), [(CHANNEL_CLOSE, uint32(7))])

    def test_readers_that_stop_after_a_fast_start_pin_little_together(self) -> None:
        """(S24) Each channel in turn flows fast enough for all the window there is, and then reads no more."""
        first, most, count = 1000, 50_000, 50
        lone = Lone(window_bytes=first, most_window_bytes=most, packet_bytes=1 << 20)
        held: dict[int, int] = {}
        for _ in range(count):
            id, talker = lone.open()
            held[id] = first
            for _ in range(20):
                said = lone.say(CHANNEL_DATA, uint32(id) + string(bytes(held[id])))
                given = [payload for number, payload in said if number == CHANNEL_WINDOW_ADJUST]
                held[id] = sum(int.from_bytes(payload[4:], "big") for payload in given)
                lone.clock.advance(0.01)
                lone.say(REQUEST_FAILURE)
            talker.transport.pauseProducing()
        self.assertGreater(max(held.values()), 10 * first, "the windows did grow")
        self.assertLessEqual(sum(held.values()), most + count * first)

    def flow(self, lone: Lone, id: int, seconds: float, answer_s: float = 0.01) -> list[bytes]:
        """The questions that it asks while data flows, each answered after a while."""
        asked: list[bytes] = []
        for _ in range(round(seconds / answer_s)):
            said = lone.say(CHANNEL_DATA, uint32(id) + string(bytes(60_000)))
            lone.clock.advance(answer_s)
            while said:
                questions = [payload for number, payload in said if number == GLOBAL_REQUEST]
                asked += [payload[4:-1] for payload in questions]
                said = [more for _ in questions for more in lone.say(REQUEST_FAILURE)]
        return asked

    def test_an_end_whose_round_trips_are_long_drains_and_has_the_peer_do_so(self) -> None:
        lone = Lone(window_bytes=100_000, packet_bytes=1 << 20)
        id, _ = lone.open()
        self.assertEqual(set(self.flow(lone, id, 0.9)), {KEEPALIVE})
        asked = self.flow(lone, id, 1.0)
        self.assertEqual(asked.count(DRAIN), 1)
        at = asked.index(DRAIN)
        self.assertEqual(asked[at + 1 : at + 4], [KEEPALIVE] * 3)

    def test_an_end_drains_as_the_peer_does_and_asks_for_no_more(self) -> None:
        lone = Lone(window_bytes=100_000, packet_bytes=1 << 20)
        id, _ = lone.open()
        self.flow(lone, id, 0.5)
        question = string(DRAIN) + b"\1"
        self.assertEqual(
            lone.say(GLOBAL_REQUEST, question),
            [(GLOBAL_REQUEST, string(KEEPALIVE) + b"\1"), (REQUEST_FAILURE, b"")],
        )
        self.assertEqual(lone.say(GLOBAL_REQUEST, question), [(REQUEST_FAILURE, b"")], "once at a time")
        for left in (3, 2, 1, 0):
            self.assertEqual(len(lone.say(REQUEST_FAILURE)), min(left, 1))

    def test_an_end_that_has_nothing_flowing_only_answers_a_peer_that_drains(self) -> None:
        self.assertEqual(Lone().say(GLOBAL_REQUEST, string(DRAIN) + b"\1"), [(REQUEST_FAILURE, b"")])

    def test_standard_error_costs_window_too_and_gets_it_back(self) -> None:
        lone = Lone(window_bytes=10, packet_bytes=10)
        id, talker = lone.open()
        for _ in range(5):
            said = lone.say(CHANNEL_EXTENDED_DATA, uint32(id) + uint32(1) + string(bytes(10)))
            self.assertEqual(said, [(CHANNEL_WINDOW_ADJUST, uint32(7) + uint32(10))])
        self.assertEqual(talker.received, b"")

    def test_a_peer_has_so_many_channels_and_no_more(self) -> None:
        """(S30)"""
        lone = Lone(channels=20)
        for _ in range(20):
            lone.open()
        for _ in range(20_000):
            self.assertEqual(self.refusal(lone.say(CHANNEL_OPEN, open_message(7))), SHORTAGE)
        self.assertEqual(len(lone.connection.talkers), 20)
        lone.say(CHANNEL_CLOSE, uint32(3))
        lone.open()

    def test_channels_that_the_peer_does_not_close_are_counted(self) -> None:
        """(S30)"""
        lone = Lone(channels=3)
        for _ in range(3):
            _, talker = lone.open()
            talker.transport.abortConnection()
            lone.below.out.clear()
        self.assertEqual(lone.connection.channels, 3)
        self.assertEqual(self.refusal(lone.say(CHANNEL_OPEN, open_message(7))), SHORTAGE)
        self.failureResultOf(connect(lone.connection, Talker()), TooMany)

    def test_answers_that_nobody_asked_for_are_counted(self) -> None:
        """(S30)"""
        lone = Lone()
        for _ in range(5_000):
            self.assertEqual(lone.say(REQUEST_SUCCESS), [])
            self.assertEqual(lone.say(REQUEST_FAILURE), [])
        self.assertEqual(lone.connection.strays, 10_000)


class OpenTests(SynchronousTestCase):
    def test_fires_with_the_protocol_once_the_peer_has_confirmed(self) -> None:
        joined = Joined()
        near = Talker()
        opened = connect(joined.left, near)
        self.assertNoResult(opened)
        self.assertEqual(near.events, [])
        joined.settle()
        self.assertIs(self.successResultOf(opened), near)
        self.assertEqual(near.events, ["made"])

    def test_is_confirmed_only_when_the_target_is_there(self) -> None:
        clock = Clock()
        joined = Joined(right=Slow(clock), clock=clock)
        opened = connect(joined.left, Talker())
        joined.settle()
        self.assertNoResult(opened)
        joined.right.asked[0].callback(Talker())
        joined.settle()
        self.successResultOf(opened)

    def test_fails_with_the_reason_of_the_peer(self) -> None:
        joined = Joined()
        opened = as_deferred(joined.left.open(b"other", b"", factory_of(Talker()), ADDRESS))
        joined.settle()
        error = self.failureResultOf(opened, OpenRefused).value
        self.assertEqual((str(error), error.code), ("the peer does not open the channel: not of this kind", PROHIBITED))
        joined.check_clean()

    def test_a_fault_of_ours_refuses_the_channel_and_says_no_more(self) -> None:
        clock = Clock()
        joined = Joined(right=Slow(clock), clock=clock)
        opened = connect(joined.left, Talker())
        joined.settle()
        joined.right.asked[0].errback(RuntimeError("a secret"))
        joined.settle()
        error = self.failureResultOf(opened, OpenRefused).value
        self.assertNotIn("secret", str(error))
        self.assertEqual(error.code, CONNECT_FAILED)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        joined.check_clean()

    def test_gives_up_on_a_peer_that_does_not_answer(self) -> None:
        lone = Lone(open_s=10.0)
        opened = connect(lone.connection, Talker())
        lone.clock.advance(10)
        self.failureResultOf(opened, TimedOut)
        self.assertEqual(lone.connection.channels, 1, "the peer may still confirm it")
        terms = uint32(0) + uint32(7) + uint32(1000) + uint32(1000)
        lone.below.out.clear()
        self.assertEqual(lone.say(CHANNEL_OPEN_CONFIRMATION, terms), [(CHANNEL_CLOSE, uint32(7))])
        self.assertEqual(lone.say(CHANNEL_CLOSE, uint32(0)), [])
        self.assertEqual((lone.connection.channels, lone.connection.strays), (0, 0))
        self.assertEqual(lone.clock.getDelayedCalls(), [])

    def test_a_channel_that_nobody_wants_any_more_is_closed(self) -> None:
        """(S29)"""
        joined = Joined()
        near = Talker()
        opened = connect(joined.left, near)
        opened.cancel()
        self.failureResultOf(opened, CancelledError)
        joined.settle()
        joined.check_clean()
        self.assertEqual(near.events, [])
        self.assertEqual(len(joined.right.talkers[0].lost), 1)

    def test_ten_thousand_quick_opens_and_cancels_leave_nothing(self) -> None:
        """(S29)"""
        joined = Joined()
        for _ in range(100):
            attempts = [connect(joined.left, Talker()) for _ in range(100)]
            for attempt in attempts[::2]:
                attempt.cancel()
                self.failureResultOf(attempt, CancelledError)
            joined.settle()
            for attempt in attempts[1::2]:
                self.successResultOf(attempt).transport.abortConnection()
            joined.settle()
            joined.check_clean()
        self.assertEqual(len(joined.right.talkers), 10_000)
        self.assertTrue(all(len(talker.lost) == 1 for talker in joined.right.talkers))

    def test_closing_while_the_target_is_dialled_leaves_nothing(self) -> None:
        """(S29)"""
        clock = Clock()
        joined = Joined(right=Slow(clock), clock=clock)
        attempts = [connect(joined.left, Talker()) for _ in range(50)]
        joined.settle()
        for attempt in attempts:
            attempt.cancel()
            self.failureResultOf(attempt, CancelledError)
        targets = [Talker() for _ in joined.right.asked]
        for waiting, target in zip(joined.right.asked, targets, strict=True):
            waiting.callback(target)
        joined.settle()
        self.assertEqual([len(target.lost) for target in targets], [1] * 50)
        joined.check_clean()

    def test_a_lost_connection_cancels_what_is_dialled_and_what_is_opened(self) -> None:
        """(S29)"""
        clock = Clock()
        joined = Joined(right=Slow(clock), clock=clock)
        attempts = [connect(joined.left, Talker()) for _ in range(3)]
        joined.settle()
        joined.lose()
        self.assertEqual(joined.right.cancelled, 3)
        for attempt in attempts:
            self.failureResultOf(attempt, Unavailable)
        joined.check_clean()

    def test_a_factory_that_builds_nothing_closes_the_channel(self) -> None:
        joined = Joined()
        opened = as_deferred(joined.left.open(KIND, b"", Nothing(), ADDRESS))
        joined.settle()
        self.failureResultOf(opened, NoProtocol)
        joined.check_clean()

    def test_a_lost_connection_opens_nothing(self) -> None:
        joined = Joined()
        joined.lose()
        self.failureResultOf(connect(joined.left, Talker()), Unavailable)


class Nothing(Factory):
    noisy = False

    @override
    def buildProtocol(self, addr: Any) -> None:
        return None


class Obliging(Open):
    """Answers a global request by its name."""

    @override
    def requested(self, name: bytes, body: bytes) -> bytes | None:
        return body if name == b"echo" else None


class RequestTests(SynchronousTestCase):
    def setUp(self) -> None:
        clock = Clock()
        self.joined = Joined(right=Obliging(clock), clock=clock, limits=ChannelLimits(requests=4))

    def test_answers_come_in_order(self) -> None:
        names = [b"echo", b"other", b"echo"]
        answers = [self.joined.left.request(name, b"%d" % n) for n, name in enumerate(names)]
        self.joined.settle()
        self.assertEqual(self.successResultOf(answers[0]), b"0")
        self.failureResultOf(answers[1], RequestRefused)
        self.assertEqual(self.successResultOf(answers[2]), b"2")

    def test_an_answer_that_nobody_waits_for_keeps_its_place(self) -> None:
        first, second = (self.joined.left.request(b"echo", body) for body in (b"1", b"2"))
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.joined.settle()
        self.assertEqual(self.successResultOf(second), b"2")

    def test_only_so_many_wait(self) -> None:
        """(S30)"""
        waiting = [self.joined.left.request(b"echo") for _ in range(4)]
        self.failureResultOf(self.joined.left.request(b"echo"), TooMany)
        self.joined.settle()
        for answer in waiting:
            self.successResultOf(answer)

    def test_a_lost_connection_answers_nothing(self) -> None:
        waiting = self.joined.left.request(b"echo")
        self.joined.lose()
        self.failureResultOf(waiting, Unavailable)
        self.failureResultOf(self.joined.left.request(b"echo"), Unavailable)

    def test_a_request_that_wants_no_answer_gets_none(self) -> None:
        lone = Lone()
        self.assertEqual(lone.say(GLOBAL_REQUEST, string(b"whatever") + b"\0"), [])
        self.assertEqual(lone.say(GLOBAL_REQUEST, string(b"whatever") + b"\1"), [(REQUEST_FAILURE, b"")])

    def test_a_request_on_a_channel_is_refused(self) -> None:
        lone = Lone()
        id, _ = lone.open()
        asked = uint32(id) + string(b"keepalive@openssh.com")
        self.assertEqual(lone.say(CHANNEL_REQUEST, asked + b"\1"), [(CHANNEL_FAILURE, uint32(7))])
        self.assertEqual(lone.say(CHANNEL_REQUEST, asked + b"\0"), [])
