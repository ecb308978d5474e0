"""A streamed answer: there as it is made, no faster than it is read, and never half of one that looks whole."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import Tasks, as_deferred
from avinet.errors import Conflict, NotFound, PeerError, TimedOut, Unavailable
from avinet.rest.answering import DoorLimits
from avinet.rest.client import Client
from avinet.rest.door import Door
from avinet.rest.openapi import openapi
from avinet.rest.route import Request, Route
from avinet.rest.streaming import ALIVE_S, SILENT_S, Lines, Streamed
from avinet.rest.table import Table
from avinet.wire.jobs import LINE_BYTES
from avinet.wire.message import Message
from tests.rest.test_door import Endpoint, Network


class Said(Message, frozen=True, kw_only=True):
    text: str


class StreamCase(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock, self.tasks = Clock(), Tasks()
        self.addCleanup(self.tasks.stop)
        self.made: list[str] = []
        self.next: Deferred[str] = Deferred()
        self.closed = False
        routes = [Route("POST", "/v1/words", self.answer, "Words, as they come", bytes, streams=Said)]
        self.door = Door(self.clock, Table(routes), tasks=self.tasks, limits=DoorLimits(stalled_s=60))
        self.network = Network(self.clock, self.door)
        self.client = Client(self.clock, Endpoint(self.network), authority="peer", where="the peer")
        self.lines = self.client.lines("POST", "/v1/words", b"please")

    async def answer(self, request: Request) -> Streamed:
        if request.body != b"please":
            raise Conflict("say please")
        return Streamed(self.words())

    async def words(self) -> AsyncGenerator[Said, None]:
        try:
            while (word := await self.next) != "end":
                self.made.append(word)
                yield Said(text=word)
        finally:
            self.closed = True

    def make(self, word: str) -> None:
        made, self.next = self.next, Deferred()
        made.callback(word)
        self.network.pump()

    def read(self) -> Deferred[bytes]:
        """The next line, once it is there."""

        async def read() -> bytes:
            return await self.lines.__anext__()

        reading = as_deferred(read())
        self.network.pump()
        return reading

    def leave(self) -> None:
        async def leave() -> None:
            await self.lines.aclose()

        self.successResultOf(as_deferred(leave()))
        self.network.pump()

    @property
    def server(self) -> Any:
        return self.network.pumps[0].server


class StreamTests(StreamCase):
    def test_each_message_is_there_as_it_is_made_and_the_end_is_one(self) -> None:
        first = self.read()
        self.assertNoResult(first)
        self.make("one")
        self.assertEqual(self.successResultOf(first), b'{"text":"one"}')
        second = self.read()
        self.make("two")
        self.assertEqual(self.successResultOf(second), b'{"text":"two"}')
        last = self.read()
        self.make("end")
        self.failureResultOf(last, StopAsyncIteration)
        self.assertTrue(self.closed)
        again = self.client.lines("POST", "/v1/words", b"please")
        self.lines = again
        self.read()
        self.assertEqual(len(self.network.pumps), 1, "the connection is used again")

    def test_a_no_is_a_problem_before_anything_is_streamed(self) -> None:
        self.lines = self.client.lines("POST", "/v1/words", b"now")
        self.failureResultOf(self.read(), Conflict)
        self.lines = self.client.lines("POST", "/v1/nothing", b"")
        self.failureResultOf(self.read(), NotFound)

    def test_what_goes_wrong_in_the_middle_is_no_end(self) -> None:
        for error in (Unavailable("it is gone"), RuntimeError("a fault")):
            first = self.read()
            self.make("one")
            self.successResultOf(first)
            second = self.read()
            failing, self.next = self.next, Deferred()
            failing.errback(error)
            self.network.pump()
            self.failureResultOf(second, Unavailable)
            self.lines = self.client.lines("POST", "/v1/words", b"please")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_who_goes_away_closes_what_makes_them(self) -> None:
        first = self.read()
        self.make("one")
        self.successResultOf(first)
        self.leave()
        self.assertTrue(self.closed)
        self.assertEqual(len(self.tasks), 0)

    def test_a_door_that_closes_breaks_it_off(self) -> None:
        first = self.read()
        self.tasks.stop()
        self.network.pump()
        self.failureResultOf(first, Unavailable)
        self.assertTrue(self.closed)

    def test_there_is_a_sign_of_life_and_without_one_it_is_lost(self) -> None:
        first = self.read()
        for _ in range(10):
            self.clock.advance(ALIVE_S)
            self.network.pump()
        self.assertNoResult(first)
        for pump in self.network.pumps:
            pump.server.transport.write = lambda data: None
        self.clock.advance(SILENT_S)
        self.failureResultOf(first, TimedOut)

    def test_nothing_is_made_that_is_not_read(self) -> None:
        self.read()
        self.server.pauseProducing()
        for word in ("one", "two", "three"):
            self.make(word)
        self.assertEqual(self.made, ["one"])
        self.server.resumeProducing()
        self.make("four")
        self.assertEqual(self.made, ["one", "four"])

    def test_a_reader_that_takes_nothing_for_long_is_given_up(self) -> None:
        self.read()
        self.server.pauseProducing()
        self.make("one")
        for _ in range(8):
            self.clock.advance(ALIVE_S)
        self.assertTrue(self.closed)
        self.assertEqual(len(self.tasks), 0)

    def test_it_is_described(self) -> None:
        described = openapi("t", "1", [Route("POST", "/v1/words", self.answer, "Words", streams=Said)])
        content = described["paths"]["/v1/words"]["post"]["responses"]["200"]["content"]
        self.assertEqual(list(content), ["application/x-ndjson"])


class Transport:
    def __init__(self) -> None:
        self.paused = self.stopped = False

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def stopProducing(self) -> None:
        self.stopped = True


class LinesTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock, self.transport = Clock(), Transport()
        self.lines = Lines(self.clock, "the peer")
        self.lines.makeConnection(self.transport)

    def read(self) -> bytes | None:
        found: bytes | None = self.successResultOf(as_deferred(self.lines.next()))
        return found

    def test_no_more_is_read_than_is_taken(self) -> None:
        for flood in (b"x" * 999 + b"\n", b"x\n" * 10):
            pieces = 0
            while not self.transport.paused:
                self.lines.dataReceived(flood)
                pieces += 1
            self.assertLess(pieces, 100)
            for _ in range(pieces * flood.count(b"\n")):
                self.read()
            self.assertFalse(self.transport.paused)

    def test_empty_lines_are_signs_of_life_that_cost_nothing_more(self) -> None:
        reading = as_deferred(self.lines.next())
        for _ in range(20):
            self.clock.advance(SILENT_S - 1)
            self.lines.dataReceived(b"\n" * 100_000)
            self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.assertNoResult(reading)
        self.assertFalse(self.transport.paused)
        self.lines.dataReceived(b"x\n")
        self.assertEqual(self.successResultOf(reading), b"x")
        self.clock.advance(SILENT_S)
        self.failureResultOf(as_deferred(self.lines.next()), TimedOut)
        self.assertTrue(self.transport.stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_peer_that_is_not_read_is_not_silent(self) -> None:
        self.lines.dataReceived(b"x\n" * 1000)
        self.assertTrue(self.transport.paused)
        self.clock.advance(10 * SILENT_S)
        for _ in range(1000):
            self.read()
        self.assertFalse(self.transport.stopped or self.transport.paused)

    def test_a_long_line_in_small_pieces_is_looked_at_once(self) -> None:
        """Each piece is searched, and what came before is not copied again."""
        copied = 0

        class Piece(bytes):
            def __radd__(self, before: bytes) -> bytes:
                nonlocal copied
                copied += len(before)
                return before + bytes(self)

        for _ in range(1000):
            self.lines.dataReceived(Piece(b"x"))
        self.lines.dataReceived(b"\ny")
        self.assertEqual(self.read(), b"x" * 1000)
        self.assertEqual(copied, 0)

    def test_a_line_without_end_is_the_peers_fault(self) -> None:
        for _ in range(LINE_BYTES // 4096 + 1):
            self.lines.dataReceived(bytes(4096))
        self.assertTrue(self.transport.stopped)
        self.failureResultOf(as_deferred(self.lines.next()), PeerError)
