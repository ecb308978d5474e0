"""What a worker still says when it leaves is taken once, and what may be lost is told of."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.aio import as_deferred
from avinet.dataplane.leaving import CAP_S, LAST_S, PIECE_BYTES, behind, take_rest
from avinet.dataplane.runtime import WorkerState
from avinet.errors import Unavailable

LINES = st.lists(st.integers(0, 3), max_size=6).map(lambda found: [b"%d-%d" % each for each in enumerate(found)])


class Worker:
    pid = 7

    def __init__(self, last: bytes) -> None:
        self.last = last
        self.taken: list[bytes] = []
        self.ended = ["ring"]
        self.open = 1
        self.gone = 0

    def take_block(self, block: bytes) -> None:
        assert block.endswith(b"\n"), block
        self.taken += block.splitlines()
        self.last = self.taken[-1]

    def let_go(self, count: int) -> None:
        self.gone += count
        self.open -= count
        del self.ended[:count]


class LeavingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.lines: list[bytes] = []
        self.connections = 1
        self.alive, self.answers, self.silent = True, True, False
        self.stopping = True

    async def ring(self, pid: int) -> bytes:
        if not self.answers:
            raise Unavailable("no answer")
        return b"".join(each + b"\n" for each in self.lines)

    async def state(self, pid: int) -> WorkerState:
        if not self.answers:
            raise Unavailable("no answer")
        if self.silent:
            await Deferred()
        return WorkerState(self.stopping, 1 + self.connections)

    def begin(self, last: bytes = b"") -> tuple[Worker, Deferred[bool]]:
        worker = Worker(last)
        return worker, as_deferred(take_rest(self.clock, worker, self.ring, self.state, lambda pid: self.alive))

    def go_on(self, seconds: float = CAP_S) -> None:
        self.clock.pump([0] * 10)
        self.clock.advance(seconds)
        self.clock.pump([0] * 10)

    def test_each_line_is_taken_once_until_nobody_is_connected_any_more(self) -> None:
        self.lines = [b"1", b"2", b"3"]
        worker, done = self.begin(last=b"2")
        self.go_on()
        self.assertEqual(worker.taken, [b"3"])
        self.lines += [b"4", b"5"]
        self.go_on()
        self.assertEqual((worker.taken, worker.gone), ([b"3", b"4", b"5"], 0))
        self.lines.append(b"6")
        self.connections = 0
        self.go_on()
        self.assertTrue(self.successResultOf(done))
        self.assertEqual((worker.taken, worker.gone), ([b"3", b"4", b"5", b"6"], 1))

    def test_one_of_which_nothing_had_come(self) -> None:
        self.lines, self.connections = [b"1", b"2"], 0
        worker, done = self.begin()
        self.go_on()
        self.assertTrue(self.successResultOf(done))
        self.assertEqual(worker.taken, [b"1", b"2"])

    def test_a_ring_that_has_come_round_has_lost_some(self) -> None:
        self.lines, self.connections = [b"8", b"9"], 0
        worker, done = self.begin(last=b"2")
        self.go_on()
        self.assertFalse(self.successResultOf(done))
        self.assertEqual(worker.taken, [b"8", b"9"])

    def test_without_an_answer_it_is_asked_again_as_long_as_it_lives(self) -> None:
        self.answers = False
        worker, done = self.begin()
        for _ in range(3):
            self.go_on()
        self.assertNoResult(done)
        self.answers, self.lines, self.connections = True, [b"1"], 0
        self.go_on()
        self.assertTrue(self.successResultOf(done))
        self.assertEqual(worker.taken, [b"1"])

    def test_one_that_is_not_to_stop_has_only_looked_whether_we_are_there(self) -> None:
        self.stopping, self.lines = False, [b"1"]
        worker, done = self.begin()
        self.assertTrue(self.successResultOf(done))
        self.assertEqual((worker.taken, worker.gone), ([], 1))

    def test_one_that_is_to_stop_while_it_is_asked_about_another_connection(self) -> None:
        self.stopping, self.lines, self.connections = False, [b"1"], 0
        waiting: Deferred[None] = Deferred()
        asked = self.state

        async def state(pid: int) -> WorkerState:
            found = await asked(pid)
            await waiting
            return found

        self.state = state  # type: ignore[method-assign]
        worker, done = self.begin()
        worker.ended.append("another")
        worker.open += 1
        self.stopping = True
        waiting.callback(None)
        self.go_on()
        self.assertTrue(self.successResultOf(done))
        self.assertEqual((worker.taken, worker.gone), ([b"1"], 2))

    def test_what_is_on_its_way_by_another_connection_is_not_taken_twice(self) -> None:
        """It has looked whether we are there a moment before it was to stop."""
        self.connections, self.lines = 0, [b"1", b"2"]
        worker = Worker(last=b"1")
        worker.open += 1
        done = as_deferred(take_rest(self.clock, worker, self.ring, self.state, lambda pid: self.alive))
        self.go_on()
        self.assertNoResult(done)
        worker.take_block(b"2\n")
        self.go_on()
        worker.ended.append("the one that brought it")
        self.lines.append(b"3")
        self.go_on()
        self.assertTrue(self.successResultOf(done))
        self.assertEqual((worker.taken, worker.gone), ([b"2", b"3"], 2))

    def test_one_that_has_died(self) -> None:
        self.answers = self.alive = False
        worker, done = self.begin(last=b"1")
        self.assertFalse(self.successResultOf(done))
        self.assertEqual((worker.taken, worker.gone), ([], 1))

    def test_much_of_it_is_taken_in_pieces(self) -> None:
        self.lines = [b"%06d" % number + b"x" * 1000 for number in range(1000)]
        self.connections = 0
        worker, done = self.begin()
        at_once = len(worker.taken)
        self.assertLessEqual(at_once * 1007, PIECE_BYTES)
        self.go_on()
        self.assertTrue(self.successResultOf(done))
        self.assertEqual(worker.taken, self.lines)

    def test_when_its_owner_ends_it_is_looked_at_once_more_and_let_go(self) -> None:
        for connections, whole in ((1, False), (0, True)):
            self.lines, self.connections = [], 1
            worker, done = self.begin()
            self.lines, self.connections = [b"1"], connections
            done.cancel()
            self.go_on(0)
            self.assertIs(self.successResultOf(done), whole)
            self.assertEqual((worker.taken, worker.gone, self.clock.getDelayedCalls()), ([b"1"], 1, []))

    def test_whether_it_is_to_stop_is_found_out_before_its_owner_ends(self) -> None:
        for stopping in (True, False):
            self.silent, self.stopping = True, stopping
            worker, done = self.begin()
            self.silent = False
            done.cancel()
            self.assertIs(self.successResultOf(done), not stopping)
            self.assertEqual(worker.gone, 1)

    def test_one_that_does_not_say_so_in_time_may_have_lost_some(self) -> None:
        self.silent = True
        worker, done = self.begin()
        done.cancel()
        self.assertNoResult(done)
        self.assertEqual(worker.gone, 0)
        self.go_on(LAST_S)
        self.assertFalse(self.successResultOf(done))
        self.assertEqual((worker.gone, self.clock.getDelayedCalls()), (1, []))

    def test_a_ring_that_has_come_round_is_told_of_though_its_owner_ends_while_it_is_taken(self) -> None:
        self.lines, self.connections = [b"x" * (PIECE_BYTES // 2)] * 9, 0
        _, done = self.begin(last=b"2")
        self.assertNoResult(done)
        done.cancel()
        self.go_on()
        self.assertFalse(self.successResultOf(done))

    @given(LINES, LINES)
    def test_what_is_behind_a_line(self, before: list[bytes], after: list[bytes]) -> None:
        after = [b"later-" + each for each in after]
        ring = b"".join(each + b"\n" for each in (*before, *after))
        at = behind(before[-1] if before else b"", ring)
        self.assertEqual(ring[at:].splitlines(), after)

    def test_a_line_that_only_ends_like_it_is_another(self) -> None:
        self.assertEqual(behind(b"2", b"12\n3\n"), -1)
        self.assertEqual(behind(b"2", b"22\n2\n3\n"), 5)
