"""Watches on etcd whose members are left, and streams whose lines come in pieces."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.store.etcd.exchange import Stream
from avinet.store.etcd.origin import FORMAT, Origin
from avinet.store.etcd.watching import EtcdWatch
from avinet.store.interface import Compacted, Event


class StreamTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.lines: list[bytes] = []
        self.stream = Stream(self.lines.append, lambda _: None)
        self.stream.makeConnection(StringTransport())

    def test_lines_are_put_together(self) -> None:
        for piece in (b"on", b"e\ntw", b"o", b"\n\nthr", b"ee"):
            self.stream.dataReceived(piece)
        self.assertEqual(self.lines, [b"one", b"two", b""])

    def test_one_that_is_too_long_ends_it(self) -> None:
        self.patch(Stream, "LINE_LIMIT_BYTES", 100)
        for _ in range(11):
            self.stream.dataReceived(b"x" * 10)
        self.assertIn("more than 100 bytes", self.successResultOf(self.stream.ended))
        self.assertTrue(self.stream.too_long)

    def test_what_follows_the_line_that_ends_it_is_not_taken(self) -> None:
        stream = Stream(lambda line: (self.lines.append(line), stream.end("it cannot be read"))[0], lambda _: None)
        stream.makeConnection(StringTransport())
        stream.dataReceived(b"one\ntwo\n")
        self.assertEqual(self.lines, [b"one"])


class Members:
    """A gateway whose streams begin when the test says so."""

    def __init__(self) -> None:
        self.endpoint = "first"
        self.asked: list[str] = []
        self.beginning: list[Deferred[Any]] = []
        self.line: Any = None

    async def stream(self, endpoint: str, path: str, request: Any, line: Any) -> Stream:
        self.asked.append(endpoint)
        self.line = line
        begun: Deferred[None] = Deferred()
        self.beginning.append(begun)
        await begun
        stream = Stream(line, lambda _: None)
        stream.makeConnection(StringTransport())
        self.stream_now = stream
        return stream


class WatchTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock, self.members = Clock(), Members()
        self.events: list[Event] = []
        self.watch = self.watched(Origin(format=FORMAT, revision=0), 0)

    def watched(self, origin: Origin, revision: int) -> EtcdWatch:
        gateway: Any = self.members
        return EtcdWatch(
            self.clock, gateway, origin, b"p/", b"w/", revision, self.events.extend, lambda _: None, lambda: 0.0
        )

    def test_a_member_that_was_left_while_the_stream_began_is_left_by_it_too(self) -> None:
        self.members.endpoint = "second"
        self.watch.move()
        self.members.beginning.pop().callback(None)
        self.clock.advance(1)
        self.assertEqual(self.members.asked, ["first", "second"])
        self.members.beginning.pop().callback(None)
        self.clock.advance(10)
        self.assertEqual(self.members.asked, ["first", "second"])

    def test_a_history_that_is_too_long_has_to_be_listed(self) -> None:
        self.patch(Stream, "LINE_LIMIT_BYTES", 100)
        self.members.beginning.pop().callback(None)
        self.members.stream_now.dataReceived(b"x" * 101)
        self.failureResultOf(self.watch.failed, Compacted)
        self.clock.advance(10)
        self.assertEqual(self.members.asked, ["first"])

    def test_what_was_before_the_store_came_to_etcd_has_to_be_listed(self) -> None:
        self.members.asked.clear()
        origin = Origin(format=FORMAT, revision=10)
        self.failureResultOf(self.watched(origin, 9).failed, Compacted)
        self.assertEqual(self.members.asked, [])
        self.assertNoResult(self.watched(origin, 10).failed)
        self.assertEqual(self.members.asked, ["first"])
