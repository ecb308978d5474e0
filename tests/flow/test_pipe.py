"""The estimate of a link, against a model of one: a rate, a delay, and a queue that takes everything, each way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.flow.pipe import LEAST_BYTES, LEAST_FLOW_BYTES, Pipe, Question
from avinet.flow.window import ReceiveWindow, SendWindow

KIB, MIB = 1024, 1024 * 1024
MOST = 32 * MIB
FIRST = 128 * KIB
PACKET = 512 * KIB


class Way:
    """One direction of a link: `rate` bytes/s, `delay_s`, and a queue without end."""

    def __init__(self, clock: Clock, rate: float, delay_s: float) -> None:
        self.clock, self.rate, self.delay_s = clock, rate, delay_s
        self.free_at = 0.0
        self.carried: deque[tuple[float, Callable[[], object]]] = deque()

    def carry(self, size: int, arrive: Callable[[], object]) -> None:
        """Call back when `size` bytes have come through."""
        now = self.clock.seconds()
        self.free_at = max(self.free_at, now) + size / self.rate
        self.carried.append((self.free_at + self.delay_s, arrive))
        if len(self.carried) == 1:
            self.wait()

    def wait(self) -> None:
        at, _ = self.carried[0]
        self.clock.callLater(max(0.0, at - self.clock.seconds()), self.arrive)

    def arrive(self) -> None:
        _, arrive = self.carried.popleft()
        if self.carried:
            self.wait()
        arrive()


class End:
    """The receiving end of a link, with its estimate; the peer sends as much as it may on each of its flows.

    `pace` limits what the application of the peer has to send, in bytes/s; `busy_s` is how long this end takes to look
    at what has arrived; `known` says that it has seen a round trip before.
    """

    def __init__(
        self,
        clock: Clock,
        into: Way,
        out: Way,
        flows: Iterable[int],
        *,
        pace: float = 0,
        busy_s: float = 0,
        known: bool = False,
    ) -> None:
        self.clock, self.into, self.out = clock, into, out
        self.pipe = Pipe(FIRST, MOST, into.delay_s + out.delay_s if known else 0.0)
        self.pace, self.busy_s = pace, busy_s
        self.peer: End | None = None
        self.receive: dict[int, ReceiveWindow] = {}
        self.send: dict[int, SendWindow] = {}
        self.delivered = 0
        self.worst_s = 0.0
        self.may_send_at = 0.0
        self.arrived_bytes = 0
        for flow in flows:
            self.open(flow)

    def open(self, flow: int) -> None:
        """One flow more."""
        self.receive[flow] = ReceiveWindow(FIRST, MOST)
        self.send[flow] = SendWindow(FIRST, PACKET)
        self.clock.callLater(0, self.fill, flow)

    def fill(self, flow: int) -> None:
        """The peer sends what it may."""
        window = self.send[flow]
        while window.left:
            size = window.room
            window.sent(size)
            if not self.pace:
                self.into.carry(size, lambda size=size: self.arrived(flow, size))
                continue
            now = self.clock.seconds()
            self.may_send_at = max(self.may_send_at, now) + size / self.pace
            self.clock.callLater(
                self.may_send_at - now, self.into.carry, size, lambda size=size: self.arrived(flow, size)
            )

    def arrived(self, flow: int, size: int) -> None:
        self.receive[flow].received(size)
        self.arrived_bytes += size
        if self.busy_s:
            self.clock.callLater(self.busy_s, self.consume, flow, size)
        else:
            self.consume(flow, size)

    def consume(self, flow: int, size: int) -> None:
        window = self.receive[flow]
        window.consumed(size)
        self.delivered += size
        granted = window.grant()
        if granted:
            size = self.pipe.delivered(self.clock.seconds(), self.arrived_bytes, flow)
            window.resize(size, self.pipe.rate)
            self.arrived_bytes = 0
            self.out.carry(60, lambda: self.adjusted(flow, granted))
            self.ask()

    def adjusted(self, flow: int, count: int) -> None:
        self.send[flow].add(count, self.clock.seconds())
        self.fill(flow)

    def ask(self) -> None:
        began = self.clock.seconds()
        question = self.pipe.ask(began)
        if question is None:
            return

        def reached() -> None:
            if question is Question.DRAIN and self.peer is not None:
                self.peer.pipe.drain(self.clock.seconds())
                if self.peer.pipe.draining:
                    self.peer.ask()
            self.into.carry(60, lambda: self.clock.callLater(self.busy_s, answered))

        def answered() -> None:
            now = self.clock.seconds()
            self.worst_s = max(self.worst_s, now - began)
            self.pipe.answered(now, now - began)
            if self.pipe.draining:
                self.ask()

        self.out.carry(60, reached)


class Link:
    """A link of `rate` bytes/s, and `delay_s` there and back; data flows to us, or both ways."""

    def __init__(self, rate: float, delay_s: float, flows: int = 1, *, both: bool = False, **settings: Any) -> None:
        self.clock = Clock()
        self.clock.advance(100)
        self.ways = [Way(self.clock, rate, delay_s / 2) for _ in range(2)]
        down, up = self.ways
        self.end = End(self.clock, down, up, range(flows), **settings)
        self.ends = [self.end]
        if both:
            far = End(self.clock, up, down, range(flows), **settings)
            self.end.peer, far.peer = far, self.end
            self.ends.append(far)

    def change(self, *, rate: float = 0, delay_s: float = 0) -> None:
        """The link is another one from now on."""
        for way in self.ways:
            way.rate, way.delay_s = rate or way.rate, delay_s / 2 or way.delay_s

    def run(self, seconds: float) -> None:
        """Let so much time pass; what was delivered and the worst round trip begin anew."""
        for end in self.ends:
            end.delivered, end.worst_s = 0, 0.0
        until = self.clock.seconds() + seconds
        while (next_at := min(call.getTime() for call in self.clock.getDelayedCalls())) < until:
            self.clock.advance(next_at - self.clock.seconds())
        self.clock.advance(until - self.clock.seconds())

    def used(self, seconds: float) -> float:
        """The part of the link that was used in the next so many seconds, in the direction that was used less."""
        self.run(seconds)
        return min(end.delivered for end in self.ends) / self.ways[0].rate / seconds

    @property
    def worst_s(self) -> float:
        """The worst round trip of late."""
        return max(end.worst_s for end in self.ends)


class PipeTests(SynchronousTestCase):
    """It fills what it meets, and buries nothing."""

    @settings(deadline=None, max_examples=6)
    @given(st.sampled_from([2.5e6, 12.5e6]), st.sampled_from([0.01, 0.03, 0.07, 0.2]), st.integers(1, 4), st.booleans())
    def test_any_link_is_filled_and_its_queue_stays_short(
        self, rate: float, delay_s: float, flows: int, both: bool
    ) -> None:
        link = Link(rate, delay_s, flows, both=both)
        link.run(12)
        self.assertGreater(link.used(12), 0.7 if both else 0.9)
        least = max(LEAST_BYTES, flows * LEAST_FLOW_BYTES) / rate
        self.assertLess(link.worst_s, 3 * (delay_s + least))

    def test_a_long_fat_link_is_full_within_a_few_round_trips(self) -> None:
        link = Link(125e6, 0.06, known=True)
        link.run(0.6)
        self.assertGreater(link.used(0.5), 0.95)

    def test_draining_costs_little(self) -> None:
        link = Link(12.5e6, 0.06)
        link.run(5)
        self.assertGreater(link.used(40), 0.97)

    def test_a_thin_link_gives_a_small_window_and_a_fat_one_a_large(self) -> None:
        thin, fat = Link(2.5e6, 0.03), Link(125e6, 0.06)
        for link in (thin, fat):
            link.run(3)
        self.assertLess(thin.end.pipe.window, 256 * KIB)
        self.assertGreater(fat.end.pipe.window, 7 * MIB)

    def test_a_longer_route_is_found_out_soon(self) -> None:
        link = Link(12.5e6, 0.02)
        link.run(5)
        link.change(delay_s=0.15)
        link.run(4)
        self.assertGreater(link.used(4), 0.9)

    def test_a_somewhat_longer_route_is_found_out_in_time(self) -> None:
        link = Link(12.5e6, 0.03)
        link.run(5)
        link.change(delay_s=0.08)
        link.run(12)
        self.assertGreater(link.used(4), 0.9)

    def test_a_shorter_route_is_found_out_in_time(self) -> None:
        link = Link(2.5e6, 0.2)
        link.run(5)
        link.change(delay_s=0.02)
        link.run(13)
        link.run(3)
        self.assertLess(link.worst_s, 0.11)

    def test_a_link_that_gets_thinner_is_not_buried(self) -> None:
        link = Link(125e6, 0.03)
        link.run(2)
        link.change(rate=2.5e6)
        link.run(12)
        self.assertGreater(link.used(4), 0.9)
        self.assertLess(link.worst_s, 0.12)

    def test_a_link_that_gets_fatter_is_filled_soon(self) -> None:
        link = Link(2.5e6, 0.03)
        link.run(5)
        link.change(rate=62.5e6)
        link.run(1)
        self.assertGreater(link.used(2), 0.9)

    def test_both_directions_at_once_do_not_drive_each_other_up(self) -> None:
        link = Link(2.5e6, 0.03, both=True)
        link.run(60)
        self.assertGreater(link.used(10), 0.7)
        self.assertLess(link.worst_s, 0.15)

    def test_ends_that_are_busy_do_not_starve_the_link(self) -> None:
        link = Link(2.5e6, 0.03, busy_s=0.03)
        link.run(20)
        self.assertGreater(link.used(10), 0.9)

    def test_a_slow_application_does_not_keep_the_link_from_the_next(self) -> None:
        link = Link(12.5e6, 0.05, pace=1e6)
        link.run(8)
        self.assertLess(link.end.pipe.window, 512 * KIB)
        link.end.pace = 0
        link.run(1)
        self.assertGreater(link.used(2), 0.9)

    def test_many_flows_share_what_there_is(self) -> None:
        link = Link(2.5e6, 0.03, 40)
        link.run(12)
        self.assertGreater(link.used(4), 0.9)
        self.assertLess(link.worst_s, 2 * (0.03 + 40 * LEAST_FLOW_BYTES / 2.5e6))

    def test_a_new_flow_gets_its_share(self) -> None:
        link = Link(12.5e6, 0.05)
        link.run(3)
        link.end.open(1)
        link.run(3)
        for window in link.end.receive.values():
            self.assertApproximates(window.size, link.end.pipe.window // 2, KIB)

    def test_nothing_is_asked_before_there_is_much_on_its_way(self) -> None:
        pipe = Pipe(FIRST, MIB)
        self.assertIsNone(pipe.ask(1.0))
        pipe.delivered(1.0, LEAST_BYTES - 1, 0)
        self.assertIsNone(pipe.ask(1.0))
        pipe.delivered(1.0, 1, 0)
        self.assertIs(pipe.ask(1.0), Question.ROUND_TRIP)
        self.assertIsNone(pipe.ask(1.5), "one question at a time")
        pipe.unanswered()
        self.assertIs(pipe.ask(1.5), Question.ROUND_TRIP)

    def test_without_an_answer_the_window_stays(self) -> None:
        pipe = Pipe(FIRST, MOST)
        for step in range(1000):
            self.assertEqual(pipe.delivered(1 + step / 100, 64 * KIB, 0), FIRST)

    def test_no_window_exceeds_the_most(self) -> None:
        pipe = Pipe(FIRST, MIB, 1.0)
        for step in range(1000):
            self.assertLessEqual(pipe.delivered(1 + step / 100, 100 * MIB, 0), MIB)

    def _fast(self, least_s: float, hurried: int | None) -> int:
        """The window after a second of 1 GB/s, while somebody is in a hurry or not."""
        pipe = Pipe(FIRST, MOST, least_s)
        windows = [pipe.delivered(1 + step / 1000, 1_000_000, 0, hurried=hurried) for step in range(1000)]
        return max(windows[500:])

    def test_a_short_link_holds_little_while_somebody_waits(self) -> None:
        self.assertEqual(self._fast(0.0002, 100_000), 100_000)
        self.assertEqual(self._fast(0.0002, 1), LEAST_BYTES)
        self.assertGreater(self._fast(0.0002, None), 4 * LEAST_BYTES)

    def test_what_a_long_link_holds_is_not_less_while_somebody_waits(self) -> None:
        self.assertEqual(self._fast(0.02, 100_000), self._fast(0.02, None))

    def test_an_idle_tunnel_has_nothing_to_drain(self) -> None:
        pipe = Pipe(FIRST, MOST, 0.03)
        pipe.delivered(1.0, MIB, 0)
        pipe.drain(60.0)
        self.assertFalse(pipe.draining)
