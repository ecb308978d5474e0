"""Significant records go to a node at once, each of them once, however often the tunnel breaks; the rest is counted."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from avinet.aio import Tasks
from avinet.dataplane.records import line
from avinet.errors import AvinetError, Invalid, Unavailable
from avinet.se.settings import SignificantSettings
from avinet.se.significant import GATHER_S, RETRY_S, SignificantRecords
from avinet.wire.config import Config, Significant
from avinet.wire.message import decode, encode
from avinet.wire.significant import BATCH, BATCH_BYTES, BATCH_LIMIT_BYTES, SignificantBatch
from tests.logs.test_significant import config, record


class SignificantTests(SynchronousTestCase):
    @override
    def setUp(self) -> None:
        self.clock: Any = Clock()
        self.tasks = Tasks()
        self.addCleanup(self.tasks.stop)
        self.batches: list[SignificantBatch] = []
        self.error: AvinetError | None = None
        self.held: Deferred[None] | None = None
        self.make()

    def make(self, rules: Config | None = None, **settings: Any) -> None:
        self.here = SignificantRecords(self.clock, SignificantSettings(**settings), "boot-1", self.tasks)
        self.here.configure(rules or config(Significant(per_second=1000)))
        self.addCleanup(self.here.stop)

    async def send(self, batch: SignificantBatch) -> None:
        whole = encode(batch)
        self.assertLessEqual(len(whole), BATCH_LIMIT_BYTES)
        self.batches.append(decode(whole, SignificantBatch, limit_bytes=BATCH_LIMIT_BYTES))
        if self.held is not None:
            await self.held
        if self.error is not None:
            raise self.error

    def fail(self, path: str, **values: Any) -> None:
        """A request for `path` fails."""
        found = record(status=500, path=path, **values)
        self.here.take([found], [line(found)])

    def paths(self) -> list[list[str]]:
        return [[json.loads(bytes(each.record))["u"] for each in batch.records] for batch in self.batches]

    def held_back(self) -> list[tuple[str, str, int]]:
        return [(each.service, each.reason, each.records) for batch in self.batches for each in batch.held_back]

    def test_what_comes_together_goes_together_within_a_second(self) -> None:
        self.here.attach(self.send)
        self.fail("/1")
        self.here.take([record(path="/well")], [line(record(path="/well"))])
        self.fail("/2")
        self.clock.advance(GATHER_S)
        self.assertLessEqual(GATHER_S, 1.0)
        self.assertEqual(self.paths(), [["/1", "/2"]])
        self.assertEqual([each.why for each in self.batches[0].records], [["status"]] * 2)
        self.assertEqual((self.batches[0].boot, self.batches[0].seq, self.here.buffered), ("boot-1", 0, 0))
        self.clock.advance(60)
        self.assertEqual(len(self.batches), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_is_under_way_at_a_time(self) -> None:
        self.here.attach(self.send)
        self.held = Deferred()
        self.fail("/1")
        self.clock.advance(GATHER_S)
        for number in range(2, 6):
            self.fail(f"/{number}")
            self.clock.advance(GATHER_S)
        self.assertEqual(self.paths(), [["/1"]])
        held, self.held = self.held, None
        held.callback(None)
        self.clock.advance(GATHER_S)
        self.assertEqual(self.paths(), [["/1"], ["/2", "/3", "/4", "/5"]])

    def test_what_had_no_answer_is_sent_again_as_it_was_and_what_waits_comes_behind_it(self) -> None:
        self.here.attach(self.send)
        self.error = Unavailable("the tunnel is gone")
        self.fail("/1")
        self.clock.advance(GATHER_S)
        self.here.attach(None)
        self.fail("/2")
        self.clock.advance(3600)
        self.error = None
        self.here.attach(self.send)
        self.clock.pump([0, GATHER_S])
        self.assertEqual(self.paths(), [["/1"], ["/1"], ["/2"]])
        self.assertEqual([each.seq for each in self.batches], [0, 0, 1])

    def test_a_node_that_does_not_answer_is_asked_now_and_then(self) -> None:
        self.here.attach(self.send)
        self.error = Unavailable("not now")
        self.fail("/1")
        self.clock.pump([GATHER_S, *[0.5] * int(4 * RETRY_S)])
        self.assertEqual(len(self.batches), 3)

    def test_what_a_node_does_not_take_is_counted_and_stops_nothing(self) -> None:
        self.here.attach(self.send)
        self.error = Invalid("no")
        self.fail("/1")
        self.clock.advance(GATHER_S)
        self.error = None
        self.fail("/2")
        self.clock.advance(RETRY_S)
        self.assertEqual(self.paths(), [["/1"], ["/2"]])
        self.assertEqual(self.held_back(), [("web", "refused", 1)])

    def test_more_than_may_is_told_by_its_number(self) -> None:
        self.make(config(Significant(), Significant(per_second=0)))
        self.here.attach(self.send)
        for number in range(1000):
            self.fail(f"/{number}")
            self.fail(f"/{number}", service="web-1")
        self.clock.advance(GATHER_S)
        self.assertEqual([len(each) for each in self.paths()], [10])
        self.assertEqual(self.held_back(), [("web", "throttle", 990)])

    def test_without_a_tunnel_the_latest_wait_and_the_others_are_counted(self) -> None:
        self.make(buffer_kib=64, per_second=10_000)
        for number in range(1000):
            self.fail(f"/{number}")
            self.assertLessEqual(self.here.buffered, 64 * 1024)
        self.here.attach(self.send)
        self.clock.pump([0, *[GATHER_S] * 5])
        sent = [path for batch in self.paths() for path in batch]
        self.assertGreater(len(sent), 50)
        self.assertEqual(sent, [f"/{number}" for number in range(1000 - len(sent), 1000)])
        self.assertEqual(self.held_back(), [("web", "full", 1000 - len(sent))])

    def test_each_batch_has_its_bounds(self) -> None:
        self.make(buffer_kib=8192, per_second=10_000)
        for number in range(700):
            self.fail(f"/{number}")
        for _ in range(60):
            self.fail("/" + "x" * 14_000)
        self.here.attach(self.send)
        self.clock.pump([0, *[GATHER_S] * 20])
        self.assertEqual(sum(len(each.records) for each in self.batches), 760)
        for batch in self.batches:
            self.assertLessEqual(len(batch.records), BATCH)
            self.assertLessEqual(sum(len(bytes(each.record)) for each in batch.records), BATCH_BYTES)

    def test_others_are_given_what_may_go(self) -> None:
        self.make(config(Significant(per_second=2)))
        given: list[bytes] = []
        self.here.others.append(given.extend)
        for number in range(5):
            self.fail(f"/{number}")
        self.assertEqual([json.loads(each)["u"] for each in given], ["/0", "/1"])
