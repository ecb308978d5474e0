"""A channel as a transport: how it ends, what it holds back, and what it never loses."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress, IConsumer, IPullProducer, IPushProducer, ITransport
from twisted.internet.protocol import Protocol
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override
from zope.interface import implementer
from zope.interface.verify import verifyObject

from avinet.errors import PeerError
from avinet.flow.turns import Priority
from avinet.ssh.opening import ChannelLimits
from avinet.ssh.outgoing import HIGH_BYTES
from avinet.ssh.sending import COMPANY_BYTES, COMPANY_S
from tests.ssh.joined import Joined, Talker, connect

DOINGS = ("write", "finish", "lose", "abort", "pause", "move")
STEPS = [(side, do) for side in ("left", "right") for do in DOINGS]
LIKELY_STEPS = [*STEPS, *[("left", "write"), ("left", "move"), ("right", "move")] * 3]
STOCK = ChannelLimits(window_bytes=256 * 1024, packet_bytes=32 * 1024)
SMALL = ChannelLimits(window_bytes=8, packet_bytes=4, least_packet_bytes=1)


class Plain(Protocol):
    """A protocol that is not half-closeable."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.lost: list[Exception] = []

    @override
    def dataReceived(self, data: bytes) -> None:
        self.received += data

    @override
    def connectionLost(self, reason: Any = None) -> None:
        self.lost.append(reason.value)


@implementer(IPushProducer)
class Endless:
    """Writes for ever, but for when it is paused."""

    def __init__(self, consumer: Any, chunk: bytes = bytes(1000), most: int = 10_000) -> None:
        self.consumer, self.chunk, self.left = consumer, chunk, most
        self.written = 0
        self.paused = self.stopped = False
        consumer.registerProducer(self, True)

    def run(self) -> None:
        while not self.paused and self.left:
            self.left -= 1
            self.written += len(self.chunk)
            self.consumer.write(self.chunk)

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False
        self.run()

    def stopProducing(self) -> None:
        self.stopped = True
        self.left = 0


@implementer(IPullProducer)
class Pieces:
    """Writes one piece each time it is asked, and is done after the last one."""

    def __init__(self, consumer: Any, pieces: list[bytes]) -> None:
        self.consumer, self.pieces, self.asked, self.stopped = consumer, pieces, 0, False

    def resumeProducing(self) -> None:
        self.asked += 1
        self.consumer.write(self.pieces.pop(0))
        if not self.pieces:
            self.consumer.unregisterProducer()

    def stopProducing(self) -> None:
        self.stopped = True


class Borrower:
    """Is lent what arrives, and copies it."""

    def __init__(self) -> None:
        self.received = bytearray()

    def buffer(self) -> memoryview | None:
        raise AssertionError("a channel has memory of its own")

    def lent(self, data: memoryview) -> None:
        self.received += data

    def lent_all(self, pieces: Sequence[memoryview]) -> None:
        for piece in pieces:
            self.received += piece


@implementer(IPushProducer)
class Source:
    """Lends what it has as long as there is room; its memory is used again each time."""

    def __init__(self, consumer: Any, size: int) -> None:
        self.expected = bytes(i % 251 for i in range(size))
        self.consumer, self.left = consumer, size
        self.most = self.pauses = 0
        self.paused = False
        consumer.registerProducer(self, True)

    def run(self) -> None:
        while self.left and not self.paused and (buffer := self.consumer.buffer()) is not None:
            self.most = max(self.most, len(buffer))
            at = len(self.expected) - self.left
            memory = buffer[: self.left]
            memory[:] = self.expected[at : at + len(buffer)]
            self.left -= len(memory)
            self.consumer.lend(memory)
            memory[:] = bytes(len(memory))

    def pauseProducing(self) -> None:
        self.paused = True
        self.pauses += 1

    def resumeProducing(self) -> None:
        self.paused = False

    def stopProducing(self) -> None:
        self.left = 0


