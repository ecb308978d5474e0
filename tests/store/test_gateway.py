"""The line before the gateway: bounded in length and in time."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.aio import as_deferred
from avinet.errors import Unavailable
from avinet.store.etcd import gateway
from avinet.store.etcd.gateway import Line


class LineTests(SynchronousTestCase):
    def enter(self, line: Line) -> tuple[Deferred[None], Deferred[None]]:
        """Whoever stands in the line, and stays in there until the second one fires."""
        done: Deferred[None] = Deferred()

        async def work() -> None:
            async with line:
                await done

        return as_deferred(work()), done

    def test_they_come_in_as_they_came(self) -> None:
        line = Line(Clock(), 2, 5)
        works = [self.enter(line) for _ in range(4)]
        works[1][1].callback(None)
        works[2][1].callback(None)
        self.successResultOf(works[1][0])
        self.successResultOf(works[2][0])
        self.assertNoResult(works[3][0])

    def test_nobody_waits_longer_than_patience(self) -> None:
        clock = Clock()
        line = Line(clock, 1, 5)
        (first, done), (second, _), (third, last) = (self.enter(line) for _ in range(3))
        clock.advance(4)
        self.assertNoResult(second)
        clock.advance(1)
        self.assertEqual(self.failureResultOf(second, Unavailable).value.retry_after_s, 5)
        self.failureResultOf(third, Unavailable)
        done.callback(None)
        self.successResultOf(first)
        again, done = self.enter(line)
        done.callback(None)
        self.successResultOf(again)
        self.assertEqual(clock.getDelayedCalls(), [])
        last.callback(None)

    def test_the_line_has_an_end(self) -> None:
        self.patch(gateway, "QUEUED", 2)
        line = Line(Clock(), 1, 5)
        (_, done), (second, _), _ = (self.enter(line) for _ in range(3))
        self.failureResultOf(self.enter(line)[0], Unavailable)
        done.callback(None)
        self.assertNoResult(second)
        self.assertNoResult(self.enter(line)[0])
