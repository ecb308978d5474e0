"""Whoever waits at a member that had no leader is told once there is one, and nobody else is."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import as_deferred
from avinet.store.etcd.elections import LOOK_AFTER_S, LOOK_EVERY_S, Elected, Elections
from avinet.store.etcd.exchange import Lost
from avinet.store.etcd.messages import StatusReply

A, B = "https://a:2379", "https://b:2379"


class ElectionsTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock = Clock()
        self.asked: list[str] = []
        self.says: StatusReply | Exception = StatusReply(raft_term=7, leader=1)
        self.elections = Elections(self.clock, self.status)
        self.elections.seen(7)

    async def status(self, endpoint: str) -> StatusReply:
        self.asked.append(endpoint)
        if isinstance(self.says, Exception):
            raise self.says
        return self.says

    def watch(self, endpoint: str = A) -> tuple[Deferred[Any], Deferred[Any]]:
        """An attempt, and its answer."""
        answer: Deferred[Any] = Deferred()
        return as_deferred(self.elections.watch(endpoint, answer)), answer

    def look(self, times: int = 1) -> None:
        self.clock.advance(LOOK_AFTER_S)
        for _ in range(times - 1):
            self.clock.advance(LOOK_EVERY_S)

    def test_what_is_answered_soon_is_not_looked_after(self) -> None:
        attempt, answer = self.watch()
        answer.callback("done")
        self.assertEqual(self.successResultOf(attempt), "done")
        self.assertEqual((self.asked, self.clock.getDelayedCalls()), ([], []))

    def test_a_member_that_is_slow_keeps_what_it_was_asked(self) -> None:
        attempt, answer = self.watch()
        self.look(5)
        self.assertNoResult(attempt)
        answer.callback("done")
        self.assertEqual(self.successResultOf(attempt), "done")
        self.clock.advance(LOOK_EVERY_S)
        self.assertEqual((len(self.asked), self.clock.getDelayedCalls()), (5, []))

    def test_it_is_told_once_there_is_another_leader(self) -> None:
        attempt, _ = self.watch()
        self.look()
        self.says = StatusReply(raft_term=8, leader=0)
        self.clock.advance(LOOK_EVERY_S)
        self.says = Lost("silent")
        self.clock.advance(LOOK_EVERY_S)
        self.assertNoResult(attempt)
        self.says = StatusReply(raft_term=9, leader=2)
        self.clock.advance(LOOK_EVERY_S)
        self.failureResultOf(attempt, Elected)

    def test_what_was_asked_in_the_term_of_the_leader_is_not(self) -> None:
        before, _ = self.watch()
        self.look()
        self.says = StatusReply(raft_term=8, leader=2)
        self.elections.seen(8)
        after, answer = self.watch()
        self.look(3)
        self.failureResultOf(before, Elected)
        self.assertNoResult(after)
        answer.callback("done")
        self.successResultOf(after)

    def test_before_any_answer_nobody_knows_what_came_before(self) -> None:
        self.elections = Elections(self.clock, self.status)
        attempt, answer = self.watch()
        self.look(3)
        self.assertNoResult(attempt)
        answer.callback("done")
        self.successResultOf(attempt)

    def test_all_that_wait_are_asked_for_together(self) -> None:
        attempts = [self.watch(endpoint) for endpoint in (A, A, A, B)]
        self.look(2)
        self.assertEqual(sorted(self.asked), [A, A, B, B])
        self.says = StatusReply(raft_term=8, leader=1)
        self.clock.advance(LOOK_EVERY_S)
        for attempt, _ in attempts:
            self.failureResultOf(attempt, Elected)
        self.clock.advance(LOOK_EVERY_S)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_whoever_comes_while_it_rests_is_looked_after_once(self) -> None:
        first, answer = self.watch()
        self.look()
        second, other = self.watch()
        self.clock.advance(LOOK_AFTER_S - LOOK_EVERY_S)
        answer.callback("done")
        self.successResultOf(first)
        self.clock.advance(LOOK_EVERY_S)
        self.asked.clear()
        self.clock.advance(LOOK_EVERY_S)
        self.assertEqual(self.asked, [A])
        other.callback("done")
        self.successResultOf(second)

    def test_cancelled_it_is_cancelled(self) -> None:
        attempt, _ = self.watch()
        attempt.cancel()
        self.failureResultOf(attempt, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopped_it_asks_nobody(self) -> None:
        attempt, answer = self.watch()
        self.look()
        self.elections.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        answer.callback("done")
        self.successResultOf(attempt)