class InterfaceTests(SynchronousTestCase):
    def test_is_a_transport_a_consumer_and_a_producer(self) -> None:
        near, far = Joined().talk()
        for transport in (near.transport, far.transport):
            for interface in (ITransport, IConsumer, IPushProducer):
                verifyObject(interface, transport)
            verifyObject(IAddress, transport.getPeer())
            verifyObject(IAddress, transport.getHost())

    def test_carries_bytes_both_ways_in_order(self) -> None:
        joined = Joined(limits=SMALL)
        near, far = joined.talk()
        near.transport.write(b"a question that is longer than the window")
        far.transport.writeSequence([b"an ", b"answer"])
        joined.settle()
        self.assertEqual(far.received, b"a question that is longer than the window")
        self.assertEqual(near.received, b"an answer")


class EndTests(SynchronousTestCase):
    """How a connection ends, and what each end is told."""

    def setUp(self) -> None:
        self.joined = Joined(limits=SMALL)
        self.near, self.far = self.joined.talk()

    def assert_lost(self, talker: Any, kind: type[Exception]) -> None:
        self.assertEqual([type(reason) for reason in talker.lost], [kind])

    def test_a_direction_ends_and_the_other_goes_on(self) -> None:
        self.near.transport.write(b"the whole request")
        self.near.transport.loseWriteConnection()
        self.joined.settle()
        self.assertEqual(self.far.received, b"the whole request")
        self.assertEqual(self.far.events, ["made", "read lost"])
        self.assertEqual(self.near.events, ["made", "write lost"])
        self.far.transport.write(b"the whole answer")
        self.far.transport.loseWriteConnection()
        self.joined.settle()
        self.assertEqual(self.near.received, b"the whole answer")
        self.assert_lost(self.near, ConnectionDone)
        self.assert_lost(self.far, ConnectionDone)
        self.joined.check_clean()

    def test_closing_sends_what_was_written_first(self) -> None:
        self.near.transport.write(b"longer than the window of the peer")
        self.near.transport.loseConnection()
        self.joined.settle()
        self.assertEqual(self.far.received, b"longer than the window of the peer")
        self.assert_lost(self.near, ConnectionDone)
        self.joined.check_clean()

    def test_closing_cuts_the_other_direction_off_with_an_error(self) -> None:
        self.near.transport.loseConnection()
        self.joined.settle()
        self.assert_lost(self.far, ConnectionLost)

    def test_a_protocol_that_is_not_half_closeable_is_closed_by_eof(self) -> None:
        self.joined.right.make = Plain
        near, far = self.joined.talk()
        near.transport.write(b"bye")
        near.transport.loseWriteConnection()
        self.joined.settle()
        self.assertEqual(far.received, b"bye")
        self.assert_lost(far, ConnectionDone)
        self.assert_lost(near, ConnectionDone)

    def test_an_answer_that_is_not_half_closeable_is_still_sent_whole(self) -> None:
        self.joined.right.make = Plain
        near, far = self.joined.talk()
        far.transport.write(b"an answer that is longer than the window")
        near.transport.loseWriteConnection()
        self.joined.settle()
        self.assertEqual(near.received, b"an answer that is longer than the window")
        self.assert_lost(far, ConnectionDone)
        self.assert_lost(near, ConnectionDone)

    def test_dropping_is_an_error_at_the_other_end(self) -> None:
        self.near.transport.write(b"longer than the window of the peer")
        self.near.transport.abortConnection()
        self.joined.settle()
        self.assert_lost(self.near, ConnectionAborted)
        self.assert_lost(self.far, ConnectionLost)
        self.joined.check_clean()

    def test_the_loss_is_not_told_in_the_middle_of_a_call(self) -> None:
        self.near.transport.abortConnection()
        self.assertEqual(self.near.lost, [])

    def test_what_arrived_before_the_end_is_handed_over_however_late(self) -> None:
        self.far.transport.pauseProducing()
        self.near.transport.write(b"8 bytes!")
        self.near.transport.loseConnection()
        self.joined.settle()
        self.assertEqual((self.far.received, self.far.lost), (b"", []))
        self.assertEqual(self.joined.right.channels, 1, "a channel that holds bytes is still counted")
        self.far.transport.resumeProducing()
        self.joined.settle()
        self.assertEqual(self.far.received, b"8 bytes!")
        self.assertEqual(len(self.far.lost), 1)
        self.joined.check_clean()

    def test_what_cannot_be_sent_any_more_is_an_error(self) -> None:
        self.near.transport.pauseProducing()
        self.far.transport.write(b"more than the window of the peer")
        self.joined.settle()
        self.near.transport.loseConnection()
        self.joined.settle()
        self.assert_lost(self.far, ConnectionLost)

    def test_a_lost_tunnel_is_an_error_at_both_ends(self) -> None:
        self.near.transport.write(b"bytes")
        self.joined.lose()
        self.assert_lost(self.near, ConnectionLost)
        self.assert_lost(self.far, ConnectionLost)
        self.joined.check_clean()

    def test_writing_after_the_end_goes_nowhere(self) -> None:
        self.near.transport.loseConnection()
        self.near.transport.write(b"late")
        self.joined.settle()
        self.near.transport.write(b"later")
        self.near.transport.write_error(b"last")
        self.near.transport.loseConnection()
        self.near.transport.abortConnection()
        self.near.transport.resumeProducing()
        self.joined.settle()
        self.assertEqual(self.far.received, b"")
        self.joined.check_clean()

    def test_a_fault_of_a_protocol_costs_its_channel_only(self) -> None:
        def fail(data: bytes) -> None:
            raise RuntimeError("a fault")

        other, other_far = self.joined.talk()
        self.far.dataReceived = fail
        self.near.transport.write(b"boom")
        self.joined.settle()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assert_lost(self.far, ConnectionAborted)
        self.assert_lost(self.near, ConnectionLost)
        other.transport.write(b"fine")
        self.joined.settle()
        self.assertEqual(other_far.received, b"fine")

    def test_a_peer_that_breaks_an_application_rule_costs_one_line(self) -> None:
        def fail(data: bytes) -> None:
            raise PeerError("not now")

        self.far.dataReceived = fail
        self.near.transport.write(b"boom")
        self.joined.settle()
        self.assert_lost(self.far, ConnectionAborted)


