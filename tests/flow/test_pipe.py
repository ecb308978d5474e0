"""The estimate of a link, against a model of one: a rate, a delay, and a queue in between that takes everything."""

from __future__ import annotations

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.flow.pipe import LEAST_BYTES, Pipe

KIB, MIB = 1024, 1024 * 1024
STEP_S = 0.001
PACKET = 16 * KIB


class Link:
    """A greedy sender behind a link of `rate` bytes/s and `delay_s` there and back, whose queue has no end."""

    def __init__(self, rate: float, delay_s: float, window: int = 128 * KIB, flows: int = 1) -> None:
        self.rate, self.delay_s = rate, delay_s
        self.pipe = Pipe(window, 32 * MIB)
        self.now = 100.0
        self.flows = flows
        self.size = dict.fromkeys(range(flows), window)
        self.in_flight = dict.fromkeys(range(flows), 0)
        self.queued = 0.0
        self.sent: deque[tuple[float, int, int]] = deque()
        self.free_at = self.now
        self.delivered = 0
        self.asked: deque[tuple[float, float]] = deque()
        self.worst_s = 0.0

    def run(self, seconds: float) -> None:
        """Send for so long; what was delivered and the worst round trip begin anew."""
        self.delivered, self.worst_s = 0, 0.0
        until = self.now + seconds
        while self.now < until:
            self.now += STEP_S
            self._step()

    def _step(self) -> None:
        for flow in self.size:
            while (count := min(PACKET, self.size[flow] - self.in_flight[flow])) > 0:
                self.in_flight[flow] += count
                self.free_at = max(self.free_at, self.now) + count / self.rate
                self.sent.append((self.free_at + self.delay_s, flow, count))
        while self.sent and self.sent[0][0] <= self.now:
            _, flow, count = self.sent.popleft()
            self.in_flight[flow] -= count
            self.delivered += count
            self.size[flow] = self.pipe.delivered(self.now, count, flow)
        while self.asked and self.asked[0][0] <= self.now:
            _, began = self.asked.popleft()
            self.worst_s = max(self.worst_s, self.now - began)
            self.pipe.round_trip(self.now, self.now - began)
        if self.pipe.ask(self.now):
            self.asked.append((max(self.free_at, self.now) + self.delay_s, self.now))


class PipeTests(SynchronousTestCase):
    """It fills what it meets, and buries nothing."""

    @settings(deadline=None, max_examples=10)
    @given(st.sampled_from([2.5e6, 25e6]), st.sampled_from([0.01, 0.03, 0.07, 0.2]), st.integers(1, 4))
    def test_any_link_is_filled_and_its_queue_stays_short(self, rate: float, delay_s: float, flows: int) -> None:
        link = Link(rate, delay_s, flows=flows)
        link.run(40 * delay_s + 12)
        link.run(4)
        self.assertGreater(link.delivered, 0.9 * rate * 4)
        least = flows * LEAST_BYTES / rate
        self.assertLess(link.worst_s, 3 * delay_s + 2 * least)

    def test_a_thin_link_gives_a_small_window_and_a_fat_one_a_large(self) -> None:
        thin, fat = Link(2.5e6, 0.03), Link(125e6, 0.06)
        for link in (thin, fat):
            link.run(5)
        self.assertLess(thin.pipe.window, 256 * KIB)
        self.assertGreater(fat.pipe.window, 7 * MIB)

    def test_a_link_that_gets_longer_is_found_out_when_its_queue_has_drained(self) -> None:
        link = Link(12.5e6, 0.02)
        link.run(5)
        link.delay_s = 0.1
        link.run(60)
        link.run(4)
        self.assertGreater(link.delivered, 0.85 * 12.5e6 * 4)

    def test_a_link_that_gets_thinner_is_not_buried(self) -> None:
        link = Link(125e6, 0.03)
        link.run(3)
        link.rate = 2.5e6
        link.run(20)
        link.run(4)
        self.assertLess(link.worst_s, 0.15)

    def test_flows_share_the_window(self) -> None:
        link = Link(12.5e6, 0.05, flows=4)
        link.run(4)
        self.assertLessEqual(sum(link.size.values()), link.pipe.window + 4 * LEAST_BYTES)

    def test_nothing_is_asked_before_there_is_much_on_its_way(self) -> None:
        pipe = Pipe(128 * KIB, MIB)
        self.assertFalse(pipe.ask(1.0))
        pipe.delivered(1.0, LEAST_BYTES - 1, 0)
        self.assertFalse(pipe.ask(1.0))
        pipe.delivered(1.0, 1, 0)
        self.assertTrue(pipe.ask(1.0))
        self.assertFalse(pipe.ask(1.01), "one question at a time")

    def test_without_an_answer_the_window_stays(self) -> None:
        pipe = Pipe(128 * KIB, 32 * MIB)
        for step in range(1000):
            self.assertEqual(pipe.delivered(1 + step / 100, 64 * KIB, 0), 128 * KIB)

    def test_no_window_exceeds_the_most(self) -> None:
        pipe = Pipe(128 * KIB, MIB)
        pipe.round_trip(1.0, 1.0)
        for step in range(1000):
            self.assertLessEqual(pipe.delivered(1 + step / 100, 100 * MIB, 0), MIB)