class OrderTests(SynchronousTestCase):
    """Every order of what two ends can do and of what arrives when: nothing is lost unsaid, nothing is left."""

    def play(self, steps: list[tuple[str, str]], *, lose: bool = False, plain: bool = False) -> None:
        joined = Joined(limits=SMALL)
        if plain:
            joined.right.make = Plain
        near, far = joined.talk()
        ends: dict[str, Any] = {"left": near, "right": far}
        sent = {"left": bytearray(), "right": bytearray()}
        gave_up = {"left": False, "right": False}
        finished = set()
        for side, do in steps:
            transport = ends[side].transport
            match do:
                case "write":
                    if side not in finished and transport.connected:
                        data = b"%s %d|" % (side.encode(), len(sent[side]))
                        sent[side] += data
                        transport.write(data)
                case "finish":
                    finished.add(side)
                    transport.loseWriteConnection()
                case "lose" | "abort":
                    finished.add(side)
                    gave_up[side] = True
                    transport.loseConnection() if do == "lose" else transport.abortConnection()
                case "pause":
                    transport.pauseProducing()
                case "move":
                    joined.move(getattr(joined, side))
                    joined.clock.advance(0)
        if lose:
            joined.lose()
        else:
            joined.settle()
            for side in ("left", "right"):
                ends[side].transport.resumeProducing()
            joined.settle()
            for side in ("left", "right"):
                ends[side].transport.loseWriteConnection()
            joined.settle()
        joined.check_clean()
        self.assertEqual(joined.left.strays + joined.right.strays, 0)
        self.assertEqual(joined.left.refused + joined.right.refused, 0)
        errors = [reason for end in ends.values() for reason in end.lost if not isinstance(reason, ConnectionDone)]
        for side, other in (("left", "right"), ("right", "left")):
            received = bytes(ends[other].received)
            self.assertEqual(len(ends[side].lost), 1, "an end is told once")
            self.assertTrue(bytes(sent[side]).startswith(received))
            if received != sent[side]:
                self.assertTrue(gave_up[other] or errors, "bytes were lost, and nobody was told")
            aborted = lose or any(do == "abort" for _, do in steps)
            if not gave_up[other] and (not aborted or isinstance(ends[other].lost[0], ConnectionDone)):
                self.assertEqual(received, bytes(sent[side]), "an end in order has all the bytes")

    def test_every_order_of_four_steps(self) -> None:
        """(S26)"""
        for steps in product(STEPS, repeat=4):
            self.play(list(steps))

    def test_every_order_of_three_steps_before_the_tunnel_is_lost(self) -> None:
        """(S26)"""
        for steps in product(STEPS, repeat=3):
            self.play(list(steps), lose=True)

    def test_every_order_of_three_steps_with_an_end_that_is_not_half_closeable(self) -> None:
        """(S26)"""
        for steps in product(STEPS, repeat=3):
            self.play(list(steps), plain=True)

    @settings(deadline=None, max_examples=600)
    @given(st.lists(st.sampled_from(LIKELY_STEPS), max_size=40), st.booleans(), st.booleans())
    def test_any_long_order(self, steps: list[tuple[str, str]], lose: bool, plain: bool) -> None:
        """(S26)"""
        self.play(steps, lose=lose, plain=plain)

    def test_two_ends_that_close_at_once_with_much_to_send(self) -> None:
        writes = [("left", "write")] * 3 + [("right", "write")] * 3
        self.play([*writes, ("left", "lose"), ("right", "lose")])

    def test_an_end_that_is_paused_when_the_peer_closes_may_finish_or_abort(self) -> None:
        arrived = [("right", "lose"), ("right", "move"), ("left", "pause"), ("right", "move")]
        self.play([*arrived, ("left", "finish")])
        self.play([*arrived, ("left", "abort")])


class SlowReaderTests(SynchronousTestCase):
    """What nobody takes is not sent, and not kept."""

    def test_an_endless_source_is_paused_while_its_reader_sleeps(self) -> None:
        """(S24)"""
        joined = Joined()
        near, far = joined.talk()
        far.transport.pauseProducing()
        source = Endless(near.transport)
        source.run()
        joined.settle()
        self.assertTrue(source.paused)
        window = joined.right.limits.window_bytes
        self.assertLessEqual(source.written, window + HIGH_BYTES + len(source.chunk))
        self.assertEqual(len(far.received), 0)

    def test_it_goes_on_when_the_reader_does_and_nothing_is_lost(self) -> None:
        joined = Joined()
        near, far = joined.talk()
        far.transport.pauseProducing()
        source = Endless(near.transport)
        source.run()
        joined.settle()
        far.transport.resumeProducing()
        joined.settle()
        self.assertEqual(source.left, 0)
        self.assertEqual(len(far.received), source.written)

    def test_a_slow_target_gets_no_more_than_its_window(self) -> None:
        """(S25)"""
        joined = Joined(limits=STOCK)
        near, far = joined.talk()
        taken = []

        def take(data: bytes) -> None:
            taken.append(len(data))
            far.transport.pauseProducing()

        far.dataReceived = take
        near.transport.write(bytes(4 << 20))
        joined.settle()
        window = joined.right.limits.window_bytes
        self.assertEqual(taken, [joined.right.limits.packet_bytes])
        self.assertEqual(near.transport._outgoing.window.left, 0)
        self.assertEqual(len(near.transport._outgoing._outbox), (4 << 20) - window)
        rounds = 0
        while sum(taken) < 4 << 20:
            before = sum(taken)
            far.transport.resumeProducing()
            joined.settle()
            self.assertGreater(sum(taken), before)
            self.assertGreaterEqual(len(near.transport._outgoing._outbox), (4 << 20) - window - sum(taken))
            rounds += 1
        self.assertEqual(rounds, (4 << 20) // joined.right.limits.packet_bytes - 1)

    def test_a_source_that_is_pulled_is_asked_as_the_reader_takes(self) -> None:
        joined = Joined(limits=SMALL)
        near, far = joined.talk()
        far.transport.pauseProducing()
        source = Pieces(near.transport, [b"12345", b"6789", b"0"])
        near.transport.registerProducer(source, False)
        joined.settle()
        self.assertEqual(source.asked, 2, "what was pulled waits for window before more is pulled")
        near.transport.loseConnection()
        far.transport.resumeProducing()
        joined.settle()
        self.assertEqual(far.received, b"1234567890", "closing waits for the producer")
        joined.check_clean()

    def test_producers_are_stopped_when_the_connection_ends(self) -> None:
        joined = Joined()
        near, far = joined.talk()
        pushed, pulled = Endless(near.transport), Pieces(far.transport, [bytes(1 << 20), b""])
        far.transport.registerProducer(pulled, False)
        far.transport.abortConnection()
        joined.settle()
        self.assertEqual((pushed.stopped, pulled.stopped), (True, True))

    def test_a_producer_that_comes_too_late_is_stopped(self) -> None:
        joined = Joined()
        near, _ = joined.talk()
        near.transport.abortConnection()
        self.assertTrue(Endless(near.transport).stopped)

    def test_two_producers_at_once_are_a_fault(self) -> None:
        near, _ = Joined().talk()
        Endless(near.transport)
        self.assertRaises(RuntimeError, Endless, near.transport)

    def test_channels_take_turns_when_the_tunnel_backs_up(self) -> None:
        joined = Joined(limits=STOCK)
        ends = [joined.talk() for _ in range(3)]
        joined.left.pauseProducing()
        for near, _ in ends:
            near.transport.write(bytes(200_000))
        self.assertFalse(joined.left.transport.out, "nothing is sent while it backs up")
        before = len(joined.left.transport.sent)
        joined.left.resumeProducing()
        order = [int.from_bytes(payload[:4], "big") for number, payload in joined.left.transport.sent[before:]]
        self.assertEqual(order[:6], order[:3] * 2)
        self.assertEqual(len(set(order[:3])), 3)
        joined.settle()
        self.assertEqual([len(far.received) for _, far in ends], [200_000] * 3)

    def test_channels_of_a_higher_class_go_first(self) -> None:
        joined = Joined(limits=STOCK)
        ends = [joined.talk() for _ in range(4)]
        classes = (Priority.LOGS, Priority.REPORTS, Priority.LOGS, Priority.COMMANDS)
        joined.left.pauseProducing()
        for (near, _), priority in zip(ends, classes, strict=True):
            near.transport._outgoing.priority = priority
            near.transport.write(bytes(100_000))
        before = len(joined.left.transport.sent)
        joined.left.resumeProducing()
        order = [int.from_bytes(payload[:4], "big") for _, payload in joined.left.transport.sent[before:]]
        self.assertEqual(order, [3] * 4 + [1] * 4 + [0, 2] * 4)
        joined.settle()
        self.assertEqual([len(far.received) for _, far in ends], [100_000] * 4)

    def test_what_is_lent_arrives_and_its_memory_may_be_used_again(self) -> None:
        joined = Joined(limits=STOCK)
        near, far = joined.talk()
        borrower = Borrower()
        far.transport.lend_to(borrower)
        source = Source(near.transport, 3_000_000)
        while source.left:
            source.run()
            joined.settle()
        self.assertEqual(bytes(borrower.received), source.expected)
        self.assertEqual(far.received, b"")
        self.assertLessEqual(source.most, STOCK.window_bytes)
        self.assertGreater(source.pauses, 0)

    def test_a_borrower_that_pauses_gets_the_rest_when_it_goes_on(self) -> None:
        """(S25)"""
        joined = Joined(limits=STOCK)
        near, far = joined.talk()
        borrower = Borrower()
        far.transport.lend_to(borrower)
        far.transport.pauseProducing()
        source = Source(near.transport, 3_000_000)
        source.run()
        joined.settle()
        source.run()
        self.assertEqual(bytes(borrower.received), b"")
        self.assertIsNone(near.transport.buffer(), "no more than the window is on its way")
        self.assertLessEqual(3_000_000 - source.left, STOCK.window_bytes)
        far.transport.resumeProducing()
        joined.settle()
        while source.left:
            source.run()
            joined.settle()
        self.assertEqual(bytes(borrower.received), source.expected)

    def test_a_channel_sends_little_at_once_while_others_wait_for_answers(self) -> None:
        joined = Joined()
        bulk, _ = joined.talk()
        chat, _ = joined.talk()
        self.assertEqual(len(bulk.transport.buffer()), joined.left.limits.window_bytes)
        chat.transport.write(b"how are you?")
        self.assertEqual(len(bulk.transport.buffer()), COMPANY_BYTES)
        joined.left.transport.heard_at += COMPANY_S
        self.assertEqual(len(bulk.transport.buffer()), joined.left.limits.window_bytes)

    def test_nobody_waits_for_little_things_of_logs(self) -> None:
        joined = Joined()
        near, far = joined.talk(priority=Priority.LOGS)
        _, back = joined.talk()
        for end in (near, far):
            end.transport.write(b"GET /")
            joined.settle()
        self.assertFalse(joined.left.in_company)
        self.assertFalse(joined.right.in_company)
        back.transport.write(b"how are you?")
        joined.settle()
        self.assertTrue(joined.left.in_company)
        self.assertTrue(joined.right.in_company)

    def test_a_tunnel_that_backs_up_pauses_the_sources(self) -> None:
        """(S24)"""
        joined = Joined()
        near, _ = joined.talk()
        joined.left.pauseProducing()
        source = Endless(near.transport)
        source.run()
        self.assertTrue(source.paused)
        self.assertLessEqual(source.written, HIGH_BYTES + len(source.chunk))

    @settings(deadline=None)
    @given(
        st.integers(1, 300),
        st.integers(1, 100),
        st.lists(st.one_of(st.binary(max_size=200), st.sampled_from(["pause", "resume", "move", "back"])), max_size=40),
    )
    def test_any_windows_carry_all_bytes(self, window: int, packet: int, steps: list[bytes | str]) -> None:
        joined = Joined(limits=ChannelLimits(window_bytes=window, packet_bytes=packet, least_packet_bytes=1))
        near, far = joined.talk()
        sent = bytearray()
        for step in steps:
            match step:
                case "pause":
                    far.transport.pauseProducing()
                case "resume":
                    far.transport.resumeProducing()
                case "move":
                    joined.move(joined.left)
                case "back":
                    joined.move(joined.right)
                case bytes():
                    sent += step
                    near.transport.write(step)
            joined.clock.advance(0)
            self.assertLessEqual(far.transport._inbox.size, window)
        far.transport.resumeProducing()
        near.transport.loseConnection()
        joined.settle()
        self.assertEqual(bytes(far.received), bytes(sent))
        joined.check_clean()


class ReentryTests(SynchronousTestCase):
    """Protocols call their transport from anywhere."""

    def test_pausing_and_resuming_inside_a_delivery_keeps_the_order(self) -> None:
        joined = Joined(limits=SMALL)
        near, far = joined.talk()
        inside = []

        def take(data: bytes) -> None:
            self.assertEqual(inside, [])
            inside.append(1)
            far.received += data
            far.transport.pauseProducing()
            far.transport.resumeProducing()
            inside.clear()

        far.dataReceived = take
        near.transport.write(bytes(range(200)))
        joined.settle()
        self.assertEqual(far.received, bytes(range(200)))

    def test_a_connection_may_be_closed_as_soon_as_it_is_made(self) -> None:
        class Brief(Talker):
            @override
            def connectionMade(self) -> None:
                self.transport.write(b"hello")
                self.transport.loseConnection()

        joined = Joined()
        joined.right.make = Brief
        near = Talker()
        connect(joined.left, near)
        joined.settle()
        self.assertEqual(near.received, b"hello")
        near.transport.loseConnection()
        joined.settle()
        joined.check_clean()

    def test_an_answer_may_be_written_inside_a_delivery(self) -> None:
        class Echo(Talker):
            @override
            def dataReceived(self, data: bytes) -> None:
                self.transport.write(data)

        joined = Joined(limits=SMALL)
        joined.right.make = Echo
        near, _ = joined.talk()
        near.transport.write(b"there and back again")
        joined.settle()
        self.assertEqual(near.received, b"there and back again")
